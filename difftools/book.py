"""The book machine: runs chapters, records their outputs, writes the scoreboard.

``python -m difftools.book record [CHAPTER …]`` is the only way in which committed outputs change.
Built in: every chapter.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbformat

from . import claims, register
from .provenance import ROOT, code_hash

TIMEOUT = 1800                      # seconds for one cell: against a hang only
# The figure of the README and the front page: chapter, name, and where its copy goes.
FRONT = ("inversion", "fig-inv-controls", "book/_static/first_figure.png")
FRAME = re.compile(r"(?<=data:image/png;base64,)[A-Za-z0-9+/=]+")
THREADS = "2"                       # of a recorded run: sums depend on it in their last digits


def _path(chapter: str, root: Path) -> Path:
    return root / "notebooks" / f"{chapter}.ipynb"


def chapters(root: Path = ROOT) -> list[str]:
    """Chapters that have a notebook, in the order of the book."""
    return [c["name"] for c in register.tables(root)["chapter"] if _path(c["name"], root).exists()]


def read(chapter: str, root: Path = ROOT) -> nbformat.NotebookNode:
    """A chapter's notebook as committed; ValueError lists the chapters if it is not one."""
    if not _path(chapter, root).exists():
        have = ", ".join(chapters(root)) or "none yet"
        raise ValueError(f"no chapter {chapter!r}; the book has {have}")
    return nbformat.read(_path(chapter, root), as_version=4)


