"""Training, one command per system; `difftools train ddpm` makes what `data/weights/` ships."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from .. import data, gaussians, metrics, weights, zoo
from ..diffusion.dae import DAE
from ..diffusion.latent import LatentDiffusion
from ..gaussians import Gaussian
from ..images import to_float
from ..nets.unet import GaussianPreconditioned
from . import ddpm, gan, ship, siblings

NAMES = {
    k: f"{k}-vehicles32"
    for k in ("ddpm", "ddpm-eps", "dae", "ldm", "d2c", "v", "stylegan2", "biggan", "styleganxl")
}
DOMAINS = (  # in-domain, near and far: where a card measures reconstruction
    "vehicles",
    "animals",
    "quickdraw",
    "emoji",
    "avatars",
    "pixel-art",
    "fashion",
    "textures",
    "landscapes",
)
JUDGED = 24  # images of each
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
    """Train a recipe of NAMES, write weights, card and sample sheet to `out`; returns the card.

    checkpoint: folder whose state a second call resumes. images: how many to show, by default the
    recipe's. Needs the CIFAR-10 archive (`difftools data fetch cifar10-train`).
    """
    if name not in NAMES:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(NAMES)}")
    pixels = data.vehicles_train()
    if name in ddpm.RECIPES:
        recipe = ddpm.RECIPES[name]
        recipe = recipe if images is None else replace(recipe, images=images)
        g = shipped_gaussian(pixels, recipe.rank, out)
        module, facts = ddpm.train(recipe, pixels, g, checkpoint, device)
    elif name in gan.RECIPES:
        recipe = gan.RECIPES[name]
        recipe = recipe if images is None else replace(recipe, images=images)
        pair, facts = gan.train(name, recipe, checkpoint, device)
        return finish_gan(name, pair.cpu(), facts, pixels, checkpoint, out)
    else:
        g = shipped_gaussian(pixels, ddpm.Recipe().rank, out)
        train = getattr(siblings, f"train_{name}")
        module, facts = train(pixels, g, checkpoint, device, images)
    return finish(name, module.cpu(), facts, pixels, out)


def finish(name: str, module: torch.nn.Module, facts: dict, pixels: np.ndarray, out: Path) -> dict:
    """Fit the gain, write float16 weights, measure them as shipped, write card and sample sheet."""
    model_name = NAMES[name]
    entry = zoo.MODELS[model_name]
    module = module.eval().requires_grad_(False)
    model = entry.model(module, entry.config)
    net = module["net"] if isinstance(module, torch.nn.ModuleDict) else module
    if isinstance(net, GaussianPreconditioned):
        images = held_back()
        told = model.semantic(images).float() if isinstance(model, DAE) else None
        with ship.space(model, images) as (d, x):
            net.gain.copy_(ship.fit_gain(net, x, d.schedule, told))
    state = ship.half(module.state_dict())
    sha = ship.save(out, f"{model_name}.safetensors", state)
    module.load_state_dict({k: v.float() for k, v in state.items()})
    with_codes = isinstance(model, LatentDiffusion)
    space = siblings.over(model.latents, to_float(pixels)) if with_codes else to_float(pixels)
    best = gaussians.fit(space.flatten(1), "full")
    best_pixels = gaussians.fit(to_float(pixels).flatten(1), "full") if with_codes else best
    quality, samples = ship.quality(
        model, best, best_pixels, data.domain("vehicles"), reference_features(pixels, out)
    )
    sets = {k: data.domain(k, JUDGED) for k in DOMAINS}
    more = {"reconstruction": ship.reconstruction(model, sets), **facts, **quality}
    return _finished(name, module, sha, more, samples, out)


def _finished(name: str, module, sha: str, more: dict, samples: torch.Tensor, out: Path) -> dict:
    """Write card and sample sheet; returns the card."""
    card = {
        "model": NAMES[name],
        "command": f"difftools train {name}",
        "sha256": sha,
        "data": "CIFAR-10 airplane, automobile, ship, truck: 20,000 training images, random flips",
        "parameters": sum(p.numel() for p in module.parameters()),
        **more,
    }
    ship.write_json(out / f"{NAMES[name]}.json", card)
    ship.write_sheet(out / f"{NAMES[name]}.png", samples[:48])
    return card


def finish_gan(
    name: str, pair: gan.Pair, facts: dict, pixels: np.ndarray, checkpoint: Path, out: Path
) -> dict:
    """`finish` for a GAN: spectral norm folded, its curve over training from the snapshots that lie
    in `checkpoint`, and what its samples are worth beside the exact Gaussian's.
    """
    model_name = NAMES[name]
    entry = zoo.MODELS[model_name]
    if name == "styleganxl":  # the frozen network ships too: few-shot learning looks through it
        eyes = ship.packed(pair["d"].features.state_dict())
        ship.save(out, "features-cifar10.safetensors", eyes)
    held_out, reference = data.domain("vehicles"), reference_features(pixels, out)
    real = metrics.features(held_out)
    module = entry.module(entry.config)
    curve = []
    for n, then in gan.snapshots(copy.deepcopy(pair["g"]), checkpoint):
        gan.finished(module["g"], then)
        curve.append({"images": n} | ship.curve_point(entry.model(module, entry.config), real))
    gan.finished(module["g"], pair["g"])
    if "d" in module:
        module["d"].load_state_dict(pair["d"].state_dict())
    state = ship.packed(module.state_dict())
    sha = ship.save(out, f"{model_name}.safetensors", state)
    module.load_state_dict(weights.unpacked(state))
    model = entry.model(module, entry.config)
    best = gaussians.fit(to_float(pixels).flatten(1), "full")
    quality, samples = ship.sampled(model, best, held_out, reference)
    quality["floor"]["passed"] = all(quality["floor"].values())
    more = {"curve": curve, "curve_flat": ship.flat(curve), **facts, **quality}
    return _finished(name, module, sha, more, samples, out)


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
