"""StyleGAN2's classes against plain functions of the state dict; its three official layouts against
each other; its official sizes.
"""

import pytest
import torch

import gan_files as files
from difftools import official, pickles
from difftools.nets import stylegan2
from oracle import gan_layouts as layouts

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(got, want):
    """Equal to 1e-4 of the values' own spread."""
    assert float(want.std()) > 0.01
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.std()))


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("channels", [(6,), (12, 8, 6), (16, 12, 8, 4)])
def test_generator_against_the_layout(channels, clamp):
    """Asymmetric filters, biases and noise everywhere; every row of w+ different."""
    net = stylegan2.StyleGAN2(channels, z=10, w=7, layers=3, clamp=clamp)
    state = files.shake(net, filters=True).state_dict()
    ws = randn(3, net.num_ws, 7)
    close(net.synthesise(ws), layouts.synthesis(state, ws, clamp=clamp))
    maps, content = net.noise([1, 2, 3]), randn(3, *net.content_shape, seed=4)
    want = layouts.synthesis(state, ws, maps, content, clamp)
    close(net.synthesise(ws, maps, content), want)
    assert not torch.allclose(want, layouts.synthesis(state, ws, clamp=clamp))


def test_mapping_and_truncation_against_the_formula():
    net = files.generator()
    z, state = 5 * randn(4, 10), net.state_dict()
    for psi in (1.0, 0.7, 0.0):
        close(net.mapping(z, psi), layouts.mapping(state, z, psi=psi).clone())
        w = layouts.mapping(state, z, psi=psi)
        close(net(z, psi), layouts.synthesis(state, w[:, None].repeat(1, 6, 1)))
    torch.testing.assert_close(net.mapping(z), net.mapping(3 * z))  # its input is normalised


@pytest.mark.parametrize("head", ["flat", "sum"])
@pytest.mark.parametrize("batch, group", [(8, 4), (2, 4), (6, 3)])
def test_discriminator_against_the_layout(head, batch, group):
    net = stylegan2.Discriminator((12, 8, 6), head, group, clamp=0.9)
    state = files.shake(net, filters=True).state_dict()
    x = randn(batch, 3, 16, 16)
    close(net(x), layouts.discriminator(state, x, group, clamp=0.9))


def test_a_real_number_of_pictures_fills_the_groups():
    with pytest.raises(ValueError, match="batch of 6.*multiple of the group of 4"):
        files.critic()(randn(6, 3, 16, 16))


def test_gradients_reach_every_input_of_an_inversion():
    """w+, content and noise maps, one random direction in each, against central differences."""
    net = files.generator(channels=(4, 3)).double()
    at = [randn(1, 4, 7), randn(1, 4, 4, 4, seed=1), *net.noise([1])]
    at = [v.double().requires_grad_() for v in at]
    run = lambda ws, content, *maps: net.synthesise(ws, maps, content).sin().sum()  # noqa: E731
    slopes = torch.autograd.grad(run(*at), at)
    for i, slope in enumerate(slopes):
        step = 1e-6 * randn(*slope.shape, seed=7).double()
        with torch.no_grad():
            ends = [float(run(*at[:i], at[i] + k * step, *at[i + 1 :])) for k in (1, -1)]
        want = float(slope.mul(step).sum())
        assert (ends[0] - ends[1]) / 2 == pytest.approx(want, rel=1e-4) and want != 0


def test_noise_comes_from_each_sample_s_seed():
    net = files.generator()
    a, b = net.noise([3, 8]), net.noise([8])
    assert [tuple(v.shape[1:]) for v in a] == net.noise_shapes
    assert all(torch.equal(u[1:], v) for u, v in zip(a, b, strict=True))
    ws = randn(1, 7)
    torch.testing.assert_close(net.synthesise(ws, net.constants()), net.synthesise(ws))
    off = [torch.zeros_like(v) for v in b]
    assert not torch.allclose(net.synthesise(ws, off), net.synthesise(ws))


def test_a_batch_is_its_samples():
    net, z = files.generator(), randn(3, 10)
    maps = net.noise([1, 2, 3])
    each = [net(z[i : i + 1], noise=[m[i : i + 1] for m in maps]) for i in range(3)]
    torch.testing.assert_close(net(z, noise=maps), torch.cat(each), **CLOSE)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"w": (2, 9)}, r"given w \(2, 9\), expected \(B, 7\)"),
        ({"w": (2, 5, 7)}, "expected"),
        ({"noise": 4}, "given 4 noise maps, expected 5"),
        ({"noise": (3, 1, 4, 4)}, "noise map 0"),
        ({"content": (1, 12, 8, 8)}, "given content"),
    ],
)
def test_a_wrong_shape_is_named(given, message):
    net = files.generator()
    noise = given.get("noise")
    noise = [None] * noise if isinstance(noise, int) else noise and [torch.ones(noise)] + [None] * 4
    content = given.get("content") and torch.ones(given["content"])
    with pytest.raises(ValueError, match=message):
        net.synthesise(torch.ones(given.get("w", (2, 7))), noise, content)


