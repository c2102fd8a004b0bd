"""The register of claims, and how numbers become words and words become verdicts.

``data/claims.toml`` says which pieces of evidence a claim needs, what rule each must obey, and
which verdict follows. Nothing here looks at a result. Built in: how to read a verdict.
"""

from __future__ import annotations

import ast
import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from .provenance import ROOT

WORLDS = {"solvable": "S", "embedded": "E", "paper": "P"}
VERDICTS = ("holds", "holds, corrected", "depends", "fails", "ill-posed", "inconclusive",
            "untestable here", "not applicable", "not run", "pending")
_RULE = re.compile(r"(<=|>=|<|>) (\S+)|in \[(\S+), (\S+)\]")


def tables(root: Path = ROOT) -> dict:
    """Chapters, claims and systems of ``data/claims.toml``, as written."""
    return tomllib.loads((root / "data" / "claims.toml").read_text(encoding="utf-8"))


def register(root: Path = ROOT) -> dict[str, dict]:
    """Every claim by id, with its defaults filled in; ValueError lists all that is wrong."""
    raw = tables(root)
    chapters = [chapter["name"] for chapter in raw["chapter"]]
    claims: dict[str, dict] = {}
    wrong: list[str] = []
    for claim in raw["claim"]:
        claim = {"printed": "", "pieces": {}, "decision": [], **claim}
        for part in (*claim["pieces"].values(), *claim["decision"]):
            part.setdefault("worlds", claim["worlds"])
            part.setdefault("chapter", claim["chapter"])
        wrong += [f"{claim['id']}: is there twice"] if claim["id"] in claims else []
        wrong += [f"{claim['id']}: {problem}" for problem in _problems(claim, chapters)]
        claims[claim["id"]] = claim
    if wrong:
        raise ValueError("data/claims.toml:\n  " + "\n  ".join(wrong))
    return claims


def _problems(claim: dict, chapters: list[str]) -> list[str]:
    needed = ("source", "statement", "controls", "worlds", "expect")
    wrong = [f"{key} is missing" for key in needed if not claim.get(key)]
    if claim.get("source") == "Z" and claim["printed"]:
        wrong.append("Z is known by a summary, so nothing printed in it may be quoted")
    for name, part in {"the claim": claim, **claim["pieces"]}.items():
        if part["chapter"] not in chapters:
            wrong.append(f"{name}: there is no chapter {part['chapter']!r}")
        wrong += [f"{name}: the claim has no world {world}"
                  for world in part["worlds"] if world not in claim["worlds"]]
    for name, piece in claim["pieces"].items():
        wrong += [f"{name}: {key} is missing" for key in ("says", "why") if not piece.get(key)]
        rules = piece["rule"].values() if isinstance(piece["rule"], dict) else [piece["rule"]]
        wrong += [f"{name}: cannot read the rule {r!r}" for r in rules if not _RULE.fullmatch(r)]
    for step in claim["decision"]:
        if step["verdict"] not in VERDICTS:
            wrong.append(f"{step['verdict']!r} is no verdict: {', '.join(VERDICTS)}")
        for name in sorted(names(step["when"])):
            there = claim["pieces"].get(name, {}).get("worlds", [])
            wrong += [f"{step['when']!r}: no piece {name!r} in world {world}"
                      for world in step["worlds"] if world not in there]
    return wrong


def rule_of(piece: dict, world: str) -> str:
    """The rule of a piece in a world; world P without a rule of its own takes that of E."""
    rule = piece["rule"]
    return rule if isinstance(rule, str) else rule.get(world) or rule["E"]


def judge(rule: str, value: float, interval: Sequence[float] | None = None) -> str:
    """'supports' if value and interval obey the rule, 'refutes' if no part does, or 'inconclusive'.

    No interval means that the value is exact. What is undefined (NaN) is inconclusive.
    """
    span = [float(x) for x in (value, *(interval or ()))]
    if any(math.isnan(x) for x in span):
        return "inconclusive"
    lo, hi = min(span), max(span)
    sign, bound, left, right = _RULE.fullmatch(rule).groups()
    if sign is None:
        obeys = float(left) <= lo and hi <= float(right)
        breaks = hi < float(left) or lo > float(right)
    else:
        b = float(bound)
        obeys = {"<": hi < b, "<=": hi <= b, ">": lo > b, ">=": lo >= b}[sign]
        breaks = {"<": lo >= b, "<=": lo > b, ">": hi <= b, ">=": hi < b}[sign]
    return "supports" if obeys else "refutes" if breaks else "inconclusive"


def _parse(when: str) -> ast.expr:
    return ast.parse(when.replace("-", "_"), mode="eval").body


def names(when: str) -> set[str]:
    """The pieces that a condition names."""
    found = (node for node in ast.walk(_parse(when)) if isinstance(node, ast.Name))
    return {node.id.replace("_", "-") for node in found}


def kleene(when: str, truth: dict[str, bool | None]) -> bool | None:
    """Three-valued value of 'a and not (b or c-d)'; a name without an entry is unknown."""
    def value(node: ast.expr) -> bool | None:
        if isinstance(node, ast.Name):
            return truth.get(node.id.replace("_", "-"))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = value(node.operand)
            return None if inner is None else not inner
        if isinstance(node, ast.BoolOp):
            ends = isinstance(node.op, ast.Or)           # one True ends an "or", one False an "and"
            parts = [value(part) for part in node.values]
            return ends if ends in parts else None if None in parts else not ends
        raise ValueError(f"{when!r}: only names of pieces, and, or, not and brackets")
    return value(_parse(when))


def decide(claim: dict, words: dict[str, str], world: str) -> tuple[str, str]:
    """Verdict of a claim in a world and a sentence on it, from the words of its pieces."""
    if world not in claim["worlds"]:
        return "not applicable", f"The claim has no meaning in world {world}."
    steps = [step for step in claim["decision"] if world in step["worlds"]]
    if not steps:
        return "pending", f"Chapter {claim['chapter']} decides."
    others = {name: piece["chapter"] for name, piece in claim["pieces"].items()
              if world in piece["worlds"] and piece["chapter"] != claim["chapter"]}
    waits = [f"{name} (chapter {chapter})" for name, chapter in others.items() if name not in words]
    if waits:
        return "pending", f"Waits for {', '.join(waits)}."
    truth = {name: {"supports": True, "refutes": False}.get(word) for name, word in words.items()}
    for step in steps:
        result = kleene(step["when"], truth)
        if result:
            return step["verdict"], step.get("says", "")
        if result is None:
            unknown = sorted(name for name in names(step["when"]) if truth.get(name) is None)
            return "inconclusive", f"Undecided: {', '.join(unknown)}."
    return "inconclusive", "No rule applies."
