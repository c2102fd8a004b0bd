"""What the heavy tables of the chapter on prior holes read of a latent, and of what."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import gan_files as files
from difftools import hole_tables as H
from difftools import metrics, results, zoo

TINY = {"family": "stylegan2", "g": files.TINY, "d": files.CRITIC}


@pytest.fixture(scope="module")
def w_plus():
    return zoo.load("stylegan2-vehicles32", recipe="w_plus", steps=3)


@pytest.fixture()
def tiny(tmp_path, monkeypatch):
    """An imported StyleGAN2 of 16 px."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    files.nvidia(tmp_path / "a.pkl", files.generator(1))
    yield zoo.import_official("stylegan2", tmp_path / "a.pkl", "stylegan2-ffhq256", TINY)
    zoo.model.cache_clear()


def test_whitening_gives_fresh_draws_mean_0_and_variance_1_largest_first(w_plus):
    w = w_plus.generator.draw(range(1500))["w"]
    u = H.coordinates(w_plus.generator, {"w": w})[:, 0]
    assert u.shape == (1500, 128) and float(u.mean(0).abs().max()) < 0.15
    torch.testing.assert_close(torch.cov(u.T), torch.eye(128).double(), rtol=0, atol=0.3)
    mean, matrix = H.whitening(w_plus.generator)
    scale = matrix.norm(dim=0)  # one over the deviation along each component
    assert (scale[1:] >= scale[:-1] - 1e-9).all()
    torch.testing.assert_close((w[0].double() - mean) @ matrix, u[0])


def test_z_is_read_through_the_mapping_which_divides_its_length_out(w_plus):
    g = w_plus.generator
    drawn = g.draw(range(4))
    want = H.coordinates(g, {"w": drawn["w"]})
    for scale in (1.0, 5.0):
        found = H.coordinates(g, {"z": scale * drawn["z"]})
        torch.testing.assert_close(found, want, rtol=0, atol=2e-4)
    assert H.coordinates(g, {"w_plus": drawn["w_plus"]}).shape == (4, 8, 128)


def test_without_a_mapping_z_is_itself():
    m = zoo.load("biggan-vehicles32", steps=1)
    drawn = m.generator.draw(range(3))
    assert torch.equal(H.coordinates(m.generator, drawn)[:, 0], drawn["z"].double())


def test_what_is_read_of_known_latents():
    u = torch.randn(400, 8, 64, generator=torch.Generator().manual_seed(0)).double()
    found = H.read(u)
    assert found["rows"].mean() == pytest.approx(7 / 8, abs=5e-3)
    assert found["norm"].mean() == pytest.approx(1, abs=5e-3)
    for name in H.OCTAVES:
        assert found[name].mean() == pytest.approx(0, abs=0.02)
    equal = H.read(u[:, :1].expand(-1, 8, -1))
    assert np.abs(equal["rows"]).max() < 1e-12
    loud = u.clone()
    loud[:, :, 32:] *= torch.e
    assert (H.read(loud)["last"] - found["last"]) == pytest.approx(2, abs=1e-9)
    assert (H.read(loud)["first"] == found["first"]).all()


def test_sides_are_those_of_sixteen_hyperplanes_through_the_mean():
    u = torch.randn(500, 1, 64, generator=torch.Generator().manual_seed(1)).double()
    here, there = (H.sides(H.read(v)["sides"]) for v in (u, -u))
    assert here.shape == (500, 16) and (here == ~there).all()
    assert np.abs(here.mean(0) - 0.5).max() < 0.1
    assert (H.sides([0, 5, 65535])[:, :3] == [[0, 0, 0], [1, 0, 1], [1, 1, 1]]).all()


def test_draws_repeat_a_row_or_draw_each(w_plus):
    one, each = (H.draws(w_plus, 60, seed=7, rows=k) for k in ("one", "independent"))
    assert one.rows.abs().max() < 1e-9 and each.rows.mean() == pytest.approx(7 / 8, abs=0.02)
    pd.testing.assert_frame_equal(H.draws(w_plus, 5, seed=9), one[2:7].reset_index(drop=True))


@pytest.fixture(scope="module")
def part():
    found = next(p for p in H.gan_parts() if p.label == "W, vehicles, 0")
    return replace(found, n=2, x=found.x[:2], steps=3)


