"""The proxy A-distance against its bound, its closed forms and sets whose distance is known."""

import math

import numpy as np
import pytest
import torch
from difftools import data, gap, images, metrics, zoo
from difftools.code import noise
from scipy import stats

LINEAR = gap.PANEL["linear, pixels"][1]


def rows(n, shift=0.0, seed=0, d=8):
    x = np.random.default_rng(seed).standard_normal((n, d))
    x[:, 0] += shift
    return x


def held_out(a, b, make=LINEAR, **given):
    return float(gap.pad(gap.errors(a, b, make, **given)[:, 1].mean()))


def test_pad_is_its_definition_and_its_inverse():
    np.testing.assert_allclose(gap.pad([0, 0.125, 0.5, 1]), [2, 1.5, 0, -2])
    np.testing.assert_allclose(gap.error_of(gap.pad([0.1, 0.4])), [0.1, 0.4])
    assert gap.error_of(2.28) == pytest.approx(-0.07)
    for bad in (-0.07, 1.01, float("nan")):
        with pytest.raises(ValueError, match="lies in"):
            gap.pad(bad)


def test_best_pad_of_shifted_gaussians_is_twice_total_variation():
    x = np.linspace(-12, 16, 200_001)
    for delta in (0.0, 0.5, 2.0, 4.0):
        tv = np.abs(stats.norm.pdf(x) - stats.norm.pdf(x, delta)).sum() * (x[1] - x[0]) / 2
        assert gap.best_pad_mean(delta) == pytest.approx(2 * tv, abs=1e-6)


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.3])
@pytest.mark.parametrize("d", [1, 2, 40])
def test_best_pad_of_scaled_gaussians_is_twice_total_variation(ratio, d):
    r2 = np.linspace(1e-9, 12 * d + 60, 400_001)  # the squared norm is sufficient
    p, q = stats.chi2(d).pdf(r2), stats.chi2(d).pdf(r2 / ratio**2) / ratio**2
    mass = np.abs(np.diff(stats.chi2(d).cdf(r2)) - np.diff(stats.chi2(d).cdf(r2 / ratio**2)))
    assert np.isfinite(p).all() and np.isfinite(q).all()
    assert gap.best_pad_scale(ratio, d) == pytest.approx(mass.sum(), abs=2e-4)


def test_best_pad_of_equal_scales_is_zero_and_grows_with_the_dimension():
    assert gap.best_pad_scale(1, 3072) == 0
    grown = [gap.best_pad_scale(0.98, d) for d in (10, 3072, 196608)]
    assert grown == sorted(grown) and grown[-1] > 1.999


def test_separable_is_covers_count():
    assert gap.separable(9, 8) == gap.separable(4, 100) == 1.0
    for d in (1, 7, 200):
        assert gap.separable(2 * (d + 1), d) == pytest.approx(0.5)
    # on a line: n − 1 cuts and two orientations of 2^n labels
    assert gap.separable(10, 1) == pytest.approx(2 * 10 / 2**10)


def test_a_classifier_comes_near_the_bayes_error_and_never_beats_two():
    for delta in (1.0, 2.0):
        got = held_out(rows(1500), rows(1500, delta, 1), count=3)
        assert got == pytest.approx(gap.best_pad_mean(delta), abs=0.1)
    assert held_out(rows(40), rows(40, 50.0, 1)) == 2


def test_identical_laws_are_near_zero_held_out_and_two_in_training():
    e = gap.errors(rows(40, d=200), rows(40, seed=1, d=200), LINEAR, count=8)
    assert gap.pad(e[:, 0]).tolist() == [2.0] * 8  # 40 training rows in 200 dimensions
    assert abs(gap.pad(e[:, 1].mean())) < 0.5


def test_permuted_labels_hide_the_largest_gap():
    a, b = rows(80), rows(80, 50.0, 1)
    assert held_out(a, b) == 2
    assert abs(held_out(a, b, permute=True, count=8)) < 0.5


class Told:
    """A judge whose first column is the truth, and which notes what it was shown."""

    shown: list = []

    def fit(self, X, y):
        Told.shown.append(X[:, 1])
        return self

    def predict(self, X):
        Told.shown.append(X[:, 1])
        return X[:, 0].astype(int)


def test_errors_are_of_disjoint_halves_of_either_set_and_repeat_themselves():
    a, b = np.c_[np.zeros(10), np.arange(10)], np.c_[np.ones(6), 10 + np.arange(6)]
    Told.shown = []
    assert gap.errors(a, b, Told, count=3, seed=3).tolist() == [[0, 0]] * 3
    for train, seen, test in zip(*(Told.shown[i::3] for i in range(3)), strict=True):
        np.testing.assert_array_equal(train, seen)
        assert sorted([*train, *test]) == list(range(16))
        assert (train < 10).sum() == 5 and (train >= 10).sum() == 3
    again = Told.shown
    Told.shown = []
    gap.errors(a, b, Told, count=3, seed=3)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(Told.shown))
    with pytest.raises(ValueError, match="at least 4"):
        gap.errors(rows(3), rows(9), LINEAR)


