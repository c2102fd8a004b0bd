"""Steppers against closed forms: the exact flow of a Gaussian, measured orders, exact
reversibility.
"""

import math

import pytest
import torch

from difftools.code import Code, noise
from difftools.diffusion import denoiser as D
from difftools.diffusion.model import PixelDiffusion, ancestral
from difftools.diffusion.schedule import SCHEDULES, grid
from difftools.diffusion.steppers import STEPPERS, integrate, lagrange
from difftools.metrics import psnr

SHAPE = (3, 4, 4)


def latent_error(model, law, images):
    first, last = model.nodes[0], model.nodes[-1]
    x = first.alpha * images.double() + first.sigma * noise(
        range(len(images)), SHAPE, "start", torch.float64
    )
    exact = law.flow(x.flatten(1), first, last)
    return float(((model.encode(images).flat("noise") - exact) ** 2).mean().sqrt())


@pytest.mark.parametrize("stepper", [k for k in STEPPERS if k != "edict"])  # it magnifies
@pytest.mark.parametrize("spacing", ["log_snr", "time"])
def test_every_stepper_converges_to_the_exact_flow(gaussian_model, law, images, stepper, spacing):
    errors = [
        latent_error(gaussian_model.with_(steps=n, stepper=stepper, spacing=spacing), law, images)
        for n in (40, 160)
    ]
    assert errors[1] < errors[0] / 2.5  # four times the steps, first order at least
    assert errors[1] < (
        0.05 if spacing == "log_snr" else 0.15
    )  # uniform time: one huge step next to the image


@pytest.mark.parametrize(
    "stepper, db, steps", [("ddim", 6, 64), ("heun", 18, 64), ("pec", 18, 64), ("dpm2m", 12, 256)]
)
def test_round_trip_gains_its_order_in_db_per_doubling(mixture_model, images, stepper, db, steps):
    """Order p retraces even terms: 6 dB for DDIM, 18 dB for second-order rules.

    DPM-Solver++ starts with a first-order step, whose error is not retraced: 12 dB in the end.
    """
    quality = [
        psnr(images, (m := mixture_model.with_(steps=n, stepper=stepper)).decode(m.encode(images)))
        for n in (steps, 2 * steps)
    ]
    assert float((quality[1] - quality[0]).median()) == pytest.approx(db, abs=1.5)


@pytest.mark.parametrize(
    "stepper, up, down",
    [
        ("ddim", 10, 10),
        ("heun", 20, 20),
        ("dpm2m", 10, 10),
        ("pec", 11, 11),
        ("reversible_heun", 11, 11),
        ("fixed_point_ddim", 41, 10),
    ],
)
def test_evaluations_are_counted(gaussian_model, images, stepper, up, down):
    m = gaussian_model.with_(steps=10, stepper=stepper)
    m.denoiser.calls = 0
    code = m.encode(images)
    assert m.denoiser.calls == up
    m.decode(code)
    assert m.denoiser.calls == up + down


@pytest.mark.parametrize("dtype, floor", [(torch.float64, 150), (torch.float32, 80)])
def test_reversible_heun_is_exact_with_both_states_and_not_with_one(
    mixture_model, images, dtype, floor
):
    m = mixture_model.with_(stepper="reversible_heun", dtype=dtype, steps=10)
    code = m.encode(images)
    both, one = psnr(images, m.decode(code)), psnr(images, m.decode(code.drop("auxiliary")))
    assert float(both.min()) > floor
    assert float(one.median()) < float(both.min()) - 20


def test_fixed_point_inverts_ddim_itself(mixture_model, images):
    m = mixture_model.with_(stepper="fixed_point_ddim", steps=20)
    assert float(psnr(images, m.decode(m.encode(images))).min()) > 60


def test_refinement_gains_and_keeps_its_best(mixture_model, images):
    base = psnr(images, mixture_model.decode(mixture_model.encode(images)))
    gained = [
        psnr(images, (m := mixture_model.with_(refine=k)).decode(m.encode(images))) for k in (1, 2)
    ]
    assert float((gained[0] - base).median()) > 25
    assert bool((gained[1] >= gained[0] - 1e-9).all())


def test_refinement_never_makes_an_image_worse_where_it_does_not_contract(mixture, images):
    """With two coarse DDIM steps the round trip is not contractive: the best iterate must be
    kept.
    """
    m = PixelDiffusion(D.exact(mixture, SHAPE), steps=2, stepper="ddim", spacing="time")
    base = psnr(images, m.decode(m.encode(images)))
    refined = psnr(images, (r := m.with_(refine=6)).decode(r.encode(images)))
    assert bool((refined >= base - 1e-9).all())


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_runs_both_ways(law, images, name):
    m = PixelDiffusion(D.exact(law, SHAPE, SCHEDULES[name]()), steps=60)
    assert float(psnr(images, m.decode(m.encode(images))).min()) > 40


