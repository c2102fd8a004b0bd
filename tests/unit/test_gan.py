"""GAN inversion: recipes by their formulas, one loop by its properties; tiny random networks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import gan_files as files
from difftools import code, images
from difftools.diffusion.inversion import round_trip
from difftools.gan import inverter, recipes
from difftools.gan.generator import embedded, styled
from difftools.gan.model import GAN
from difftools.gan.recipes import RECIPES, Free, Recipe, Seen
from difftools.metrics import psnr
from difftools.nets import biggan, stylegan2

SMALL = {"channels": (8, 6), "z": 8, "w": 8, "layers": 2}  # 8 px
STYLED = [name for name in RECIPES if name != "biggan"]


def randn(*shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def quiet(net):
    """Images within [-1, 1], about."""
    for name, v in net.named_parameters():
        if ".torgb.weight" in name or ".torgb.bias" in name:
            v.mul_(0.3)
    return net


def gan(recipe="w", double=True, **changes):
    net = quiet(files.shake(stylegan2.StyleGAN2(**SMALL | changes)))
    m = GAN(styled(net.double() if double else net), recipe=recipe)
    return m.with_(dtype=torch.float64) if double else m


def conditional(recipe="w"):
    return gan(recipe, classes=3)


def big():
    torch.manual_seed(0)
    net = files.shake(biggan.BigGAN((8, 6), z=8, shared=4, classes=3))
    net.output_layer[-1].weight.mul_(0.05)  # else tanh is flat
    return GAN(embedded(net.double()), recipe="biggan", dtype=torch.float64)


def pictures(n=2, seed=0):
    return F.interpolate(randn(n, 3, 4, 4, seed=seed), size=8).clamp(-2, 2) / 2


# terms, rates and projections by their formulas


def seen(measured=None, target=None, **parts):
    zero = torch.zeros(len(next(iter(parts.values()), torch.ones(2))), 3, 2, 2).double()
    measured, target = (zero if v is None else v for v in (measured, target))
    return Seen(measured, target, parts, GENERATOR)


GENERATOR = styled(files.shake(stylegan2.StyleGAN2(**SMALL)).double())


def test_mse_by_its_formula():
    a, b = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    want = [np.mean((u - v) ** 2) for u, v in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(recipes.mse(seen(a, b)), want)


def test_floored_by_its_formula():
    """On the scale of [0, 1], where its authors work, never below 0.002."""
    a, b = torch.rand(2, 3, 4, 4).double(), torch.rand(2, 3, 4, 4).double()
    b[1] = a[1] + 0.01
    got = recipes.floored(seen(2 * a - 1, 2 * b - 1))
    np.testing.assert_allclose(got, [((a - b)[0] ** 2).mean(), 2e-3])
    assert ((a - b)[1] ** 2).mean() < 2e-3


def test_geocross_by_its_formula():
    """Rows of one length with known angles: 0, a right angle, half a turn."""
    e = torch.eye(4).double()
    w = 3 * torch.stack([torch.stack([e[0], e[1]]), torch.stack([e[0], -e[0]])])
    angles = [math.pi / 2, math.pi]
    want = [2 * a**2 / 4 * 4 / 8 for a in angles]  # two of the four ordered pairs
    np.testing.assert_allclose(recipes.geocross(seen(w_plus=w)), want)
    same = torch.ones(2, 3, 4).double().requires_grad_()
    value = recipes.geocross(seen(w_plus=same))
    assert float(value.detach().abs().max()) == 0
    value.sum().backward()
    assert bool(same.grad.isfinite().all())  # W+ starts with equal rows


def test_prior_by_its_formula():
    w, s = randn(2, 3, 8), GENERATOR.statistics
    want = [np.mean(((v - s.mean).numpy() / s.std) ** 2) for v in w]
    np.testing.assert_allclose(recipes.prior(seen(w_plus=w)), want)


def test_cosine_by_its_formula():
    w = randn(2, 3, 8)
    unit = w / w.norm(dim=2, keepdim=True)
    pairs = [[abs(1 - float(u @ v)) for u in x for v in x] for x in unit]
    np.testing.assert_allclose(recipes.cosine(seen(w_plus=w)), np.mean(pairs, 1), atol=1e-12)


def test_autocorrelation_by_its_formula():
    """A map of 16 px is looked at twice, one of 4 px once; a constant map of 8 px gives 1 + 1."""
    large, small = randn(2, 1, 16, 16), randn(2, 1, 4, 4, seed=1)
    want = np.zeros(2)
    for maps in (large, F.avg_pool2d(large, 2), small):
        for b in range(2):
            v = maps[b, 0].numpy()
            want[b] += np.mean(v * np.roll(v, 1, 0)) ** 2 + np.mean(v * np.roll(v, 1, 1)) ** 2
    np.testing.assert_allclose(recipes.autocorrelation(seen(noise_0=large, noise_1=small)), want)
    ones = torch.ones(2, 1, 8, 8).double()
    np.testing.assert_allclose(recipes.autocorrelation(seen(noise_0=ones)), 2)


def test_ramp_by_its_formula():
    t = [0, 0.025, 0.05, 0.5, 0.75, 0.875, 1]
    np.testing.assert_allclose([recipes.ramp(v) for v in t], [0, 0.5, 1, 1, 1, 0.5, 0], atol=1e-12)


def test_one_cycle_drop_by_its_formula():
    t = [0, 0.225, 0.45, 0.675, 0.9, 0.95, 1]
    want = [0.1, 0.55, 1, 0.55, 0.1, 0.0505, 0.001]
    np.testing.assert_allclose([recipes.one_cycle_drop(v) for v in t], want)


@pytest.mark.parametrize("shape", [(2, 8), (2, 3, 8), (2, 1, 4, 4)])
def test_sphere_by_its_formula(shape):
    """Every vector keeps its direction and has its old length again."""
    v, start = randn(*shape), randn(*shape, seed=1)
    got = recipes.sphere(v, start)
    flat = lambda x: x.flatten(2) if x.ndim != 2 else x[:, None]  # noqa: E731
    np.testing.assert_allclose(flat(got).norm(dim=-1), flat(start).norm(dim=-1))
    np.testing.assert_allclose(F.cosine_similarity(flat(got), flat(v), dim=-1), 1)
    np.testing.assert_allclose(flat(recipes.root_d(v)).square().mean(-1), 1)


def test_normalise_by_its_formula():
    got = recipes.normalise(3 + 2 * randn(2, 1, 4, 4), None)
    np.testing.assert_allclose(got.mean((1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(got.square().mean((1, 2, 3)), 1)


def test_degaussianise_by_its_formula():
    s, v = GENERATOR.statistics, randn(5, 8)
    want = (s.s * v + s.m).numpy()
    np.testing.assert_allclose(s.degaussianise(v), np.where(want > 0, want, 0.2 * want))
    torch.testing.assert_close(s.gaussianise(s.degaussianise(v)), v)


def test_brgm_s_weights_are_those_of_bytes_and_of_mean_features():
    """0.001 · MSE on 0 … 255, and 1e7 · mean of VGG's 7,995,392 squared feature differences."""
    assert RECIPES["brgm"].terms["mse"] == pytest.approx(16.3, abs=0.05)
    a, b = torch.rand(1, 3, 4, 4).double(), torch.rand(1, 3, 4, 4).double()
    in_bytes = 0.001 * (255 * a - 255 * b).square().mean()
    np.testing.assert_allclose(
        RECIPES["brgm"].terms["mse"] * recipes.mse(seen(2 * a - 1, 2 * b - 1)), in_bytes
    )
    taps = [(64, 256), (128, 128), (256, 64), (512, 32), (512, 16)]  # of VGG16 at 256 px
    features = sum(c * r**2 for c, r in taps)
    assert features == 7_995_392
    assert RECIPES["brgm_pytorch"].terms["perceptual"] == pytest.approx(1e7 / features, abs=1e-3)