def test_unequal_sets_have_chance_at_one_half():
    class Constant:
        fit = lambda self, X, y: self  # noqa: E731
        predict = lambda self, X: np.zeros(len(X), int)  # noqa: E731

    assert gap.errors(rows(40), rows(8), Constant).tolist() == [[0.5, 0.5]] * 5


def test_interval_covers_stays_in_range_and_knows_that_no_error_is_not_zero():
    value, low, high = gap.interval([0.0] * 5, 100)
    assert value == high == 2
    assert low == pytest.approx(2 * (1 - 2 * (1 - 0.025 ** (1 / 100))))
    value, low, high = gap.interval([0.45, 0.55, 0.5], 40)
    assert -2 <= low < value == 0 < high <= 2
    assert gap.interval([0.1], 50)[0] == pytest.approx(1.6)
    by_count = metrics.proportion(5, 10)  # splits that agree: one test half still has ten images
    np.testing.assert_allclose(gap.interval([0.5] * 3, 10)[1:], gap.pad(by_count[::-1]))


def test_corrected_is_the_interval_of_nadeau_and_bengio():
    v = np.array([0.1, 0.2, 0.15, 0.12, 0.18])
    plain = stats.t.ppf(0.975, 4) * v.std(ddof=1)
    assert gap.corrected(v) == pytest.approx(plain * math.sqrt(1 / 5 + 1))


def test_told_apart_is_the_auc_of_shifted_gaussians_and_one_half_for_one_law():
    value, low, high = gap.told_apart(rows(400, 1.0), rows(400, seed=1))
    assert low < stats.norm.cdf(1 / math.sqrt(2)) < high
    assert value == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=0.05)
    few = [gap.told_apart(rows(24, seed=s, d=9), rows(96, seed=100 + s, d=9))[0] for s in range(12)]
    assert np.mean(few) == pytest.approx(0.5, abs=0.06)
    assert gap.told_apart(rows(20), rows(20, 50.0, 1)) == (1.0, 1.0, 1.0)


def test_told_apart_is_the_logistic_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-9))
    cv = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=3)
    for n, m, shift in ((24, 96, 0.0), (60, 40, 0.7), (20, 20, 50.0)):
        a, b = rows(n, shift, d=5) * np.arange(1, 6), rows(m, seed=1, d=5) * np.arange(1, 6)
        a[:, 4] = b[:, 4] = 7.0  # a statistic that never moves
        X, y = np.concatenate([a, b]), np.r_[np.ones(n), np.zeros(m)]
        want = cross_val_score(model, X, y, cv=cv, scoring="roc_auc")
        value, low, high = gap.told_apart(a, b, repeats=2, seed=3)
        assert value == pytest.approx(want.mean(), abs=1e-9)
        half = gap.corrected(want, 1 / 4)
        assert (low, high) == pytest.approx((max(0, value - half), min(1, value + half)), abs=1e-9)


@pytest.mark.parametrize(("name", "kernel", "C"), [("linear, pixels", "linear", 1.0),
                                                   ("RBF, pixels", "rbf", 10.0)])
def test_support_vector_machines_are_those_of_scikit_learn(name, kernel, C):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    X, y, unseen = rows(60, d=40), np.arange(60) % 3 == 0, rows(50, seed=1, d=40)
    X[:, 3] = 1.0  # constant: the width of the kernel counts it
    want = make_pipeline(StandardScaler(), SVC(kernel=kernel, C=C, class_weight="balanced"))
    given = gap.PANEL[name][1]().fit(X, y).decision_function(unseen)
    np.testing.assert_allclose(given, want.fit(X, y).decision_function(unseen), atol=1e-9)


def test_the_interval_of_told_apart_knows_the_splits_and_not_the_draw():
    # labels by chance: half of the AUCs lie below 1/2, and more intervals miss it than one in 20
    rng, both = np.random.default_rng(0), rows(120, d=9)
    mixed = [rng.permutation(both) for _ in range(60)]
    found = np.array([gap.told_apart(x[:24], x[24:]) for x in mixed])
    assert 0.3 < (found[:, 0] < 0.5).mean() < 0.7
    assert ((found[:, 2] < 0.5) | (found[:, 1] > 0.5)).mean() > 0.05


def test_coverage_of_the_interval_on_halves_that_share_images():
    truth, hits = gap.best_pad_mean(1.5), 0
    for seed in range(40):
        e = gap.errors(rows(60, seed=2 * seed, d=2), rows(60, 1.5, 2 * seed + 1, d=2), LINEAR)
        _, low, high = gap.interval(e[:, 1], 60)
        hits += low <= truth <= high
    assert hits >= 36


def test_a_dropped_bit_is_invisible_and_its_bytes_give_it_away():
    x = data.domain("vehicles", 120)
    a, b = x[:60], images.drop_bit(x[60:])
    view, make = gap.PANEL["RBF, bytes"]
    assert held_out(gap.VIEWS[view](a), gap.VIEWS[view](b), make) > 1.7
    assert held_out(*(gap.VIEWS["pixels"](v) for v in (a, b))) < 0.7
    assert (gap.byte_statistics(b)[:, 0] == 0).all()


