"""Claims on trial: the calls by which a chapter puts its evidence.

`Trial.check` guards the book: it raises when a number leaves its recorded value. `Trial.evidence`
judges a claim and never raises for a number, since a refuted claim is a result. `Trial.verdict`
follows from the evidence by the register's rule. Each prints one line that is the same on every
machine: the recorded number, while the fresh one agrees with it. The raw numbers travel as output
metadata, from which `difftools.book` makes ``data/expected``. Built in: every chapter.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from .provenance import ROOT, provenance
from .register import WORLDS, decide, judge, register, rule_of, tables

FREE = ("batch_size", "device")          # parameters that may not change a result
LIBRARIES = ("numpy", "scipy", "torch", "sklearn", "diffusers")


class CheckFailed(AssertionError):
    """A number left its recorded value, or its theory, at the recorded parameters."""


def recorded(chapter: str, root: Path = ROOT) -> dict | None:
    """What ``data/expected/<chapter>.json`` holds, None if the chapter was never recorded."""
    path = root / "data" / "expected" / f"{chapter}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def words(claim: dict, world: str, root: Path = ROOT,
          fresh: dict[str, str] | None = None) -> dict[str, str]:
    """Words of a claim's pieces in a world: recorded ones, of its own chapter ``fresh`` ones."""
    found = {}
    for name, piece in claim["pieces"].items():
        if fresh is None or piece["chapter"] != claim["chapter"]:
            done = recorded(piece["chapter"], root) or {"evidence": {}}
            entry = done["evidence"].get(f"{claim['id']}/{name}", {}).get(world)
            found |= {name: entry["word"]} if entry else {}
    return found | (fresh or {})


def number(x: float | str) -> str:
    """Three significant digits; 'undefined' for NaN."""
    return "undefined" if math.isnan(float(x)) else f"{float(x):#.3g}".removesuffix(".")


def result(entry: dict) -> str:
    """Value and interval of an entry, as printed."""
    ends = entry["interval"]
    return number(entry["value"]) + (f" [{number(ends[0])}, {number(ends[1])}]" if ends else "")


def line(record: dict) -> str:
    """The line that a record prints."""
    kind, note = record["kind"], record.get("note", "")
    if kind == "check":
        theory = "" if record["expect"] is None else f", theory {number(record['expect'])}"
        head = f"check    {record['name']} = {number(record['value'])}"
        if note:
            return f"{head}{theory}, tolerance {record['tol']:g}: {note}"
        return f"{head} ± {record['tol']:g} (recorded{theory}): agrees"
    if kind == "evidence":
        return (f"evidence {record['piece']} [{record['world']}]  {result(record)}  "
                f"rule {record['rule']}: {record['word']}{note}")
    if kind == "verdict":
        head = f"verdict  {record['claim']} [{record['world']}]"
        return f"{head}  {record['verdict'].upper()}. {record['says']}"
    return "provenance: {} modules, {} data files".format(
        *(len(record["hashes"][part]) for part in ("modules", "files")))


