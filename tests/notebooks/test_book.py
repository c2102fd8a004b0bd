"""The book machine on a book of one small chapter: record, run, scoreboard, bad input."""

import json
import shutil

import nbformat
import papermill
import pytest

from difftools import book, claims
from difftools.provenance import ROOT
from notebooks import structure, toy


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The toy book as recorded: read only."""
    return toy.build(tmp_path_factory.mktemp("toy") / "book")


@pytest.fixture
def root(good, tmp_path):
    """A copy to change."""
    return shutil.copytree(good, tmp_path / "book")


def texts(nb):
    return [output.data["text/plain"] for cell in nb.cells for output in cell.get("outputs", [])]


def test_a_recorded_book_obeys_every_rule(good):
    assert structure.problems(good, "toy") == {}
    assert structure.book_problems(good) == []


def test_recording_twice_changes_no_byte(root):
    files = [root / "notebooks" / "toy.ipynb", root / "data" / "expected" / "toy.json",
             root / "book" / "scoreboard.md"]
    before = [file.read_bytes() for file in files]
    book.record("toy", root)
    assert [file.read_bytes() for file in files] == before


def test_a_run_at_the_recorded_parameters_prints_the_recorded_lines(good, tmp_path):
    book.run("toy", tmp_path / "out.ipynb", good)
    assert texts(nbformat.read(tmp_path / "out.ipynb", 4)) == texts(book.read("toy", good))
    assert len(texts(book.read("toy", good))) == 10


def test_a_run_with_other_parameters_reports_fresh_numbers(good, tmp_path):
    given = book.run("toy", tmp_path / "out.ipynb", good, profile="smoke", scale=3)
    lines = [claims.line(record) for record in given]
    assert sum("not compared (parameters differ" in text for text in lines) == 2
    assert any(text.startswith("verdict  T-MEAN [E]  FAILS") for text in lines)
    assert given[-1]["parameters"] == {
        "profile": "smoke", "world": "embedded", "n": 20, "seed": 1, "scale": 3}


@pytest.mark.parametrize(("given", "message"), [
    ({"scael": 1.0}, "toy has no parameter 'scael'; it has profile, world, n, seed, scale"),
    ({"profile": "smok"}, "toy has no profile 'smok'; it has reference, smoke"),
    ({"n": "3"}, "toy: n must be int, not '3'"),
    ({"n": 3.5}, "toy: n must be int, not 3.5"),
    ({"n": True}, "toy: n must be int, not True"),
])
def test_a_wrong_setting_is_refused_and_nothing_is_written(good, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        book.run("toy", tmp_path / "out.ipynb", good, **given)
    assert not list(tmp_path.iterdir())


def test_an_unknown_chapter_is_refused(good):
    with pytest.raises(ValueError, match="no chapter 'typo'; the book has toy"):
        book.read("typo", good)


@pytest.mark.parametrize("source", [
    "n = 2 + x", "n = 1; m = n", "a, b = 1, 2", "a.b = 1", "print(1)", "n: int = 1"])
def test_the_parameters_cell_holds_literals_only(root, source):
    toy.edit(root, lambda nb: nb.cells[1].update(source=source))
    with pytest.raises(ValueError, match="holds lines `name = literal` only"):
        book.settings("toy", root)


def test_a_failed_run_writes_nothing(root, tmp_path):
    toy.edit(root, lambda nb: nb.cells[3].update(source="1 / 0"))
    with pytest.raises(papermill.PapermillExecutionError, match="division by zero"):
        book.run("toy", tmp_path / "out.ipynb", root)
    assert not (tmp_path / "out.ipynb").exists()


def content(root):
    return {path: path.read_bytes() for path in root.rglob("*.*") if path.suffix != ".pyc"}


@pytest.mark.parametrize(("cell", "source", "message"), [
    (3, "1 / 0", "division by zero"),
    (7, "pass", "trial.close"),
    (4, 'trial.check("mean", 9, tol=0.05, why="x", expect=0.5)', "DISAGREES with the theory"),
    (7, 'trial.verdict("T-MEAN")\ntrial.close()', "two cells give the same verdict"),
])
def test_a_failed_recording_changes_nothing(root, cell, source, message):
    toy.edit(root, lambda nb: nb.cells[cell].update(source=source))
    before = content(root)
    with pytest.raises(Exception, match=message):
        book.record("toy", root)
    assert before == content(root)


def test_no_progress_bar_and_no_timing_reach_a_recorded_notebook(root):
    bar = ("from tqdm import tqdm\nx = [scale * u for u in tqdm(list(uniform(n, seed)))]\n"
           "mean = sum(x) / n")
    toy.edit(root, lambda nb: nb.cells[3].update(source=bar))
    book.record("toy", root)
    nb = book.read("toy", root)
    assert nb.cells[3].outputs == [] and not any("execution" in cell.metadata for cell in nb.cells)


def test_scoreboard_of_the_toy(good):
    page = book.scoreboard(good)
    link = "[toy](../notebooks/toy.ipynb)"
    line = next(v for v in page.splitlines() if v.startswith("| [T-MEAN](#claim-t-mean) |"))
    assert "| [holds]{.holds} |" in line
    assert line.endswith(f"| The mean of the toy is a half. | {link} |")
    assert f" of {len(book.claims_table(good))} claims have a verdict" in page
    assert "- *Verdict in E:* **pending**. Waits for then (chapter later)." in page
    assert ":::{dropdown} toy: 2 checks\n" in page
    assert "| `mean` | 0.485 | 0.05 | 3 standard errors |" in page
    assert book.summary(good) == "1 chapters carry 2 checks, 4 pieces of evidence and 3 verdicts."


def test_claims_table_is_json_and_lists_every_claim_by_world():
    rows = json.loads(json.dumps(book.claims_table(ROOT)))
    assert len(rows) == 42 and all(set(row["verdicts"]) == set(row["worlds"]) for row in rows)


@pytest.mark.parametrize(("argv", "status"), [(["summary"], 0), (["record", "typo"], 2)])
def test_command_line(argv, status, capsys):
    assert book.main(argv) == status
    assert ("error: no chapter 'typo'" in capsys.readouterr().err) == (status == 2)
