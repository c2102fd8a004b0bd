"""What the heavy tables of the chapter on Boomerang measure, on small sets and cheap models."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from difftools import boomerang as fly
from difftools import boomerang_tables as B
from difftools import data, images, metrics, perceptual, zoo
from difftools.images import to_uint8

CHEAP = "gaussian-vehicles32"


@pytest.fixture(scope="module")
def few():
    return B.vehicles().first(8)


def test_labels_belong_to_their_images():
    p = B.vehicles()
    torch.testing.assert_close(p.x[:5], data.domain("vehicles", 5))
    own = data.domain("vehicles", only=["truck"])
    rows = p.x[p.y == p.classes.index("truck")]
    key = lambda x: sorted(x.flatten(1).sum(1).tolist())  # noqa: E731
    assert key(rows) == pytest.approx(key(own)) and len(own) == 128


def test_halves_are_disjoint_and_hold_every_class(few):
    for seed in (0, 1):
        a, b = few.split(seed)
        assert sorted([*a.tolist(), *b.tolist()]) == list(range(32))
        assert torch.bincount(few.y[a]).tolist() == [4] * 4 == torch.bincount(few.y[b]).tolist()
    assert few.split(0)[0].tolist() == few.split(0)[0].tolist() != few.split(1)[0].tolist()


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for i, x in enumerate(to_uint8(data.domain("animals", 5, seed=k))):
            Image.fromarray(x).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_sub_folders_are_classes(folder):
    p = B.labelled(folder, 16)
    assert p.x.shape == (10, 3, 16, 16) and p.classes == ("cats", "dogs")
    assert p.y.tolist() == [0] * 5 + [1] * 5
    for file in list((folder / "dogs").iterdir())[:2]:
        file.unlink()
    with pytest.raises(ValueError, match="4 images or more each; found {'cats': 5, 'dogs': 3}"):
        B.labelled(folder, 16)
    with pytest.raises(ValueError, match="bundled images have 32 px, the model 64"):
        B.labelled("", 64)


def test_all_training_vehicles_are_one_word_away(monkeypatch):
    pixels = to_uint8(data.domain("vehicles", 6))
    rows = {"images": pixels, "labels": np.array([9, 0, 1, 8, 0, 3])}  # the last is a cat
    monkeypatch.setattr(data, "arrays", lambda name: rows)
    p = B.labelled("cifar10-train", 32)
    assert p.y.tolist() == [3, 0, 1, 2, 0] and p.classes == data.VEHICLES and len(p.x) == 5


def test_all_bundled_photographs_have_ten_classes():
    p = B.everything()
    assert (p.x[:512] == B.vehicles().x).all() and len(p.x) == len(p.y) == 512 + 256 + 300
    dogs = data.domain("animals", only=["dog"])
    for name, own in (("dog", dogs), ("horse", data.domain("horses"))):
        assert torch.equal(p.x[p.y == p.classes.index(name)], own)
    assert len(p.classes) == 10 and torch.bincount(p.y).min() > 50


def test_each_picture_is_tested_once_a_draw(few):
    assert [v.tolist() for v in B.fold(few, 0)] == [v.tolist() for v in few.split(0)]
    assert sorted(B.fold(few, 1)[0].tolist()) == sorted(B.fold(few, 0)[1].tolist())
    for first in (0, 4):
        folds = [B.fold(few, first + k, 4) for k in range(4)]
        assert sorted(torch.cat([test for _, test in folds]).tolist()) == list(range(32))
        for train, test in folds:
            assert sorted(torch.cat([train, test]).tolist()) == list(range(32))
            assert torch.bincount(few.y[test]).tolist() == [2] * 4
    assert B.fold(few, 0, 4)[1].tolist() != B.fold(few, 4, 4)[1].tolist()


def test_flights_are_flown_once_and_filed(few, monkeypatch):
    flights = B.Flights(CHEAP, few, 0.4, 0)
    part = flights.at(torch.tensor([3, 1]))
    m = zoo.load(CHEAP)
    want = fly.boomerang(m, few.x[[3, 1]], 0.4, steps=B.STEPS, seeds=[1_000_003, 1_000_001])
    torch.testing.assert_close(part, images.to_float(images.to_uint8(want.clamp(-1, 1))))
    monkeypatch.setattr(B.fly, "boomerang", lambda *a, **k: pytest.fail("flown twice"))
    torch.testing.assert_close(flights.at(torch.tensor([1])), part[1:])


@pytest.mark.parametrize("model", ["biggan-vehicles32", "styleganxl-vehicles32"])
def test_gans_draw_classes_in_turn(model):
    x, y = B.drawn(model, 8, 4)
    assert x.shape == (8, 3, 32, 32) and y.tolist() == [0, 1, 2, 3] * 2
    assert B.drawn(model, 8, 3)[1] is None and (x[0] - x[4]).abs().max() > 0.05
    torch.testing.assert_close(B.drawn(model, 4, 4)[0], x[:4], atol=2 / 255, rtol=0)


def test_a_classifier_knows_what_the_gans_draw(few):
    """Labels of a conditional GAN are those of its pictures, in the order of the classes."""
    p = B.vehicles()
    net = B.fit(p.x, p.y, 4, 0, steps=150)
    x, y = B.drawn("biggan-vehicles32", 64, 4)
    assert float((net(x).argmax(1) == y).double().mean()) > 0.5


def test_lpips_is_a_squared_distance_of_vectors(few):
    x, y = few.x[:3], few.x[3:6]
    v, w = B.lpips_vectors(x), B.lpips_vectors(y)
    want = perceptual.lpips(x, y)
    torch.testing.assert_close((v - w).square().sum(1), want, rtol=1e-3, atol=1e-4)


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 40) / 3, rng.integers(2, 12, 50) / 3  # with ties
    value, low, high = B.auc(*map(torch.from_numpy, (a, b)))
    truth = np.r_[np.ones(40), np.zeros(50)]
    assert value == pytest.approx(roc_auc_score(truth, -np.r_[a, b])) and low < value < high
    same = torch.from_numpy(a)
    assert B.auc(same, same)[0] == 0.5 and B.auc(same, same + 99)[0] == 1


def test_blur_goes_as_far_as_asked(few):
    for squared in (0.005, 0.02):
        y = B.blurred_like(few.x, squared)
        assert float(B.mean_square(y, few.x).mean()) == pytest.approx(squared, rel=0.02)
    far = B.blurred_like(few.x, 9.0)
    torch.testing.assert_close(far, images.blur(few.x, 8.0), atol=1e-2, rtol=0)


def test_masks_survive_a_file():
    hit = [True, False, True, True]
    assert B.bits(f"m{B.to_mask(hit)}").tolist() == [1, 0, 1, 1]


def test_everybody_is_found_close_by_and_nobody_far_away(few):
    near = B.ReleasePart("G", CHEAP, 0.05, few).run().set_index("image")
    far = B.ReleasePart("G", CHEAP, 1.0, few).run().set_index("image")
    assert near.found["pixels"] == 1 and near.auc["pixels"] > 0.9
    assert (far.found < 0.5).all() and near.distance["pixels"] < far.distance["pixels"]
    assert near["mask"]["pixels"] == "m" + "1" * 16
    one = B.ReleasePart("G", CHEAP, 0.05, few).first(3).run().set_index("image")
    assert one["mask"]["pixels"] == "m111"


def test_nulls_have_the_distance_of_what_came_back(few):
    own, noise = (B.ReleasePart("G", CHEAP, 0.2, few, k).run() for k in ("", "noise"))
    assert noise.distance[0] == pytest.approx(own.distance[0], rel=0.1)
    drawn = B.ReleasePart("G", CHEAP, 0.2, few, "drawn")
    assert (drawn.release(few.split(0)[0]) == B.drawn(CHEAP, 16, 0)[0]).all()


def test_the_baseline_mirrors_and_shifts():
    x = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16).float()
    gen = torch.Generator().manual_seed(0)
    seen = torch.stack([B.shifted(x, gen) for _ in range(60)])
    assert seen.shape == (60, 2, 3, 16, 16)
    middle = seen[:, 0, 0, 8]
    flips = (middle.diff(dim=1)[:, 8] < 0).double().mean()
    assert 0.25 < float(flips) < 0.75 and len(torch.unique(seen[:, 0, 0, 8, 8])) > 8
    plain = B.shifted(x[:1].new_ones(1, 3, 16, 16), gen)
    assert (plain == 1).all()


def test_a_training_depends_on_its_seed_alone(few):
    nets = [B.fit(few.x, few.y, 4, s, steps=3) for s in (0, 0, 1)]
    out = [net(few.x) for net in nets]
    assert torch.equal(out[0], out[1]) and not torch.equal(out[0], out[2])


def test_extra_pictures_take_the_place_of_half(few, monkeypatch):
    seen = []
    plain = B.shifted
    monkeypatch.setattr(B, "shifted", lambda v, gen: seen.append(v) or plain(v, gen))
    B.fit(few.x, few.y, 4, 0, extra=torch.full((2, *few.x.shape), 5.0), steps=20)
    share = torch.cat(seen).flatten(1).eq(5.0).all(1).double().mean()
    assert 0.42 < float(share) < 0.58


def test_an_arm_trains_on_what_it_says(few):
    train, _ = few.split(3)
    given = lambda **arm: B.TrainPart(B.Arm("a", **arm), 3, few, 2).given(train)  # noqa: E731
    assert (given()[0] == few.x[train]).all() and given()[2] is None
    back = given(kind="back", model=CHEAP, t=0.2)
    torch.testing.assert_close(back[0], B.flights(CHEAP, few, 0.2).at(train))
    assert (back[1] == few.y[train]).all()
    drawn = given(kind="drawn", model=CHEAP)
    assert (drawn[1] == B.teacher(few, 3, 2)(drawn[0]).argmax(1)).all()
    assert (drawn[0] == B.drawn(CHEAP, 32)[0][train]).all()
    gan = given(kind="drawn", model="biggan-vehicles32")
    assert (gan[1] == B.drawn("biggan-vehicles32", 32, 4)[1][train]).all() and len(gan[0]) == 16
    two = given(model=CHEAP, extra="boomerang")[2]
    assert two.shape == (2, 16, 3, 32, 32) and not torch.equal(two[0], two[1])
    noise = given(model=CHEAP, extra="noise")[2]
    assert float(B.mean_square(noise[0], few.x[train]).mean()) == pytest.approx(
        float(B.mean_square(two[0], few.x[train]).mean()), rel=0.15)


def test_a_row_of_training_says_which_images_were_right(few):
    parts = [B.TrainPart(B.Arm("a", few=1), seed, few, 3) for seed in range(4)]
    table = pd.concat([p.run() for p in reversed(parts)])
    right = B.said_right(table, "a", few)
    assert right.shape == (4, 32) and (np.isfinite(right).sum(1) == 16).all()
    assert np.nanmean(right, 1)[::-1] == pytest.approx(table.accuracy.to_numpy(), abs=1e-4)
    train, test = B.fold(few, 3)
    one = torch.cat([train[few.y[train] == k][:1] for k in range(4)])  # of each class
    net = B.fit(few.x[one], few.y[one], 4, 3, steps=3)
    want = net(few.x[test]).argmax(1) == few.y[test]
    assert right[3, test].tolist() == want.double().tolist() and np.isnan(right[3, train]).all()


def test_a_key_hashes_the_same_images_once(few, monkeypatch):
    one, all_ = B.Training(B.Arm("a"), 1, few, 3), replace(few, x=few.x + 1)
    assert one.key == B.TrainPart(B.Arm("a"), 1, few, 3).key
    keys = {replace(one, **how).key for how in ({}, {"seed": 2}, {"parts": 4}, {"pictures": all_})}
    assert len(keys) == 4 and isinstance(B.train_parts()[0], B.Training)


def test_two_way_intervals_speak_about_seeds_and_images():
    rng = np.random.default_rng(0)
    seeds = rng.standard_normal((8, 1)) + np.zeros((1, 200))
    own = np.zeros((8, 1)) + rng.standard_normal((1, 200))
    for v, sd in ((seeds, seeds[:, 0].std() / 8**0.5), (own, own[0].std() / 200**0.5)):
        mean, low, high = B.two_way(v)
        assert mean == pytest.approx(v.mean())
        assert (high - low) / 2 == pytest.approx(1.96 * sd, rel=0.3)
    half = np.where(rng.random((8, 200)) < 0.5, own, np.nan)  # each training tests other images
    mean, low, high = B.two_way(half)
    assert mean == pytest.approx(np.nanmean(half))
    assert (high - low) / 2 == pytest.approx(1.96 * own[0].std() / 200**0.5, rel=0.3)


def test_the_spread_falls_into_trainings_images_and_the_rest():
    rng = np.random.default_rng(1)
    sd = (0.3, 0.6, 1.0)
    a, b = (v / v.std() for v in (rng.standard_normal((200, 1)), rng.standard_normal((1, 300))))
    v = sd[0] * a + sd[1] * b + sd[2] * rng.standard_normal((200, 300))
    for values in (v, np.where(rng.random(v.shape) < 0.5, v, np.nan)):
        assert B.components(values) == pytest.approx([s**2 for s in sd], rel=0.15)
    few = [B.components(rng.standard_normal((5, 6))) for _ in range(500)]
    assert np.mean(few, 0) == pytest.approx([0, 0, 1], abs=0.1)       # no bias in small tables


def test_the_numbers_that_decide_make_the_interval_exclude_zero():
    rng = np.random.default_rng(2)
    make = lambda j, n, mean=0.1: (mean + 0.05 * rng.standard_normal((j, 1))  # noqa: E731
                         + 0.5 * rng.standard_normal((1, n)) + rng.standard_normal((j, n)))
    big = make(400, 3000)
    (seen, _, _), (_, alone, _), (_, _, both) = (
        B.decides(v) for v in (big[:8, :300], big[:, :600], big[:8, :300]))
    for j, n, mean in ((8, 300, seen), (alone, 600, 0.1), (8 * both, 300 * both, 0.1)):
        wins = [B.two_way(make(round(j), round(n), mean), 99, k)[1] > 0 for k in range(60)]
        assert 0.6 < np.mean(wins) < 0.98, (j, n, mean)
    assert B.decides(make(200, 40) - 0.09)[1] == np.inf == B.decides(np.zeros((3, 4)))[2]


def test_bicubic_and_linear_are_themselves(few):
    law = zoo.gaussian_vehicles32().to(torch.float64)
    real = metrics.features(few.x[8:])
    part = B.EnlargePart("bicubic", 8, few.x[:4], law, real)
    rows = part.run()
    y = B.filed(B.traversal.enlarge(images.downsample(few.x[:4], 8), 32))
    assert rows.psnr.to_numpy() == pytest.approx(metrics.psnr(few.x[:4], y).numpy(), abs=1e-3)
    best = replace(part, method="linear MMSE").run()
    assert (best.psnr > rows.psnr).mean() > 0.7 and (best.low > 40).all()
    flown = replace(part, method="boomerang", model=CHEAP, t=0.1, passes=2)
    assert flown.row == "t = 0.1 × 2" and flown.enlarged().shape == (4, 3, 32, 32)
    assert replace(flown, passes=1, steps=43).row == "t = 0.1, 43 steps"


def test_survival_of_the_gaussian_is_the_law():
    x = data.domain("animals", 6)
    rows = B.SurvivalPart("G", CHEAP, "animals", x, 0.2, runs=8).run()
    assert np.abs(rows.measured - rows.law).max() < 0.1
    for band in fly.BANDS:
        dot, said, own = (rows[f"{k}_{band}"].sum() for k in ("dot", "said", "own"))
        assert dot / own == pytest.approx(said / own, abs=0.04)
    gain, _ = fly.kernel(zoo.gaussian_vehicles32().to(torch.float64).spectrum,
                         fly.way_down(zoo.load(CHEAP).denoiser.schedule, 0.2))
    assert rows.said_fine.sum() / rows.own_fine.sum() == pytest.approx(float(gain[-1]), abs=1e-3)


def test_closeness_is_read_off_the_runs():
    x = data.domain("vehicles", 3)
    rows = B.ClosenessPart("G", CHEAP, 0.4, x, runs=3).run()
    back = fly.runs(zoo.load(CHEAP), x, 0.4, 3)
    assert rows.distance.to_numpy() == pytest.approx(
        (back - x).square().mean((0, 2, 3, 4)).numpy(), abs=1e-4)
    two = ((0, 1), (0, 2), (1, 2))
    pair = torch.stack([(back[a] - back[b]).square().mean((1, 2, 3)) for a, b in two])
    assert rows.pair.to_numpy() == pytest.approx(pair.mean(0).numpy(), abs=1e-4)
    first = B.ClosenessPart("G", CHEAP, 0.4, x, runs=3).first(2).run()
    assert first["first"].to_numpy() == pytest.approx(rows["first"][:2].to_numpy(), abs=1e-4)
    assert (rows.same == 0).all()


def test_repetitions_are_counted(monkeypatch):
    x = data.domain("vehicles", 3)
    monkeypatch.setattr(B.fly, "runs", lambda m, x, t, n, **how: x.double().repeat(n, 1, 1, 1, 1))
    assert (B.ClosenessPart("G", CHEAP, 0.4, x, runs=3).run().same == 3).all()


def test_draws_come_back_as_the_law_says():
    rows = B.ExactPart(0.4, 1.0, 24, 2, 30).run()
    spectrum = zoo.gaussian_vehicles32().to(torch.float64).spectrum
    nodes = fly.way_down(zoo.load(CHEAP).denoiser.schedule, 0.4, 30)
    away, pair = fly.distances(spectrum, *fly.kernel(spectrum, nodes))
    assert rows.distance.mean() == pytest.approx(away, rel=0.03)
    assert rows.pair.mean() == pytest.approx(pair, rel=0.03) and set(rows.row) == {"draws"}
    assert set(B.ExactPart(0.4, 0.0, 2, 1, 3).run().row) == {"draws, deterministic"}


def test_the_distance_that_the_law_says_of_one_image():
    law = zoo.gaussian_vehicles32().to(torch.float64)
    at = fly.level(zoo.load(CHEAP).denoiser.schedule, 0.4)
    gain, variance = fly.limit(law.spectrum, at)
    x = B.draws(300)
    away = law.apply(lambda lam: 1 - fly.survival(lam, at), x - law.mean).square().sum(1)
    said = B.said_distance(law, x, gain, variance)
    assert said == pytest.approx(((away + variance.sum()) / law.d).numpy(), rel=1e-3)
    assert said.mean() == pytest.approx(fly.distances(law.spectrum, gain, variance)[0], rel=0.02)


def test_the_spectrum_of_images_is_that_of_their_covariance(folder):
    p = B.labelled(folder, 16)
    big = replace(p, x=torch.nn.functional.interpolate(p.x, 80))
    assert B.law_of(big) is None
    v, c = B.spectrum_of(big), big.x.flatten(1).double()
    total = float((c - c.mean(0)).square().sum()) / len(c)
    leading = float(torch.linalg.svdvals(c - c.mean(0))[0]) ** 2 / len(c)
    assert float(v[0]) == pytest.approx(leading)
    assert v.shape == (3 * 80 * 80,)
    assert float(v.sum()) == pytest.approx(total + 1e-4 * (len(v) - 9), rel=1e-3)
    assert B.law_of(p).d == 768 and len(B.spectrum_of(p)) == 768


def test_published_networks_cost_what_is_known_of_them():
    assert B.price("adm-imagenet256")["gmac"] == pytest.approx(1120, abs=5)  # Dhariwal & Nichol
    sd = B.price("")
    assert sd["gmac"] / 2 == pytest.approx(402, abs=3) and 3.2 < sd["gib"] < 6  # 860 M weights
    ours = B.price("ddpm-vehicles32")
    assert ours["gmac"] == pytest.approx(0.436, abs=1e-3)


def test_the_work_of_the_book_is_complete():
    for name, parts in B.TABLES.items():
        todo = parts()
        assert len({p.key for p in todo}) == len(todo) == len({p.label for p in todo}), name
    arms = {p.arm.name for p in B.train_parts()}
    assert {"originals", "few + boomerang", "originals + noise", "BigGAN", "DDPM, drawn"} <= arms
    assert B.facts(B.train_parts())["weights"].keys() == {
        "ddpm-vehicles32", "biggan-vehicles32", "styleganxl-vehicles32", CHEAP}


def test_a_reader_s_own_work(folder):
    todo = B.paper({"given model": CHEAP}, ["given model"], "", {}, 4, 8, 4, 2, 3)
    assert set(todo) == {"closeness", "enlarged", "released", "trained"}
    assert {p.pictures for p in todo["trained"]} == {todo["released"][0].pictures}
    assert len(todo["trained"][0].pictures.y) == 16
    with pytest.raises(ValueError, match="two sub-folders or more"):
        B.paper({"given model": CHEAP}, ["given model"], str(folder / "cats"), {}, 4, 8, 4, 2, 3)
