"""What a reader may bring, tiny: a diffusers pipeline in the official layout with a few thousand
weights, Stable Diffusion, folders of pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image


def save_pipeline(folder: Path, prediction_type: str = "epsilon") -> torch.nn.Module:
    """Write what `hf download` leaves of an unconditional pipeline at 32 px; returns its U-Net."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(unet, DDPMScheduler(prediction_type=prediction_type)).save_pretrained(folder)
    return unet


def save_stable_diffusion(folder: Path) -> Path:
    """What `hf download` leaves of Stable Diffusion, but for the text encoder: 32 px, latents
    4×16×16.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
                  ).save_pretrained(folder / "scheduler")
    return folder


def save_pictures(folder: Path, n: int, seed: int = 0) -> Path:
    """The folder, made, with n pictures of noise, 20 px high and wide."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder
