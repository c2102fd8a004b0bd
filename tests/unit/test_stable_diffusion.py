"""Stable Diffusion in the official layout, tiny and random: guidance, prompts, its autoencoder."""

import shutil
import sys
import types

import pytest
import torch

from difftools import boomerang as B
from difftools import boomerang_tables, inversion_table, zoo
from difftools import stable_diffusion as S
from difftools.diffusion.steppers import ddim, integrate
from difftools.weights import ModelError
from tiny import save_stable_diffusion


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_stable_diffusion(tmp_path_factory.mktemp("tiny-sd"))


@pytest.fixture(scope="module")
def embedded():
    gen = torch.Generator().manual_seed(1)
    return torch.randn(1, 5, 12, generator=gen), torch.randn(1, 5, 12, generator=gen)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_boomerang_flies_through_its_latents(folder, embedded, images):
    m = S.load(folder, embedded=embedded)
    assert m.size == 32 and m.denoiser.shape == (4, 16, 16) and len(m.denoiser.schedule.t) == 1000
    y = B.boomerang(m, images, 0.5, steps=3, eta=0.0)
    assert y.shape == images.shape and y.isfinite().all()
    torch.testing.assert_close(y[1:], B.boomerang(m, images[1:], 0.5, steps=3, eta=0.0, seeds=[1]),
                               atol=1e-4, rtol=0)
    z = m.autoencoder.net.encode(images).latent_dist.mode() * 0.5
    torch.testing.assert_close(m.latents(images), z.double())


def test_the_walk_is_the_pipeline_s_own_sampler(folder, embedded):
    """diffusers' DDIM with classifier-free guidance, step by step, against Euler in the chart."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    m = S.load(folder, embedded=embedded, guidance=3.0)
    unet = UNet2DConditionModel.from_pretrained(str(folder / "unet"))
    scheduler = DDIMScheduler.from_pretrained(
        str(folder / "scheduler"), clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    nodes = [B.node(m.denoiser.schedule, float(m.denoiser.schedule.lam[t]))
             for t in (*scheduler.timesteps.tolist(), 0)]
    y = integrate(ddim, m.denoiser.field, nodes[0].chart(x.double()), nodes)
    with torch.no_grad():
        for t in scheduler.timesteps:
            told, free = (unet(x, t, encoder_hidden_states=e).sample for e in embedded)
            x = scheduler.step(free + 3.0 * (told - free), t, x).prev_sample
    torch.testing.assert_close(nodes[-1].unchart(y).float(), x, atol=2e-3, rtol=0)


def test_guidance_leads_from_the_empty_prompt_to_the_prompt(folder, embedded, images):
    told, empty = embedded
    at = lambda *e, g: S.load(folder, embedded=e, guidance=g).denoiser  # noqa: E731
    d = at(told, empty, g=1.0)
    x, n = torch.randn(2, 4, 16, 16), B.level(d.schedule, 0.5)
    one, zero, two = (at(*e, g=g).x0_eps(x, n)[1] for e, g in (
        ((told, empty), 1.0), ((empty, told), 1.0), ((told, empty), 2.0)))
    torch.testing.assert_close(two, 2 * one - zero, atol=1e-4, rtol=1e-4)
    assert (one - zero).abs().max() > 1e-4


def test_a_prompt_needs_its_package(folder, monkeypatch):
    monkeypatch.setattr(S, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install transformers"):
        S.load(folder, prompt="person")


def test_a_prompt_is_read_by_the_folder_s_text_encoder(folder, monkeypatch):
    """With a stand-in of transformers: what is asked of it, and what comes of the answer."""
    asked = {}

    class Reader:
        model_max_length = 5

        @classmethod
        def from_pretrained(cls, path):
            asked[path.rsplit("/", 1)[1]] = path
            return cls()

        def __call__(self, texts, **how):
            asked["texts"], asked["how"] = texts, how
            return types.SimpleNamespace(input_ids=torch.arange(10).reshape(2, 5))

    class Encoder(Reader):
        def eval(self):
            return self

        def __call__(self, ids):
            return (ids[..., None].float() * torch.ones(12),)

    fake = types.SimpleNamespace(CLIPTokenizer=Reader, CLIPTextModel=Encoder)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    monkeypatch.setattr(S, "find_spec", lambda name: True)
    told, empty = S.embeddings(folder, "cat")
    assert asked["texts"] == ["cat", ""] and asked["how"]["max_length"] == 5
    assert {"tokenizer", "text_encoder"} <= set(asked)
    assert told[0, 1, 0] == 1 and empty[0, 0, 0] == 5


def test_tables_know_it_by_a_name_that_holds_its_prompt_and_its_weights(
    folder, embedded, images, monkeypatch, tmp_path
):
    monkeypatch.setattr(S, "embeddings", lambda folder, prompt: embedded)
    monkeypatch.setattr(zoo, "MODELS", dict(zoo.MODELS))
    name = S.entered(folder, "cat", 3.0)
    part = boomerang_tables.ClosenessPart("SD", name, 0.4, images, steps=3)
    want = B.runs(S.load(folder, guidance=3.0, embedded=embedded), images, 0.4, 2, steps=3)
    away = boomerang_tables.mean_square(want, images).mean(0)
    assert part.run().distance.to_numpy() == pytest.approx(away.numpy(), abs=2e-4)
    other = shutil.copytree(folder, tmp_path / folder.name)
    assert S.entered(other, "cat", 3.0) == name != S.entered(folder, "dog", 3.0)
    file = next((other / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert S.entered(other, "cat", 3.0) != name and inversion_table.weights_of(name)
    zoo.model.cache_clear()


def test_another_folder_says_what_it_lacks(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(ModelError, match="has no vae, scheduler.*hf download"):
        S.load(tmp_path, embedded=(torch.zeros(1, 1, 1),) * 2)