@pytest.mark.parametrize("stepper", STEPPERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_equals_a_loop(mixture_model, images, stepper, dtype):
    m = mixture_model.with_(stepper=stepper, steps=8, dtype=dtype, refine=1)
    whole = m.encode(images)["noise"]
    single = torch.cat(
        [m.encode(images[i : i + 1], seeds=[i])["noise"] for i in range(len(images))]
    )
    torch.testing.assert_close(
        whole, single, rtol=0, atol=1e-10 if dtype == torch.float64 else 2e-4
    )


def test_seeded_start_is_taken_off_again_and_changes_the_latent(gaussian_model, images):
    a, b = (
        gaussian_model.encode(images, seeds=range(8)),
        gaussian_model.encode(images, seeds=range(8, 16)),
    )
    assert float((a["noise"] - b["noise"]).abs().max()) > 1e-3
    for code in (a, b):
        assert float(psnr(images, gaussian_model.decode(code)).min()) > 40


def test_samples_of_the_exact_model_have_its_law(law):
    """Mean and covariance of decoded prior draws, in units of their standard error."""
    m = PixelDiffusion(D.exact(law, SHAPE), steps=40)
    x = m.decode(m.prior(2000)).flatten(1)
    z = law.whiten(x)
    assert float(z.mean(0).abs().max()) < 5 / math.sqrt(2000)
    assert float((z.var(0) - 1).abs().max()) < 5 * math.sqrt(2 / 2000)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ancestral_sampling_keeps_the_variance(law, eta):
    nodes = grid(D.linear(), 400)[::-1]  # the chain's own variance is short by O(1/steps)
    z = noise(range(800), SHAPE, "prior", torch.float64)
    *_, x = ancestral(D.exact(law, SHAPE), z, nodes, eta)
    assert float(law.whiten(x.flatten(1)).var()) == pytest.approx(1, abs=0.06)


def test_ancestral_without_noise_is_ddim(law):
    d, nodes = D.exact(law, SHAPE), grid(D.linear(), 12)[::-1]
    z = noise(range(3), SHAPE, "prior", torch.float64)
    *_, x = ancestral(d, z, nodes, eta=0.0)
    y = integrate(STEPPERS["ddim"], d.field, nodes[0].chart(z), nodes)
    torch.testing.assert_close(x, nodes[-1].unchart(y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta, up", [(1.5, False), (-0.1, False), (1.0, True)])
def test_ancestral_refuses_bad_eta_and_the_wrong_direction(law, eta, up):
    nodes = grid(D.linear(), 4)
    with pytest.raises(ValueError):
        next(ancestral(D.exact(law, SHAPE), noise([0], SHAPE), nodes if up else nodes[::-1], eta))


def test_lagrange_weights_integrate_polynomials_in_lam_exactly():
    nodes = grid(D.linear(), 5)
    tau = lambda lam: 1 / (1 + math.exp(lam))  # noqa: E731
    w = lagrange(nodes, 2, [2, 1])
    assert sum(w) == pytest.approx(tau(nodes[3].lam) - tau(nodes[2].lam), rel=1e-12)


def test_walk_yields_every_node_and_ends_where_up_ends(gaussian_model, images):
    m = gaussian_model.with_(steps=6, seeded=False)
    states = list(m.walk(m.nodes[0].alpha * images.double(), up=True))
    assert len(states) == 6
    torch.testing.assert_close(states[-1], m.encode(images)["noise"])


def test_zero_network_scales_the_image_and_ddim_undoes_it_exactly(images):
    m = PixelDiffusion(D.zero(SHAPE), stepper="ddim", steps=10)
    assert float(psnr(images, m.decode(m.encode(images))).min()) > 150
    plain = m.with_(seeded=False).encode(images)["noise"]
    torch.testing.assert_close(plain, m.nodes[-1].alpha * images.double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_prediction_types_give_the_same_field(law, images, kind):
    exact = D.exact(law, SHAPE)

    def net(x, t, lam):
        at = grid(exact.schedule, 1)[0].__class__
        s = torch.sigmoid(-2 * lam[0]).sqrt().item()
        a = torch.sigmoid(2 * lam[0]).sqrt().item()
        x0, eps = exact.x0_eps(x, at(float(lam[0]), 0.0, a, s, s / (a + s)))
        return {"eps": eps, "x0": x0, "v": a * eps - s * x0}[kind]

    other = D.Denoiser(net, exact.schedule, SHAPE, kind, torch.float64)
    for n in grid(exact.schedule, 4):
        y = n.chart(images.double())
        torch.testing.assert_close(other.field(y, n), exact.field(y, n), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "bad",
    [
        dict(stepper="euler"),
        dict(dtype=torch.bfloat16),
        dict(dtype=torch.float16),
    ],
)
def test_bad_settings_are_refused(gaussian_model, bad):
    with pytest.raises(ValueError):
        gaussian_model.with_(**bad)


def test_bad_images_are_refused_before_any_evaluation(gaussian_model, images):
    gaussian_model.denoiser.calls = 0
    nan = images.clone()
    nan[0, 0, 0, 0] = float("nan")
    for bad in (nan, images * 255, images[:, :1], images[0]):
        with pytest.raises(ValueError):
            gaussian_model.encode(bad)
    assert gaussian_model.denoiser.calls == 0


def test_code_refuses_unequal_parts():
    with pytest.raises(ValueError, match="batch size"):
        Code({"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)}, {"a": "flat", "b": "flat"})
    with pytest.raises(ValueError, match="geometry"):
        Code({"a": torch.zeros(2, 3)}, {"a": "torus"})
