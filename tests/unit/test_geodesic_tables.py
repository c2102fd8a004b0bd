"""What the heavy tables of the chapter on geodesics read of a road, and of what."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import gan_files as files
from difftools import data, images, metrics, paths, results, zoo
from difftools import geodesic_tables as G

TINY = {"family": "stylegan2", "g": files.TINY, "d": files.CRITIC}


def test_cosine_distance_is_that_of_scikit_learn():
    from sklearn.metrics.pairwise import cosine_distances

    a, b = (torch.randn(n, 9, generator=torch.Generator().manual_seed(n)).double() for n in (4, 6))
    assert G.cosine_distance(a, b).numpy() == pytest.approx(cosine_distances(a, b))
    torch.testing.assert_close(G.cosine_distance(3 * a, b), G.cosine_distance(a, b))


@pytest.fixture(scope="module")
def real():
    return data.domain("vehicles", 60)


def test_real_images_are_as_real_as_real_ones(real):
    own = G.unreal(metrics.features(real[20:]), real[20:])  # each finds itself
    other = G.unreal(metrics.features(real[:20]), real[20:])
    assert own == pytest.approx(0, abs=1e-9) and np.median(other) == pytest.approx(1, abs=0.25)
    with pytest.raises(ValueError, match="2 real images or more, got 1"):
        G.unreal(metrics.features(real[:1]), real[:1])


def test_the_judge_sees_noise_where_the_euclidean_distance_does_not(real):
    noisy = (real[:20] + 0.1 * torch.randn(20, 3, 32, 32,
                                           generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    f, g, r = (metrics.features(x) for x in (real[:20], noisy, real[20:]))
    assert np.median(G.unreal(g, real[20:])) > np.median(G.unreal(f, real[20:])) + 0.1
    euclidean = lambda x: torch.cdist(x, r).amin(1).median()  # noqa: E731
    assert euclidean(g) < euclidean(f)


def test_a_critic_sees_damage_of_images_that_it_has_not_seen(real):
    x = real[:20]
    f, g = (metrics.features(v) for v in (x, (x[::2] + x[1::2]) / 2))
    assert np.median(G.damage(g, real[20:])) > np.median(G.damage(f, real[20:])) + 0.3


def test_euclidean_is_the_distance_to_the_nearest(real):
    f, r = metrics.features(real[:4]), metrics.features(real[20:])
    want = [min(float((v - w).norm()) for w in r) for v in f]
    assert G.euclidean(f, real[20:]) == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("k", [1, 2])
def test_auc_is_that_of_scikit_learn_and_draws_pairs_together(k):
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(k)
    good = rng.normal(size=60).round(1)  # with ties
    bad = good.reshape(30, 2)[:, :k].ravel() + rng.normal(0.3, 0.5, 30 * k).round(1)
    score = lambda b, g: roc_auc_score(  # noqa: E731
        np.r_[np.ones(b.size), np.zeros(g.size)], np.r_[b.ravel(), g.ravel()])
    value, *ends = G.auc(bad, good, draws=99)
    assert value == pytest.approx(score(bad, good))
    picks = np.random.default_rng(0).integers(30, size=(99, 30))
    b, g = bad.reshape(30, k), good.reshape(30, 2)
    boot = [score(b[i], g[i]) for i in picks]
    assert ends == pytest.approx(np.quantile(boot, [0.025, 0.975]).tolist())
    assert G.auc(good + 9, good) == pytest.approx((1, 1, 1))
    assert G.auc(good, good)[0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="reshape"):
        G.auc(bad[:-1], good)


def test_high_is_the_power_of_fine_detail():
    g = torch.Generator().manual_seed(0)
    white = torch.randn(64, 3, 32, 32, generator=g, dtype=torch.float64)
    assert float(G.high(white).mean()) == pytest.approx(1, abs=0.02)
    assert float(G.high(images.blur(white, 2.0)).mean()) < 0.02
    torch.testing.assert_close(G.high(3 * white), 9 * G.high(white))


def test_attributes_are_those_that_the_edits_change(real):
    x = real[:6].double()
    assert (G.colour(images.grayscale(x)) < 1e-7).all() and (G.colour(x) > 1e-3).all()
    assert (G.sharpness(G.blurred(x)) < G.sharpness(x)).all()
    assert (G.brightness(G.boxed(x)) == 1).all() and G.box(x) == (12, 10)
    assert G.sharpness(torch.ones(1, 3, 8, 8)) == 0


@pytest.mark.parametrize("edit", ["grayscale", "white box"])
def test_a_cross_fade_grades_linear_attributes_evenly(edit, real):
    change, attribute = G.EDITS[edit]
    x = real[:6].double()
    frames = [paths.straight(x, change(x), u) for u in G.FINE]
    g = G.graded(frames, attribute)
    assert g == pytest.approx(np.tile(G.FINE, (6, 1)), abs=1e-6)
    assert G.monotone(g).all() and G.largest_step(g) == pytest.approx(1, abs=1e-5)
    assert G.detour(frames) == pytest.approx(1, abs=1e-6)


def test_monotone_and_largest_step_of_known_shares():
    jump = np.r_[np.zeros(4), np.ones(5)][None]
    back = np.array([[0, 0.3, 0.2, 0.5, 1.0]])
    slight = np.array([[0, 0.3, 0.295, 0.5, 1.0]])
    assert G.monotone(jump).all() and G.largest_step(jump) == 8
    assert not G.monotone(back).any() and G.monotone(slight).all()
    assert G.largest_step(back) == pytest.approx(2) and G.monotone(back, 0.2).all()


def test_a_detour_is_longer_than_the_straight_line():
    a, b, c = torch.zeros(1, 2), torch.tensor([[1.0, 0]]), torch.tensor([[1.0, 1]])
    assert G.detour([a, b, c]) == pytest.approx(2**0.5)


def test_lol_is_about_the_mean_that_the_system_has():
    m = zoo.load("stylegan2-vehicles32", recipe="w", steps=1)
    a = m.prior(2)
    twice = G.lol(m, a)(a, a, 0.5)["w"]  # of one code with itself: away from the mean by √2
    mean = m.generator.statistics.mean.to(a["w"])
    torch.testing.assert_close(twice - mean, 2**0.5 * (a["w"] - mean), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no road 'detour'; known: straight line"):
        G.road("detour", m, a)


@pytest.fixture(scope="module")
def part():
    found = G.pair_parts({"Gaussian": G.diffusion("gaussian-vehicles32", "on the sphere", "LOL",
                                                  steps=6)}, drawn=3)
    part = next(p for p in found if p.kind == "animals").first(3)
    return replace(part, reference=part.reference[:40])


def test_a_row_is_what_lies_on_the_road(part):
    rows = part.run().set_index(["row", "image"])
    m = zoo.load("gaussian-vehicles32", steps=6)
    a, b = (paths.ends(c) for c in part.codes(m))
    c = paths.SLERP(a, b, 0.5)
    want = G.unreal(metrics.features(m.decode(c)), part.reference)
    mine = rows.loc["Gaussian, great circle"]
    assert mine.q2.to_numpy() == pytest.approx(want, abs=1e-3)
    inner = (a["noise"] * b["noise"]).flatten(1).sum(1).numpy()
    assert mine.inner.to_numpy() == pytest.approx(inner, abs=1e-3)
    assert (mine.norm == 1).all() and (mine.miss == 0).all()
    fade = rows.loc["Gaussian, cross-fade"]
    line = rows.loc["Gaussian, straight line"]
    # an affine decoder takes straight lines to straight lines
    assert line.q2.to_numpy() == pytest.approx(fade.q2.to_numpy(), abs=5e-3)
    assert (line.norm < 0.95).all() and (fade[list(G.LATENT)].isna()).all(axis=None)
    assert len(rows) == 3 * 5


def test_pairs_do_not_see_each_other(part):
    all_, one = part.run(), part.first(1).run()
    both = one.merge(all_, on=["row", "domain", "image"], suffixes=("", "_all"))
    for c in ("q0", "q2", "s2", "norm", "high"):
        assert both[c].to_numpy() == pytest.approx(
                both[f"{c}_all"].to_numpy(), abs=2e-3, nan_ok=True)


def test_a_road_of_one_part_does_not_reach_the_far_end():
    system = replace(G.EMBEDDED["DAE"], settings={"steps": 3},
                     roads=("great circle", "noise only", "semantic only"))
    part = next(p for p in G.pair_parts({"DAE": system}, drawn=0) if p.kind == "vehicles").first(1)
    rows = replace(part, reference=part.reference[:10]).run().set_index("row")
    m = zoo.load(system.model, steps=3)
    a, b = (paths.ends(c) for c in part.codes(m))
    for name in ("noise", "semantic"):
        end = m.decode(paths.only(name)(a, b, 1.0))
        want = G.unreal(metrics.features(end), part.reference[:10])
        assert rows.q4[f"DAE, {name} only"] == pytest.approx(want[0], abs=1e-3)
    assert rows.q4["DAE, great circle"] == rows.q4["DAE, cross-fade"]


def test_pictures_of_the_model_itself_are_pairs_of_its_draws():
    system = G.gan("stylegan2-vehicles32", "w", 1)
    own = next(p for p in G.pair_parts({"W": system}, drawn=2) if p.kind == G.OWN)
    m = zoo.load(system.model, recipe="w", steps=1)
    a, b = own.codes(m)
    drawn = m.prior(4, seed=own.seed)
    assert torch.equal(a["w"], drawn["w"][[0, 2]]) and torch.equal(b["w"], drawn["w"][[1, 3]])
    rows = replace(own, reference=own.reference[:12]).run()
    assert set(rows.row) == {"W, cross-fade", "W, straight line", "W, LOL"} and len(rows) == 6


def test_a_row_of_the_table_of_edits():
    part = next(p for p in G.grade_parts(n=2) if p.label == "exact Gaussian, edits of animals")
    rows = part.run()
    assert list(rows.domain.unique()) == [f"{e}, animals" for e in G.EDITS]
    m = zoo.load("gaussian-vehicles32", steps=G.STEPS)
    a, b = (paths.ends(m.encode(x, part.seed + np.arange(2))) for x in (part.x, G.boxed(part.x)))
    v = [G.brightness(m.decode(paths.SLERP(a, b, u))) for u in (0, 0.5, 1)]
    want = ((v[1] - v[0]) / (v[2] - v[0])).numpy()
    assert rows[rows.domain == "white box, animals"].g4.to_numpy() == pytest.approx(want, abs=1e-4)
    g = G.shares(rows)
    assert g.shape == (6, 9) and (g[:, 0] == 0).all() and (g[:, -1] == 1).all()


def test_the_cross_fade_needs_no_model():
    part = G.grade_parts(n=2)[0]
    assert part.system is None and part.name == G.CROSS_FADE
    assert (part.run().detour == 1).all()


def test_a_key_moves_with_all_that_decides(part, monkeypatch):
    grade = next(p for p in G.grade_parts(n=2) if p.name == "D2C")
    keys = {part.key, replace(part, seed=1).key, replace(part, a=-part.a).key,
            replace(part, reference=-part.reference).key, part.first(2).key,
            replace(part, system=replace(part.system, roads=())).key,
            replace(part, system=replace(part.system, settings={"steps": 5})).key}
    assert len(keys) == 7
    assert len({grade.key, replace(grade, x=-grade.x).key, replace(grade, seed=1).key}) == 3
    for p in (part, grade):
        before = p.key
        with monkeypatch.context() as patch:
            patch.setattr(results, "code_version", lambda *what: "other")
            assert p.key != before
        with monkeypatch.context() as patch:
            patch.setattr(G.inversion_table, "weights_of", lambda model: "other")
            assert p.key != before


def test_the_work_of_the_book():
    parts = G.pair_parts()
    assert len({p.label for p in parts}) == len(parts)
    assert {p.name for p in parts} == set(G.EMBEDDED)
    for p in parts:
        if p.a is not None:
            ends = {x.numpy().tobytes() for x in (*p.a, *p.b)}
            assert len(ends) == 2 * p.n  # no image is an end twice
            assert not ends & {x.numpy().tobytes() for x in p.reference}
    assert {p.name for p in G.grade_parts()} == {G.CROSS_FADE, *G.GRADED}


def test_every_system_that_decides_has_seen_unseen_and_mixed_pairs():
    parts = G.pair_parts()
    for name, system in G.EMBEDDED.items():
        mine = {p.kind: p.n for p in parts if p.name == name}
        assert mine == (system.pairs or G.PAIRS) and "vehicles" in mine
        assert name == "W+" or {"animals", G.MIXED} <= set(mine)
    steps = {name: s.settings["steps"] for name, s in G.EMBEDDED.items()}
    assert steps["W+"] < steps["W+ 300 steps"] == steps["W"] == 300  # the one that decides is last


def pictures(folder, n, size=20):
    rng = np.random.default_rng(0)
    for domain, count in n.items():
        (folder / domain).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / domain / f"{i:03}.png")
    return folder


def test_your_own_images_walk_the_same_code(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "pictures", {"faces": 12, "toys": 11})
    found = G.sets(folder, 16, {"vehicles": 2}, own="faces")
    assert list(found) == ["faces", "toys", G.MIXED]
    assert [len(v) for v in found["faces"]] == [2, 2, 8]
    assert len(found[G.MIXED][2]) == 8 + 7
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    files.nvidia(tmp_path / "a.pkl", files.generator(1))
    gan = zoo.import_official("stylegan2", tmp_path / "a.pkl", "stylegan2-ffhq256", TINY)
    parts = G.pair_parts({"W": G.gan(gan, "w", 2)}, lambda size: G.sets(
        folder, size, {"vehicles": 2}, own="faces"), drawn=2)
    table = pd.concat([p.run() for p in parts])
    assert table.q2.notna().all() and set(table.domain) == {G.OWN, "faces", "toys", G.MIXED}
    zoo.model.cache_clear()


def test_too_few_images_and_wrong_folders_are_refused(tmp_path):
    folder = pictures(tmp_path / "pictures", {"faces": 9, "toys": 12})
    with pytest.raises(ValueError, match="5 pairs need 12 images or more, got 9"):
        G.sets(folder, 16, {"vehicles": 5}, own="faces")
    with pytest.raises(ValueError, match="expected sub-folders 'cars' and another one"):
        G.sets(folder, 16, {"vehicles": 2}, own="cars")
    with pytest.raises(ValueError, match="bundled images have 32 px, the model 64"):
        G.sets(size=64)
