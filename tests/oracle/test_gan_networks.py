"""The GANs' classes against plain functions of the state dict; official layouts against each other
and through their converters; official sizes.
"""

import json

import pytest
import torch

import gan_files as files
from difftools import official, pickles
from difftools.nets import biggan, biggan_deep, configs, stylegan2, stylegan_xl
from oracle import gan_layouts as layouts

IMAGENET16 = stylegan_xl.design((16,))
IMAGENET256 = stylegan_xl.design((16, 32, 64, 128, 256))

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
    "config-f, 1024 px": (configs.STYLEGAN2_FFHQ1024, stylegan2.StyleGAN2, 30_370_060),
    "paper256": (configs.STYLEGAN2_FFHQ256, stylegan2.StyleGAN2, 24_767_458),
    "config-f's widths, 256 px": (
        {"channels": configs.widths(256)},
        stylegan2.StyleGAN2,
        30_034_338,
    ),
    "critic, 1024 px": ({"channels": configs.widths(1024)}, stylegan2.Discriminator, 29_012_513),
    "critic, paper256": (
        {"channels": configs.widths(256, 16384)},
        stylegan2.Discriminator,
        24_001_089,
    ),
    "sibling": (configs.STYLEGAN2_VEHICLES32, stylegan2.StyleGAN2, 1_210_563),
    "sibling's critic": (configs.STYLEGAN2_CRITIC, stylegan2.Discriminator, 1_022_833),
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
        big = stylegan2.StyleGAN2(**configs.STYLEGAN2_FFHQ1024)
        mid = stylegan2.StyleGAN2(**configs.STYLEGAN2_FFHQ256)
    assert (big.size, big.num_ws, len(big.noise_shapes)) == (1024, 18, 17)
    assert (mid.size, mid.num_ws, len(mid.noise_shapes)) == (256, 14, 13)
    assert mid.noise_shapes[:3] == [(1, 4, 4), (1, 8, 8), (1, 8, 8)]


# --- StyleGAN-XL ----------------------------------------------------------------------------------


def clamped(config, clamp):
    return config | {"layers": [row | {"clamp": clamp} for row in config["layers"]]}


@pytest.mark.parametrize("clamp", [256.0, 0.7, None])
@pytest.mark.parametrize("sizes", [(8,), (8, 16)])
def test_stylegan_xl_against_the_layout(sizes, clamp):
    """Asymmetric filters, a user's transform, waves over the band; every row of w+ different."""
    settings = {k: files.XL[k] for k in ("z", "w", "classes", "embedding")}
    config = clamped(stylegan_xl.design(sizes, **files.LADDER, **settings), clamp)
    net = files.xl(config=config)
    ws = randn(2, net.num_ws, 7)
    want = layouts.xl_synthesis(net.state_dict(), config, ws)
    assert want.shape == (2, 3, sizes[-1], sizes[-1])
    close(net.synthesise(ws), want)
    close(net.double().synthesise(ws[:, 0].double()).float(), net.float().synthesise(ws[:, 0]))


def test_stylegan_xl_s_labels_and_truncation_against_the_formula():
    net, z, y = files.xl(), 5 * randn(3, 6), torch.tensor([4, 0, 4])
    state = net.state_dict()
    for psi in (1.0, 0.7, 0.0):
        w = layouts.xl_mapping(state, z, y, psi=psi)
        close(net.mapping(z, psi, y), w)
        close(net(z, psi, y), layouts.xl_synthesis(state, files.XL, w[:, None].repeat(1, 8, 1)))
    torch.testing.assert_close(net.mapping(z, 0.0, y), net.mapping.w_avg[y])  # the class's own
    weights = torch.eye(5)[y]
    torch.testing.assert_close(net.mapping(z, 0.7, weights), net.mapping(z, 0.7, y))
    free = files.xl(config=files.XL | {"classes": 0})
    close(free.mapping(z), layouts.xl_mapping(free.state_dict(), z, None))
    for given, labels in ((net, None), (free, y)):
        with pytest.raises(ValueError, match="classes was given labels"):
            given.mapping(z, y=labels)


