"""The two few-shot rivals: their losses against plain numpy, what they leave alone, what they
carry over, and that they move towards the shots.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from difftools import fewshot as fs
from difftools.nets.stylegan2 import Discriminator, StyleGAN2

TINY = {"channels": (8, 6, 4), "z": 6, "w": 5, "layers": 2}  # 16 px, 6 rows of w+
OJHA = replace(fs.OJHA, steps=3, patch=8)
LEARNER = replace(fs.LATENT_LEARNER, chains=2, samples=4, iterations=2, batch=4, lr=5e-3)


@pytest.fixture
def g():
    torch.manual_seed(0)
    net = StyleGAN2(**TINY)
    for conv in net.synthesis.convs():  # so that a wrong noise map would show
        torch.nn.init.constant_(conv.noise_strength, 0.1)
    return net.eval().requires_grad_(False)


@pytest.fixture
def d():
    torch.manual_seed(1)
    return Discriminator(TINY["channels"], head="sum").eval().requires_grad_(False)


@pytest.fixture
def shots():
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1


def red(n):
    return torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(n, 3, 16, 16).contiguous()


def maps(x):
    """Feature maps of a fixed network: the picture and its edges, at two sizes."""
    small = torch.nn.functional.avg_pool2d(x, 2)
    return [torch.cat([x, x.diff(dim=3, append=x[..., :1])], 1), small]


def weights(*nets):
    return {
        f"{i}.{k}": v.clone() for i, net in enumerate(nets) for k, v in net.state_dict().items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def activations(g, z):
    out = []
    images = g.synthesise(g.mapping(z), activations=out)
    return images, out


def test_a_generator_shows_its_activations_and_draws_the_same_images(g):
    z = torch.randn(3, 6)
    images, out = activations(g, z)
    assert torch.equal(images, g(z))
    assert [tuple(v.shape) for v in out] == [
        (3, 8, 4, 4), (3, 6, 8, 8), (3, 6, 8, 8), (3, 4, 16, 16), (3, 4, 16, 16)
    ]  # fmt: skip


def test_a_critic_stops_at_the_map_that_is_asked_for(d):
    x = torch.randn(2, 3, 16, 16)
    every = d.features(x)
    assert [v.shape[-1] for v in every] == [8, 4]
    assert torch.equal(d.features(x, 8)[-1], every[0])


def test_distance_consistency_is_that_of_plain_numpy():
    rng = np.random.default_rng(0)
    source, target = ([rng.normal(size=(4, 3, 2, 2)) for _ in range(3)] for _ in range(2))
    layers = [2, 0, 0, 1]

    def law(features, i):
        h = features[layers[i]].reshape(4, -1)
        h = h / np.linalg.norm(h, axis=1, keepdims=True)
        return softmax(np.delete(h @ h[i], i))

    expected = sum(entropy(law(source, i), law(target, i)) for i in range(4)) / (4 * 3)
    as_torch = ([torch.from_numpy(v) for v in vs] for vs in (source, target))
    assert fs.distance_consistency(*as_torch, torch.tensor(layers)).item() == pytest.approx(
        expected
    )


def test_distance_consistency_and_its_slope_vanish_at_the_source_and_only_there(g):
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    layers = torch.tensor([1, 2, 3, 4])
    with torch.no_grad():
        _, before = activations(g, z)
    for shift, least in ((0.0, 0.0), (0.3, 1e-6)):
        moved = StyleGAN2(**TINY)
        moved.load_state_dict(g.state_dict())
        torch.nn.init.normal_(moved.mapping.fc0.bias, std=100 * shift) if shift else None
        _, after = activations(moved, z)
        value = fs.distance_consistency(before, after, layers)
        value.backward()
        slope = max(p.grad.abs().max() for p in moved.parameters() if p.grad is not None)
        if shift:
            assert value > least and slope > least
        else:
            assert abs(value.item()) < 1e-7 and slope < 1e-6


def test_penalties_of_linear_functions_are_known():
    a, n = torch.randn(3, 4, 4), 2
    x = torch.randn(n, 3, 4, 4, requires_grad=True)
    assert fs.r1((x * a).sum((1, 2, 3)), x).item() == pytest.approx(
        float(a.square().sum()), rel=1e-5
    )
    J, y = torch.randn(10, 48), torch.randn(n, 3, 4, 4)
    w = torch.randn(n, 2, 5, requires_grad=True)
    image = (w.flatten(1) @ J).reshape(n, 3, 4, 4)
    expected = (y.flatten(1) @ J.T).norm(dim=1) / np.sqrt(2)
    torch.testing.assert_close(fs.path_lengths(image, w, y), expected)


def test_gram_and_style_loss_have_their_closed_form():
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    gram = lambda v: v.reshape(3, 16).numpy() @ v.reshape(3, 16).numpy().T / (3 * 16)
    np.testing.assert_allclose(fs.grams([x])[0][1], gram(x[1]), rtol=1e-5)
    expected = [np.mean((gram(x[i]) - gram(y[i])) ** 2) for i in range(2)]
    np.testing.assert_allclose(fs.style_loss([x], fs.grams([y])), expected, rtol=1e-5)


def test_ojha_keeps_its_source_and_the_global_stream_and_obeys_its_seed(g, d, shots):
    before, state = weights(g, d), torch.random.get_rng_state()
    steps = []
    one = fs.ojha(g, d, shots, OJHA, watch=lambda i, losses, average: steps.append((i, losses)))
    assert same(before, weights(g, d)) and torch.equal(state, torch.random.get_rng_state())
    assert [i for i, _ in steps] == [0, 1, 2] and "r1" in steps[0][1] and "r1" not in steps[1][1]
    assert steps[0][1]["consistency"] == pytest.approx(0, abs=1e-7)
    assert type(one) is StyleGAN2 and not any(p.requires_grad for p in one.parameters())
    assert same(weights(one), weights(fs.ojha(g, d, shots, OJHA)))
    assert not same(weights(one), weights(fs.ojha(g, d, shots, OJHA, seed=1)))


def test_ojha_regularises_path_lengths_if_asked(g, d, shots):
    losses = []
    recipe = replace(OJHA, path=2.0)
    fs.ojha(g, d, shots, recipe, watch=lambda i, found, average: losses.append(found))
    assert losses[0]["path"] > 0 and "path" not in losses[1]


def test_ojha_moves_towards_red_shots(g, d):
    z = torch.randn(16, 6, generator=torch.Generator().manual_seed(4))
    recipe = replace(OJHA, steps=40, ema=5.0, lr=1e-2, gamma=0.1)
    far = lambda net: (net(z).mean((2, 3)) - red(1).mean((2, 3))).norm(dim=1).mean()
    assert far(fs.ojha(g, d, red(4), recipe)) < 0.7 * far(g)


def test_ojha_stops_at_a_loss_that_is_no_number(g, d, shots):
    with pytest.raises(RuntimeError, match="is nan at step"):
        fs.ojha(g, d, shots, replace(OJHA, lr=1e30))


def test_latent_learner_keeps_all_networks_and_gives_images_of_its_codes(g, d, shots):
    before, state = weights(g, d), torch.random.get_rng_state()
    images, w_plus = fs.latent_learner(g, d, maps, shots, 11, LEARNER)
    assert same(before, weights(g, d)) and torch.equal(state, torch.random.get_rng_state())
    assert images.shape == (11, 3, 16, 16) and w_plus.shape == (11, 6, 5)
    torch.testing.assert_close(images, g.synthesise(w_plus))
    again, _ = fs.latent_learner(g, d, maps, shots, 11, LEARNER)
    other, _ = fs.latent_learner(g, d, maps, shots, 11, LEARNER, seed=1)
    assert torch.equal(images, again) and not torch.allclose(images, other)


def test_episodes_side_by_side_are_the_episodes_one_by_one(g, d, shots):
    gens = lambda *seeds: [torch.Generator().manual_seed(s) for s in seeds]
    state = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(5))
    run = lambda i, *seeds: fs.episode(g, d, maps, shots, state[i], gens(*seeds), LEARNER)
    together = run([0, 1, 2], 7, 8, 9)
    alone = torch.cat([run([i], 7 + i) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


def test_batched_layers_are_the_layers_of_each_episode():
    layers = fs.mlps([torch.Generator().manual_seed(s) for s in (0, 1)], 5)
    a, b = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 6, 5)
    got = fs.learned(layers, a, b)
    for e in range(2):
        x = torch.cat([a[e], b[e]], -1).numpy()
        for i in (0, 2, 4):
            x = (np.where(x > 0, x, 0.01 * x) if i else x) @ layers[i][e].numpy()
            x = x + layers[i + 1][e].numpy()
        np.testing.assert_allclose(got[e], x, rtol=1e-4, atol=1e-5)


def test_an_episode_starts_from_the_output_of_the_one_before(g, d, shots, monkeypatch):
    given, found, real = [], [], fs.episode

    def seen(g, d, maps, shots, target, *rest):
        given.append(target)
        found.append(real(g, d, maps, shots, target, *rest))
        return found[-1]

    monkeypatch.setattr(fs, "episode", seen)
    _, w_plus = fs.latent_learner(g, d, maps, shots, 24, LEARNER)
    assert len(given) == 3 and torch.equal(given[1], found[0]) and torch.equal(given[2], found[1])
    assert abs(given[0].std() - 1) < 0.2
    torch.testing.assert_close(w_plus[8:16], found[1].flatten(0, 1))


def test_latent_learner_moves_towards_red_shots(g, d):
    recipe = replace(LEARNER, iterations=20, lr=1e-2, style=1.0)
    far = lambda x: (x.mean((2, 3)) - red(1).mean((2, 3))).norm(dim=1).mean()
    images, _ = fs.latent_learner(g, d, maps, red(4), 8, recipe)
    source = g(torch.randn(64, 6, generator=torch.Generator().manual_seed(4)))
    assert far(images) < 0.7 * far(source)


def test_latent_learner_stops_at_a_loss_that_is_no_number(g, d, shots):
    with pytest.raises(RuntimeError, match="iteration 0"):
        fs.latent_learner(g, d, lambda x: [x / 0], shots, 4, LEARNER)


@pytest.mark.parametrize(
    "broken, match",
    [
        (lambda x: x[:1], "at least 2"),
        (lambda x: x[..., :8, :8], "16, 16"),
        (lambda x: 127 * x, "values from"),
        (lambda x: x / 0 * 0, "NaN"),
        (lambda x: (x * 100).to(torch.uint8), "type"),
    ],
)
def test_bad_shots_are_refused_by_both(g, d, shots, broken, match):
    for call in (
        lambda x: fs.ojha(g, d, x, OJHA),
        lambda x: fs.latent_learner(g, d, maps, x, 4, LEARNER),
    ):
        with pytest.raises(ValueError, match=match):
            call(broken(shots))


def test_networks_that_do_not_fit_are_refused(g, d, shots):
    with pytest.raises(ValueError, match="without classes"):
        fs.ojha(StyleGAN2(**TINY, classes=2), d, shots, OJHA)
    with pytest.raises(ValueError, match="critic of 8 px"):
        fs.ojha(g, Discriminator((8, 6)), shots, OJHA)
    with pytest.raises(ValueError, match="patch map of 16"):
        fs.ojha(g, d, shots, replace(OJHA, patch=16))
    with pytest.raises(ValueError, match="n = 0"):
        fs.latent_learner(g, d, maps, shots, 0, LEARNER)


def test_official_numbers_are_the_published_ones():
    o, q = fs.OJHA_OFFICIAL, fs.LATENT_LEARNER_OFFICIAL
    assert (o.steps, o.batch, o.anchors, o.jitter, o.patch) == (5002, 4, 10, 0.1, 32)
    assert (o.consistency, o.lr, o.gamma, o.path, o.ema) == (1000, 2e-3, 10, 2, 312.5)
    assert (q.samples, q.iterations, q.batch, q.adversarial, q.style) == (10, 51, 8, 5, 50)
    assert q.lr == 5e-4
