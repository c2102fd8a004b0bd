SHELL       := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON    ?= python3.11
VENV      ?= .venv
BOOK_VENV ?= .venv-book
PIP_ARGS  ?=                 # more arguments for pip, for instance an index of CPU builds of torch
LAB_ARGS  ?=                 # more arguments for JupyterLab, for instance --no-browser
UV        ?= uv
UV_ARGS   ?=                 # more arguments for `make lock`, for instance --find-links FOLDER

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
BOOK_STAMP := $(BOOK_VENV)/.installed
LOGS  := _build/tests
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

# One thread per process: two test processes share two cores without fighting, and sums run in one
# order. The hub stays closed: a test that wants the network is a broken test.
PYTEST    = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadfile
# loadscope keeps the cells of one notebook in one kernel, in order
NBVAL    := -n 2 --dist loadscope --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
            --nbval-sanitize-with tests/nbval_sanitize.cfg

.PHONY: help setup book test notebooks lab lock clean
.DEFAULT_GOAL := help

help:        ## show this list
	@sed -n 's/^\([a-z]*\): *[^#]*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: $(STAMP)        ## make .venv: the full lock and the package, editable
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): install Python 3.11, or name it: make setup PYTHON=…"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -r requirements.lock
	$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(BOOK_STAMP): requirements-book.lock
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): install Python 3.11, or name it: make book PYTHON=…"; exit 2; }
	$(PYTHON) -m venv $(BOOK_VENV)
	$(BOOK_VENV)/bin/python $(PIP_INSTALL) -r requirements-book.lock
	@touch $@

# --all: an incremental build would forget the warnings of the one before
book: $(BOOK_STAMP)        ## build the HTML from the recorded outputs: strict, offline, no torch
	$(BOOK_VENV)/bin/jupyter-book build -q --all -W -n --keep-going .

# Fast tests first. The first call takes all that no later call takes: no test file is forgotten.
test: $(STAMP)        ## run everything that CI runs (needs chromium)
	@rm -rf $(LOGS) && mkdir -p $(LOGS)
	$(PYTEST) $(PARALLEL) tests --ignore=tests/notebooks --ignore=tests/can_fail \
	    --ignore=tests/book | tee $(LOGS)/1-package.log
	$(PYTEST) $(PARALLEL) tests/notebooks tests/can_fail | tee $(LOGS)/2-notebooks.log
	$(PYTEST) $(NBVAL) notebooks | tee $(LOGS)/3-nbval.log
	$(MAKE) --no-print-directory book
	$(PYTEST) $(PARALLEL) tests/book | tee $(LOGS)/4-book.log
	@echo; tail -qn 1 $(LOGS)/*.log
	@$(BIN)/python -m difftools.book summary

notebooks: $(STAMP)        ## run every chapter in place and record it; CHAPTER=inversion does one
	$(BIN)/python -m difftools.book record $(CHAPTER)

lab: $(STAMP)        ## open the chapters in JupyterLab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS) notebooks

# "+cpu" goes: a lock with the plain version fits every build of torch
lock:        ## resolve the lock files anew (needs uv)
	$(UV) pip compile requirements.in --python-version 3.11 --annotation-style line --no-header -q \
	    --upgrade $(UV_ARGS) -o requirements.lock
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements.lock
	$(UV) pip compile requirements-book.in -c requirements.lock --python-version 3.11 \
	    --annotation-style line --no-header -q --upgrade $(UV_ARGS) -o requirements-book.lock

clean:        ## remove what was built (not the environments)
	rm -rf _build .pytest_cache .hypothesis *.egg-info