# what is free


def test_degrees_of_freedom_per_pixel_value():
    """At 32 px with w of 128, 8 layers and 256 channels at 4 px, as the small StyleGAN2 has."""
    config = {"channels": (256, 192, 96, 48), "z": 64, "w": 128, "layers": 4}
    m = GAN(styled(stylegan2.StyleGAN2(**config)))
    g = m.generator
    assert g.dof("w") == pytest.approx(128 / 3072)
    got = [round(g.dof(s), 2) for s in ("w_plus", "noise", "content")]
    assert got == [0.33, 0.88, 1.33]
    ladder = ["w", "w_plus", "w_plus_noise", "sphinx"]
    dof = [m.with_(recipe=r).dof_per_value for r in ladder]
    assert dof == sorted(dof) and round(dof[-1], 2) == 2.55
    # PULSE trains five of its seven maps
    want = (8 * 128 + 16 + 2 * 64 + 2 * 256) / 3072
    assert m.with_(recipe="pulse").dof_per_value == pytest.approx(want)


@pytest.mark.parametrize("rows, weights", [(14, 1_239_072), (8, 780_192)])
def test_the_style_head_has_the_published_size(rows, weights):
    head = inverter.style_head([code.generator(0)], rows, 512, torch.zeros(1))
    assert sum(v.numel() for v in head.leaves) == weights
    assert head.value(torch.zeros(1, 3, rows, 512)).shape == (1, 3, rows, 512)


