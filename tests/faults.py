"""Planting faults in a copy of the package, and seeing which tests turn red."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from difftools import register, results
from difftools.provenance import ROOT


def alter(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a file; it must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"nothing to plant: {old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def red(command: list[str], cwd: Path) -> str:
    """Run pytest where it must fail; returns what it says."""
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    environment = {**os.environ, "PYTHONPATH": str(cwd)}
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *command], cwd=cwd,
                          env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr        # 1: tests ran, and some failed
    return done.stdout


def each_turns_red(mutants: dict[str, tuple[str, str, str]], tests: tuple[str, ...],
                   folder: Path) -> None:
    """Plant all mutants at once in a copy of the package and run the tests that they are meant for.

    mutants: start of a test's name -> (module below difftools, what is written, the fault).
    tests: files below tests. For every mutant a test of its name must fail.
    """
    shutil.copytree(ROOT / "difftools", folder / "difftools",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for name in tests:
        shutil.copy(ROOT / "tests" / name, folder / "tests")
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = . tests\n")
    (folder / "data").symlink_to(ROOT / "data")
    for module, old, new in mutants.values():
        alter(folder / "difftools" / f"{module}.py", old, new)
    said = red(["-k", " or ".join(mutants), "tests"], folder)
    failed = re.findall(r"(?:FAILED|ERROR) \S*::test_(\S*)", said)
    caught = {n for n in mutants if any(test.startswith(n) for test in failed)}
    assert caught == set(mutants), said


def is_refused(name: str, todo: list, what: str, weights: tuple, monkeypatch,
               folder: Path = results.FOLDER, at: int = -1, **changes: dict) -> None:
    """Take one thing away that a recorded table rests on; the table must be refused.

    what: "code", "weights" (of which `weights` names the module and its function), "missing" (the
    table in `folder`), or a key of changes: other fields for part `at` of the work.
    """
    if what == "missing":
        (folder / f"{name}.csv").unlink()
    elif what == "code":
        monkeypatch.setattr(results, "code_version", lambda *_: "other")
    elif what == "weights":
        monkeypatch.setattr(*weights, lambda _: "other")
    else:
        todo[at] = replace(todo[at], **changes[what])
    with pytest.raises(results.Stale, match="run its chapter at profile full|run the chapter at"):
        results.heavy(name, todo, folder=folder)


def verdicts_turn(claim: str, worlds: dict[str, dict[tuple[str, ...], str]]) -> None:
    """The register's rules can give each of these verdicts: none is built in.

    worlds: world -> the pieces that support, all others refuting -> the verdict that follows.
    """
    entry = register.register()[claim]
    for world, cases in worlds.items():
        pieces = [k for k, p in entry["pieces"].items() if world in p["worlds"]]
        for supported, verdict in cases.items():
            words = {k: "supports" if k in supported else "refutes" for k in pieces}
            assert register.decide(entry, words, world)[0] == verdict, (world, supported, verdict)