def test_a_row_is_what_the_inverter_finds(part):
    m = zoo.load(part.model, recipe=part.recipe, steps=3)
    code = m.encode(part.x, range(part.seed, part.seed + 2))
    want = metrics.psnr(part.x, m.decode(code)).numpy()
    rows = part.run()
    assert rows.psnr.to_numpy() == pytest.approx(want, abs=1e-3) and rows.apart.isna().all()
    read = H.read(H.coordinates(m.generator, code.tensors))
    assert rows.norm.to_numpy() == pytest.approx(read["norm"], abs=1e-3)
    assert list(rows.image) == [0, 1] and set(rows.domain) == {"vehicles"}


def test_images_of_the_gan_itself_have_a_true_latent(part, monkeypatch):
    mine = replace(part, domain=H.GENERATED, x=None, recipe="w")
    rows = mine.run()
    assert rows.apart.between(0.3, 2).all()  # 1: two draws; three steps go nowhere
    m = zoo.load(part.model, recipe="w", steps=3)
    true = m.prior(2, seed=H.KNOWN)
    monkeypatch.setattr(type(m), "encode", lambda self, x, seeds=None: true)
    again = mine.run()
    assert (again.apart == 0).all() and (again.psnr > 30).all()  # clipping alone


def test_a_key_moves_with_all_that_decides(part, monkeypatch):
    stepper = H.stepper_parts("zero", {"ddim": 2}, (2, 1))[0]
    keys = {part.key, replace(part, steps=4).key, replace(part, seed=1).key,
            replace(part, recipe="z").key, replace(part, x=part.x + 1e-6).key,
            replace(part, model="styleganxl-vehicles32").key}
    assert len(keys) == 6
    part_of = H.gan_parts()[0]
    assert part_of.x is None and replace(part_of, n=3).key != part_of.key
    for p in (part, replace(H.stepper_parts(steppers={"ddim": 2}, n=(1, 1))[0])):
        before = p.key
        with monkeypatch.context() as patch:
            patch.setattr(H, "_weights", lambda net: "other")
            assert p.key != before
        with monkeypatch.context() as patch:
            patch.setattr(results, "code_version", lambda *what: "other")
            assert p.key != before
    assert stepper.label == "ddim, vehicles"


def test_a_stepper_gives_a_round_trip_and_the_statistics_of_its_latent():
    part = H.stepper_parts("gaussian-vehicles32", {"reversible_heun": 6}, (3, 1))[0]
    rows = part.run()
    assert (rows.psnr > 90).all() and rows.norm.between(0.2, 2).all() and len(rows) == 3


def test_the_work_of_the_book():
    parts = H.gan_parts()
    assert len({p.label for p in parts}) == len(parts)
    seeds = [s for p in parts if p.name == "z" for s in range(p.seed, p.seed + p.n)]
    assert len(set(seeds)) == len(seeds)  # two images never share a draw
    assert {p.stepper for p in H.stepper_parts(n=(1, 1))} == set(H.STEPPERS)


def pictures(folder, n, size=20):
    rng = np.random.default_rng(0)
    for domain, count in n.items():
        (folder / domain).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / domain / f"{i}.png")
    return folder


def test_your_own_gan_and_images_walk_the_same_code(tiny, tmp_path):
    folder = pictures(tmp_path / "pictures", {"in-domain": 4, "b": 5})
    parts = H.own_parts(tiny, folder, steps=2)
    assert {(p.name, p.domain) for p in parts} == {
        (k, d) for k in ("z", "W", "W+") for d in ("generated", "in-domain", "b")}
    mine = [p for p in parts if p.name == "W+" and p.domain == "b"]
    assert [p.n for p in mine] == [5] and mine[0].x.shape == (5, 3, 16, 16)
    assert len(mine[0].run()) == 5
    assert H.own_parts("", folder) == H.own_parts(tiny, "") == []


def test_too_few_images_are_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="b has fewer than 4 images"):
        H.own_parts(tiny, pictures(tmp_path / "pictures", {"in-domain": 4, "b": 3}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has fewer than 4 images"):
        H.own_parts(tiny, tmp_path / "empty")
    with pytest.raises(zoo.ModelError, match="not on this machine"):
        H.own_parts("stylegan2-ffhq1024", tmp_path)
