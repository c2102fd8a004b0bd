"""The tables of the chapter on unseen priors: parts by their mathematics, keys by what decides."""

from dataclasses import replace

import pytest
import torch

from difftools import data, generators, images, unseen, zoo
from difftools import unseen_tables as tables
from difftools.code import Code, noise

GAUSSIAN = "gaussian-vehicles32"


@pytest.fixture(scope="module")
def small():
    return {k: data.domain(k, 24) for k in ("vehicles", "animals", "quickdraw")}


def white(n, *shape, seed=0):
    return noise(range(seed, seed + n), shape, "data", torch.float64)


def test_gaussian_clouds_are_not_told_from_their_fit_and_others_are():
    cloud = 2 + white(64, 3, 8, 8)
    assert tables.told_from_fit(cloud, "scalar")[0] < 0.7
    heavy = cloud**3
    assert tables.told_from_fit(heavy, "scalar")[0] > 0.9
    value, low, high = tables.told_from_fit(cloud, "spectral", seed=5)
    assert low <= value <= high


def test_no_latent_meets_a_fit_that_it_made(monkeypatch):
    met = []
    real = unseen.fit
    monkeypatch.setattr(tables.unseen, "fit", lambda z, kind: met.append(z) or real(z, kind))
    z = white(20, 3, 4, 4)
    tables.told_from_fit(z, "diagonal")
    assert [len(v) for v in met] == [10, 10]
    torch.testing.assert_close(torch.cat(met), z)


def test_latents_are_walked_once_and_in_order(small):
    near, last = tables.codes(GAUSSIAN, small["animals"][:4], (tables.MIXING, tables.LAST), 6)
    m = zoo.load(GAUSSIAN)
    at = unseen.rung(m, tables.MIXING, 6)
    want = unseen.invert(m, small["animals"][:4], [at, 6], 6)
    torch.testing.assert_close(near["noise"], want[0]["noise"])
    torch.testing.assert_close(last["noise"], want[1]["noise"])
    again = tables.codes(GAUSSIAN, small["animals"][:4].clone(), (tables.MIXING, tables.LAST), 6)
    assert again[0] is near                                       # equal values, not equal objects


def test_the_parts_of_the_book_have_keys_of_their_own():
    for parts in (tables.latent_parts, tables.more_parts, tables.sample_parts, tables.reject_parts,
                  tables.band_parts, tables.science_parts):
        todo = parts()
        assert len({p.key for p in todo}) == len(todo) == len({p.label for p in todo})


def test_a_key_covers_what_decides_the_part(small, monkeypatch):
    part = tables.latent_parts({"exact Gaussian": GAUSSIAN}, small, 8)[0]
    sample = tables.sample_parts({"DDPM": "ddpm-vehicles32"}, small, 4, 8)[-1]
    for p, changes in ((part, {"x": -part.x}, ), (part, {"steps": 7}), (part, {"model": "zero"}),
                       (sample, {"n": 5}), (sample, {"held": -sample.held})):
        assert replace(p, **changes).key != p.key
    before = part.key
    monkeypatch.setitem(tables.LEVELS, "mixing", 0.0)
    assert part.key != before


def test_rows_of_latents_say_what_was_measured(small):
    todo = tables.latent_parts({"exact Gaussian": GAUSSIAN}, small, 10, steps=4)
    domains = [p.domain for p in todo]
    assert domains == [tables.HALF, *tables.INVISIBLE, "animals", "quickdraw"]
    got = todo[-1].run()
    mine = tables.measured(got, "exact Gaussian, mixing", "separate")
    assert list(mine) == ["quickdraw"] and 0.5 < mine["quickdraw"][0] <= 1
    kinds = {f"fit, {k}" for k in unseen.KINDS} | {f"null, {k}" for k in unseen.KINDS}
    assert kinds | {*unseen.PROPERTIES, "norm", "rejected"} < set(got.measure)
    assert (got.low <= got.value + 1e-9).all() and (got.value <= got.high + 1e-9).all()
    with pytest.raises(KeyError, match="no 'kid'"):
        tables.measured(got, "exact Gaussian, mixing", "kid")


