"""Stable Diffusion in the official layout, tiny and random: guidance, prompts, its autoencoder."""

import sys
import types

import pytest
import torch

from difftools import boomerang as B
from difftools import stable_diffusion as S
from difftools.diffusion.steppers import ddim, integrate
from difftools.weights import ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `hf download` leaves, but for the text encoder: 32 px, latents 4×16×16."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("tiny-sd")
    UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(out / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(out / "vae")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
                  ).save_pretrained(out / "scheduler")
    return out


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


def test_another_folder_says_what_it_lacks(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(ModelError, match="has no vae, scheduler.*hf download"):
        S.load(tmp_path, embedded=(torch.zeros(1, 1, 1),) * 2)
