"""torchvision's VGGs and LPIPS' heads -> safetensors and note -> LPIPS and VGG19's maps, against a
plain forward of the files' own tensors.
"""

import json
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import gan_files
from difftools import cli, fewshot, official, perceptual, weights, zoo
from difftools.gan.generator import styled
from difftools.gan.model import GAN

POOL = 0
PLANS = {  # widths of the convolutions and the pools between them, in torchvision's order
    16: (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 3, POOL, *[512] * 3, POOL),
    19: (64, 64, POOL, 128, 128, POOL, *[256] * 4, POOL, *[512] * 4, POOL, *[512] * 4, POOL),
}
HEADS = (64, 128, 256, 512, 512)


def layers(plan):
    """(place in torchvision's `features`, width) of convolutions, (None, 0) of pools."""
    place = 0
    for width in plan:
        yield (None, POOL) if width == POOL else (place, width)
        place += 1 if width == POOL else 2  # a ReLU behind each convolution


def vgg(depth, fill):
    """A state dict as torchvision's file has it, but for the size of the classifier."""
    state, cin = {}, 3
    for place, width in layers(PLANS[depth]):
        if width:
            state[f"features.{place}.weight"] = fill(width, cin, 3, 3) * (2 / (9 * cin)) ** 0.5
            state[f"features.{place}.bias"] = fill(width) * 0.1
            cin = width
    return state | {"classifier.0.weight": fill(4, 4), "classifier.0.bias": fill(4)}


def lin(fill):
    return {f"lin{i}.model.1.weight": fill(1, c, 1, 1).abs() for i, c in enumerate(HEADS)}


def normal(seed):
    gen = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=gen)


def light(*shape):
    """Zeros that take no room in a file."""
    return torch.zeros(()).expand(shape)


def plain(state, depth, x):
    """What leaves each convolution, before its ReLU, in float64."""
    x, out = x.double(), []
    for place, width in layers(PLANS[depth]):
        if not width:
            x = F.max_pool2d(x, kernel_size=2)
            continue
        w, b = (state[f"features.{place}.{part}"].double() for part in ("weight", "bias"))
        out.append(F.conv2d(x, w, b, padding=1))
        x = out[-1].clamp_min(0)
    return out


def pictures(n=2, size=64, seed=0):
    return normal(seed)(n, 3, size, size).mul(0.4).clamp(-1, 1)


def call(capsys, *argv):
    """(exit status, stdout, stderr) of `difftools import ARGV`."""
    try:
        cli.main(["import", *map(str, argv)])
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with both networks, and the state dicts that they came from."""
    folder = tmp_path_factory.mktemp("vgg")
    states = {"vgg16": vgg(16, normal(1)), "vgg19": vgg(19, normal(2)), "heads": lin(normal(3))}
    files = {k: gan_files.torch_file(folder / f"{k}.pth", v) for k, v in states.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFTOOLS_DATA", str(folder / "cache"))
        perceptual.import_network("lpips-vgg", files["vgg16"], files["heads"])
        perceptual.import_network("vgg19", files["vgg19"])
    return folder / "cache", states


@pytest.fixture
def states(cache, monkeypatch):
    """The state dicts of the two networks, which are on this machine."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(cache[0]))
    perceptual.network.cache_clear()
    yield cache[1]
    perceptual.network.cache_clear()


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without the networks; its cache."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    perceptual.network.cache_clear()
    yield tmp_path / "cache"
    perceptual.network.cache_clear()


def test_lpips_on_vgg16_is_a_plain_forward_of_the_two_files(states):
    x, y = pictures(), pictures(seed=1)
    mean = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    std = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    convs = plain(states["vgg16"], 16, (torch.cat([x, y]) - mean) / std)
    want = 0
    for i, last in enumerate((1, 3, 6, 9, 12)):  # relu1_2, 2_2, 3_3, 4_3, 5_3
        a, b = F.normalize(convs[last].clamp_min(0), dim=1).chunk(2)
        head = states["heads"][f"lin{i}.model.1.weight"].double().flatten()
        want = want + torch.einsum("bchw,c->bhw", (a - b) ** 2, head).mean((1, 2))
    assert float(want.min()) > 0.05
    got = perceptual.lpips(x, y, "lpips-vgg")
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)
    got = perceptual.lpips(x.double(), y.double(), "lpips-vgg")
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_it_is_0_for_equal_pictures_and_its_gradient_is_finite(states):
    x = pictures(1).requires_grad_()
    distance = perceptual.lpips(x, x.detach(), "lpips-vgg")
    (slope,) = torch.autograd.grad(distance.sum(), x)
    assert float(distance.detach()) == 0 and bool(slope.isfinite().all())
    assert float(perceptual.lpips(x.detach(), pictures(1, seed=1), "lpips-vgg")) > 0


