"""Inversion tables: any number of processes writes the table of one, and nothing is done twice."""

import json
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from PIL import Image

from difftools import inversion_table as t
from difftools import metrics, results, zoo

CHEAP = {k: t.EMBEDDED[k] for k in ("zero network", "exact Gaussian")}
SETS = ("vehicles", "emoji")


@pytest.fixture(scope="module")
def todo():
    return t.parts(CHEAP, t.slices(SETS, 3), size=2)


@pytest.fixture(scope="module")
def table(todo, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    results.work(todo, out)
    return results.gather(todo, out)


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
    results.work(todo, tmp_path, 1, 2)
    assert results.gather(todo, tmp_path) is None  # the other half is missing
    results.work(todo, tmp_path, 0, 2)
    same(results.gather(todo, tmp_path), table)


def test_a_killed_run_goes_on_and_repeats_nothing(todo, table, tmp_path, monkeypatch):
    real, count = t.Part.run, iter(range(100))

    def dies(*args):
        if next(count) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(t.Part, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        results.work(todo, tmp_path)
    monkeypatch.setattr(t.Part, "run", real)
    (tmp_path / "parts" / "x.0.tmp").write_text("half a pa")
    assert results.work(todo, tmp_path) == len(todo) - 3
    same(results.gather(todo, tmp_path), table)
    assert results.work(todo, tmp_path) == 0


def test_a_part_that_rests_on_something_else_is_not_served(todo, monkeypatch):
    part = todo[0]
    keys = {part.key}
    keys.add(replace(part, row=t.Row("zero", {"steps": 9})).key)
    keys.add(replace(part, x=part.x + 1e-6).key)
    keys.add(replace(part, first=2).key)
    monkeypatch.setattr(t, "weights_of", lambda model: "other")
    keys.add(part.key)
    monkeypatch.setattr(results, "code_version", lambda *what: "other")
    keys.add(part.key)
    assert len(keys) == 6


def test_a_table_knows_when_it_is_stale(todo, table, tmp_path, monkeypatch):
    results.work(todo, tmp_path)
    results.gather(todo, tmp_path)
    note = json.loads((tmp_path / "table.json").read_text())
    assert results.stale(todo, note) == []
    real = t.weights_of
    monkeypatch.setattr(t, "weights_of", lambda m: "new" if m == "zero" else real(m))
    assert {s.split(", ")[0] for s in results.stale(todo, note)} == {"zero network"}


def test_the_summary_is_the_median_and_its_interval(table):
    row = t.summary(table).set_index(["row", "domain"]).loc[("exact Gaussian", "vehicles")]
    values = table[(table.row == "exact Gaussian") & (table.domain == "vehicles")].psnr
    assert row["median"] == values.median() and row.images == 3
    assert row.low <= row["median"] <= row.high


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"world": "moon"}, "embedded, paper"),
        ({"labels": ["DDMP"]}, "unknown row 'DDMP'; did you mean 'DDPM'.*known: zero network"),
        ({"labels": ["xyzzy"]}, "unknown row 'xyzzy'; known: zero network"),
        ({"world": "paper", "labels": ["DAE"]}, "difftools import dae"),
    ],
)
def test_a_wrong_request_is_named(wrong, says, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    with pytest.raises(ValueError, match=says):
        t.run(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_two_launched_processes_write_the_table_of_one_over_a_folder(tmp_path):
    rng = torch.Generator().manual_seed(0)
    for domain in ("a", "b"):
        (tmp_path / "images" / domain).mkdir(parents=True)
        for i in range(2):
            pixels = torch.randint(256, (40, 40, 3), generator=rng, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "images" / domain / f"{i}.png")
    command = ["-m", "difftools.inversion_table", str(tmp_path / "images")]
    command += ["--rows", "zero network"]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    for out, how, says in (("one", [], "done already\n"), ("two", launch, "2 processes share")):
        done = subprocess.run(
            [sys.executable, *how, *command, "--out", str(tmp_path / out)],
            capture_output=True, text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stderr.count("parts, of which 0 are done already") == 1 and says in done.stderr
    one, two = (pd.read_csv(tmp_path / k / "table.csv") for k in ("one", "two"))
    same(one, two)
    assert list(one.domain) == ["a", "a", "b", "b"]
    note = json.loads((tmp_path / "two" / "table.json").read_text())
    assert note["domains"] == {"a": 2, "b": 2} and len(note["code"]) == 64


def test_pictures_beside_sub_folders_are_a_domain_and_the_note_names_files(tmp_path, capsys):
    source, out = tmp_path / "mine", tmp_path / "out"
    (source / "b").mkdir(parents=True)
    for name in ("z.png", "b/y.png", "b/x.png"):
        Image.new("RGB", (40, 40), "red").save(source / name)
    linear = "linear code, 96 numbers"
    table = t.run(out, labels=["zero network"], source=source)
    assert table.groupby("domain").size().to_dict() == {"b": 2, "mine": 1}
    note = json.loads((out / "table.json").read_text())
    assert note["files"] == {"b": ["x.png", "y.png"], "mine": ["z.png"]}
    assert "2 parts, of which 0 are done" in capsys.readouterr().err
    t.run(out, labels=["zero network"], source=source)
    again = capsys.readouterr().err
    assert "2 parts, of which 2 are done" in again and "replaced" not in again
    t.run(out, labels=[linear], source=source / "z.png")
    assert "it will be replaced" in capsys.readouterr().err
    assert list(pd.read_csv(out / "table.csv").row) == [linear]


def test_latents_alone_are_judged_without_the_autoencoder():
    x = t.slices(["vehicles"], 2)["vehicles"]
    few, more = (t.measure(t.Row("ldm-vehicles32", {"steps": k}), x, range(2)) for k in (4, 16))
    for a, b in zip(few, more, strict=True):
        assert a["latent_psnr"] + 3 < b["latent_psnr"]  # the solver's error
    alone = t.measure(t.Row("ldm-vehicles32", {"mode": "ae_only"}), x, range(2))
    assert all(pd.isna(row["latent_psnr"]) for row in alone)


def test_a_picture_survives_as_text():
    x = t.slices(["emoji"], 1)["emoji"]
    assert torch.equal(t.to_picture(t.to_text(x[0])), x[0])
    row = t.Row("linear-vehicles32", {"numbers": 64}, picture=True)
    first, *rest = t.measure(row, x.repeat(2, 1, 1, 1), range(2))
    kept = t.to_picture(first["picture"])[None]
    assert abs(float(metrics.psnr(x, kept, clip=True)) - first["psnr"]) < 0.1  # rounding
    assert all("picture" not in r for r in rest)
    assert all("picture" not in r for r in t.measure(row, x, range(1, 2)))


def test_multiplications_are_counted():
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert t.gmac(lambda: conv(torch.zeros(2, 3, 16, 16))) == 2 * 8 * 3 * 9 * 256 / 1e9


def test_a_race_bills_every_pass_and_no_look():
    x = t.slices(["animals"], 2)["animals"]
    some = {k: t.RACE[k] for k in ("GAN, W", "diffusion, pec")}
    gan = t.Row(some["GAN, W"].model, some["GAN, W"].settings | {"steps": 50})
    points = pd.DataFrame(t.curve(gan, x, range(2)))
    m = zoo.load(gan.model, recipe="w", steps=50)
    one = t.gmac(lambda: m.decode(m.prior(1)))
    before = m.calls
    back = m.decode(m.encode(x))
    assert points.gmac.max() == pytest.approx((m.calls - before - 1) * one)
    spent = points.gmac.unique() / one
    assert set(abs(spent - spent.round()) < 1e-9) == {True} and spent[-1] - spent[-2] == 2 * t.EVERY
    last = points[points.gmac == points.gmac.max()].psnr.to_numpy()
    assert abs(last - metrics.psnr(x, back, clip=True).numpy()).max() < 0.01
    walked = pd.DataFrame(t.curve(some["diffusion, pec"], x, range(2)))
    assert walked.groupby("image").size().tolist() == [len(t.STEPS)] * 2
    assert walked.groupby("gmac").psnr.median().is_monotonic_increasing
