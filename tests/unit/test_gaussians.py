"""Gaussians: closed forms against dense linear algebra, Monte Carlo and torch.distributions."""

import math

import pytest
import torch

from difftools import gaussians as G


def make(d=12, k=None, seed=0, scale=1.0):
    gen = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(d, d, generator=gen, dtype=torch.float64)).Q
    lam = scale * torch.logspace(0.3, -1.5, d if k is None else k, dtype=torch.float64)
    mean = torch.randn(d, generator=gen, dtype=torch.float64)
    return G.Gaussian(mean, lam, Q[:, : len(lam)].contiguous(), 0.0 if k is None else 0.02 * scale)


def dense(g):
    r = G._root(g)
    return r @ r


FORMS = [
    make(),
    make(k=4),
    G.Gaussian(torch.zeros(12, dtype=torch.float64), torch.linspace(0.1, 2, 12).double(), None),
    G.Gaussian(
        torch.ones(12, dtype=torch.float64),
        torch.zeros(0).double(),
        torch.zeros(12, 0).double(),
        0.7,
    ),
]


@pytest.mark.parametrize("g", FORMS, ids=["full", "low rank", "diagonal", "scalar"])
def test_every_form_agrees_with_a_dense_multivariate_normal(g):
    C, gen = dense(g), torch.Generator().manual_seed(1)
    x = torch.randn(5, 12, generator=gen, dtype=torch.float64)
    for s in (0.0, 0.4):
        ref = torch.distributions.MultivariateNormal(g.mean, C + s * s * torch.eye(12).double())
        torch.testing.assert_close(g.log_prob(x, s), ref.log_prob(x), rtol=1e-9, atol=1e-9)
    s = 0.4
    posterior = g.mean + (x - g.mean) @ torch.linalg.solve(C + s * s * torch.eye(12).double(), C)
    torch.testing.assert_close(g.denoise(x, s), posterior, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(g.whiten(g.sample(x)), x, rtol=1e-9, atol=1e-9)
    assert float(g.spectrum.sum()) == pytest.approx(float(C.trace()))
    mmse = C - C @ torch.linalg.solve(C + s * s * torch.eye(12).double(), C)
    assert float(g.mmse(s)) == pytest.approx(float(mmse.trace()) / 12)


def test_rows_may_have_their_own_noise_level():
    g, x = make(k=4), torch.randn(3, 12, dtype=torch.float64)
    s = torch.tensor([[0.1], [1.0], [5.0]], dtype=torch.float64)
    rows = torch.cat([g.denoise(x[i : i + 1], float(s[i])) for i in range(3)])
    torch.testing.assert_close(g.denoise(x, s), rows)
    assert g.mmse(s).shape == (3,) and g.log_prob(x, s).shape == (3,)


@pytest.mark.parametrize(
    "kind, parameters", [("scalar", 0), ("diagonal", 12), ("full", 12), (3, 3)]
)
def test_fit_recovers_what_its_family_can_say(kind, parameters):
    g = make()
    x = g.sample(
        torch.randn(20_000, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    )
    f = G.fit(x, kind)
    assert f.lam.numel() == parameters
    torch.testing.assert_close(f.mean, g.mean, atol=0.05, rtol=0)
    assert float(f.spectrum.sum()) == pytest.approx(float(g.spectrum.sum()), rel=0.03)
    if kind == "full":
        assert G.kl(g, f) < 0.01 and G.w2(g, f) < 0.1


def test_sparse_and_dense_eigensolvers_agree():
    x = make(d=600, seed=3).sample(
        torch.randn(900, 600, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )
    few, full = G.fit(x, 5), G.fit(x, "full")
    torch.testing.assert_close(few.lam, full.lam[:5], rtol=1e-8, atol=0)
    assert few.rest == pytest.approx(float(full.lam[5:].mean()), rel=1e-8)


@pytest.mark.parametrize("kind", [0, 13, "spherical"])
def test_unknown_fits_are_refused(kind):
    with pytest.raises(ValueError):
        G.fit(torch.randn(40, 12), kind)


def test_kl_equals_monte_carlo_and_torch():
    q, p = make(seed=4), make(seed=5, scale=1.5)
    ref = torch.distributions.kl_divergence(
        *(torch.distributions.MultivariateNormal(g.mean, dense(g)) for g in (q, p))
    )
    assert G.kl(q, p) == pytest.approx(float(ref), rel=1e-9)
    assert G.kl(q, q) == pytest.approx(0, abs=1e-9)


def test_kl_is_infinite_against_a_degenerate_law():
    flat = G.Gaussian(
        torch.zeros(12).double(), torch.ones(3).double(), make().U[:, :3].contiguous(), 0.0
    )
    assert G.kl(make(), flat) == math.inf


def test_w2_of_scaled_and_shifted_laws():
    g = make(seed=6)
    shifted = G.Gaussian(g.mean + 2, g.lam, g.U)
    assert G.w2(g, shifted) == pytest.approx(2 * math.sqrt(12), rel=1e-9)
    scaled = G.Gaussian(g.mean, 4 * g.lam, g.U)  # coupling x -> 2x about the mean
    assert G.w2(g, scaled) == pytest.approx(math.sqrt(float(g.lam.sum())), rel=1e-9)


def test_flow_carries_the_law_and_is_reversible():
    from difftools.diffusion.schedule import grid, linear

    g, (a, *_, b) = make(seed=7), grid(linear(), 3)
    x = a.alpha * g.sample(torch.randn(4, 12, dtype=torch.float64))
    torch.testing.assert_close(g.flow(g.flow(x, a, b), b, a), x, rtol=1e-10, atol=1e-10)
    root = G._root(g)
    along = g.flow(a.alpha * g.mean + a.alpha * root, a, b) - b.alpha * g.mean
    back = (b.alpha**2 * dense(g) + b.sigma**2 * torch.eye(12).double()) / 1.0
    ratio = (
        along.T @ along
        - back
        @ torch.linalg.inv(a.alpha**2 * dense(g) + a.sigma**2 * torch.eye(12).double())
        @ dense(g)
        * a.alpha**2
    )
    assert float(ratio.abs().max()) < 1e-9


def test_mixture_agrees_with_torch_distributions(mixture):
    x = mixture.sample(torch.randn(6, 48, dtype=torch.float64), torch.Generator().manual_seed(0))
    comps = torch.distributions.MultivariateNormal(
        torch.stack([g.mean for g in mixture.parts]),
        torch.stack([dense(g) + 0.09 * torch.eye(48).double() for g in mixture.parts]),
    )
    ref = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights), comps
    )
    torch.testing.assert_close(mixture.log_prob(x, 0.3), ref.log_prob(x), rtol=1e-9, atol=1e-9)


def test_mixture_denoiser_is_tweedie_s_formula(mixture):
    x = torch.randn(3, 48, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(mixture.log_prob(x, 0.3).sum(), x)
    torch.testing.assert_close(mixture.denoise(x, 0.3), x + 0.09 * score, rtol=1e-8, atol=1e-9)
