"""Heavy results: tables whose parts any number of processes shares, resumes and can tell stale.

The work is cut into parts. A process takes every n-th part and writes it whole or not at all,
under a name that says what it rests on: so a killed run goes on where it stopped, a stale part is
never served, and any number of processes writes the table of one. What ships with the book lies in
``data/results``: a table, and beside it a note of what each part rests on.
Built in: inversion_tables.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import platform
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from . import data
from .provenance import ROOT, code_hash

FOLDER = ROOT / "data" / "results"
DIGITS = "%.6g"  # of the numbers in a table


class Stale(ValueError):
    """A recorded table that no longer rests on what is there now."""


class Part(Protocol):
    """A piece of work. label: for people. key: a hash of all that decides it."""

    label: str
    key: str

    def run(self, device: str) -> pd.DataFrame:
        """Its rows of the table."""


@lru_cache(maxsize=8)
def code_version(rooms: tuple[str, ...], more: tuple[Callable, ...] = ()) -> str:
    """Hash of the code in rooms of the package and of more functions and classes: a change
    elsewhere makes no part stale.
    """
    package = ROOT / "difftools"
    files = [f for room in rooms for f in (package / f"{room}.py", *(package / room).glob("*.py"))]
    sources = [f.read_text(encoding="utf-8") for f in sorted(files) if f.is_file()]
    sources += [textwrap.dedent(inspect.getsource(f)) for f in more]
    return hashlib.sha256("".join(map(code_hash, sources)).encode()).hexdigest()


def key(**facts: object) -> str:
    """Hash of facts; an array or tensor counts by its values, everything else by its text."""

    def plain(v: object) -> str:
        if isinstance(v, torch.Tensor):
            v = v.double().numpy()
        if isinstance(v, np.ndarray):
            return hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest()
        return repr(v)

    text = json.dumps({k: plain(v) for k, v in facts.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def work(
    todo: Sequence[Part], out: Path, rank: int = 0, processes: int = 1, device: str = "cpu"
) -> int:
    """Run the parts of this process that are not done yet; returns how many it ran.

    Each goes to ``out/parts/KEY.csv`` in one step. Which process ran it shows nowhere.
    """
    store, ran = out / "parts", 0
    store.mkdir(parents=True, exist_ok=True)
    for part in tqdm(todo[rank::processes], unit="part", disable=None):
        target = store / f"{part.key}.csv"
        if target.is_file():
            continue
        scratch = target.with_suffix(f".{rank}.tmp")
        part.run(device).to_csv(scratch, index=False, float_format=DIGITS)
        scratch.rename(target)
        ran += 1
    return ran


def gather(
    todo: Sequence[Part], out: Path, facts: dict | None = None, name: str = "table",
    folder: Path | None = None,
) -> pd.DataFrame | None:
    """The table, once every part is there: ``name.csv``, and ``name.json`` with its provenance, in
    `folder` (by default `out`); None while parts are missing. facts: more for the note.
    """
    files = [out / "parts" / f"{part.key}.csv" for part in todo]
    if not all(f.is_file() for f in files):
        return None
    table = pd.concat([pd.read_csv(f) for f in files], ignore_index=True)
    note = (facts or {}) | {
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "numpy": np.__version__},
        "parts": {part.key: part.label for part in todo},
    }
    folder = folder or out
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (
        (f"{name}.csv", table.to_csv(index=False)),
        (f"{name}.json", json.dumps(note, indent=1, sort_keys=True, default=repr) + "\n"),
    ):
        scratch = folder / f".{file}.{os.getpid()}"  # two processes may see the last part at once
        scratch.write_text(text)
        scratch.rename(folder / file)
    return table


def stale(todo: Iterable[Part], note: dict) -> list[str]:
    """What a recorded table (its note) no longer rests on: parts whose key has changed."""
    return [part.label for part in todo if part.key not in note["parts"]]


def shipped(name: str, todo: Sequence[Part], folder: Path = FOLDER) -> pd.DataFrame:
    """The recorded table ``name.csv`` of exactly these parts.

    Raises Stale, naming parts, if it is missing or does not rest on what is there now.
    """
    file = folder / f"{name}.csv"
    if not file.is_file():
        raise Stale(f"there is no {file.name} in data/results: run the chapter at profile full")
    note = json.loads(file.with_suffix(".json").read_text())
    if old := stale(todo, note):
        more = f" and {len(old) - 3} more" if len(old) > 3 else ""
        raise Stale(f"{file.name} is stale in {'; '.join(old[:3])}{more}: code, weights, images or "
                    "settings have changed since; run its chapter at profile full")
    if len(note["parts"]) != len(todo):
        raise Stale(f"{file.name} has {len(note['parts'])} parts, expected {len(todo)}")
    if folder == FOLDER:
        data.USED[f"data/results/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return pd.read_csv(file)


def heavy(
    name: str, todo: Sequence[Part], compute: bool = False, facts: dict | None = None,
    folder: Path = FOLDER,
) -> pd.DataFrame:
    """The recorded table, or with `compute` the table computed, recorded and returned.

    Parts on the way lie in the cache folder of the data, so that a killed run goes on.
    """
    if not compute:
        return shipped(name, todo, folder)
    out = data.cache_folder() / "results" / name
    work(todo, out)
    return gather(todo, out, facts, name, folder)


def same(
    part: Part, table: pd.DataFrame, columns: dict[str, float],
    on: Sequence[str] = ("row", "domain", "image"),
) -> list[str]:
    """Run a part again and compare with its rows of a table, found by the columns `on`; returns
    what differs by more than columns[name], the tolerance of the median over the part.
    """
    found = io.StringIO(part.run("cpu").to_csv(index=False, float_format=DIGITS))
    both = pd.read_csv(found).merge(table, on=list(on), suffixes=("", "_recorded"))
    medians = {c: (both[c].median(), both[f"{c}_recorded"].median()) for c in columns}
    return [
        f"{part.label}: {c} {now:.6g}, recorded {then:.6g}"
        for c, (now, then) in medians.items()
        if not abs(now - then) <= columns[c]
    ]
