"""Stable Diffusion as a latent model: its autoencoder, and its network under a prompt.

The network gets each state twice, with the prompt and without one, and is guided from one answer to
the other. In the flow chart its usual sampler is Euler, so everything that walks latents walks
these. Built in: boomerang.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import zoo
from .diffusion.denoiser import Denoiser
from .diffusion.latent import LatentDiffusion
from .diffusion.model import PixelDiffusion
from .diffusion.schedule import Schedule
from .weights import ModelError

PARTS = ("unet", "vae", "scheduler")
# The network of Stable Diffusion 1: for counting what it costs. Source: Rombach et al. 2022
SD1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


@dataclass
class KL:
    """The autoencoder of Stable Diffusion; latents are the mode, scaled to about unit variance."""

    net: torch.nn.Module  # diffusers' AutoencoderKL

    def encode(self, images: Tensor) -> Tensor:
        return self.net.encode(images).latent_dist.mode() * self.net.config.scaling_factor

    def decode(self, latents: Tensor, seeds=None) -> Tensor:
        return self.net.decode(latents / self.net.config.scaling_factor).sample


def guided(unet: torch.nn.Module, prompt: Tensor, empty: Tensor, guidance: float):
    """(x, t, lam) -> empty + guidance · (prompt − empty), the answers of a network to a state under
    two embeddings (1, k, d). Guidance 1 asks the prompt alone. Source: Ho & Salimans 2022.
    """

    def net(x: Tensor, t: Tensor, lam: Tensor) -> Tensor:
        wide = lambda e: e.to(x).expand(len(x), -1, -1)  # noqa: E731
        ask = lambda e: unet(x, t, encoder_hidden_states=wide(e)).sample  # noqa: E731
        told = ask(prompt)
        if guidance == 1:
            return told
        free = ask(empty)
        return free + guidance * (told - free)

    return net


def embeddings(folder: Path, prompt: str) -> tuple[Tensor, Tensor]:
    """Embeddings (1, k, d) of a prompt and of the empty one, by the text encoder of a folder.

    Raises ModelError without the package transformers, which this book does not need otherwise.
    """
    if find_spec("transformers") is None:
        raise ModelError("a prompt is read by the package transformers, which is not installed: "
                         "pip install transformers")
    from transformers import CLIPTextModel, CLIPTokenizer

    read = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    encoder = CLIPTextModel.from_pretrained(str(folder / "text_encoder")).eval()
    with torch.no_grad():
        tokens = read([prompt, ""], padding="max_length", truncation=True, return_tensors="pt",
                      max_length=read.model_max_length)
        found = encoder(tokens.input_ids)[0]
    return found[:1], found[1:]


def load(
    folder: str | Path, prompt: str = "", guidance: float = 7.5,
    embedded: tuple[Tensor, Tensor] | None = None, device: str = "cpu",
) -> LatentDiffusion:
    """Stable Diffusion 1 or 2 from a local diffusers folder, under a prompt.

    embedded: embeddings of the prompt and of the empty one, if you have them already. guidance: of
    the demonstration of Boomerang, 7.5; 1 for none. Raises ModelError if the folder lacks a part.
    Built in: boomerang.
    """
    folder = Path(folder).expanduser()
    if lacking := [p for p in PARTS if not (folder / p).is_dir()]:
        raise ModelError(
            f"{folder} is no folder of Stable Diffusion: it has no {', '.join(lacking)}. On a "
            "machine with a network: `hf download stable-diffusion-v1-5/stable-diffusion-v1-5 "
            "--local-dir sd15`; then pass that folder as the model")
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(str(folder / "unet"), local_files_only=True)
    vae = AutoencoderKL.from_pretrained(str(folder / "vae"), local_files_only=True)
    scheduler = DDIMScheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True)
    told, empty = embedded or embeddings(folder, prompt)
    for net in (unet, vae):
        net.eval().requires_grad_(False).to(device)
    ab = scheduler.alphas_cumprod.double().numpy()
    schedule = Schedule(folder.name, np.arange(len(ab), dtype=float),
                        0.5 * (np.log(ab) - np.log1p(-ab)))
    c, side = unet.config.in_channels, unet.config.sample_size
    net = guided(unet, told.to(device), empty.to(device), guidance)
    kind = KINDS[scheduler.config.prediction_type]
    diffusion = PixelDiffusion(Denoiser(net, schedule, (c, side, side), kind), device=device)
    size = side * 2 ** (len(vae.config.block_out_channels) - 1)
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    return LatentDiffusion(KL(vae), diffusion, (3, size, size), zero, one, name=folder.name)


def entered(folder: str | Path, prompt: str, guidance: float = 7.5) -> str:
    """The name under which the zoo has Stable Diffusion from a folder, told a prompt, from now on:
    tables ask for models by name.

    The name holds a hash of all weights, so a table that rests on other ones is stale. Built in:
    boomerang.
    """
    folder, own = Path(folder).expanduser(), hashlib.sha256()
    for file in sorted(f for p in PARTS for f in (folder / p).glob("*") if f.is_file()):
        with file.open("rb") as f:
            own.update(hashlib.file_digest(f, "sha256").digest())
    name = f"{folder.name}, {prompt!r}, guidance {guidance:g}, {own.hexdigest()[:12]}"
    zoo.MODELS[name] = zoo.Entry("STABLE DIFFUSION", "P", name,
                                 lambda net, config: load(folder, prompt, guidance))
    return name
