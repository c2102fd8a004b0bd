"""A diffusers pipeline in the official layout with a few thousand weights, for more than one
suite.
"""

from __future__ import annotations

from pathlib import Path

import torch


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