def test_byte_statistics_of_a_known_image():
    x = torch.full((1, 3, 32, 32), -1.0)
    x[..., 16:] = 1.0  # levels 0 and 255, one edge in 31
    np.testing.assert_allclose(gap.byte_statistics(x), [[0.5, 0.5, 0.5, 0, 1, 2 / 31]], rtol=1e-3)
    levels = np.tile(np.array([2, 4, 6, 9], np.uint8), (1, 32, 8))[..., None].repeat(3, 3)
    odd, black, white, mean, *_ = gap.byte_statistics(images.to_float(levels))[0]
    assert (odd, black, white) == (0.25, 0, 0) and mean == pytest.approx(2 * 5.25 / 255 - 1)


def test_small_cnn_learns_what_it_can_and_depends_on_its_seed_alone():
    x = data.domain("vehicles", 64).flatten(1).numpy()
    y = np.arange(64) % 2
    x[y == 1] *= -1  # colours inverted
    torch.manual_seed(1)
    a = gap.SmallCNN(epochs=8).fit(x, y)
    torch.manual_seed(2)
    b = gap.SmallCNN(epochs=8).fit(x, y)
    np.testing.assert_array_equal(a.predict(x), b.predict(x))
    assert (a.predict(x) != y).mean() < 0.4


def test_every_classifier_of_the_panel_reads_a_known_view():
    assert {view for view, _ in gap.PANEL.values()} <= set(gap.VIEWS)
    x = data.domain("vehicles", 12)
    a, b = x[:6], -x[6:]
    for view, make in gap.PANEL.values():
        e = gap.errors(gap.VIEWS[view](a), gap.VIEWS[view](b), make, count=1)
        assert e.shape == (1, 2) and ((e >= 0) & (e <= 1)).all()


def test_cross_fade_ends_at_its_ends_and_stays_on_the_bytes():
    x, y = data.domain("vehicles", 3), data.domain("quickdraw", 3)
    torch.testing.assert_close(gap.cross_fade(x, y, 0), x)
    torch.testing.assert_close(gap.cross_fade(x, y, 1), y)
    half = gap.cross_fade(x, y, 0.5)
    torch.testing.assert_close(gap.requantise(half), half)
    assert float((half - (x + y) / 2).abs().max()) <= 1.001 / 255
    with pytest.raises(ValueError, match="t must lie"):
        gap.cross_fade(x, y, 1.1)


def test_neighbour_gap_is_one_inside_and_grows_outside():
    a, b = (torch.from_numpy(rows(300, seed=s)) for s in (0, 1))
    assert np.median(gap.neighbour_gap(b, a)) == pytest.approx(1, abs=0.1)
    assert np.median(gap.neighbour_gap(b + 5, a)) > 3


def test_path_statistics_see_a_larger_and_a_changing_noise():
    m = zoo.load("zero", steps=12)
    z, x0 = (noise(range(4), (3, 32, 32), k, torch.float64) for k in ("start", "data"))
    path = lambda size, turn: [  # noqa: E731
        n.alpha * x0 + n.sigma * (size * z + turn * n.lam * x0) for n in m.nodes]
    plain, large, turning = (gap.path_statistics(path(*v), m.nodes) for v in
                             ((1, 0), (3, 0), (1, 0.2)))
    np.testing.assert_allclose(large[:, 0] - plain[:, 0], np.log(9), rtol=1e-6)
    assert (turning[:, 1] > plain[:, 1] + 10).all()


def test_path_statistics_recover_the_noise_of_an_exact_path():
    m = zoo.load("zero", steps=12)
    nodes, z = m.nodes, noise(range(4), (3, 32, 32), dtype=torch.float64)
    x0 = noise(range(4), (3, 32, 32), "data", torch.float64)
    states = [n.alpha * x0 + n.sigma * z for n in nodes]  # a straight path: ε̂ = z at every node
    size, change = gap.path_statistics(states, nodes).T
    np.testing.assert_allclose(np.exp(size), (z**2).mean((1, 2, 3)), rtol=1e-6)
    assert (change < -20).all()


def test_pictures_reads_domains_folders_and_says_what_to_download(tmp_path):
    from PIL import Image

    torch.testing.assert_close(gap.pictures("emoji", 3), data.domain("emoji", 3))
    for i, im in enumerate(images.to_uint8(data.domain("emoji", 5))):
        Image.fromarray(im).save(tmp_path / f"{i}.png")
    got = gap.pictures(str(tmp_path), 3, size=16)
    assert got.shape == (3, 3, 16, 16)
    with pytest.raises(data.DataError, match="Download .*ffhq-dataset.*path of its folder"):
        gap.pictures("ffhq", 3)
    with pytest.raises(data.DataError, match="did you mean 'vehicles'"):
        gap.pictures("vehicls", 3)
    with pytest.raises(ValueError, match="does not exist"):
        gap.pictures(str(tmp_path / "none"), 3)
