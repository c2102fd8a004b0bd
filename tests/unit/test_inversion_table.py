"""Inversion tables: any number of processes writes the table of one, and nothing is done twice."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from PIL import Image

from difftools import inversion_table as t
from difftools import metrics, zoo

CHEAP = {k: t.EMBEDDED[k] for k in ("zero network", "exact Gaussian")}
SETS = ("vehicles", "emoji")


@pytest.fixture(scope="module")
def todo():
    return t.parts(CHEAP, t.slices(SETS, 3), size=2)


@pytest.fixture(scope="module")
def table(todo, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    t.work(todo, out)
    return t.gather(todo, out)


def same(a, b):
    columns = [c for c in a if c not in t.TIMES]
    pd.testing.assert_frame_equal(a[columns], b[columns])


def test_every_image_has_one_row_in_every_line(table):
    assert len(table) == 2 * 2 * 3
    assert not table.duplicated(["row", "domain", "image"]).any()
    assert (table.dof_per_value == 1).all() and (table.evaluations > 0).all()


def test_a_row_is_what_the_model_does(table):
    m, x = zoo.load("gaussian-vehicles32"), t.slices(["emoji"], 3)["emoji"]
    want = metrics.psnr(x, m.decode(m.encode(x)), clip=True)
    got = table[(table.row == "exact Gaussian") & (table.domain == "emoji")].psnr
    torch.testing.assert_close(torch.tensor(got.to_list()).to(want), want, rtol=1e-6, atol=1e-3)


def test_the_zero_network_is_perfect_and_says_so(table):
    assert (table[table.row == "zero network"].psnr > 150).all()


def test_two_processes_write_the_table_of_one(todo, table, tmp_path):
    t.work(todo, tmp_path, 1, 2)
    assert t.gather(todo, tmp_path) is None  # the other half is missing
    t.work(todo, tmp_path, 0, 2)
    same(t.gather(todo, tmp_path), table)


def test_a_killed_run_goes_on_and_repeats_nothing(todo, table, tmp_path, monkeypatch):
    real, count = t.measure, iter(range(100))

    def dies(*args):
        if next(count) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(t, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        t.work(todo, tmp_path)
    monkeypatch.setattr(t, "measure", real)
    (tmp_path / "parts" / "x.0.tmp").write_text("half a pa")
    assert t.work(todo, tmp_path) == len(todo) - 3
    same(t.gather(todo, tmp_path), table)
    assert t.work(todo, tmp_path) == 0


def test_a_part_that_rests_on_something_else_is_not_served(todo, monkeypatch):
    part = todo[0]
    keys = {part.key}
    keys.add(t.Part(part.label, t.Row("zero", {"steps": 9}), part.domain, 0, part.x).key)
    keys.add(t.Part(part.label, part.row, part.domain, 0, part.x + 1e-6).key)
    keys.add(t.Part(part.label, part.row, part.domain, 2, part.x).key)
    monkeypatch.setattr(t, "weights_of", lambda model: "other")
    keys.add(part.key)
    monkeypatch.setattr(t, "code_version", lambda: "other")
    keys.add(part.key)
    assert len(keys) == 6


def test_a_table_knows_when_it_is_stale(todo, table, tmp_path, monkeypatch):
    t.work(todo, tmp_path)
    t.gather(todo, tmp_path)
    note = json.loads((tmp_path / "table.json").read_text())
    assert t.stale(todo, note) == []
    real = t.weights_of
    monkeypatch.setattr(t, "weights_of", lambda m: "new" if m == "zero" else real(m))
    assert {s.split(", ")[0] for s in t.stale(todo, note)} == {"zero network"}


def test_the_summary_is_the_median_and_its_interval(table):
    row = t.summary(table).set_index(["row", "domain"]).loc[("exact Gaussian", "vehicles")]
    values = table[(table.row == "exact Gaussian") & (table.domain == "vehicles")].psnr
    assert row["median"] == values.median() and row.images == 3
    assert row.low <= row["median"] <= row.high


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"world": "moon"}, "embedded, paper"),
        ({"labels": ["DDMP"]}, "unknown row 'DDMP'; known: zero network"),
        ({"world": "paper", "labels": ["DAE"]}, "difftools import dae"),
    ],
)
def test_a_wrong_request_is_named(wrong, says, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    with pytest.raises(ValueError, match=says):
        t.run(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_accelerate_launches_two_processes_over_a_folder(tmp_path):
    rng = torch.Generator().manual_seed(0)
    for domain in ("a", "b"):
        (tmp_path / "images" / domain).mkdir(parents=True)
        for i in range(2):
            pixels = torch.randint(256, (40, 40, 3), generator=rng, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "images" / domain / f"{i}.png")
    command = ["-m", "difftools.inversion_table", str(tmp_path / "images")]
    command += ["--rows", "zero network"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    for out, how in (("one", []), ("two", launch)):
        done = subprocess.run(
            [sys.executable, *how, *command, "--out", str(tmp_path / out)],
            capture_output=True, text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (pd.read_csv(tmp_path / k / "table.csv") for k in ("one", "two"))
    same(one, two)
    assert list(one.domain) == ["a", "a", "b", "b"]
    note = json.loads((tmp_path / "two" / "table.json").read_text())
    assert note["domains"] == {"a": 2, "b": 2} and len(note["code"]) == 64