def test_heads_are_networks_of_one_image_each():
    """Against torch.nn, layer by layer, with the weights of the second image."""
    gens = [code.generator(s) for s in (3, 4)]
    like, z = torch.zeros(1).double(), randn(2, 2, 3, 5)
    head = inverter.style_head(gens, 3, 5, like)
    W = [v.detach()[1] for v in head.leaves]
    got = head.value(z)[1].detach()
    for k in range(2):
        h = F.relu(F.linear(z[1, k], W[0].T, W[1][0]))
        h = F.linear(F.linear(h, W[2].T, W[3][0]), W[4].T, W[5][0])
        for i in range(3):
            v = F.relu(F.linear(h[i], W[6][i].T, W[7][i, 0]))
            v = F.linear(F.linear(v, W[8][i].T, W[9][i, 0]), W[10][i].T, W[11][i, 0])
            torch.testing.assert_close(got[k, i], v)
    content, z = inverter.content_head(gens, (7, 4, 4), like), randn(2, 2, 8, 4, 4)
    W = [v.detach()[1] for v in content.leaves]
    x = z[1]
    for i in range(3):
        kernel = (W[2 * i] / math.sqrt(len(W[2 * i]))).T[..., None, None]
        x = F.conv2d(x, kernel, W[2 * i + 1][0])
        x = F.leaky_relu(x, 0.2) * math.sqrt(2) if i < 2 else x
    torch.testing.assert_close(content.value(z)[1].detach(), x)


