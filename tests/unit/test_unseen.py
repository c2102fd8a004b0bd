"""The sampler of unseen domains by its mathematics: round trips, laws, identities, closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

from difftools import data, gaussians, metrics, unseen, zoo
from difftools.code import Code, noise
from difftools.diffusion.model import ancestral
from difftools.diffusion.schedule import grid, linear

GAUSSIAN = "gaussian-vehicles32"


@pytest.fixture(scope="module")
def m():
    return zoo.load(GAUSSIAN)


@pytest.fixture(scope="module")
def x():
    return data.domain("animals", 4)


def white(n, *shape, seed=0):
    return noise(range(seed, seed + n), shape, "data", torch.float64)


# Up and down


@pytest.mark.parametrize("model", [GAUSSIAN, "zero", "d2c-vehicles32", "dae-vehicles32"])
def test_what_goes_up_comes_down(model, x):
    m = zoo.load(model)
    (code,) = unseen.invert(m, x[:2], [3], steps=6)
    want = m.images(m.latents(x[:2])) if hasattr(m, "latents") else x[:2]
    back = unseen.decode(m, code, 3, steps=6)
    assert float(metrics.psnr(want, back).min()) > 25
    assert ("semantic" in code.tensors) == (model == "dae-vehicles32")


def test_every_rung_of_one_walk_is_that_of_a_shorter_one(m, x):
    all_of_them = unseen.invert(m, x, [2, 5], steps=6)
    torch.testing.assert_close(all_of_them[0]["noise"], unseen.invert(m, x, [2], 6)[0]["noise"])
    one = unseen.invert(m, x[1:2], [5], 6, seeds=[1])[0]["noise"]
    torch.testing.assert_close(all_of_them[1]["noise"][1:2], one)


def test_the_last_rung_is_the_models_own_encoding(m, x):
    (code,) = unseen.invert(m, x, [6], steps=6)
    own = m.with_(steps=6)
    torch.testing.assert_close(code["noise"], own.encode(x)["noise"])
    torch.testing.assert_close(unseen.decode(m, code, 6, 6), own.decode(code))


def test_plain_ddim_comes_back_from_the_latent_made_for_it(m, x):
    made, own = (unseen.invert(m, x, [8], 12, exact_ddim=k)[0] for k in (8, 0))
    back = [metrics.psnr(x, unseen.decode(m, Code(c.tensors, c.geometry), 8, 12, None)).min()
            for c in (made, own)]
    assert float(back[0]) > 40 > float(back[1])


def test_a_rung_is_the_nearest_node(m):
    nodes = grid(m.denoiser.schedule, 12)
    assert all(unseen.rung(m, nodes[k].lam, 12) == k for k in range(1, 13))
    assert unseen.rung(m, unseen.MIXING) == 8 and unseen.rung(m, 99.0) == 1
    assert abs(float(linear().t_of(nodes[8].lam)) - 603) < 1


def test_noise_on_the_way_depends_on_the_seed_alone(m, x):
    (code,) = unseen.invert(m, x, [6], 12)
    both = unseen.decode(m, code, 6, 12, 0.5, seeds=[7, 8, 9, 10])
    one = unseen.decode(m, code.select([2]), 6, 12, 0.5, seeds=[9])
    torch.testing.assert_close(both[2:3], one)
    assert float((both - unseen.decode(m, code, 6, 12, 0.5)).abs().max()) > 0.01
    with pytest.raises(ValueError, match="eta must lie in"):
        unseen.decode(m, code, 6, 12, 1.5)


def test_linear_walk_is_what_stochastic_ddim_does():
    lam = torch.tensor([4.0, 1.0, 0.01], dtype=torch.float64)
    law = gaussians.Gaussian(torch.zeros(3, dtype=torch.float64), lam, None)
    from difftools.diffusion.denoiser import exact

    d = exact(law, (3, 1, 1))
    down = grid(d.schedule, 8)[:7][::-1]
    u = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for eta in (0.0, 0.6, 1.0):
        state = u.view(1, 3, 1, 1).repeat(3000, 1, 1, 1)
        for state in ancestral(d, state, down, eta, range(3000)):
            pass
        y = d.x0_eps(state, down[-1])[0].flatten(1)
        gain, var = unseen.linear_walk(lam, down, eta)
        torch.testing.assert_close(y.mean(0), gain * u, atol=4 * float(var.max() / 3000) ** 0.5,
                                   rtol=1e-6)
        torch.testing.assert_close(y.var(0), var, rtol=0.12, atol=1e-12)


# Fits


@pytest.mark.parametrize("kind", unseen.KINDS)
def test_a_fit_has_the_mean_and_the_total_variance_of_its_latents(kind):
    z = 2 + 3 * white(40, 3, 8, 8)
    drawn = unseen.fit(z, kind).sample(white(4000, 192, seed=100)).reshape(-1, 3, 8, 8)
    torch.testing.assert_close(drawn.mean(0), z.mean(0), atol=0.25, rtol=0)
    assert float(drawn.var(0).mean()) == pytest.approx(float(z.var(0, unbiased=False).mean()),
                                                       rel=0.01)


def test_a_stationary_fit_finds_the_spectrum_and_the_colours():
    gen_root = torch.zeros(8, 8, 3, 3, dtype=torch.complex128)
    gen_root += torch.diag(torch.tensor([1.0, 2.0, 0.5], dtype=torch.complex128))
    gen_root[..., 0, 1] = gen_root[..., 1, 0] = 0.3
    gen_root[0, 1:] *= 3
    law = unseen.Stationary(torch.zeros(3, 8, 8, dtype=torch.float64), gen_root)
    # a real image needs the root at −k to be the conjugate of that at k: so it is here, but in row 0
    z = law.sample(white(4000, 192)).reshape(-1, 3, 8, 8)
    found = unseen.stationary(z)
    square = lambda r: r @ r.conj().transpose(-1, -2)  # noqa: E731
    torch.testing.assert_close(square(found.root)[1:], square(gen_root)[1:], rtol=0.15, atol=0.15)
    assert found.variance == pytest.approx(float(z.var()), rel=0.02)


def test_a_stationary_draw_is_real_and_shifts_change_nothing():
    z = white(30, 3, 8, 8).cumsum(3)
    z = z - z.mean((2, 3), keepdim=True)
    law = unseen.stationary(z)
    moved = unseen.stationary(z.roll(3, 3))
    torch.testing.assert_close(law.root.abs(), moved.root.abs(), atol=1e-8, rtol=1e-6)
    f = torch.einsum("hwij,jhw->ihw", law.root,
                     torch.fft.fft2(white(1, 3, 8, 8)[0], norm="ortho").to(law.root.dtype))
    assert float(torch.fft.ifft2(f).imag.abs().max()) < 1e-9


def test_a_low_rank_fit_is_probabilistic_pca():
    from sklearn.decomposition import PCA

    z = white(50, 30) * torch.linspace(1, 4, 30, dtype=torch.float64)
    law, pca = unseen.fit(z, "low-rank"), PCA(unseen.RANK).fit(z.numpy())
    np.testing.assert_allclose(law.lam, pca.explained_variance_ * 49 / 50, rtol=1e-8)
    assert law.rest == pytest.approx(pca.noise_variance_ * 49 / 50, rel=1e-8)


def test_fits_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="known: scalar"):
        unseen.fit(white(4, 3, 8, 8), "full")
    with pytest.raises(ValueError, match="2 latents or more"):
        unseen.fit(white(1, 3, 8, 8), "scalar")
    assert unseen.fit(white(5, 7), "spectral").U is None       # flat latents: diagonal


def test_draws_keep_parts_shapes_and_seeds():
    like = Code({"semantic": white(6, 5).float(), "noise": white(6, 3, 4, 4)},
                {"semantic": "flat", "noise": "sphere"}, tuple(range(6)))
    laws = unseen.fit_code(like, "spectral")
    four, two = (unseen.draw(laws, like, n, seed=3) for n in (4, 2))
    assert four["semantic"].shape == (4, 5) and four["semantic"].dtype == torch.float32
    torch.testing.assert_close(four["noise"][:2], two["noise"])
    assert four.seeds is None


# Properties


def test_properties_are_distances_and_angles():
    y = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    found = unseen.properties(torch.zeros(1, 3) + 1e-9 * torch.ones(3), y)
    assert found[0, :2].tolist() == pytest.approx([1, 90], abs=1e-4)
    x = white(3, 40)
    y = white(4, 40, seed=9)
    by_hand = torch.stack([(y - v).norm(dim=1).mean() for v in x])
    torch.testing.assert_close(unseen.properties(x, y)[:, 0], by_hand)
    angle = lambda a, b: torch.rad2deg(torch.arccos(torch.cosine_similarity(a, b, dim=0)))  # noqa: E731
    pairs = torch.stack([angle(y[i] - x[0], y[i + 1] - x[0]) for i in range(3)]).mean()
    origin = torch.stack([angle(v, x[0]) for v in y]).mean()
    torch.testing.assert_close(unseen.properties(x, y)[0, 1:], torch.stack([pairs, origin]))
    turn = torch.linalg.qr(white(40, 40)).Q
    torch.testing.assert_close(unseen.properties(x @ turn, y @ turn), unseen.properties(x, y))
    with pytest.raises(ValueError, match="2 references"):
        unseen.properties(x, y[:1])


def test_sixty_degrees_in_the_mean_are_an_identity():
    for cloud in (white(7, 2), white(5, 300) ** 3, torch.linspace(0, 1, 6)[:, None].double() ** 2):
        D2 = torch.cdist(cloud, cloud).square()
        angles = unseen.triangle_angles(D2)
        torch.testing.assert_close(angles.sum(1), torch.full((len(angles),), 180.0).double(),
                                   atol=1e-3, rtol=0)
        assert float(angles.mean()) == pytest.approx(60, abs=1e-3)


def test_white_noise_of_any_size_is_over_white_one():
    value, half = unseen.over_white(5 * white(24, 600))
    np.testing.assert_allclose(value, 1, atol=1e-9)             # the null is the same noise
    other, half = unseen.over_white(5 * white(24, 600, seed=50), seed=0)
    assert np.all(np.abs(other - 1) < 4 * half + 0.05)
    sizes = torch.linspace(0.5, 2, 24, dtype=torch.float64)[:, None]
    assert unseen.over_white(sizes * white(24, 600))[0][0] > 3


def test_the_hot_pixel_fools_the_windows_of_its_law():
    law = unseen.fit(1 + white(200, 400), "scalar")
    draws = law.sample(white(300, 400, seed=500))
    hot = unseen.hot_pixel(law, 300)
    off = (hot - law.mean).abs() > 1e-12
    assert (off.sum(1) == 1).all()
    y = law.sample(white(10, 400, seed=900))
    bounds = unseen.windows(unseen.properties(draws, y), 0.9)
    share = lambda v: float(unseen.passes(unseen.properties(v, y), bounds).all(1).double().mean())  # noqa: E731
    assert share(hot) > share(draws) - 0.05 and share(law.mean + 0 * draws) == 0


def test_windows_hold_the_share_that_they_promise():
    found = white(2000, 3)
    ok = unseen.passes(found, unseen.windows(found, 0.6)).double().mean(0)
    np.testing.assert_allclose(ok, 0.6, atol=0.01)


def test_windows_of_the_released_code_have_its_widths():
    centre = torch.tensor([611.4, 60.0, 88.0], dtype=torch.float64)
    low, high = unseen.released_windows(centre, 196608)
    torch.testing.assert_close((high - low) / 2, centre.new_tensor([0.3, 0.1, 0.1]))
    centre[0] *= 2 / 8                                            # a cloud twice as wide, d 64 times less
    low, high = unseen.released_windows(centre, 3072)
    torch.testing.assert_close((high - low) / 2, centre.new_tensor([0.6, 0.8, 0.8]))


def test_great_circles_end_where_they_should():
    a, b = white(3, 3, 4, 4), white(3, 3, 4, 4, seed=10)
    on = unseen.great_circles(a, b, 20)
    assert on.shape == (60, 3, 4, 4)
    near = (on.reshape(3, 20, -1) - a.flatten(1)[:, None]).norm(dim=2)
    assert (near.diff(dim=1) > 0).all()
    torch.testing.assert_close(on[19::20].flatten(1).norm(dim=1),
                               (a.flatten(1).norm(dim=1) + 20 * b.flatten(1).norm(dim=1)) / 21)


# Closed forms


@pytest.mark.parametrize("v", [0.95, 1.0, 1.05])
def test_auc_of_scales_by_simulation(v):
    from difftools.normality import auc

    d = 300
    a, b = white(1500, d).square().sum(1).numpy(), v * white(1500, d, seed=5000).square().sum(1)
    value, (low, high) = auc(b.numpy(), a) if v >= 1 else auc(a, b.numpy())
    assert low - 0.02 < unseen.auc_scale(v, d) < high + 0.02
    # the 1.05 % of variance at d = 196608
    assert unseen.auc_scale(1.0105, 196608) == pytest.approx(0.99, abs=0.002)


def test_auc_of_means_and_of_pairs():
    assert unseen.auc_mean(0) == 0.5 and unseen.auc_mean(3.29) == pytest.approx(0.99, abs=1e-3)
    d, delta = 400, 9.0
    x, y, z, w = (white(3000, d, seed=s) for s in (0, 4000, 8000, 12000))
    far = (x - y + delta / d**0.5).square().sum(1)
    near = (w - z).square().sum(1)
    got = float((far > near).double().mean())
    assert unseen.auc_pairs(delta, d) == pytest.approx(got, abs=0.03)
    # the threshold scales with the fourth root of d
    assert unseen.auc_pairs(20, 10**4) == pytest.approx(unseen.auc_pairs(200, 10**8), abs=0.005)


def test_bandwidth_interpolates_and_is_cut_at_both_ends():
    etas = (0.1, 0.2, 0.4)
    v = np.array([[40, 35, 31], [29, 28, 20], [40, 30, 20], [35, 25, 35]])
    np.testing.assert_allclose(unseen.bandwidth(v, etas, 30), [0.4, 0, 0.2, 0.15])
    np.testing.assert_allclose(unseen.bandwidth(-v, etas, -30, below=True), [0.4, 0, 0.2, 0.15])
    assert unseen.bandwidth([[1, 1, 0]], etas, 0.5)[0] == pytest.approx(0.3)


# Quality


def test_kid_gain_is_a_difference_of_kids():
    pool, ref = white(30, 6), 0.5 + white(20, 6, seed=100)
    chosen = pool[:, 0] > 0
    value, (low, high) = unseen.kid_gain(pool, chosen, ref)
    want = metrics.kid(pool, ref)[0] - metrics.kid(pool[chosen], ref)[0]
    assert value == pytest.approx(want) and low < value < high
    among = torch.arange(30) < 20
    both = unseen.kid_gain(pool, chosen, ref, among)[0]
    assert both == pytest.approx(metrics.kid(pool[:20], ref)[0] - metrics.kid(pool[chosen], ref)[0])
    all_of_them = unseen.kid_gain(pool, torch.ones(30, dtype=bool), ref)
    assert all_of_them == (0.0, (0.0, 0.0))
    assert np.isnan(unseen.kid_gain(pool, torch.arange(30) < 2, ref)[0])


def test_kid_gain_covers_nothing_when_the_choice_is_blind():
    hits = 0
    for s in range(40):
        pool, ref = white(40, 5, seed=1000 * s), white(30, 5, seed=1000 * s + 500)
        _, (low, high) = unseen.kid_gain(pool, torch.arange(40) % 2 == 0, ref)
        hits += low <= 0 <= high
    assert hits >= 33 and stats.binom.cdf(hits, 40, 0.95) > 1e-3


def test_target_share_and_novelty():
    a, b = white(10, 20) + 3, white(10, 20, seed=50) - 3
    assert unseen.target_share(a, a, b).all() and not unseen.target_share(b, a, b).any()
    assert unseen.novelty(a, a, b) == pytest.approx(0, abs=1e-9)
    assert unseen.novelty(b, a, b) == pytest.approx(1)
