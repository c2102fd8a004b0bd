"""The suite goes red when it should: each fault planted here is found by the rule meant for it."""

import re
import shutil

import nbformat
import papermill
import pytest

from difftools import book
from difftools.provenance import ROOT
from faults import alter, each_turns_red, red
from notebooks import structure, toy


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = toy.build(tmp_path_factory.mktemp("toy") / "book")
    assert structure.problems(root, "toy") == {} and structure.book_problems(root) == []
    return root


@pytest.fixture
def root(good, tmp_path):
    return shutil.copytree(good, tmp_path / "book")


def notebook(change):
    return lambda root: toy.edit(root, change)


def file(name, old, new):
    return lambda root: alter(root / name, old, new)


def cell(n, **fields):
    return notebook(lambda nb: nb.cells[n].update(nbformat.from_dict(fields)))


def output(change):
    return notebook(lambda nb: change(nb.cells[4].outputs[0]))


def strip(nb):
    for code in structure.code(nb):
        code.update(outputs=[], execution_count=None)


EXPECTED, CLAIMS = "data/expected/toy.json", "data/claims.toml"
MORE = '[claim.pieces.more]\nrule = "> 0"\nsays = "."\nwhy = "."\n'
FAULTS = {
    # a wrong number
    "recorded value": ("expected", file(EXPECTED, '"value": 0.48', '"value": 0.58')),
    "recorded tolerance": ("expected", file(EXPECTED, '"tol": 0.05', '"tol": 0.5')),
    "recorded interval": ("expected", file(EXPECTED, "0.4549", "0.3549")),
    "recorded word": ("follows", file(EXPECTED, '"word": "supports"', '"word": "refutes"')),
    "recorded verdict": ("follows", file(EXPECTED, '"S": "holds"', '"S": "fails"')),
    "number in the metadata": ("expected", output(
        lambda out: out.metadata.difftools.update(value=0.4))),
    "number in the line": ("checked", output(
        lambda out: out.data.update({"text/plain": "check    mean = 0.6"}))),
    "check that is not recorded": ("expected", file(EXPECTED, '"first"', '"second"')),
    "rule changed afterwards": ("follows", file(CLAIMS, "in [0.4, 0.6]", "in [0.6, 0.8]")),
    "decision changed afterwards": ("follows", file(CLAIMS, 'when = "mean"', 'when = "not mean"')),
    "evidence never given": ("complete", file(
        CLAIMS, "[claim.pieces.now]", MORE + "[claim.pieces.now]")),
    # a stripped output
    "all outputs stripped": ("executed", notebook(strip)),
    "all outputs stripped ": ("checked", notebook(strip)),
    "one output stripped": ("checked", cell(5, outputs=[])),
    "one output stripped ": ("expected", cell(5, outputs=[])),
    "line that nbval would not compare": ("checked", cell(5, metadata={})),
    # a stale table or hash
    "code changed": ("current", file("difftools/toymath.py", "1103515245", "1103515246")),
    "module removed": ("current", lambda root: (root / "difftools/toymath.py").unlink()),
    "cell changed": ("current", cell(3, source="x = [0, 1]\nmean = 0.5")),
    "hash changed": ("current", notebook(lambda nb: nb.metadata.difftools.hashes.modules.update(
        {"difftools.toymath": "0"}))),
    "data changed": ("current", notebook(lambda nb: nb.metadata.difftools.hashes.files.update(
        {"data/claims.toml": "0"}))),
    # a failing cell, and cells run by hand
    "error output": ("executed", cell(3, outputs=[
        {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}])),
    "out of order": ("executed", cell(3, execution_count=9)),
    "progress bar": ("executed", cell(3, outputs=[
        {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "0/9 [?it/s]"}}])),
    "stderr": ("executed", cell(3, outputs=[
        {"output_type": "stream", "name": "stderr", "text": "50%|#"}])),
    # parameters
    "misspelt parameter": ("parameters", file("notebooks/toy.ipynb", '"n": 20', '"m": 20')),
    "parameter that is computed": ("parameters", cell(1, source="n = 2 * 200")),
    "parameter kept from the trial": ("parameters", notebook(
        lambda nb: nb.cells[1].update(source=nb.cells[1].source + "\nk = 1"))),
    "two parameter cells": ("parameters", cell(2, metadata={"tags": ["parameters"]})),
    # portability
    "absolute path": ("portable", cell(3, source='open("/data/x.npy")')),
    "home folder": ("portable", cell(3, source='open("~/x.npy")')),
    "fetch": ("portable", cell(3, source='load("https://example.org/x")')),
    "install": ("portable", cell(3, source="%pip install torch")),
    "path in an output": ("portable", cell(3, outputs=[
        {"output_type": "stream", "name": "stdout", "text": "saved /home/me/x.png"}])),
    "other kernel": ("valid", notebook(lambda nb: nb.metadata.kernelspec.update(name="conda-env"))),
    "papermill's metadata": ("valid", notebook(lambda nb: nb.metadata.update(papermill={}))),
    # form
    "too big": ("small", cell(0, source="x" * 600_001)),
    "long cell": ("small", cell(3, source="x = 1\n" * 16)),
    "other title": ("anatomy", file("notebooks/toy.ipynb", "# Is a toy enough?", "# A toy")),
    "no prediction": ("anatomy", file("notebooks/toy.ipynb", "## Predict", "## Guess")),
    "four recall questions": ("anatomy", file("notebooks/toy.ipynb", '"5. e\\n",', "")),
    "unnumbered equation": ("anatomy", file("notebooks/toy.ipynb", "$$ (eq-mean)", "$$")),
    "house style": ("anatomy", file("notebooks/toy.ipynb", "Nothing.", "Clearly nothing.")),
    "exercise without solution": ("exercises", file(
        "notebooks/toy.ipynb", "{solution} toy-2", "{solution} toy-9")),
    "two exercises": ("exercises", file("notebooks/toy.ipynb", ":label: toy-3", ":label2: toy-3")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_its_rule(root, fault):
    rule, plant = FAULTS[fault]
    plant(root)
    assert rule in structure.problems(root, "toy")


@pytest.mark.parametrize("plant", [
    lambda root: alter(root / "book/scoreboard.md", "holds", "fails"),
    lambda root: (root / "book/scoreboard.md").unlink(),
    lambda root: alter(root / CLAIMS, "is a half", "is a third"),
    lambda root: shutil.copy(root / "notebooks/toy.ipynb", root / "notebooks/extra.ipynb"),
    lambda root: shutil.copy(root / EXPECTED, root / "data/expected/later.json"),
    lambda root: (root / "notebooks/toy.ipynb").unlink(),
])
def test_a_stale_page_or_a_stray_file_is_found(root, plant):
    plant(root)
    assert structure.book_problems(root)


def test_a_wrong_number_stops_the_run(root):
    alter(root / EXPECTED, '"value": 0.48', '"value": 0.58')
    said = "mean = 0.485, .*DISAGREES .recorded 0.585"
    with pytest.raises(papermill.PapermillExecutionError, match=said):
        book.run("toy", None, root)


def test_changed_code_stops_the_run(root):
    alter(root / "difftools/toymath.py", "seed / 2**31", "seed / 2**30")
    with pytest.raises(papermill.PapermillExecutionError, match="CheckFailed"):
        book.run("toy", None, root)


def test_a_misspelt_parameter_stops_the_run(root):
    with pytest.raises(ValueError, match="no parameter 'sead'"):
        book.run("toy", None, root, sead=1)


def test_nbval_goes_red_for_a_line_a_word_and_a_failing_cell(root):
    alter(root / "notebooks/toy.ipynb", "check    mean = 0.485", "check    mean = 0.486")
    alter(root / EXPECTED, '"word": "inconclusive"', '"word": "refutes"')
    toy.edit(root, lambda nb: nb.cells[7].update(source="raise ValueError('planted')"))
    said = red(["--nbval-lax", "--nbval-current-env", "notebooks/toy.ipynb"], root)
    assert re.search(r"3 failed, 4 passed", said), said
    assert "differs from the recorded run" in said and "planted" in said


# one wrong sign in each stepper
MUTANTS = {
    "ddim": ("y = y + (b.tau - a.tau) * field(y, a)", "y = y - (b.tau - a.tau) * field(y, a)"),
    "fixed_point_ddim": ("f = field(y + h * f, b)", "f = field(y - h * f, b)"),
    "heun": ("y + h / 2 * (f + field(y + h * f, b))", "y + h / 2 * (f - field(y + h * f, b))"),
    "dpm2m": ("x0 + h / (2 * h_old) * (x0 - x0_old)", "x0 - h / (2 * h_old) * (x0 - x0_old)"),
    "pec": ("y + sum(w * v for w, v in zip(correct", "y - sum(w * v for w, v in zip(correct"),
    "reversible_heun": ("y, f = y + h / 2 * (f + f_new)", "y, f = y + h / 2 * (f - f_new)"),
    "edict": ("x[i] = p * x[i] + (1 - p) * x[j]", "x[i] = p * x[i] - (1 - p) * x[j]"),
    "bdia": ("move(clean) - gamma * move(noisy)", "move(clean) + gamma * move(noisy)"),
    "belm": ("-h * (h + h_next) / h_next * eps", "h * (h + h_next) / h_next * eps"),
}
PUBLISHED = ("edict", "bdia", "belm")  # in a module of their own, with a test by formula each


def test_a_wrong_sign_in_any_stepper_turns_its_tests_red(tmp_path):
    shutil.copytree(ROOT / "difftools", tmp_path / "difftools",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for name in ("unit/conftest.py", "unit/test_steppers.py", "oracle/test_conventions.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    (tmp_path / "data").symlink_to(ROOT / "data")
    for name, (old, new) in MUTANTS.items():
        file = "published.py" if name in PUBLISHED else "steppers.py"
        alter(tmp_path / "difftools" / "diffusion" / file, old, new)
    relevant = "converges_to_the_exact_flow or gains_its_order or by_its_formula"
    said = red(["-k", relevant, "tests"], tmp_path)
    failed = re.findall(r"FAILED \S*::test_(\S*)", said)
    caught = {n for n in MUTANTS for test in failed
              if test.startswith(f"{n}_") or n in re.split(r"[-\[\]]", test)}
    assert caught == set(MUTANTS), said


def test_there_is_a_mutant_for_every_stepper():
    from difftools.diffusion.steppers import STEPPERS
    assert set(MUTANTS) == set(STEPPERS)


# GAN inversion: file, right, wrong; each is found by the test whose name begins with its own
GAN_MUTANTS = {
    "floored": ("recipes", "clamp_min(FLOOR)", "clamp_max(FLOOR)"),
    "geocross": ("recipes", "2 * torch.atan2(", "torch.atan2("),
    "prior": ("recipes", ") / s.std).square()", ") / s.std**2).square()"),
    "cosine": ("recipes", "(1 - u @ u.mT).abs()", "(1 - u @ u.mT).square()"),
    "autocorrelation": ("recipes", "for axis in (2, 3)", "for axis in (2, 2)"),
    "ramp": ("recipes", "(1 - t) / 0.25", "(1 - t) / 0.5"),
    "one_cycle_drop": ("recipes", "(t - 0.9) / 0.1 *", "(t - 0.9) / 0.2 *"),
    "sphere": ("recipes", "length(start) / length(v)", "length(v) / length(start)"),
    "normalise": ("recipes", "v = v - v.mean(", "v = v + v.mean("),
    "degaussianise": ("generator", "self.s.to(v) * v + self.m", "self.s.to(v) * v - self.m"),
    "heads_are_networks": ("inverter", "act(x) if i in after", "act(x) if i not in after"),
    "the_mean_code": ("inverter", "v.value(fresh).mean(1)", "v.value(fresh)[:, 0]"),
    "jitter_fades": ("inverter", "1 - t / 0.75", "1 - t"),
    "the_best_step": ("inverter", "won = loss < best", "won = loss > -1"),
    "a_batch_of_two": ("inverter", "torch.ones_like(loss))", "torch.ones_like(loss) / len(loss))"),
    "a_loss_that_is_not_finite": ("inverter", "if bad:", "if bad and step < 0:"),
    "lpips_against": ("../perceptual", "Conv(384, pool=3)", "Conv(384)"),
}


def test_a_fault_in_gan_inversion_turns_its_test_red(tmp_path):
    mutants = {name: (f"gan/{file}", old, new) for name, (file, old, new) in GAN_MUTANTS.items()}
    each_turns_red(mutants, ("unit/test_gan.py", "unit/test_perceptual.py", "gan_files.py"),
                   tmp_path)