def test_statistics_are_those_of_mapped_noise():
    g = GENERATOR
    w = g.net.mapping(randn(20_000, 8, seed=5))
    np.testing.assert_allclose(g.statistics.mean, w.mean(0), atol=0.05 * g.statistics.std)
    want = (w - w.mean(0)).square().sum(1).mean().sqrt()
    assert g.statistics.std == pytest.approx(float(want), rel=0.02)
    v = g.statistics.gaussianise(w)
    np.testing.assert_allclose(v.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(v.std(0), 1, atol=0.05)
    c = conditional().generator
    per_class = [c.net.mapping(randn(5000, 8), y=torch.full((5000,), k)) for k in range(3)]
    want = torch.stack([w.mean(0) for w in per_class])
    np.testing.assert_allclose(c.statistics.centres, want, atol=0.1 * c.statistics.std)


# the loop


@pytest.mark.parametrize("recipe", ["z", "projector", "sphinx", "pulse", "sphinx_pulse", "biggan"])
def test_a_batch_of_two_is_two_batches_of_one(recipe):
    """In float64, where rounding has no time to grow: every draw belongs to its image."""
    m, x = big() if recipe == "biggan" else gan(recipe), pictures()
    m = m.with_(steps=8, recipe=replace(RECIPES[recipe], best_of=min(3, RECIPES[recipe].best_of)))
    both = m.encode(x, seeds=[5, 9])
    for i, seed in enumerate((5, 9)):
        one = m.encode(x[i : i + 1], seeds=[seed])
        for part in one.tensors:
            torch.testing.assert_close(both[part][i : i + 1], one[part], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(both.tensors[part], m.encode(x, seeds=[5, 8])[part])


def test_w_recovers_an_image_in_its_range():
    """The honest test of an inverter: the answer exists."""
    m = gan("w", double=False).with_(steps=100)
    x = m.decode(m.prior(3, seed=20))
    first, *_, last = m.walk(x)
    assert float(psnr(x, first.images).max()) < 30
    assert float(psnr(x, m.decode(m.code(last.parts))).min()) > 45


def test_the_best_step_of_each_image_is_reported():
    """A rate that overshoots: the last step is not the best, and the best differs by image."""
    wild = Recipe({"w": Free(1.0, "constant")}, {"mse": 1.0}, 25)
    m, x = gan(wild), pictures(4)
    states = list(m.walk(x))
    assert [s.step for s in states] == list(range(26))
    losses = torch.stack([s.loss for s in states])
    assert bool((losses[-1] > losses.min(0).values).any())
    assert len(set(losses.argmin(0).tolist())) > 1
    torch.testing.assert_close(states[-1].best, losses.min(0).values)
    back = m.decode(m.encode(x))
    torch.testing.assert_close((back - x).square().mean((1, 2, 3)), losses.min(0).values)


def test_what_sphinx_returns_is_the_image_of_its_mean_code():
    m, x = gan("sphinx").with_(steps=30), pictures()
    *_, last = m.walk(x, every=30)
    c = m.encode(x)
    assert set(c.tensors) == {"w_plus", "content", "noise_0", "noise_1", "noise_2"}
    assert c.geometry["noise_1"] == "sphere" and c.geometry["w_plus"] == "flat"
    want = (m.decode(c) - x).square().mean((1, 2, 3))  # MSE has weight 1, LPIPS is left out
    torch.testing.assert_close(last.best, want)
    assert not torch.allclose(last.best, last.loss)  # the loss is that of one fresh draw


def test_the_mean_code_is_the_mean_over_fixed_draws():
    like = torch.zeros(2).double()
    head = inverter.Variable([], lambda z: z, (3,))
    fresh = inverter.Fresh({"w_plus": head}, (4, 5), like)
    want = code.noise((4, 5), (6, 3), "prior").double().mean(1)
    for _ in range(2):  # whatever was drawn before
        torch.testing.assert_close(fresh.mean(6)["w_plus"], want)
        assert fresh.next("w_plus").shape == (2, 1, 3)


def test_jitter_fades_and_is_gone_after_three_quarters():
    fresh = inverter.Fresh({}, (4,), torch.zeros(1).double())
    moved = lambda t: fresh.jittered({"w": torch.zeros(1, 10_000).double()}, {"w": 3.0}, t)["w"]  # noqa: E731
    spread = [float(moved(t).std()) for t in (0, 0.375, 0.75, 1)]
    np.testing.assert_allclose(spread, [3, 3 / 4, 0, 0], rtol=0.05)


def test_pulse_stays_on_its_spheres():
    m = gan("pulse").with_(steps=5)
    five = replace(RECIPES["pulse"].free["noise"], first=1)
    few = replace(RECIPES["pulse"], free=RECIPES["pulse"].free | {"noise": five})
    c = m.with_(recipe=few).encode(pictures(), seeds=[1, 2])
    gens = [code.generator(s, "start") for s in (1, 2)]
    v = torch.stack([torch.randn(4, 8, generator=g) for g in gens]).double()
    maps = [
        torch.stack([torch.randn(1, r, r, generator=g) for g in gens]).double() for r in (4, 8, 8)
    ]
    got = m.generator.statistics.gaussianise(c["w_plus"])
    torch.testing.assert_close(got.norm(dim=2), v.norm(dim=2))
    torch.testing.assert_close(c.flat("noise_0").norm(dim=1), maps[0].flatten(1).norm(dim=1))
    assert not torch.equal(c["noise_0"], maps[0]) and torch.equal(c["noise_1"], maps[1])
    assert float(c["noise_2"].abs().max()) == 0


def test_the_sphere_of_sphinx_pulse_lies_under_its_heads():
    recipe = replace(RECIPES["sphinx_pulse"], draws=1)
    c = gan(recipe).with_(steps=2).encode(pictures())
    v = GENERATOR.statistics.gaussianise(c["w_plus"])
    torch.testing.assert_close(v.square().mean(2), torch.ones(2, 4).double())


def test_a_loss_that_is_not_finite_stops_with_step_and_image():
    m, x, looks = gan("w"), pictures(), []

    def bad(images):
        looks.append(0)
        scale = torch.ones(2, 1, 1, 1).double()
        scale[1] = float("nan") if len(looks) == 4 else 1
        return images * scale

    with pytest.raises(FloatingPointError, match=r"image 1 \(seed 7\) is nan at step 3"):
        m.with_(operator=bad).restore(x, seeds=[6, 7])


def test_passes_are_counted_and_foretold():
    for m in (gan("w"), gan("sphinx"), big()):
        m = m.with_(steps=27)
        g, e = m.generator, m.evaluations
        before = g.forwards, g.backwards
        m.encode(pictures(1))
        assert (g.forwards - before[0], g.backwards - before[1]) == tuple(e.values())
    assert e == {"forward": 64 + 28, "backward": 27}


def test_intermediate_states_can_be_watched_even_without_gradients():
    m, x = gan("w_plus").with_(steps=10), pictures()
    with torch.no_grad():
        states = list(m.walk(x, every=4))
    assert [s.step for s in states] == [0, 4, 8, 10]
    assert states[1].images.shape == x.shape and not states[1].images.requires_grad
    assert float(states[-1].best.sum()) < float(states[0].best.sum())
    assert set(states[0].terms) == {"mse"}


@pytest.mark.parametrize("recipe", STYLED)
def test_every_recipe_runs_lowers_its_loss_and_gives_a_code_that_decodes(recipe):
    m, x = gan(recipe, double=False).with_(steps=6), pictures(1).float()
    if RECIPES[recipe].best_of > 1:
        m = m.with_(recipe=replace(RECIPES[recipe], best_of=2))
    first, *_, last = m.walk(x)
    c = m.code(last.parts, (0,))
    assert m.decode(c).shape == x.shape and m.decode(c).dtype == torch.float32
    assert float(last.best) <= float(first.best)
    prior = m.prior(2)
    assert set(m.inputs) <= set(c.tensors) and m.decode(prior).shape == (2, 3, 8, 8)
    if recipe != "pulse":  # which holds some maps
        assert sum(v[0].numel() for v in c.tensors.values()) == round(m.dof_per_value * 192)


def test_lpips_can_be_descended_and_the_judge_cannot():
    m, x = gan("xl", double=False).with_(steps=6, perceptual="lpips"), pictures(1).float()
    first, *_, last = m.walk(x)
    assert set(last.terms) == {"perceptual"} and float(last.best) < float(first.loss)
    with pytest.raises(ValueError, match="EfficientNet-Lite0.*never descended"):
        m.with_(perceptual="efficientnet-lite0")
    own = m.with_(perceptual=lambda target: lambda x: (x - target).abs().mean((1, 2, 3)))
    assert float(own.encode(x)["w"].std()) > 0


def test_conditional_networks_start_at_their_mixture_of_classes():
    m, p = conditional("xl"), torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]).double()
    centres = m.generator.statistics.centres
    first = next(iter(m.with_(probabilities=lambda x: p).walk(pictures())))
    torch.testing.assert_close(first.parts["w"], p @ centres)
    first = next(iter(m.walk(pictures())))
    torch.testing.assert_close(first.parts["w"], centres.mean(0).expand(2, -1))
    z = conditional(replace(RECIPES["z"], best_of=1)).with_(steps=2)
    c = z.encode(pictures())
    assert c["y"].shape == (2, 3) and z.decode(z.prior(2)).shape == (2, 3, 8, 8)
    b = big().with_(steps=1, probabilities=lambda x: p)
    first = next(iter(b.walk(pictures())))
    torch.testing.assert_close(first.parts["e"], p @ b.generator.net.shared.weight)