def parameters(nb: nbformat.NotebookNode) -> dict[str, object]:
    """Names and values in the 'parameters' cell; ValueError unless it holds literals only."""
    cells = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"one cell must be tagged 'parameters', not {len(cells)}")
    values = {}
    for node in ast.parse(cells[0].source).body:
        try:
            (target,) = node.targets
            values[target.id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise ValueError("the parameters cell holds lines `name = literal` only, "
                             f"not {ast.unparse(node)!r}") from None
    return values


def settings(chapter: str, root: Path = ROOT, **given: object) -> dict[str, object]:
    """All parameters of a run: the defaults, changed by ``given['profile']``, changed by ``given``.

    Profiles stand in the notebook's metadata, ``difftools.profiles``; the defaults are one more.
    ValueError for an unknown parameter, an unknown profile, or a value of another type.
    """
    nb = read(chapter, root)
    known = parameters(nb)
    profiles = {known.get("profile"): {}, **nb.metadata.get("difftools", {}).get("profiles", {})}
    profile = given.get("profile", known.get("profile"))
    if profile not in profiles:
        have = ", ".join(map(str, profiles))
        raise ValueError(f"{chapter} has no profile {profile!r}; it has {have}")
    values = {**profiles[profile], **given}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{chapter} has no parameter {name!r}; it has {', '.join(known)}")
        kind = type(known[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{chapter}: {name} must be {kind.__name__}, not {value!r}")
    return known | values


@contextlib.contextmanager
def _environment(root: Path, **variables: str | None) -> Iterator[None]:
    """The environment for a kernel: this checkout first on its path, no progress bars."""
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    new = {"PYTHONPATH": path, "TQDM_DISABLE": "1", "DIFFTOOLS_RECORD": None, **variables}
    old = {name: os.environ.get(name) for name in new}

    def put(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    put(new)
    try:
        yield
    finally:
        put(old)


def _write(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False,
                                     encoding="utf-8") as file:
        file.write(text)
    os.chmod(file.name, 0o644)                              # a temporary file is private by default
    os.replace(file.name, path)


def run(chapter: str, out: Path | None = None, root: Path = ROOT, **given: object) -> list[dict]:
    """Execute a chapter with other parameters (see `settings`); returns what it put on record.

    The executed notebook goes to ``out`` if it ends well, else papermill's error is raised.
    """
    import papermill
    values = settings(chapter, root, **given)
    with _environment(root):
        nb = papermill.execute_notebook(
            _path(chapter, root), None, values, kernel_name="python3", cwd=root / "notebooks",
            progress_bar=False, execution_timeout=TIMEOUT)
    if out is not None:
        _write(Path(out), nbformat.writes(nb) + "\n")
    return records(nb)


def records(nb: nbformat.NotebookNode) -> list[dict]:
    """What the calls of `claims.Trial` left in the outputs, in order."""
    return [output.metadata["difftools"] for cell in nb.cells for output in cell.get("outputs", [])
            if "difftools" in output.get("metadata", {})]


def assemble(nb: nbformat.NotebookNode) -> dict:
    """The content of ``data/expected/<chapter>.json``; ValueError if the outputs lack some."""
    found, trial = {"checks": {}, "evidence": {}, "verdicts": {}}, None
    for e in records(nb):
        if e["kind"] == "trial":
            trial = e
            continue
        if e["kind"] == "check":
            place, key = found["checks"], e["name"]
            kept = {field: e[field] for field in ("value", "tol", "why", "expect")}
        elif e["kind"] == "evidence":
            place, key = found["evidence"].setdefault(e["piece"], {}), e["world"]
            kept = {field: e[field] for field in ("value", "interval", "word")}
        else:
            place, key = found["verdicts"].setdefault(e["claim"], {}), e["world"]
            kept = e["verdict"]
        if key in place:
            raise ValueError(f"two cells give the same {e['kind']}: {e.get('piece', key)}")
        place[key] = kept
    if trial is None:
        raise ValueError("the last code cell of a chapter must be `trial.close()`")
    hashes = {**trial["hashes"], "cells": cells_hash(nb)}
    return json.loads(json.dumps({"parameters": trial["parameters"], **found, "hashes": hashes,
                                  "versions": trial["versions"], "device": trial["device"]}))


def cells_hash(nb: nbformat.NotebookNode) -> str:
    """Hash of the code in a notebook's cells; prose does not count."""
    codes = [code_hash(cell.source) for cell in nb.cells if cell.cell_type == "code"]
    return hashlib.sha256("".join(codes).encode()).hexdigest()


def record(chapter: str, root: Path = ROOT) -> None:
    """Run a chapter at its defaults, in place, and record its numbers; a failure changes nothing.

    The run is pinned to the CPU and to two threads, so that a recording repeats itself.
    """
    from nbclient import NotebookClient
    nb = read(chapter, root)
    parameters(nb)
    nb.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "difftools": nb.metadata.get("difftools", {})})
    client = NotebookClient(nb, timeout=TIMEOUT, kernel_name="python3", record_timing=False,
                            resources={"metadata": {"path": str(root / "notebooks")}})
    # Threads that wait asleep: spinning ones take minutes from each other on a busy machine.
    pinned = {"OMP_NUM_THREADS": THREADS, "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    with _environment(root, DIFFTOOLS_RECORD="1", **pinned):
        client.execute(env=dict(os.environ))
    expected = assemble(nb)
    nb.metadata.pop("language_info", None)
    nb.metadata.difftools["hashes"] = expected["hashes"]
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
    _slim(nb)
    nbformat.validate(nb)
    _write(_path(chapter, root), nbformat.writes(nb) + "\n")
    _write(root / "data" / "expected" / f"{chapter}.json",
           json.dumps(expected, indent=0, ensure_ascii=False) + "\n")
    _write(root / "book" / "scoreboard.md", scoreboard(root))
    if chapter == FRONT[0]:
        (root / FRONT[2]).write_bytes(figure(nb, FRONT[1]))


def _slim(nb: nbformat.NotebookNode) -> None:
    """Compress the PNGs of a notebook, its sliders' frames too, to a palette where nobody sees it.

    256 colours are enough for lines, text and small pictures; a picture that would lose four levels
    of 255 on average, twice what quantising photographs costs, keeps all of its own.
    """
    import numpy as np
    from PIL import Image

    def smaller(png: str) -> str:
        out, image = io.BytesIO(), Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
        few = image.quantize(256, kmeans=3, dither=Image.Dither.NONE)
        lost = np.abs(np.asarray(few.convert("RGB"), int) - np.asarray(image, int)).mean()
        (few if lost < 4 else image).save(out, "PNG", optimize=True)
        return base64.b64encode(out.getvalue()).decode()

    for data in (o.get("data", {}) for cell in nb.cells for o in cell.get("outputs", [])):
        if "image/png" in data:
            data["image/png"] = smaller(data["image/png"])
        if "text/html" in data:
            data["text/html"] = FRAME.sub(lambda m: smaller(m[0]), data["text/html"])


def figure(nb: nbformat.NotebookNode, name: str) -> bytes:
    """The PNG of the cell whose figure has this name; ValueError if there is none."""
    for cell in nb.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output["data"]["image/png"])
    raise ValueError(f"no figure {name!r} with a PNG")


def claims_table(root: Path = ROOT) -> list[dict]:
    """One row per claim: its entry in the register without the rules, and ``verdicts`` by world."""
    rows = []
    for claim in register.register(root).values():
        done = claims.recorded(claim["chapter"], root)
        blank = "not run" if done and claim["decision"] else "pending"
        given = (done or {"verdicts": {}})["verdicts"].get(claim["id"], {})
        keys = ("id", "source", "statement", "printed", "controls", "worlds", "chapter", "expect")
        rows.append({**{k: claim[k] for k in keys},
                     "verdicts": {world: given.get(world, blank) for world in claim["worlds"]}})
    return rows


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return ["", *("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)), ""]


def _link(chapter: str, root: Path) -> str:
    there, title = _path(chapter, root).exists(), chapter.replace("_", " ")
    return f"[{title}](../notebooks/{chapter}.ipynb)" if there else f"{title} (to come)"


def _verdict(word: str) -> str:
    """A verdict with its colour, where it has one."""
    kind = word.split(",")[0].split()[0]
    return f"[{word}]{{.{kind}}}" if kind in ("holds", "fails", "depends") else word


def _anchor(claim: str) -> str:
    return "claim-" + claim.lower().replace(".", "-")


SCOREBOARD = """# Scoreboard

<!-- Written by `python -m difftools.book scoreboard` from data/claims.toml and data/expected. -->

Every claim, every world, every verdict. A verdict follows from the evidence below by a rule that
was committed before the results. Worlds: **S** solvable, **E** embedded, **P** paper. Sources:
**R** Ramachandran et al. (2024), **Z** Zhu et al. (2023), **B** Luzi et al. (2024). *Pending*:
the chapter is not written, or evidence is still to come. *Not run*: it needs data or weights that
you download.

## Claims

{decided} of {total} claims have a verdict in at least one world.
{claims}
## Evidence

A piece supports its sentence if its whole interval obeys the rule, refutes it if no part does, and
is inconclusive otherwise. A number without an interval is exact.
{evidence}
## Checks

What a re-run of each chapter must reproduce, and how closely.
{checks}
## Systems
{systems}"""


def scoreboard(root: Path = ROOT) -> str:
    """The page ``book/scoreboard.md``: claims, verdicts and their evidence, checks, systems."""
    entries, rows = register.register(root), claims_table(root)
    board, evidence, checks = [], [], []
    open_ = {"pending", "not run"}
    decided = [row for row in rows if {*row["verdicts"].values()} - open_]
    # what is decided first; the register's order within
    for row in sorted(rows, key=lambda row: row not in decided):
        pieces = entries[row["id"]]["pieces"]
        name = f"[{row['id']}](#{_anchor(row['id'])})" if pieces else row["id"]
        board.append([name, *(_verdict(row["verdicts"].get(world, "–")) for world in "SEP"),
                      row["statement"], _link(row["chapter"], root)])
        evidence += _section(entries[row["id"]], row, root) if pieces else []
    for chapter in chapters(root):
        found = (claims.recorded(chapter, root) or {"checks": {}})["checks"]
        lines = [[f"`{name}`", claims.number(c["value"]), f"{c['tol']:g}", c["why"]]
                 for name, c in found.items()]
        checks += ["", f":::{{dropdown}} {chapter.replace('_', ' ')}: {len(lines)} checks",
                   *_table(["check", "recorded", "tolerance", "why"], lines)[1:-1], ":::"]
    systems = [[f"{s['name']} ({s['note']})" if "note" in s else s["name"],
                _link(s["chapter"], root), s["status"]] for s in register.tables(root)["system"]]
    return SCOREBOARD.format(
        decided=len(decided), total=len(rows),
        claims="\n".join(_table(["claim", "S", "E", "P", "in short", "chapter"], board)),
        evidence="\n".join(evidence),
        checks="\n".join([*checks, ""]),
        systems="\n".join(_table(["system", "chapter", "status"], systems)))


def _section(claim: dict, row: dict, root: Path) -> list[str]:
    text = ["", f"({_anchor(claim['id'])})=", f"### {claim['id']}", "", claim["statement"], ""]
    text += [f"- *Printed:* {claim['printed']}"] if claim["printed"] else []
    text += [f"- *Our prior:* {claim['expect']}"]
    for world, verdict in row["verdicts"].items():
        says = register.decide(claim, claims.words(claim, world, root), world)[1]
        text += [f"- *Verdict in {world}:* **{verdict}**. {'' if verdict == 'not run' else says}"]
    rows = []
    for name, piece in claim["pieces"].items():
        done = (claims.recorded(piece["chapter"], root) or {"evidence": {}})["evidence"]
        given = [f"**{world}** {claims.result(e)} {e['word']}"
                 for world, e in done.get(f"{claim['id']}/{name}", {}).items()]
        rule = piece["rule"] if isinstance(piece["rule"], str) else "; ".join(
            f"{world} {rule}" for world, rule in piece["rule"].items())
        rows.append([f"`{name}`", "<br>".join(given) or "pending", piece["says"],
                     f"{rule}. *{piece['why']}*"])
    return text + _table(["piece", "result", "what it says", "rule"], rows)


def summary(root: Path = ROOT) -> str:
    """One line: how many checks, pieces of evidence and verdicts the committed notebooks carry."""
    kinds = Counter(e["kind"] for chapter in chapters(root) for e in records(read(chapter, root)))
    return (f"{len(chapters(root))} chapters carry {kinds['check']} checks, {kinds['evidence']} "
            f"pieces of evidence and {kinds['verdict']} verdicts.")


def main(argv: list[str] | None = None) -> int:
    """Command line of the book machine; exit status 2 and one line on bad input."""
    parser = argparse.ArgumentParser(prog="python -m difftools.book",
                                     description="Run and record chapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    rec = commands.add_parser("record", help="run chapters in place and record their numbers")
    rec.add_argument("chapter", nargs="*", help="names of chapters, by default all")
    commands.add_parser("scoreboard", help="write book/scoreboard.md from the recorded numbers")
    commands.add_parser("summary", help="count checks, evidence and verdicts")
    args = parser.parse_args(argv)
    try:
        if args.command == "record":
            for chapter in args.chapter or chapters():
                print(f"recording {read(chapter) and chapter}", flush=True)
                record(chapter)
        elif args.command == "scoreboard":
            _write(ROOT / "book" / "scoreboard.md", scoreboard())
        else:
            print(summary())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