def test_halves_are_not_told_apart_and_strange_pictures_are(small):
    todo = {p.domain: p for p in tables.more_parts({"exact Gaussian": GAUSSIAN}, small, 12, 4)}
    assert list(todo) == [tables.HALF, *tables.INVISIBLE, "animals", "quickdraw"]
    value = lambda k: tables.measured(todo[k].run(), "exact Gaussian, mixing", "separate")[k][0]  # noqa: E731
    assert value("quickdraw") > 0.9 > value(tables.HALF)
    assert not torch.equal(todo[tables.HALF].x, todo[tables.HALF].own)


def test_decoding_the_inverted_set_and_copies_are_at_no_distance(small):
    todo = {(p.name, p.kind, p.level): p
            for p in tables.sample_parts({"exact Gaussian": GAUSSIAN}, small, 12, 12, 4)
            if p.domain == "quickdraw"}
    value = lambda *who: tables.measured(todo[who].run(), ", ".join(who), "kid")["quickdraw"]  # noqa: E731
    copies = value(tables.PIXELS, "copies", tables.PIXELS)
    inverted = value("exact Gaussian", "inverted", "mixing")
    drawn = value("exact Gaussian", "scalar", "mixing")
    assert copies[0] == pytest.approx(inverted[0], abs=0.1) and drawn[0] > inverted[2]
    new = tables.measured(todo[tables.PIXELS, "copies", tables.PIXELS].run(),
                          f"{tables.PIXELS}, copies, {tables.PIXELS}", "novelty")["quickdraw"]
    assert new[0] == pytest.approx(0, abs=1e-6)


def test_half_of_the_real_latents_would_pass_and_great_circles_start_at_images(small):
    todo = {p.sort: p for p in tables.reject_parts("exact Gaussian", GAUSSIAN, small, 8, 10, 4, 40)
            if p.domain == "animals"}
    z, = tables.codes(GAUSSIAN, todo["draws"].x, [tables.MIXING], 4)
    on = todo["great circles"].candidates(z, 40)["noise"]
    assert float((on[0] - z["noise"][0]).norm()) < float((on[19] - z["noise"][0]).norm())
    assert float((on[20] - z["noise"][1]).norm()) < float((on[39] - z["noise"][1]).norm())
    got = tables.measured(todo["draws"].run(), "exact Gaussian, draws", "accepted, all three")
    assert 0 <= got["animals"][0] <= 1
    hot = todo["hot pixel"].candidates(z, 6)["noise"].flatten(1)
    mean = z["noise"].double().mean(0).flatten()
    assert ((hot - mean).abs() > 1e-6).sum(1).tolist() == [1] * 6


def test_bandwidths_fall_with_the_level(small):
    parts = {p.level: p for p in tables.band_parts({"exact Gaussian": GAUSSIAN}, small, 2, 12, 8)
             if p.domain == "vehicles"}
    near, last = (parts[k].run() for k in ("near the image", "last"))
    assert (near.psnr >= last.psnr).all() and (near.back > 30).all() and (near.p1 >= near.p5).all()
    assert set(near.columns) >= {"psnr", "lpips", "target", "gap", "image", "domain", "row"}


def test_domains_are_compared_with_more_images(small):
    parts = tables.band_parts({"exact Gaussian": GAUSSIAN}, small, 4, 12, 8)
    assert {p.level: len(p.x) for p in parts} == dict.fromkeys(tables.LEVELS, 4) | {"mixing": 10}


def test_fits_to_more_images_meet_the_same_held_out_ones():
    todo = tables.larger_parts()
    for few, many in zip(todo[::2], todo[1::2], strict=True):
        assert few.domain == many.domain and (len(few.x), len(many.x)) == (48, 128)
        assert torch.equal(few.held, many.held) and torch.equal(few.x, many.x[:48])
        seen = {v.numpy().tobytes() for v in many.x}
        assert not seen & {v.numpy().tobytes() for v in many.held}


# The scientific set


def test_fields_are_those_of_the_generator_with_the_label_it_drew():
    x, y = tables.sheared(2, 3)
    assert x.shape == (8, 3, 32, 32) and y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    all_of_them = images.to_float(generators.generate("turbulence", 60, 3))
    assert all(any(torch.equal(v, w) for w in all_of_them) for v in x)