@pytest.mark.parametrize(
    "family, recipe",
    [("generator", "sphinx"), ("xl", "xl"), ("xl", "sphinx_style"), ("xl", "z")]
    + [("big", "biggan"), ("deep", "biggan")],
)
def test_every_family_is_inverted(family, recipe):
    """StyleGAN2, StyleGAN-XL, BigGAN and BigGAN-deep by one loop."""
    net = getattr(files, family)()
    make = embedded if recipe == "biggan" else styled
    few = replace(RECIPES[recipe], best_of=min(2, RECIPES[recipe].best_of))
    m = GAN(make(net), recipe=few, steps=4)
    x = torch.zeros(2, 3, m.size, m.size)
    first, *_, last = m.walk(x)
    assert bool((last.best <= first.best).all()) and m.dof_per_value > 0
    assert m.decode(m.prior(2)).shape == m.decode(m.code(last.parts)).shape == x.shape


def test_biggan_stays_within_two_deviations():
    m = big()
    fast = {"z": Free(0.5, "constant", "sample", after="clamp"), "e": Free(0.01, "constant")}
    c = m.with_(recipe=Recipe(fast, {"mse": 1.0}, 10, best_of=2)).encode(pictures())
    assert float(c["z"].abs().max()) <= 2 and c.geometry == {"z": "sphere", "e": "flat"}
    assert m.dof_per_value == pytest.approx((8 + 4) / 192)