def test_a_stylegan_xl_pickle_gives_the_layout_s_pictures(tmp_path):
    G, z, y = files.xl(1), randn(2, 6), torch.tensor([3, 1])
    w = layouts.xl_mapping(G.state_dict(), z, y, psi=0.8)[:, None].repeat(1, 8, 1)
    want = layouts.xl_synthesis(G.state_dict(), files.XL, w)
    found = pickles.read(files.dill(tmp_path / "a.pkl", G))
    config = pickles.stylegan_xl_configuration(found)
    net = stylegan_xl.StyleGANXL(**json.loads(json.dumps(config)))  # as the importer's note has it
    net.load_state_dict(pickles.stylegan_xl(found, config))
    close(net(z, 0.8, y), want)


def test_a_user_s_shift_moves_the_waves_by_whole_pixels():
    """A network at its start neither turns nor shifts them itself."""
    waves, w = stylegan_xl.Fourier(7, 6, size=20, rate=8, bandwidth=2.0), randn(1, 7)
    still = waves(w)
    waves.transform[:2, 2] = torch.tensor([1 / 8, -2 / 8])
    torch.testing.assert_close(waves(w)[..., 2:, :-1], still[..., :-2, 1:], **CLOSE)


OFFICIAL_LAYERS = """L0_36_1024 L1_36_1024 L2_36_1024 L3_36_1024 L4_36_1024 L5_36_1024 L6_36_1024
L7_36_1024 L9_36_1024 L10_52_1024 L11_52_1024 L12_52_1024 L13_52_1024 L14_52_1024 L15_84_1024
L16_84_1024 L17_84_1024 L18_84_1024 L19_84_1024 L20_148_1024 L21_148_861 L22_148_724 L23_148_609
L24_148_609 L25_276_512 L26_276_431 L27_276_362 L28_276_304 L29_276_256 L30_256_256 L31_256_3"""
STYLEGAN3_T = """L0_36_512 L1_36_512 L2_36_512 L3_52_512 L4_52_512 L5_84_512 L6_84_512 L7_148_362
L8_148_256 L9_148_181 L10_276_128 L11_276_91 L12_276_64 L13_256_64 L14_256_3"""
STYLEGAN3_R = """L0_36_1024 L1_36_1024 L2_36_1024 L3_52_1024 L4_52_1024 L5_84_1024 L6_84_1024
L7_148_724 L8_148_512 L9_148_362 L10_276_256 L11_276_181 L12_276_128 L13_256_128 L14_256_3"""


def test_the_ladder_s_layers():
    """StyleGAN3's published names at 256 px (its T and R differ in channels); StyleGAN-XL's rungs:
    11, 16, 21, 26, 31 layers, the first stage skips a number.
    """
    names = lambda config: [row["name"] for row in config["layers"]]  # noqa: E731
    t = stylegan_xl.design((256,), stem=14, base=16384, most=512)
    r = stylegan_xl.design((256,), stem=14, base=32768, most=1024)
    assert names(t) == STYLEGAN3_T.split() and names(r) == STYLEGAN3_R.split()
    ladder = (16, 32, 64, 128, 256)
    counts = [len(stylegan_xl.design(ladder[: i + 1])["layers"]) for i in range(5)]
    assert counts == [11, 16, 21, 26, 31]
    assert names(IMAGENET256) == OFFICIAL_LAYERS.split()
    assert json.loads(json.dumps(IMAGENET256)) == IMAGENET256


