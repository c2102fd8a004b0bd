"""Training of GANs: the pieces by their formulas, the loop by its properties; tiny networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from difftools import weights
from difftools.nets import biggan, projected, stylegan2
from difftools.train import gan, ship

TINY = gan.Recipe(images=48, batch=4, gamma=0.1, ema=100)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=3, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=generator(seed)) * 2 - 1


def build():
    g = stylegan2.StyleGAN2((8, 6), z=4, w=6, layers=2)
    return gan.Pair({"g": g, "d": stylegan2.Discriminator((8, 6), head="sum")})


def build_normed():
    g = biggan.BigGAN((8, 6), z=4, shared=3, classes=2)
    return gan.normalised(gan.Pair({"g": g, "d": biggan.Critic((8,), 2)}))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), rng.integers(0, 2, 20)


def test_augmentation_is_colour_a_shift_and_a_hole():
    """Each image again, by its own random numbers, one operation at a time."""
    x, got = pictures(6), gan.augment(pictures(6), generator(3))
    u = torch.rand(6, 7, generator=generator(3))
    for image, v, out in zip(x, u, got, strict=True):
        image = image + v[0] - 0.5
        grey = image.mean(0)
        image = torch.stack([grey + 2 * v[1] * (c - grey) for c in image])
        image = image.mean() + (0.5 + v[2]) * (image - image.mean())
        dy, dx = int(5 * v[3]) - 2, int(5 * v[4]) - 2  # up to an eighth of 16 either way
        cy, cx = int(17 * v[5]), int(17 * v[6])
        want = torch.zeros_like(image)
        for i in range(16):
            for j in range(16):
                inside = 0 <= i + dy < 16 and 0 <= j + dx < 16
                hole = -4 <= i - cy < 4 and -4 <= j - cx < 4
                if inside and not hole:
                    want[:, i, j] = image[:, i + dy, j + dx]
        torch.testing.assert_close(out, want)


def test_augmentation_lets_gradients_through():
    x = pictures().requires_grad_()
    gan.augment(x, generator()).square().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_scipy_s(sigma):
    x = pictures(2).double()
    radius = int(np.ceil(3 * sigma))
    settings = {"mode": "nearest", "radius": (0, 0, radius, radius)}
    want = gaussian_filter(x.numpy(), (0, 0, sigma, sigma), **settings)
    np.testing.assert_allclose(gan.smooth(x, sigma).numpy(), want, rtol=1e-9, atol=1e-12)
    assert gan.smooth(x, 0.0) is x


def test_losses_at_known_logits():
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 1.0])
    assert float(gan.critic_loss("hinge", real, fake)) == pytest.approx(0.25 + 1.0)
    assert float(gan.generator_loss("hinge", fake)) == pytest.approx(1.0)
    zero = torch.zeros(2)
    assert float(gan.critic_loss("logistic", zero, zero)) == pytest.approx(2 * np.log(2))
    assert float(gan.generator_loss("logistic", zero)) == pytest.approx(np.log(2))


def test_folding_spectral_norm_leaves_the_function_and_the_norm_is_one():
    torch.manual_seed(0)
    pair = build_normed()
    for _ in range(200):  # power iterations
        pair.make(torch.randn(4, 4), torch.tensor([0, 1, 0, 1]), generator())
    pair.eval()
    plain = biggan.BigGAN((8, 6), z=4, shared=3, classes=2).eval()
    plain.load_state_dict(gan.folded(pair["g"]))
    z, y = torch.randn(3, 4), torch.tensor([0, 1, 1])
    torch.testing.assert_close(plain(z, y), pair["g"](z, y))
    norm = torch.linalg.matrix_norm(plain.blocks[0][0].conv1.weight.flatten(1), 2)
    assert norm.item() == pytest.approx(1, abs=1e-3)


def test_statistics_of_a_finished_biggan_are_those_of_its_own_weights():
    torch.manual_seed(0)
    trained = build_normed()["g"]
    g = gan.finished(biggan.BigGAN((8, 6), z=4, shared=3, classes=2), trained)
    norm, seen = g.output_layer[0], []
    norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    g(torch.randn(4000, 4), torch.randint(2, (4000,)))
    torch.testing.assert_close(norm.stored_mean, seen[0].mean((0, 2, 3)), rtol=0.05, atol=0.05)
    torch.testing.assert_close(norm.stored_var, seen[0].var((0, 2, 3)), rtol=0.15, atol=0.05)


@pytest.mark.parametrize("build", [build, build_normed])
def test_an_interrupted_run_equals_an_uninterrupted_one(build, images, tmp_path, monkeypatch):
    whole, _ = gan.fit(TINY, build, *images, tmp_path / "one", save_every=4)
    real, count = gan.critic_loss, iter(range(100))

    def stops(*args):
        if next(count) == 6:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(gan, "critic_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        gan.fit(TINY, build, *images, tmp_path / "two", save_every=4)
    monkeypatch.setattr(gan, "critic_loss", real)
    resumed, facts = gan.fit(TINY, build, *images, tmp_path / "two", save_every=4)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert [row[0] for row in facts["loss"]] == [16, 32, 48]
    kept = sorted(f.name for f in (tmp_path / "two").glob("snapshot-*"))
    assert kept[-1] == "snapshot-00000048.pt"
    (*_, (n, last)) = gan.snapshots(build()["g"], tmp_path / "two")
    assert n == 48
    for a, b in zip(last.parameters(), resumed["g"].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)  # kept in float16


def test_a_checkpoint_of_another_recipe_is_refused(images, tmp_path):
    gan.fit(TINY, build, *images, tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        gan.fit(replace(TINY, seed=1), build, *images, tmp_path)


def test_training_teaches_the_mean_colour(images, tmp_path):
    """A sanity check of signs: against all-red pictures the generator turns red."""
    red = np.zeros_like(images[0])
    red[..., 0] = 255
    recipe = gan.Recipe(images=1600, batch=8, ema=100)
    pair, _ = gan.fit(recipe, build, red, images[1], tmp_path)
    with torch.no_grad():
        mean = pair["g"](torch.randn(16, 4, generator=generator())).mean((0, 2, 3))
    assert mean[0] > mean[1] + 0.5 and mean[0] > mean[2] + 0.5


def test_the_projected_critic_s_eyes_are_frozen():
    torch.manual_seed(0)
    d = gan.normalised(projected.ProjectedCritic(projected.Features(), 4, width=8)).train()
    before = {k: v.clone() for k, v in d.features.state_dict().items()}
    x = pictures(4, 32).requires_grad_()
    logits = d(x, torch.arange(4))
    assert logits.shape == (4, 4 * 4)  # four heads, 2 × 2 places each
    logits.sum().backward()
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for k, p in d.named_parameters() if not k.startswith("heads"))
    after = d.features.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_critics_tell_classes_apart():
    torch.manual_seed(0)
    d, x = biggan.Critic((8, 6), 3), pictures(1, 16)
    a, b = d(x, torch.tensor([0])), d(x, torch.tensor([2]))
    assert a.shape == (1, 1) and float(a) != float(b)


def test_flat_means_that_the_last_fifth_gained_less_than_half_an_interval():
    point = lambda n, v: {"images": n, "kid": {"value": v, "low": v - 0.02, "high": v + 0.02}}  # noqa: E731
    assert ship.flat([point(40, 0.5), point(80, 0.31), point(100, 0.3)])
    assert not ship.flat([point(40, 0.5), point(80, 0.35), point(100, 0.3)])
    assert not ship.flat([point(100, 0.3)])


def test_the_deviation_within_a_class():
    x, y = pictures(6, 4).double(), torch.tensor([0, 1, 0, 2, 1, 0])
    out = projected.class_deviation(x, y)
    assert out.shape == (6, 4, 4, 4) and torch.equal(out[:, :3], x)
    for label in (0, 1, 2):
        want = x[y == label].var(0, unbiased=False).sqrt().mean()
        torch.testing.assert_close(
            out[y == label, 3], want.expand_as(out[y == label, 3]), rtol=1e-4, atol=2e-4
        )


def test_packed_weights_come_back_within_half_a_step_and_small_ones_exactly():
    torch.manual_seed(0)
    state = stylegan2.StyleGAN2((16, 12), z=32, w=40, layers=2).state_dict()
    back = weights.unpacked(ship.packed(state))
    assert back.keys() == state.keys()
    for k, v in state.items():
        if v.ndim < 2 or v.numel() < 1000:  # among them the low-pass filters
            assert torch.equal(back[k], v)
        else:
            step = v.flatten(1).abs().amax(1) / 127
            assert ((back[k] - v).flatten(1).abs().amax(1) <= 0.501 * step).all()
            assert ship.packed(state)[k].dtype == torch.int8