def test_it_sees_small_pictures_enlarged_and_large_ones_averaged(states):
    x, y = pictures(1, 32), pictures(1, 32, seed=1)
    large = [F.interpolate(v, size=64, mode="bicubic", antialias=True) for v in (x, y)]
    got, want = (perceptual.lpips(*pair, "lpips-vgg") for pair in ((x, y), large))
    torch.testing.assert_close(got, want)
    wide = pictures(1, 1024)
    torch.testing.assert_close(perceptual.sized(wide), F.avg_pool2d(wide, 4))


def test_vgg19_s_maps_see_pictures_with_the_statistics_of_imagenet(states):
    x = pictures()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    want = plain(states["vgg19"], 19, ((x + 1) / 2 - mean) / std)[:5]
    got = perceptual.vgg19_maps(x)
    assert [v.shape[1:] for v in got] == [
        (64, 64, 64), (64, 64, 64), (128, 32, 32), (128, 32, 32), (256, 16, 16),
    ]  # fmt: skip
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
        assert float(a.min()) < 0, "before the ReLU"
    trap = plain(states["vgg19"], 19, (x - mean) / std)[:5]  # [-1, 1] given as if [0, 1]
    assert all(float((a - b).abs().mean()) > 0.1 * float(b.std()) for a, b in zip(got, trap))


def test_the_maps_guide_latent_learner(states):
    recipe = replace(fewshot.LATENT_LEARNER_OFFICIAL, chains=1, samples=2, iterations=1, batch=2)
    g, d = gan_files.generator(), gan_files.critic()
    found, _ = fewshot.latent_learner(g, d, perceptual.vgg19_maps, pictures(3, 16), 2, recipe)
    assert found.shape == (2, 3, 16, 16) and bool(found.isfinite().all())


def test_a_gan_descends_it(states):
    m = GAN(styled(gan_files.generator()), recipe="xl", steps=3, perceptual="lpips-vgg")
    first, *_, last = m.walk(pictures(1, 16))
    assert set(last.terms) == {"perceptual"} and float(last.best) < float(first.loss)


def test_what_is_not_here_is_said_before_any_work(bare):
    m = GAN(styled(gan_files.generator()))
    with pytest.raises(weights.ModelError, match="lpips-vgg is not.*Get vgg16.*difftools import"):
        m.with_(perceptual="lpips-vgg")
    with pytest.raises(weights.ModelError, match="vgg19 is not.*Get vgg19.*difftools import"):
        perceptual.vgg19_maps(pictures(1))
    with pytest.raises(weights.ModelError, match="not on this machine"):
        perceptual.towards(pictures(1), "lpips-vgg")


def test_the_command_imports_and_its_note_has_the_hashes(bare, tmp_path, capsys):
    file = gan_files.torch_file(tmp_path / "a.pth", vgg(16, light))
    heads = gan_files.torch_file(tmp_path / "b.pth", lin(normal(0)))
    status, text, _ = call(capsys, "lpips-vgg", file, "--heads", heads)
    target = zoo.imported("lpips-vgg")
    assert status == 0 and text == f"lpips-vgg: {target}\n"
    note = json.loads(target.with_suffix(".json").read_text())
    assert (note["source"], note["config"]["heads"]) == ("a.pth", "b.pth")
    assert len({note["sha256"], note["source_sha256"], note["config"]["heads_sha256"]}) == 3
    torch.testing.assert_close(
        perceptual.network("lpips-vgg")["lin.3.weight"], lin(normal(0))["lin3.model.1.weight"]
    )
    assert call(capsys, "vgg19", gan_files.torch_file(tmp_path / "c.pth", vgg(19, light)))[0] == 0
    assert {p.name for p in target.parent.iterdir()} == {
        f"{name}.{kind}" for name in ("lpips-vgg", "vgg19") for kind in ("safetensors", "json")
    }