OPERATORS = {
    "identity": lambda x: x,
    "grayscale": images.grayscale,
    "box": lambda x: images.white_box(x, 4),
    "downsample": lambda x: images.downsample(x, 2),
    "bicubic": lambda x: images.bicubic(x, 2),
}


@pytest.mark.parametrize("task", OPERATORS)
def test_an_image_is_restored_from_its_measurement(task):
    """What `restore` knows is the measurement alone; `encode` measures for itself."""
    A = OPERATORS[task]
    m, x = gan("w_plus").with_(steps=20, operator=A), pictures()
    c = m.restore(A(x), seeds=[0, 1])
    torch.testing.assert_close(c["w_plus"], m.encode(x)["w_plus"])
    start = (A(m.decode(m.code({"w": m.generator.statistics.mean.expand(2, -1)}))) - A(x)).square()
    assert float((A(m.decode(c)) - A(x)).square().mean()) < float(start.mean())


def test_gan_round_trips_like_a_diffusion_model():
    m, x = gan("w").with_(steps=5), pictures()
    r = round_trip(m, x)
    assert (r["up"], r["down"]) == (6 + 5, 1) and r["psnr"].shape == (2,)
    torch.testing.assert_close(m.decode(r["code"].select([1])), r["images"][1:])


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"recipe": "sphynx"}, "unknown recipe 'sphynx'; known: z, w"),
        ({"recipe": "biggan"}, "no space e; it has z, w, w_plus, noise, content"),
        ({"steps": 0}, "1 or more"),
        ({"dtype": torch.float16}, "float32 or float64"),
    ],
)
def test_a_wrong_setting_is_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        gan().with_(**wrong)


def test_a_code_of_another_system_is_refused():
    with pytest.raises(ValueError, match="no input semantic; it has z, w"):
        GENERATOR({"semantic": torch.zeros(1, 8)})


def test_z_alone_inverts_a_conditional_network_with_the_mean_embedding():
    m = big().with_(recipe="z", steps=4)
    code = m.encode(pictures(2))
    assert set(code.tensors) == {"z"}
    e = m.generator.centres.mean(0, keepdim=True).expand(2, -1)
    with torch.no_grad():
        want = m.generator.net.synthesise(code["z"], e)
    torch.testing.assert_close(m.decode(code), want)
