"""Models by name: the only place that knows files.

`load(name)` gives a ready latent model: an embedded sibling, a control, a solvable world, or any
unconditional diffusers pipeline by hub name or local folder. Weights are safetensors whose sha256
stands in ``data/weights/manifest.json`` and is verified at every load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from . import data
from .diffusion import denoiser as denoisers
from .diffusion.model import PixelDiffusion
from .diffusion.schedule import Schedule, linear
from .gaussians import Gaussian
from .nets.unet import VEHICLES32, GaussianPreconditioned, unet

IMAGE = (3, 32, 32)
WEIGHTS = data.ROOT / "weights"


class ModelError(ValueError):
    """A model that is unknown, missing, or whose weights are not the registered ones."""


@dataclass(frozen=True)
class Entry:
    """One row of the zoo: which system, which world, and how it is built from its tensors."""

    system: str
    world: str
    title: str
    build: Callable[[dict], denoisers.Denoiser]
    weights: str | None = None


def tensors(file: str) -> dict[str, torch.Tensor]:
    """Tensors of a weights file, float32; ModelError if it is missing, truncated or altered."""
    path, manifest = WEIGHTS / file, json.loads((WEIGHTS / "manifest.json").read_text())
    if not path.is_file():
        raise ModelError(
            f"{path.name} is missing: restore it with git, or train it with `difftools train`"
        )
    raw = path.read_bytes()
    sha = hashlib.sha256(raw).hexdigest()
    if sha != manifest.get(file):
        raise ModelError(
            f"{path.name} is not the registered file (sha256 {sha[:12]}…, expected "
            f"{str(manifest.get(file))[:12]}…): it is damaged or was changed; restore it with git"
        )
    try:
        state = load_tensors(raw)
    except SafetensorError as err:
        raise ModelError(f"{path.name} is no safetensors file: {err}") from err
    data.USED[path.relative_to(data.ROOT.parent).as_posix()] = sha
    return {k: v.float() for k, v in state.items()}


@lru_cache(maxsize=1)
def gaussian_vehicles32() -> Gaussian:
    """Gaussian of the 20,000 training vehicles: mean, 256 leading eigenpairs, one variance for the
    rest.
    """
    g = tensors("gaussian-vehicles32.safetensors")
    return Gaussian(g["mean"], g["eigenvalues"], g["U"], float(g["rest"]))


def load_state(module: torch.nn.Module, state: dict, file: str) -> torch.nn.Module:
    """`load_state_dict`, strict, naming what is missing, extra or misshapen."""
    have, want = (
        {k: tuple(v.shape) for k, v in state.items()},
        {k: tuple(v.shape) for k, v in module.state_dict().items()},
    )
    wrong = [f"missing {k}" for k in want.keys() - have] + [
        f"extra {k}" for k in have.keys() - want
    ]
    wrong += [
        f"{k} is {have[k]}, expected {want[k]}" for k in want.keys() & have if have[k] != want[k]
    ]
    if wrong:
        raise ModelError(f"{file} does not fit its model: {'; '.join(sorted(wrong)[:5])}")
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def _ddpm(state: dict) -> denoisers.Denoiser:
    net = GaussianPreconditioned(unet(**VEHICLES32), gaussian_vehicles32())
    net = load_state(net, state, "ddpm-vehicles32").to(memory_format=torch.channels_last)
    return denoisers.Denoiser(net, linear(), IMAGE, "x0")


def _ddpm_eps(state: dict) -> denoisers.Denoiser:
    return denoisers.from_unet(
        load_state(unet(**VEHICLES32), state, "ddpm-eps-vehicles32"), linear(), IMAGE
    )


def _untrained(state: dict) -> denoisers.Denoiser:
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    net = unet(**VEHICLES32)
    torch.set_rng_state(torch_state)  # loading a model never moves the caller's generator
    return denoisers.from_unet(net, linear(), IMAGE)


MODELS: dict[str, Entry] = {
    "ddpm-vehicles32": Entry(
        "DDPM",
        "E",
        "Gaussian-preconditioned DDPM, CIFAR-10 vehicles",
        _ddpm,
        "ddpm-vehicles32.safetensors",
    ),
    "ddpm-eps-vehicles32": Entry(
        "DDPM",
        "E",
        "plain epsilon-prediction twin, a control",
        _ddpm_eps,
        "ddpm-eps-vehicles32.safetensors",
    ),
    "gaussian-vehicles32": Entry(
        "exact Gaussian",
        "S",
        "exact score of the training set's Gaussian, rank 256",
        lambda s: denoisers.exact(gaussian_vehicles32(), IMAGE),
        "gaussian-vehicles32.safetensors",
    ),
    "zero": Entry(
        "control", "S", "the network that predicts no noise", lambda s: denoisers.zero(IMAGE)
    ),
    "untrained": Entry("control", "E", "the DDPM's network before training (seed 0)", _untrained),
}


@lru_cache(maxsize=8)
def denoiser(name: str) -> denoisers.Denoiser:
    """The denoiser behind a model, built once per process."""
    entry = MODELS[name]
    return entry.build(tensors(entry.weights) if entry.weights else {})


def load(name: str, **settings) -> PixelDiffusion:
    """A latent model by name, hub name or local folder; settings as in `PixelDiffusion` (steps,
    stepper, …).

    Raises ModelError with the known names, or with what to download and where to put it.
    """
    if name in MODELS:
        return PixelDiffusion(denoiser(name), name, **settings)
    if "/" in name or Path(name).is_dir():
        return PixelDiffusion(from_diffusers(name), name, **settings)
    raise ModelError(
        f"unknown model {name!r}; known: {', '.join(MODELS)}, or a diffusers pipeline by hub name "
        "(google/ddpm-cifar10-32) or local folder"
    )


@lru_cache(maxsize=2)
def from_diffusers(name: str) -> denoisers.Denoiser:
    """Denoiser of an unconditional diffusers pipeline (U-Net + scheduler), from a local folder or
    the hub.

    Takes betas and prediction type from the pipeline's scheduler. Raises ModelError when nothing
    can be loaded.
    """
    from diffusers import DiffusionPipeline

    local = Path(name).expanduser().is_dir()
    try:
        pipe = DiffusionPipeline.from_pretrained(
            str(Path(name).expanduser()) if local else name, local_files_only=local
        )
    except Exception as err:  # the hub client raises many kinds; all mean: not here
        how = (
            f"the folder {name} holds no diffusers pipeline (model_index.json, unet/, scheduler/)"
            if local
            else f"{name} is not in the local hub cache and cannot be downloaded. On a machine "
            f"with a network: `hf download {name} --local-dir {name.split('/')[-1]}`; then pass "
            "that folder as the model"
        )
        raise ModelError(f"{how}. ({type(err).__name__})") from err
    kinds = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
    kind = pipe.scheduler.config.get("prediction_type", "epsilon")
    if (
        kind not in kinds
        or not hasattr(pipe, "unet")
        or not hasattr(pipe.scheduler, "alphas_cumprod")
    ):
        raise ModelError(
            f"{name} is no unconditional variance-preserving pipeline: prediction {kind!r}, "
            f"scheduler {type(pipe.scheduler).__name__}"
        )
    ab = pipe.scheduler.alphas_cumprod.double().numpy()
    schedule = Schedule(name, np.arange(len(ab), dtype=float), 0.5 * (np.log(ab) - np.log1p(-ab)))
    config = pipe.unet.config
    return denoisers.from_unet(
        pipe.unet,
        schedule,
        (config.in_channels, config.sample_size, config.sample_size),
        kinds[kind],
    )


def parameters(name: str) -> int | None:
    """Number of trained parameters of a model, None for controls without weights."""
    entry = MODELS[name]
    if not entry.weights or not (WEIGHTS / entry.weights).is_file():
        return None
    return sum(v.numel() for v in tensors(entry.weights).values())


def card(name: str) -> dict:
    """The model's card (recipe, quality against its floor), empty if it has none."""
    file = WEIGHTS / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def rows() -> list[dict]:
    """One row a model for `difftools zoo`: system, world, parameters, degrees of freedom, weights,
    floor.
    """
    out = []
    for name, e in MODELS.items():
        present = e.weights is None or (WEIGHTS / e.weights).is_file()
        passed = card(name).get("floor", {}).get("passed")
        out.append(
            {
                "model": name,
                "system": e.system,
                "world": e.world,
                "title": e.title,
                "parameters": parameters(name),
                "dof_per_value": PixelDiffusion.dof_per_value,
                "weights": present,
                "floor": passed,
            }
        )
    return out
