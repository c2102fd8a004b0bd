"""What the heavy tables of the chapter on parallelism hold, and of what."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

import gan_files as files
from difftools import descent, metrics, results, zoo
from difftools import parallelism as P
from difftools import parallelism_tables as T
from tiny import save_pipeline

ZERO = {"zero": T.System("zero", settings={"steps": 2})}


@pytest.fixture(scope="module")
def angle_part():
    return T.angle_parts({"DAE": replace(T.EMBEDDED["DAE"], n=4, settings={"steps": 2})})[0]


@pytest.fixture(scope="module")
def angle_rows(angle_part):
    return angle_part.run()


def test_a_row_is_the_angle_of_the_codes(angle_part, angle_rows):
    m = zoo.load("dae-vehicles32", steps=2)
    s, t = (m.encode(v, range(4)) for v in (angle_part.x, angle_part.edits["box"]))
    for part, row in (("noise", "DAE, noise"), ("semantic", "DAE, semantic")):
        mine = angle_rows[(angle_rows.row == row) & (angle_rows.edit == "box")]
        assert list(mine.definition) == list(P.DEFINITIONS)
        want = [P.angle(k, s[part], t[part]) for k in P.DEFINITIONS]
        assert mine.value.to_numpy() == pytest.approx(want, abs=1e-4)
        assert (mine.dimension == {"noise": 3072, "semantic": 64}[part]).all()


def test_few_images_are_the_first_ones():
    less, more = (T.angle_parts(ZERO, n)[0].run() for n in (4, 6))
    assert more.few.to_numpy() == pytest.approx(less.few.to_numpy(), abs=2e-4)
    assert (less.few == less.value).all() and (more.few != more.value).any()


def test_unedited_pictures_meet_at_sixty_degrees(angle_rows):
    alone = angle_rows[angle_rows.edit == "none"]
    assert alone.value.to_numpy() == pytest.approx([np.pi / 3] * 2, abs=1e-4)
    assert alone.permuted.isna().all() and angle_rows[angle_rows.edit != "none"].notna().all(axis=None)


def test_sunglasses_are_a_part_of_their_own_where_they_are_made():
    parts = T.angle_parts()
    assert len({p.label for p in parts}) == len(parts) == 12
    images = {p.name: len(p.x) for p in parts if "sunglasses" in p.edits}
    assert set(images) == set(T.EMBEDDED)
    assert images["SPHInX"] == images["StyleGAN2"] == 12 and images["DDPM"] == 32


def test_intervals_of_halves_keep_their_splits():
    part = T.angle_parts(ZERO, 8)[0]
    assert isinstance(part, T.SteadyPart)
    rows = part.run()
    plain = T.AnglePart(part.name, part.system, part.x, part.edits).run()
    other = rows.definition == "halves"
    pd.testing.assert_frame_equal(rows[~other], plain[~other])
    assert rows.value[other].tolist() == plain.value[other].tolist()
    m = zoo.load("zero", steps=2)
    for edit, y in part.edits.items():
        p = P.pairs(*(m.encode(v, range(8))["noise"] for v in (part.x, y)))
        mine = rows[other & (rows.edit == edit)][["low", "high"]].to_numpy()[0]
        assert mine == pytest.approx(T.steady(p), abs=1e-4)


def test_the_steady_interval_is_the_jackknife_of_its_own_halves():
    gen = torch.Generator().manual_seed(0)
    s = torch.randn(12, 40, generator=gen)
    p = P.pairs(s, s + 0.5 + torch.randn(12, 40, generator=gen))
    G = p.displacements

    def mean_angle(keep):
        found, rng = [], np.random.default_rng(0)
        for _ in range(P.SPLITS):
            order = rng.permutation(12)
            a, b = ([i for i in part if keep[i]] for part in (order[:6], order[6:]))
            va, vb = G[np.ix_(a, a)].sum(), G[np.ix_(b, b)].sum()
            found.append(np.arccos(G[np.ix_(a, b)].sum() / np.sqrt(va * vb)))
        return np.mean(found)

    every = mean_angle(np.full(12, True))
    left = [mean_angle(np.arange(12) != i) for i in range(12)]
    assert every == pytest.approx(P.halves(p), abs=1e-12)
    half = stats.t.ppf(0.975, 11) * np.sqrt(11 / 12 * np.sum((left - np.mean(left)) ** 2))
    low, high = T.steady(p)
    assert (low, high) == pytest.approx((every - half, every + half), abs=1e-9)
    wide = P.jackknife(P.halves, p)
    assert high - low < wide[1] - wide[0]


@pytest.fixture(scope="module")
def global_rows():
    part = next(p for p in T.global_parts(ZERO, fit=16, new=3) if p.edit == "box")
    return part, part.run()


def test_without_a_model_latents_move_as_pixels_do(global_rows):
    part, rows = global_rows
    long = T.by_pairs(rows)
    for k in (1, 2, 4, 8, 16):
        a, b = (long[(long.space == s) & (long.way == "mean") & (long.pairs == k)].psnr.to_numpy()
                for s in ("latents", "pixels"))
        assert a == pytest.approx(b, abs=0.011)                      # rounded to 0.01 dB
        made = part.new + (part.y[:k] - part.x[:k]).mean(0)
        assert b == pytest.approx(metrics.psnr(part.true, made, clip=True).numpy(), abs=0.006)


def test_no_pairs_are_no_edit_and_inversion_alone(global_rows):
    part, rows = global_rows
    want = metrics.psnr(part.true, part.new, clip=True).numpy()
    for column in ("psnr, none, no edit, 0", "psnr, latents, mean, 0"):
        assert rows[column].to_numpy() == pytest.approx(want, abs=0.006)
    long = T.by_pairs(rows)
    assert (long[long.space == "none"].gain == 0).all()
    one = long[(long.space == "pixels") & (long.pairs == 4)].sort_values("image")
    assert one.gain.to_numpy() == pytest.approx(one.psnr.to_numpy() - want, abs=0.011)
    assert set(long[long.pairs == 16].way) == set(P.WAYS) and len(long) == 3 * 16
    shown = T.to_picture(rows.picture[0])
    made = part.new[0] + (part.y - part.x).mean(0)
    assert float((shown - made.clamp(-1, 1)).abs().max()) < 0.02


def test_new_pictures_are_not_among_the_pairs(global_rows):
    for part in (global_rows[0], *T.global_parts(ZERO, fit=5, new=4)):
        assert float(torch.cdist(part.new.flatten(1), part.x.flatten(1)).min()) > 1


def test_every_system_sees_the_same_pairs_and_pictures():
    todo = T.global_parts()
    assert list(dict.fromkeys(p.name for p in todo)) == ["DDPM", "DAE", "D2C"]
    assert {(len(p.x), len(p.new)) for p in todo} == {(64, 32)}
    for edit in T.MOVED:
        first, *others = (p for p in todo if p.edit == edit)
        assert all(torch.equal(first.true, p.true) and torch.equal(first.y, p.y) for p in others)


@pytest.fixture(scope="module")
def path_parts():
    return {p.kind: replace(p, iterations=4) for p in T.path_parts(
        {"zero": replace(ZERO["zero"], n=3)}) if p.name == "zero"}


def test_geometric_descents_are_given_time():
    *short, long = T.path_parts()
    assert (long.name, long.kind, long.iterations, len(long.x)) == ("DDPM, longer", "geometric",
                                                                    60, 12)
    assert {p.iterations for p in short} == {24} and {p.name for p in short} == {"DDPM"}
    same = next(p for p in short if p.kind == "geometric")
    assert torch.equal(long.x[:10], same.x)


def test_a_row_is_the_descent_of_its_picture(path_parts):
    part = path_parts["low-level"]
    path, kind = descent.found(zoo.load("zero", steps=2), part.x, part.other, "low-level", 4)
    rows = part.run()
    assert rows.straightness.to_numpy() == pytest.approx(path.straightness.numpy(), abs=1e-4)
    assert rows["last"].to_numpy() == pytest.approx(path.loss[-1].numpy(), abs=1e-4)
    assert (rows.arc <= rows.length + 1e-4).all() and (rows.graded > 0.99).all()
    with torch.no_grad():
        ends = descent.decoder(zoo.load("zero", steps=2), range(3))(path.z[-1])
    assert rows.reached.tolist() == kind.reached(ends).int().tolist()


def test_the_control_walks_to_the_latent_of_the_shifted_picture(path_parts):
    part = path_parts[T.TRUE]
    assert len(part.x) == T.TRULY and len(path_parts["geometric"].x) == 3
    rows = replace(part, x=part.x[:4]).run()
    m = zoo.load("zero", steps=2)
    a, b = (m.encode(v)["noise"] for v in (part.x[:4], descent.shift(part.x[:4], 8)))
    assert rows.arc.to_numpy() == pytest.approx(descent.sphere.angle(a, b).numpy(), abs=1e-4)
    assert (rows.straightness == 1).all() and (rows.reached == 1).all()
    assert (rows.graded < 0.867).all()                               # pixels: one jump


def test_a_picture_does_not_see_its_batch(path_parts):
    part = path_parts["random target"]
    one = replace(part, x=part.x[:1], other=part.other[:1]).run()
    pd.testing.assert_frame_equal(one, part.run()[:1], rtol=1e-3)


def test_strips_come_back_as_pictures(path_parts):
    rows = path_parts["geometric"].run()
    strip = T.pictures(rows.strip[0])
    assert strip.shape == (5, 3, 32, 32) and (rows.strip[1:] == "").all()
    x = path_parts["geometric"].x[0]
    assert float((strip[0] - x.clamp(-1, 1)).abs().max()) < 0.02     # the walk starts at the image


def test_a_key_moves_with_all_that_decides(angle_part, path_parts, monkeypatch):
    g = T.global_parts(ZERO, fit=4, new=2)[0]
    p = path_parts["semantic"]
    variants = [
        angle_part, replace(angle_part, x=angle_part.x + 1e-6), replace(angle_part, name="other"),
        replace(angle_part, edits=dict(list(angle_part.edits.items())[:2])),
        replace(angle_part, system=replace(angle_part.system, settings={"steps": 3})),
        replace(angle_part, system=replace(angle_part.system, model="ddpm-vehicles32")),
        replace(angle_part, system=replace(angle_part.system, parts=("noise",))),
        g, replace(g, true=-g.true), replace(g, x=-g.x), replace(g, edit="box"),
        p, replace(p, iterations=5), replace(p, other=-p.other), replace(p, kind="geometric"),
    ]
    assert len({v.key for v in variants}) == len(variants)
    before = g.key
    with monkeypatch.context() as patch:
        patch.setattr(T, "COUNTS", (1, 2))
        assert g.key != before
    for part in (angle_part, g, p):
        before = part.key
        for room, name in ((T, "weights_of"), (results, "code_version")):
            with monkeypatch.context() as patch:
                patch.setattr(room, name, lambda *what: "other")
                assert part.key != before


def test_facts_name_systems_and_images(angle_part):
    found = T.facts([angle_part])
    assert found["systems"]["DAE"]["model"] == "dae-vehicles32"
    assert found["images"] == {angle_part.label: 4}


def pictures(folder, n, size=20):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture()
def gan(tmp_path, monkeypatch):
    """An imported StyleGAN2 of 16 px."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    files.nvidia(tmp_path / "a.pkl", files.generator(1))
    config = {"family": "stylegan2", "g": files.TINY, "d": files.CRITIC}
    yield zoo.import_official("stylegan2", tmp_path / "a.pkl", "stylegan2-ffhq256", config)
    zoo.model.cache_clear()