def loaded(found, config=files.TINY):
    """The class under a file's weights, strict, with the file's own configuration."""
    net = stylegan2.StyleGAN2(**pickles.configuration(found) | {"channels": config["channels"]})
    state = pickles.stylegan2(found, config)
    want = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert official.misfits(state, want) == []
    net.load_state_dict(state)
    return net.eval()


def test_three_layouts_of_the_same_weights_give_the_same_pictures(tmp_path):
    G, z = files.generator(1), randn(4, 10)
    want = layouts.synthesis(
        G.state_dict(), layouts.mapping(G.state_dict(), z, psi=0.8)[:, None].repeat(1, 6, 1)
    )
    found = {
        "NVIDIA": pickles.read(files.nvidia(tmp_path / "a.pkl", G)),
        "TensorFlow": pickles.read(files.tensorflow(tmp_path / "b.pkl", G)),
        "TensorFlow, alone": pickles.read(files.tensorflow(tmp_path / "c.pkl", G, alone=True)),
        "rosinality": official.read(files.rosinality(tmp_path / "d.pt", G)),
    }
    for name, f in found.items():
        with torch.no_grad():
            close(loaded(f)(z, 0.8), want)
        config = pickles.configuration(f)
        assert config == files.TINY | {"channels": [12, 8, 6], "lr": 0.01, "clamp": None}, name


def test_critics_of_two_layouts_give_the_same_numbers(tmp_path):
    D, x = files.critic(), randn(4, 3, 16, 16)
    for f in (
        pickles.read(files.nvidia(tmp_path / "a.pkl", D=D)),
        official.read(files.rosinality(tmp_path / "b.pt", D=D)),
    ):
        net = stylegan2.Discriminator(**files.CRITIC)
        net.load_state_dict(pickles.stylegan2_critic(f, files.CRITIC))
        close(net(x).detach(), layouts.discriminator(D.state_dict(), x))


def test_the_lower_sizes_of_a_larger_file_are_its_running_picture(tmp_path):
    """What SPHInX does with the 1024 px file: the 8 px picture of the 16 px generator."""
    G = files.generator(1)
    found = official.read(files.rosinality(tmp_path / "a.pt", G))
    small = loaded(found, files.TINY | {"channels": (12, 8)})
    state = {k: v for k, v in G.state_dict().items() if ".b16." not in k}
    ws = randn(2, 4, 7)
    close(small.synthesise(ws).detach(), layouts.synthesis(state, ws))


SIZES = {  # published, or counted on the official classes
    "config-f, 1024 px": (stylegan2.FFHQ1024, stylegan2.StyleGAN2, 30_370_060),
    "paper256": (stylegan2.FFHQ256, stylegan2.StyleGAN2, 24_767_458),
    "config-f's widths, 256 px": (
        {"channels": stylegan2.widths(256)},
        stylegan2.StyleGAN2,
        30_034_338,
    ),
    "critic, 1024 px": ({"channels": stylegan2.widths(1024)}, stylegan2.Discriminator, 29_012_513),
    "critic, paper256": (
        {"channels": stylegan2.widths(256, 16384)},
        stylegan2.Discriminator,
        24_001_089,
    ),
    "sibling": (stylegan2.SMALL32, stylegan2.StyleGAN2, 1_962_595),
    "sibling's critic": (stylegan2.SMALL32_CRITIC, stylegan2.Discriminator, 1_751_089),
}


@pytest.mark.parametrize("name", SIZES)
def test_configurations_have_the_official_size(name):
    config, cls, parameters = SIZES[name]
    with torch.device("meta"):
        net = cls(**config)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_config_f_s_count_from_its_widths():
    """The same number by arithmetic alone."""
    c = [512, 512, 512, 512, 512, 256, 128, 64, 32]
    mapping = 8 * (512 * 512 + 512)
    # style, weight, bias, strength of noise; style, weight, bias
    styled = lambda i, o: (512 * i + i) + 9 * i * o + o + 1  # noqa: E731
    rgb = lambda i: (512 * i + i) + 3 * i + 3  # noqa: E731
    total = mapping + 512 * 16 + sum(styled(v, v) + rgb(v) for v in c)
    total += sum(styled(i, o) for i, o in zip(c, c[1:], strict=False))
    assert total == 30_370_060


def test_latents_and_noise_of_the_official_sizes():
    with torch.device("meta"):
        big = stylegan2.StyleGAN2(**stylegan2.FFHQ1024)
        mid = stylegan2.StyleGAN2(**stylegan2.FFHQ256)
    assert (big.size, big.num_ws, len(big.noise_shapes)) == (1024, 18, 17)
    assert (mid.size, mid.num_ws, len(mid.noise_shapes)) == (256, 14, 13)
    assert mid.noise_shapes[:3] == [(1, 4, 4), (1, 8, 8), (1, 8, 8)]
