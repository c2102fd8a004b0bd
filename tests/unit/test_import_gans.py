"""Official GAN files -> safetensors and note -> a latent model that makes the file's pictures."""

import json

import pytest
import torch

import gan_files as files
from difftools import zoo
from difftools.official import CheckpointError

TWO = {"family": "stylegan2", "g": files.TINY, "d": files.CRITIC}
CASES = {  # file maker, its name, system, configuration, model, generator
    "nvidia": (files.nvidia, "a.pkl", "stylegan2", TWO, "stylegan2-ffhq256", files.generator),
    "rosinality": (
        files.rosinality, "a.pt", "stylegan2", TWO, "stylegan2-config-f256", files.generator,
    ),
    "tensorflow": (
        files.tensorflow, "a.pkl", "stylegan2", TWO, "stylegan2-ffhq1024", files.generator,
    ),
    "xl": (
        files.dill, "a.pkl", "styleganxl", {"family": "styleganxl", "g": files.XL},
        "styleganxl-imagenet256", files.xl,
    ),
    "deep": (
        lambda path, net: files.torch_file(path, files.biggan_deep_state(net)), "a.bin",
        "biggan-deep", {"family": "biggan-deep", "g": files.DEEP}, "biggan-deep-128", files.deep,
    ),
    "big": (
        lambda path, net: files.torch_file(path, files.biggan_state(net)), "a.pth", "biggan",
        {"family": "biggan", "g": files.BIG}, "biggan-imagenet128", files.big,
    ),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    yield
    zoo.model.cache_clear()


def bring(case, tmp_path):
    make, file, system, config, name, net = CASES[case]
    net = net(1)
    make(tmp_path / file, net)
    assert zoo.import_official(system, tmp_path / file, name, config) == name
    return zoo.load(name), net, name


@pytest.mark.parametrize("case", CASES)
def test_an_imported_gan_makes_the_pictures_of_its_file(case, tmp_path):
    m, net, name = bring(case, tmp_path)
    code = m.prior(2, seed=3)
    assert m.decode(code).shape == (2, 3, m.size, m.size)
    ours = m.generator.net.state_dict()
    if case in ("deep", "big"):  # spectral norm is folded: pictures differ from the raw weights'
        assert ours.keys() == net.state_dict().keys()
    else:
        z = torch.randn(2, net.z, generator=torch.Generator().manual_seed(0))
        labels = {"y": torch.tensor([1, 2])} if m.generator.classes else {}
        torch.testing.assert_close(m.generator.net(z, **labels), net(z, **labels))


@pytest.mark.parametrize("case", CASES)
def test_an_imported_gan_inverts(case, tmp_path):
    m, _, _ = bring(case, tmp_path)
    x = m.decode(m.prior(1, seed=5)).clamp(-1, 1)
    few, more = (m.with_(steps=n) for n in (1, 40))
    error = lambda m: float((m.decode(m.encode(x)) - x).square().mean())  # noqa: E731
    assert error(more) < error(few)


def test_the_critic_comes_along_where_it_is_of_the_same_size(tmp_path):
    bring("rosinality", tmp_path)
    module = zoo.module("stylegan2-config-f256")
    want = files.critic()
    torch.testing.assert_close(module["d"].state_dict(), dict(want.state_dict()))
    bring("tensorflow", tmp_path)
    assert "d" not in zoo.module("stylegan2-ffhq1024")


def test_the_lower_half_of_a_larger_file_is_a_model_without_critic(tmp_path):
    files.rosinality(tmp_path / "a.pt")  # 16 px
    half = {"family": "stylegan2", "g": files.TINY | {"channels": files.TINY["channels"][:2]}}
    half |= {"d": {"channels": files.CRITIC["channels"][:2]}}
    zoo.import_official("stylegan2", tmp_path / "a.pt", "stylegan2-config-f256", half)
    assert zoo.load("stylegan2-config-f256").size == 8
    assert "d" not in zoo.module("stylegan2-config-f256")


def test_clamps_are_the_file_s(tmp_path):
    files.nvidia(tmp_path / "a.pkl", files.generator(1, clamp=0.5))
    zoo.import_official("stylegan2", tmp_path / "a.pkl", "stylegan2-ffhq256", TWO)
    note = json.loads(zoo.imported("stylegan2-ffhq256").with_suffix(".json").read_text())
    assert note["config"]["g"]["clamp"] == 0.5
    assert zoo.load("stylegan2-ffhq256").generator.net.synthesis.b4.conv1.clamp == 0.5


def test_a_misfit_is_named_and_nothing_is_written(tmp_path):
    files.nvidia(tmp_path / "a.pkl")
    wrong = TWO | {"g": files.TINY | {"channels": (12, 8, 8)}}
    with pytest.raises(zoo.ModelError, match="g.synthesis.b16"):
        zoo.import_official("stylegan2", tmp_path / "a.pkl", "stylegan2-ffhq256", wrong)
    files.torch_file(tmp_path / "b.pth", {"x": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="shared.weight"):
        zoo.import_official("biggan", tmp_path / "b.pth")
    assert not list(zoo.imported("stylegan2-ffhq256").parent.glob("*"))
