"""Training, one command per system; `difftools train ddpm` makes what `data/weights/` ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from .. import data, gaussians, metrics
from ..diffusion.denoiser import Denoiser, from_unet
from ..diffusion.model import PixelDiffusion
from ..diffusion.schedule import linear
from ..gaussians import Gaussian
from ..images import to_float
from . import ddpm, ship

NAMES = {"ddpm": "ddpm-vehicles32", "ddpm-eps": "ddpm-eps-vehicles32"}
REFERENCE = 1000  # training vehicles whose features ship


def held_back() -> torch.Tensor:
    """CIFAR-10 test vehicles that are not in the bundled slice, (3488, 3, 32, 32) in [-1, 1]."""
    images, labels = data.load("cifar10-test"), data.labels("cifar10-test")
    judged = set(data.arrays("vehicles")["index"].tolist())
    keep = [i for i in np.flatnonzero(np.isin(labels, (0, 1, 8, 9))) if i not in judged]
    return to_float(images[keep])


def shipped_gaussian(images: np.ndarray, rank: int, out: Path) -> Gaussian:
    """The Gaussian of uint8 images (N, H, W, 3) as shipped: fitted and written once, then read
    back.

    Eigenvectors have no sign, so a second fit would not be the one that a network was trained
    around.
    """
    file = out / "gaussian-vehicles32.safetensors"
    if not file.is_file():
        g = gaussians.fit(to_float(images).flatten(1), rank)
        state = {"mean": g.mean, "eigenvalues": g.lam, "U": g.U, "rest": torch.tensor([g.rest])}
        ship.save(out, file.name, ship.half(state))
    g = load_file(file)
    return Gaussian(g["mean"], g["eigenvalues"], g["U"].float(), float(g["rest"]))


def run(
    name: str, out: Path, checkpoint: Path, images: int | None = None, device: str = "cpu"
) -> dict:
    """Train `name` ("ddpm" or "ddpm-eps"), write weights, card and sample sheet to `out`; returns
    the card.

    checkpoint: folder whose state a second call resumes. images: how many to show, by default the
    recipe's. Needs the CIFAR-10 archive (`difftools data fetch cifar10-train`).
    """
    if name not in NAMES:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(NAMES)}")
    recipe = ddpm.RECIPES[name] if images is None else replace(ddpm.RECIPES[name], images=images)
    pixels = data.vehicles_train()
    g = shipped_gaussian(pixels, recipe.rank, out)
    module, facts = ddpm.train(recipe, pixels, g, checkpoint, device)
    module = module.cpu()
    if recipe.precondition:
        module.gain.copy_(ship.fit_gain(module, held_back(), linear()))
    return finish(name, module, facts, pixels, out)


def finish(name: str, module: torch.nn.Module, facts: dict, pixels: np.ndarray, out: Path) -> dict:
    """Write float16 weights, measure them as shipped, and write card and sample sheet."""
    model_name = NAMES[name]
    state = ship.half(module.state_dict())
    sha = ship.save(out, f"{model_name}.safetensors", state)
    module.load_state_dict({k: v.float() for k, v in state.items()})
    shape = (3, *pixels.shape[1:3])
    d = (
        from_unet(module, linear(), shape)
        if name == "ddpm-eps"
        else Denoiser(module.eval(), linear(), shape, "x0")
    )
    best_linear = gaussians.fit(to_float(pixels).flatten(1), "full")
    reference = reference_features(pixels, out)
    quality, samples = ship.quality(
        PixelDiffusion(d), best_linear, data.domain("vehicles"), reference
    )
    card = {
        "model": model_name,
        "command": f"difftools train {name}",
        "sha256": sha,
        "data": "CIFAR-10 airplane, automobile, ship, truck: 20,000 training images, random flips",
        "parameters": sum(p.numel() for p in module.parameters()),
        **facts,
        **quality,
    }
    ship.write_json(out / f"{model_name}.json", card)
    ship.write_sheet(out / f"{model_name}.png", samples[:96])
    return card


def reference_features(pixels: np.ndarray, out: Path) -> torch.Tensor:
    """Features of 1,000 training vehicles picked by seed 0, written once to `out`, float64 (1000,
    1280).
    """
    file = out / "reference-features.safetensors"
    if not file.is_file():
        pick = np.random.default_rng(0).permutation(len(pixels))[:REFERENCE]
        f = metrics.features(to_float(pixels[np.sort(pick)]))
        ship.save(out, file.name, {"features": f.half(), "index": torch.from_numpy(np.sort(pick))})
    return load_file(file)["features"].double()