@pytest.mark.parametrize("sizes, stem, head", [((16,), 14, 7), ((16, 64), 10, 7), ((8, 64), 6, 5)])
def test_every_designed_layer_ends_where_the_next_begins(sizes, stem, head):
    """By arithmetic: what padding, filters and changes of rate leave of a side."""
    config = stylegan_xl.design(sizes, stem, head, base=64, most=4)
    side, rate, cin = config["fourier"]["size"], config["fourier"]["rate"], 4
    for row in config["layers"]:
        assert row["cin"] == cin
        side = (side + row["kernel"] - 1) * row["up"] + sum(row["padding"][:2])
        side = -(-(side - sum(row["taps"]) + 2) // row["down"])
        rate = rate * row["up"] / row["down"]
        assert side == int(row["name"].split("_")[1])
        cin = row["cout"]
    assert (side, rate, cin) == (sizes[-1], sizes[-1], 3)


# --- BigGAN ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncation", [1.0, 0.4, 0.43, 0.0])
def test_biggan_deep_against_the_layout(truncation, tmp_path):
    """Through its file, spectral norm folded; statistics between two rows, attention at 8 px."""
    source = files.biggan_deep_state(files.deep(1))
    found = official.read(files.torch_file(tmp_path / "a.bin", source))
    net = biggan_deep.BigGANDeep(**files.DEEP)
    net.load_state_dict(official.biggan_deep(found, files.DEEP))
    z, y = randn(3, 6), torch.tensor([3, 0, 2])
    e = source["embeddings.weight"].T[y]
    close(net(z, y, truncation), layouts.biggan_deep(source, z, e, truncation))
    torch.testing.assert_close(net.synthesise(z, e), net(z, torch.eye(4)[y]))


def test_biggan_against_the_layout(tmp_path):
    source = files.biggan_state(files.big(1))
    found = official.read(files.torch_file(tmp_path / "a.pth", source, old=False))
    net = biggan.BigGAN(**files.BIG)
    net.load_state_dict(official.biggan(found, files.BIG))
    z, y = randn(3, 9), torch.tensor([3, 0, 2])
    close(net.eval()(z, y), layouts.biggan(source, z, y))


def test_truncation_between_two_rows_is_linear():
    """The rows' own values on the grid, also where the quotient rounds below an integer (0.58)."""
    table = torch.arange(51.0)[:, None].square()
    got = torch.stack([biggan_deep.at(table, i / 50) for i in range(51)])
    torch.testing.assert_close(got, table)
    assert float(biggan_deep.at(table, 0.58)) == pytest.approx(29**2)
    assert float(biggan_deep.at(table, 0.595)) == pytest.approx(0.25 * 29**2 + 0.75 * 30**2)


@pytest.mark.parametrize(
    "shapes, truncation, message",
    [
        (((2, 5), (2, 6)), 1.0, r"given z and e \(\(2, 5\), \(2, 6\)\), expected \(B, 6\)"),
        (((2, 6), (1, 6)), 1.0, "for both"),
        (((2, 6), (2, 6)), 1.01, r"truncation 1.01, expected a number in \[0, 1\]"),
        (((2, 6), (2, 6)), -0.1, "truncation"),
    ],
)
def test_what_biggan_deep_cannot_take_is_named(shapes, truncation, message):
    with pytest.raises(ValueError, match=message):
        files.deep().synthesise(*(torch.ones(s) for s in shapes), truncation)


# --- all of them ----------------------------------------------------------------------------------

FAMILIES = {  # name -> (network, images of its inputs, inputs of a batch of 3)
    "StyleGAN-XL, w+": (files.xl, lambda net, w: net.synthesise(w), [(3, 8, 7)]),
    "StyleGAN-XL, w": (files.xl, lambda net, w: net.synthesise(w), [(3, 7)]),
    "StyleGAN-XL, z": (files.xl, lambda net, z: net(z, y=torch.ones(len(z), 5) / 5), [(3, 6)]),
    "BigGAN-deep, z and e": (files.deep, lambda net, z, e: net.synthesise(z, e), [(3, 6)] * 2),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_any_family_is_its_samples(name):
    make, render, shapes = FAMILIES[name]
    net, inputs = make(), [randn(*s, seed=i) for i, s in enumerate(shapes)]
    each = [render(net, *(v[i : i + 1] for v in inputs)) for i in range(3)]
    torch.testing.assert_close(render(net, *inputs), torch.cat(each), **CLOSE)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_any_family_reach_its_inputs(name):
    """One random direction against central differences."""
    make, render, shapes = FAMILIES[name]
    net = make().double()
    at = [randn(*s, seed=i).double()[:1].requires_grad_() for i, s in enumerate(shapes)]
    if name.endswith("z"):  # labels in double, too
        render = lambda net, z: net(z, y=torch.ones(len(z), 5).double() / 5)  # noqa: E731
    slopes = torch.autograd.grad(render(net, *at).sin().sum(), at)
    steps = [1e-6 * randn(*v.shape, seed=7).double() for v in at]
    with torch.no_grad():
        ends = [
            float(render(net, *(v + k * d for v, d in zip(at, steps, strict=True))).sin().sum())
            for k in (1, -1)
        ]
    want = sum(float((a * b).sum()) for a, b in zip(slopes, steps, strict=True))
    assert (ends[0] - ends[1]) / 2 == pytest.approx(want, rel=1e-4) and want != 0
    assert all(bool(s.abs().sum() > 0) for s in slopes)


def test_a_wrong_w_of_stylegan_xl_is_named():
    with pytest.raises(ValueError, match=r"given w \(2, 3, 7\), expected \(B, 7\) or \(B, \(8, 7"):
        files.xl().synthesise(torch.ones(2, 3, 7))


def counted(cls, config):
    with torch.device("meta"):
        return sum(p.numel() for p in cls(**config).parameters())


BIGGAN128 = {"channels": (1536, 1536, 768, 384, 192, 96), "z": 120, "shared": 128, "attention": 64}
BIGGAN_SIZES = {  # class embeddings (1000 × 128) included; statistics are no parameters
    "deep, 128 px": (biggan_deep.BigGANDeep, configs.BIGGAN_DEEP[128], 50_388_609, 128),
    "deep, 256 px": (biggan_deep.BigGANDeep, configs.BIGGAN_DEEP[256], 55_880_833, 256),
    "deep, 512 px": (biggan_deep.BigGANDeep, configs.BIGGAN_DEEP[512], 56_163_905, 512),
    "128 px": (biggan.BigGAN, BIGGAN128, 70_433_988, 128),  # as its training logs print it
}


@pytest.mark.parametrize("name", BIGGAN_SIZES)
def test_official_sizes_of_biggan(name):
    cls, config, parameters, size = BIGGAN_SIZES[name]
    with torch.device("meta"):
        net = cls(**config)
        images = net(torch.ones(2, net.z), torch.tensor([3, 999]))
    assert (sum(p.numel() for p in net.parameters()), net.size) == (parameters, size)
    assert images.shape == (2, 3, size, size)


def test_biggan_deep_s_count_from_its_widths():
    """The same number by arithmetic alone."""
    c = [2048, 2048, 1024, 1024, 512, 256, 128]
    norm = lambda i: 2 * 256 * i  # noqa: E731
    conv = lambda i, o, k: i * o * k * k + o  # noqa: E731
    total = 1000 * 128 + conv(256, 16 * 2048, 1)
    for i, o in zip(c, c[1:], strict=False):
        for out in (i, o):
            m = i // 4
            total += norm(i) + 3 * norm(m)
            total += conv(i, m, 1) + 2 * conv(m, m, 3) + conv(m, out, 1)
    total += 2 * 512 * 64 + 512 * 256 * 2 + 1  # attention at 64 px
    assert total + 2 * 128 + conv(128, 128, 3) == 55_880_833


def test_stylegan_xl_s_count_from_its_names():
    """Width by width; with the table of class embeddings (1000 × 320) and without."""
    total = 1000 * 320 + (320 * 64 + 64) + (128 * 512 + 512) + (512 * 512 + 512)
    total += 1024 * 1024 + (4 * 512 + 4)
    cin = 1024
    for name in OFFICIAL_LAYERS.split():
        cout = int(name.split("_")[2])
        total += 512 * cin + cin + cin * cout * (1 if cout == 3 else 9) + cout
        cin = cout
    assert total == counted(stylegan_xl.StyleGANXL, IMAGENET256) == 233_375_910
    assert counted(stylegan_xl.StyleGANXL, IMAGENET16) == 101_883_463


def test_official_sizes_of_stylegan_xl_s_inputs_and_pictures():
    """Of shapes alone. 32 rows of w+ are what users of the published 256 px file give it."""
    with torch.device("meta"):
        net = stylegan_xl.StyleGANXL(**IMAGENET256)
        images = net(torch.ones(2, 64), y=torch.tensor([3, 999]))
    assert (net.size, net.num_ws, images.shape) == (256, 32, (2, 3, 256, 256))