class Trial:
    """One chapter's trial: judges its numbers and prints a line for each.

    ``profile``, ``world`` ('embedded' or 'paper') and ``parameters`` are all of the notebook's
    parameters. While they are the recorded run's (`FREE` ones aside), its numbers must return.
    """

    def __init__(self, chapter: str, *, profile: str, world: str, root: Path = ROOT,
                 **parameters: object):
        known = [entry["name"] for entry in tables(root)["chapter"]]
        if chapter not in known:
            raise ValueError(f"no chapter {chapter!r}; the register has {', '.join(known)}")
        if world not in WORLDS:
            raise ValueError(f"no world {world!r}; choose from {', '.join(WORLDS)}")
        self.chapter, self.world, self.root = chapter, world, root
        self.parameters = json.loads(json.dumps({"profile": profile, "world": world, **parameters}))
        self.claims = register(root)
        self.recording = os.environ.get("DIFFTOOLS_RECORD") == "1"    # set by `difftools.book` only
        self.recorded = None if self.recording else recorded(chapter, root)
        self.same = self.recorded is not None and (
            _key(self.recorded["parameters"]) == _key(self.parameters))
        self.seen: dict[tuple[str, ...], tuple[str, int | None]] = {}

    def check(self, name: str, value: float, tol: float, why: str,
              expect: float | None = None) -> float:
        """Compare a number with its recorded value and its theory ``expect``; returns the number.

        ``tol`` is absolute, ``why`` says where it comes from. Raises CheckFailed if the number is
        further off at the recorded parameters; at others it reports.
        """
        if not (tol > 0 and math.isfinite(tol) and why.strip()):
            raise ValueError(f"check {name!r}: give a tolerance above 0 and, in `why`, its reason")
        self._once("check", name)
        value = float(value)
        record = {"kind": "check", "name": name, "value": _plain(value), "tol": float(tol),
                  "why": why, "expect": None if expect is None else _plain(expect)}
        old = self.recorded["checks"].get(name) if self.same else None
        target = value if self.recording else float(old["value"]) if old else None
        if target is None:
            reason = ("no such check in the recorded run" if self.same else "no recorded run"
                      if self.recorded is None else "parameters differ from the recorded run")
            _say(record | {"note": f"not compared ({reason})"})
        elif all(abs(value - x) <= tol for x in (target, expect) if x is not None):
            kept = {"value": target, "tol": old["tol"]} if old else {}
            _say(record, shown=record | kept)
        else:
            other = f"(recorded {number(target)})" if old else "with the theory"
            record["note"] = f"DISAGREES {other}"
            _say(record)
            raise CheckFailed(f"{line(record)}. The tolerance: {why}")
        return value

    def evidence(self, piece: str, value: float, interval: Sequence[float] | None = None, *,
                 world: str | None = None, rule: str | None = None) -> str:
        """Judge a number for a piece of evidence such as 'R-L2.2/order'; returns its word.

        ``interval`` is (low, high), None for an exact value. ``world`` is S, E or P, by default the
        trial's (a piece that lacks that one is then not applicable). KeyError lists the chapter's
        pieces; ValueError if the piece has another chapter, world or rule.
        """
        known = {f"{claim['id']}/{name}": part for claim in self.claims.values()
                 for name, part in claim["pieces"].items()}
        if piece not in known:
            mine = [name for name, part in known.items() if part["chapter"] == self.chapter]
            raise KeyError(f"no evidence {piece!r}; {self.chapter} has {', '.join(mine) or 'none'}")
        part, letter = known[piece], world or WORLDS[self.world]
        if part["chapter"] != self.chapter:
            raise ValueError(f"{piece} belongs to chapter {part['chapter']}, not {self.chapter}")
        if world and world not in part["worlds"]:
            raise ValueError(f"{piece} has no world {world!r}; it has {', '.join(part['worlds'])}")
        committed = rule_of(part, letter)
        if rule not in (None, committed):
            raise ValueError(f"{piece}: the register's rule is {committed!r}, not {rule!r}")
        if interval is not None and (len(interval) != 2 or interval[0] > interval[1]):
            raise ValueError(f"{piece}: an interval is (low, high), not {interval}")
        here = letter in part["worlds"]
        word = judge(committed, value, interval) if here else "not applicable"
        record = {"kind": "evidence", "piece": piece, "world": letter, "value": _plain(value),
                  "interval": None if interval is None else [_plain(x) for x in interval],
                  "rule": committed, "word": word}
        self._once("evidence", piece, letter, word=word)
        old = self.recorded["evidence"].get(piece, {}).get(letter) if self.same else None
        if old and old["word"] == word and _overlap(old, record):
            _say(record, shown=record | old)
        else:
            _say(record | ({"note": " (differs from the recorded run)"} if self.same else {}))
        return word

    def verdict(self, claim: str, *, world: str | None = None) -> str:
        """Decide a claim in a world by its rule, from the evidence so far; returns the verdict."""
        mine = [name for name, entry in self.claims.items() if entry["chapter"] == self.chapter]
        if claim not in mine:
            raise KeyError(f"{self.chapter} decides {', '.join(mine) or 'nothing'}, not {claim!r}")
        letter = world or WORLDS[self.world]
        fresh = {key[1].removeprefix(f"{claim}/"): word for key, (word, _) in self.seen.items()
                 if key[0] == "evidence" and key[1].startswith(f"{claim}/") and key[2] == letter}
        entry = self.claims[claim]
        verdict, says = decide(entry, words(entry, letter, self.root, fresh), letter)
        self._once("verdict", claim, letter)
        _say({"kind": "verdict", "claim": claim, "world": letter, "verdict": verdict, "says": says})
        return verdict

    def close(self) -> None:
        """End the trial: note its parameters and the hashes of the code and data behind it."""
        self._once("close")
        versions = {x: sys.modules[x].__version__ for x in LIBRARIES if x in sys.modules}
        _say({"kind": "trial", "chapter": self.chapter, "parameters": self.parameters,
              "hashes": provenance(self.root), "device": self.parameters.get("device", "cpu"),
              "versions": {"python": platform.python_version(), **versions}})

    def _once(self, *key: str, word: str = "") -> None:
        # Whoever runs a cell again may; recording refuses what two cells share.
        shell = _shell()
        now = shell.execution_count if shell else None
        if key in self.seen and self.seen[key][1] == now:
            raise ValueError(f"{' '.join(key)} was given before: use another name")
        self.seen[key] = word, now


def _key(parameters: dict) -> dict:
    return {name: value for name, value in parameters.items() if name not in FREE}


def _plain(x: float) -> float | str:
    # Jupyter's messages know no NaN and no infinity: these travel as words that float() reads.
    x = float(x)
    return x if math.isfinite(x) else str(x)


def _overlap(a: dict, b: dict) -> bool:
    """Whether two results agree: their spans, widened by 1 % of the value, meet (NaN meets NaN)."""
    spans = []
    for entry in (a, b):
        value = float(entry["value"])
        span = [value, *map(float, entry["interval"] or ())]
        if any(math.isnan(x) for x in span):
            spans.append(None)
            continue
        slack = 0.01 * abs(value) + 1e-9 if math.isfinite(value) else 0.0
        spans.append((min(span) - slack, max(span) + slack))
    if None in spans:
        return spans == [None, None]
    (lo, hi), (low, high) = spans
    return lo <= high and low <= hi


def _shell() -> object | None:
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _say(record: dict, shown: dict | None = None) -> None:
    """Show the line of ``shown``; in a kernel the raw ``record`` goes along as metadata."""
    text = line(shown or record)
    if _shell() is None:
        print(text)
    else:
        from IPython.display import display
        display({"text/plain": text}, raw=True, metadata={"difftools": record})