def test_your_own_model_and_pictures_walk_the_same_code(gan, tmp_path):
    save_pipeline(tmp_path / "pipeline")
    todo = T.own_parts(str(tmp_path / "pipeline"), pictures(tmp_path / "mine", 8), n=5, steps=2,
                       gan_steps=40, iterations=1)
    assert set(todo) == set(T.TABLES)
    assert [p.name for p in todo["parallelism_angles"]] == [T.GIVEN, "StyleGAN2"]
    assert todo["parallelism_angles"][1].x.shape == (5, 3, 16, 16)
    assert len(todo["parallelism_angles"][1].run()) == 33
    assert [p.edit for p in todo["parallelism_global"]] == list(P.PRINTED)
    assert len(todo["parallelism_global"][0].x) == 4 == len(todo["parallelism_global"][0].new)
    assert [p.kind for p in todo["parallelism_paths"]] == [*descent.KINDS, T.TRUE,
                                                              "geometric"]
    bundled = T.own_parts(str(tmp_path / "pipeline"), n=4)["parallelism_angles"]
    assert [p.name for p in bundled] == [T.GIVEN] * 2                # a GAN of 16 px cannot see them


def test_a_dae_of_yours_has_two_parts_and_no_descent():
    todo = T.own_parts("dae-vehicles32", n=4)
    assert todo["parallelism_angles"][0].system.parts == ("noise", "semantic")
    assert todo["parallelism_paths"] == []


def test_what_cannot_be_done_is_refused(gan, tmp_path):
    with pytest.raises(ValueError, match="is no diffusion model"):
        T.own_parts(gan)
    with pytest.raises(ValueError, match="holds 3 pictures, expected 8 or more"):
        T.own_parts("zero", pictures(tmp_path / "few", 3))
    with pytest.raises(ValueError, match="of 16 px and the bundled ones have 32: give a folder"):
        T.angle_parts({"GAN": T.System(gan, ("w_plus",), settings={"recipe": "w_plus"})})
    with pytest.raises(zoo.ModelError, match="not on this machine"):
        T.own_parts("ddpm-ffhq256")