def test_the_published_heads_are_those_of_torchmetrics(bare, tmp_path, capsys):
    file = gan_files.torch_file(tmp_path / "a.pth", vgg(16, light))
    assert call(capsys, "lpips-vgg", file)[0] == 0
    net = perceptual.network("lpips-vgg")
    assert float(net["lin.0.weight"].max()) == pytest.approx(1.28281617, rel=1e-6)
    assert all(bool((net[f"lin.{i}.weight"] > 0).all()) for i in range(5))


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
@pytest.mark.parametrize(
    "name, part, key",
    [
        ("lpips-vgg", 0, "features.28.bias"),
        ("lpips-vgg", 1, "lin4.model.1.weight"),
        ("vgg19", 0, "features.34.weight"),
    ],
)
def test_a_wrong_key_is_named_and_nothing_is_written(fault, name, part, key, bare, tmp_path):
    states = [vgg(16, light), lin(light)] if name == "lpips-vgg" else [vgg(19, light)]
    if fault == "missing":
        del states[part][key]
    elif fault == "extra":
        key = "features.1.running_mean"
        states[part][key] = light(3)
    else:
        states[part][key] = states[part][key][:, None]
    files = [gan_files.torch_file(tmp_path / f"{i}.pth", s) for i, s in enumerate(states)]
    with pytest.raises(weights.ModelError, match=f"^{part}.pth does not fit .*{key}"):
        perceptual.import_network(name, *files)
    assert not list(bare.rglob("*"))


def test_files_of_another_network_are_refused(bare, tmp_path):
    states = {"a": vgg(16, light), "b": vgg(19, light), "c": lin(light)}
    a, b, c = (gan_files.torch_file(tmp_path / f"{k}.pth", v) for k, v in states.items())
    for name, *files in (("vgg19", a), ("lpips-vgg", b, c), ("lpips-vgg", c, a), ("vgg19", c)):
        with pytest.raises(weights.ModelError, match=f"^{files[0].name} does not fit torchvision"):
            perceptual.import_network(name, *files)
    with pytest.raises(weights.ModelError, match="^b.pth does not fit LPIPS 0.1's heads"):
        perceptual.import_network("lpips-vgg", a, b)
    with pytest.raises(weights.ModelError, match="without heads"):
        perceptual.import_network("vgg19", b, c)
    with pytest.raises(weights.ModelError, match="unknown network 'vgg13'.*lpips-vgg, vgg19"):
        perceptual.import_network("vgg13", b)
    assert not list(bare.rglob("*"))


def test_a_file_with_code_is_refused_before_it_runs(bare, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    good = gan_files.torch_file(tmp_path / "good.pth", vgg(16, light))
    evil = gan_files.torch_file(tmp_path / "evil.pth", lin(light) | {"hook": Evil()})
    for name, *files in (("vgg19", evil), ("lpips-vgg", evil, good), ("lpips-vgg", good, evil)):
        with pytest.raises(official.CheckpointError, match="holds code.*open"):
            perceptual.import_network(name, *files)
    status, _, error = call(capsys, "lpips-vgg", good, "--heads", evil)
    assert status == 2 and "holds code" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "pwned").exists() and not list(bare.rglob("*"))


def test_an_altered_import_is_refused(bare, tmp_path):
    state = vgg(19, light)
    perceptual.import_network("vgg19", gan_files.torch_file(tmp_path / "a.pth", state))
    file = zoo.imported("vgg19")
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    with pytest.raises(weights.ModelError, match="not the registered file.*import it again"):
        perceptual.vgg19_maps(pictures(1))
    file.with_suffix(".json").unlink()
    with pytest.raises(weights.ModelError, match="not on this machine"):
        perceptual.vgg19_maps(pictures(1))


@pytest.mark.parametrize(
    "argv, says",
    [
        (["vgg13", "a.pth"], "known: dae, .*vgg19"),
        (["vgg19", "a.pth"], "not a file"),
        (["lpips-vgg", "a.pth", "--heads", "b.pth"], "a.pth is not a file"),
        (["vgg19", "a.pth", "--heads", "b.pth"], "belong to lpips-vgg"),
        (["adm", "a.pth", "--heads", "b.pth"], "belong to lpips-vgg"),
        (["lpips-vgg", "a.pth", "--name", "mine"], "neither --name nor --config"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv, says, bare, capsys):
    status, _, error = call(capsys, *argv)
    assert status == 2 and re.search(says, error) and len(error.splitlines()) == 1
    assert not list(bare.rglob("*"))


def test_the_help_lists_the_networks(capsys):
    text = call(capsys, "--help")[1]
    assert all(name in text for name in ("lpips-vgg", "vgg19", "--heads"))
