"""The rules that every committed chapter obeys.

A rule is a function (root, chapter, notebook) -> list of problems. The structure test demands an
empty list of every chapter, `tests/can_fail` a full one of damaged copies.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import nbformat

from difftools import book, claims, register
from difftools.provenance import code_hash

MAX_BYTES = 600_000
MAX_LINES = 15
HIDDEN = {"hide-input", "remove-input", "hide-cell", "remove-cell", "plot", "solution"}
CALL = re.compile(r"\btrial\.(check|evidence|verdict|close)\(")
FETCH = re.compile(
    r"https?://|\b(urllib|requests|urlopen|urlretrieve|socket|wget|curl|pip install)\b")
PATH_IN_CODE = re.compile(r"""["'](/[A-Za-z]\w|~/|[A-Za-z]:\\)""")
PATH_IN_OUTPUT = re.compile(
    r"(?<![\w/.])(/(home|root|tmp|usr|Users|work|opt|var|private)/|[A-Z]:\\Users)")
BASE64 = re.compile(r"base64,[A-Za-z0-9+/=\s]+")
SECTIONS = ("in one paragraph", "what you need", "predict", "what breaks", "recall", "exercises",
            "references")
Problems = list[str]


def code(nb: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def prose(nb: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def valid(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    wrong = [] if (nb.nbformat, nb.nbformat_minor) >= (4, 5) else ["older than nbformat 4.5"]
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        wrong.append(f"no valid notebook: {error}")
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        wrong.append("the kernel is not python3")
    extra = set(nb.metadata) - {"kernelspec", "difftools"}
    return wrong + [f"leftover metadata: {name}" for name in sorted(extra)]


def executed(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    counts = [cell.execution_count for cell in code(nb)]
    in_order = counts == list(range(1, len(counts) + 1))
    wrong = [] if in_order else [f"not run once from the top: {counts}"]
    for cell in code(nb):
        for output in cell.outputs:
            if output.output_type == "error":
                wrong.append(f"a cell ended with {output.ename}")
            if "it/s" in str(output.get("data", {}).get("text/plain")):
                wrong.append("a progress bar is left: it must obey TQDM_DISABLE")
            if output.get("name") == "stderr":
                wrong.append(f"a cell wrote to stderr: {output.text[:60]!r}")
    return wrong


def parameters(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    try:
        known = book.parameters(nb)
        book.settings(chapter, root, profile="smoke")
        if known["profile"] != "reference":
            return ["the default profile is not 'reference'"]
        given = book.assemble(nb)["parameters"]
    except (ValueError, KeyError) as error:
        return [str(error)]
    return [] if given == known else [f"Trial was given {given}, the parameters cell holds {known}"]


def portable(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    wrong = []
    for cell in code(nb):
        wrong += [f"fetches something: {hit.group()}" for hit in FETCH.finditer(cell.source)]
        wrong += [f"absolute path: {hit.group()}" for hit in PATH_IN_CODE.finditer(cell.source)]
        for output in cell.outputs:
            data = output.get("data", {"text/plain": output.get("text", "")})
            text = " ".join(str(x) for kind, x in data.items() if not kind.startswith("image/"))
            wrong += [f"path in an output: {hit.group()}"
                      for hit in PATH_IN_OUTPUT.finditer(BASE64.sub("", text))]
    return wrong


def small(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    size = (root / "notebooks" / f"{chapter}.ipynb").stat().st_size
    wrong = [] if size <= MAX_BYTES else [f"{size} bytes, more than {MAX_BYTES}"]
    shown, inside = [], False
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            inside = inside or "{solution-start}" in cell.source
            inside = inside and "{solution-end}" not in cell.source
        elif not inside and not tags(cell) & HIDDEN:
            shown.append(cell)
    cells = [cell.source.splitlines() for cell in shown]
    return wrong + [f"{len(c)} lines of code: {c[0]!r}" for c in cells if len(c) > MAX_LINES]


def anatomy(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    text = prose(nb)
    question = next(c["question"] for c in register.tables(root)["chapter"] if c["name"] == chapter)
    heads = [(level, title.strip()) for level, title in re.findall(r"^(#+) (.+)$", text, re.M)]
    wrong = [] if heads[:1] == [("#", question)] else [f"the title is not {question!r}"]
    wrong += [f"no section {name!r}" for name in SECTIONS
              if not any(title.lower().startswith(name) for level, title in heads if level == "##")]
    if len(re.findall(r"\$\$ \([\w-]+\)$|^[`:]{3,}\{math\}.*\n:label: ", text, re.M)) < 2:
        wrong.append("fewer than two numbered equations")
    recall = re.search(r"^## Recall.*?$(.*?)(?=^## |\Z)", text, re.M | re.S | re.I)
    if recall and len(re.findall(r"^\d+\. ", recall.group(1), re.M)) != 5:
        wrong.append("not five recall questions")
    wrong += [f"house style: {hit!r}" for hit in re.findall(r"\b(?:clearly|simply)\b", text, re.I)]
    return wrong


def exercises(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    text = prose(nb)
    asked = re.findall(r"\{exercise(?:-start)?\}[^\n]*\n(?::(?!label)[^\n]*\n)*:label: (\S+)", text)
    solved = re.findall(r"\{solution(?:-start)?\} (\S+)", text)
    wrong = [] if len(asked) == 3 else [f"{len(asked)} exercises with a label, not 3"]
    return wrong + [f"exercise {name} has no solution" for name in asked if name not in solved]


def checked(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    """Calls of the trial have outputs, nbval compares them, and each line is that of its record."""
    wrong = []
    for cell in code(nb):
        found = [out for out in cell.outputs if "difftools" in out.get("metadata", {})]
        if CALL.search(cell.source) and not found:
            wrong.append(f"no output of {CALL.search(cell.source).group()}…): stripped?")
        if found and "nbval-check-output" not in tags(cell):
            wrong.append(f"the tag nbval-check-output is missing: {cell.source.splitlines()[0]!r}")
        wrong += [f"the line is not that of its record: {out.data['text/plain']!r}" for out in found
                  if out.data["text/plain"] != claims.line(out.metadata["difftools"])]
    kinds = [record["kind"] for record in book.records(nb)]
    return wrong + [f"no {kind}" for kind in ("check", "trial") if kind not in kinds]


def expected(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    """The recorded numbers are those of the notebook, in both directions."""
    try:
        mine, theirs = book.assemble(nb), claims.recorded(chapter, root)
    except ValueError as error:
        return [str(error)]
    if theirs is None:
        return [f"never recorded: run make notebooks CHAPTER={chapter}"]
    wrong = [f"{part}: notebook and data/expected differ"
             for part in sorted(mine.keys() | theirs.keys()) if mine.get(part) != theirs.get(part)]
    if nb.metadata.get("difftools", {}).get("hashes") != mine["hashes"]:
        wrong.append("hashes in the notebook's metadata are not those of its trial")
    for name, c in theirs["checks"].items():
        if c["expect"] is not None and not abs(float(c["value"]) - float(c["expect"])) <= c["tol"]:
            wrong.append(f"check {name} is off its theory")
    return wrong


def follows(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    """Words follow from the numbers and verdicts from the words, by the register as it is now."""
    entries, wrong = register.register(root), []
    done = claims.recorded(chapter, root) or {"evidence": {}, "verdicts": {}}
    for piece, worlds in done["evidence"].items():
        claim, name = piece.split("/")
        part = entries.get(claim, {"pieces": {}})["pieces"].get(name)
        for world, e in worlds.items():
            ends = e["interval"] and [float(x) for x in e["interval"]]
            rule = register.rule_of(part, world) if part else None
            if not rule or register.judge(rule, float(e["value"]), ends) != e["word"]:
                wrong.append(f"{piece} [{world}] is not {e['word']!r} by the register")
    for claim, worlds in done["verdicts"].items():
        for world, verdict in worlds.items():
            words = claims.words(entries[claim], world, root)
            if register.decide(entries[claim], words, world)[0] != verdict:
                wrong.append(f"the verdict {claim} [{world}] is not {verdict!r} by the register")
    return wrong


def complete(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    """A chapter gives every piece of evidence and every verdict that the register asks it for."""
    wrong = []
    done = claims.recorded(chapter, root) or {"evidence": {}, "verdicts": {}}
    for name, claim in register.register(root).items():
        asked = {f"{name}/{piece}": ("evidence", part) for piece, part in claim["pieces"].items()}
        asked |= {name: ("verdicts", claim)} if claim["decision"] else {}
        wrong += [f"no {kind} {key} [{world}]" for key, (kind, part) in asked.items()
                  if part["chapter"] == chapter for world in part["worlds"]
                  if world != "P" and world not in done[kind].get(key, {})]
    return wrong


def current(root: Path, chapter: str, nb: nbformat.NotebookNode) -> Problems:
    """Code, weights and slices are those that the outputs were made with."""
    hashes = {"modules": {}, "files": {}, "cells": ""}
    hashes |= nb.metadata.get("difftools", {}).get("hashes", {})
    changed = [] if hashes["cells"] == book.cells_hash(nb) else ["the code of its cells"]
    for name, value in hashes["modules"].items():
        path = root.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.exists() or code_hash(path.read_text(encoding="utf-8")) != value:
            changed.append(name)
    for name, value in hashes["files"].items():
        path = root / name
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != value:
            changed.append(name)
    advice = f"stale: rerun make notebooks CHAPTER={chapter} ({', '.join(changed)} changed)"
    return [advice] if changed else []


RULES = {rule.__name__: rule for rule in (
    valid, executed, parameters, portable, small, anatomy, exercises, checked, expected, follows,
    complete, current)}


def problems(root: Path, chapter: str) -> dict[str, Problems]:
    """What is wrong with a chapter, by rule; empty if nothing is."""
    nb = book.read(chapter, root)
    found = {name: rule(root, chapter, nb) for name, rule in RULES.items()}
    return {name: wrong for name, wrong in found.items() if wrong}


def book_problems(root: Path) -> Problems:
    """What is wrong with the set of notebooks and the page made from them."""
    wrong = [] if book.chapters(root) else ["there are no notebooks"]
    page = root / "book" / "scoreboard.md"
    if not page.exists() or page.read_text(encoding="utf-8") != book.scoreboard(root):
        wrong.append("stale: rerun python -m difftools.book scoreboard")
    files = {f"{path.name} is no chapter of the register": path
             for path in sorted((root / "notebooks").glob("*.ipynb"))}
    files |= {f"data/expected/{path.name} has no notebook": path
              for path in sorted((root / "data" / "expected").glob("*.json"))}
    return wrong + [said for said, path in files.items() if path.stem not in book.chapters(root)]