def test_a_field_varies_least_along_its_shear():
    x, y = tables.sheared(24, 0)
    grey = x.mean(1)
    rough = lambda c, s: float((grey[y == c] - grey[y == c].roll(s, (1, 2))).square().mean())  # noqa: E731
    # class 0 points 0 to 45 degrees up from the horizontal axis, and so on
    assert [rough(c, (0, 1)) < rough(c, (1, 0)) for c in range(4)] == [True, False, False, True]
    assert [rough(c, (1, 1)) < rough(c, (1, -1)) for c in range(4)] == [True, True, False, False]


def test_additions_keep_labels_and_shapes():
    x, y = tables.sheared(3, 0)
    gen = torch.Generator().manual_seed(0)
    for make in (tables.copies, tables.mixtures, tables.of_a_set):
        more, labels = make(x, y)(gen)
        assert more.shape == (16, 3, 32, 32) and set(labels.tolist()) <= {0, 1, 2, 3}
    one = x[:1].repeat(3, 1, 1, 1)
    mixed, _ = tables.mixtures(one, torch.zeros(3, dtype=torch.long))(gen)
    torch.testing.assert_close(mixed[0], x[0], atol=1e-5, rtol=0)
    moved, _ = tables.copies(one, torch.zeros(3, dtype=torch.long))(gen)
    assert float(moved.mean()) == pytest.approx(float(x[0].mean()), abs=0.01)


def test_a_classifier_learns_what_is_there_to_learn():
    x = torch.zeros(64, 3, 32, 32)
    y = torch.arange(4).repeat_interleave(16)
    x[torch.arange(64), y % 3] = (y + 1.0)[:, None, None] / 4
    assert tables.accuracy((x, y), None, (x, y), 0, steps=80) > 0.9
    assert tables.accuracy((x, y), tables.of_a_set(x, y), (x, y), 0, steps=80) > 0.9
    same = [tables.accuracy((x, y), None, (x, y), 3, steps=5) for _ in range(2)]
    assert same[0] == same[1]


def test_samples_inherit_the_class_of_their_fit(monkeypatch):
    monkeypatch.setattr(tables, "ADDED", 2)
    part = tables.SciencePart("exact", GAUSSIAN, "few + samples", 0, steps=4)
    x, _ = tables.sheared(tables.FEW, 1000)
    got = part.samples(x, True)
    assert got.shape == (8, 3, 32, 32) and float(got.abs().max()) <= 1
    means = torch.stack([v.mean(0) for v in x.split(tables.FEW)])
    far = torch.stack([v.mean(0) for v in got.split(2)])
    assert torch.cdist(far.flatten(1), means.flatten(1)).argmin(1).tolist() == [0, 1, 2, 3]


# A reader's images, and reading


def test_sets_of_a_folder_need_the_models_domain(tmp_path, small):
    from PIL import Image

    for name, count in (("faces", 9), ("drawings", 9)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(images.to_uint8(small["animals"][i : i + 1])[0]).save(
                tmp_path / name / f"{i}.png")
    got = tables.sets(tmp_path, 32, own="faces", n=8)
    assert list(got) == ["faces", "drawings"] and len(got["faces"]) == 8
    with pytest.raises(ValueError, match="expected sub-folders 'cars'"):
        tables.sets(tmp_path, 32, own="cars")
    for f in list((tmp_path / "drawings").iterdir())[:4]:
        f.unlink()
    with pytest.raises(ValueError, match="'drawings' has fewer"):
        tables.sets(tmp_path, 32, own="faces")
    with pytest.raises(ValueError, match="give a folder"):
        tables.sets("", 64)


def test_estimates_add_as_they_should():
    a, b = (1.0, 0.7, 1.3), (0.4, 0.0, 0.8)
    assert tables.minus(a, b) == pytest.approx((0.6, 0.1, 1.1))
    assert tables.mean([a, b]) == pytest.approx((0.7, 0.45, 0.95))
    assert tables.closed((0.3, 0.2, 0.4), (1.0, 1.0, 1.0)) == pytest.approx((0.7, 0.6, 0.8))
    assert tables.best({"x": {"d": a}, "y": {"d": b}}) == {"d": ("y", b)}


def test_codes_join_in_order():
    one, two = (Code({"noise": white(k, 2)}, {"noise": "flat"}, tuple(range(k))) for k in (1, 2))
    both = tables.join([one, two])
    assert len(both) == 3 and both.seeds == (0, 0, 1)
    torch.testing.assert_close(both["noise"][1:], two["noise"])
