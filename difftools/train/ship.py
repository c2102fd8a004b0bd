"""From a trained module to what the book ships: gain, float16 weights, manifest and card."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from .. import metrics, weights
from ..code import noise
from ..diffusion.dae import DAE
from ..diffusion.denoiser import exact
from ..diffusion.inversion import error_ratio, ratio_interval
from ..diffusion.latent import LatentDiffusion
from ..diffusion.model import PixelDiffusion
from ..diffusion.schedule import alpha_sigma
from ..gaussians import Gaussian
from ..images import grid as sheet
from ..nets.unet import GAIN_LAM, GAIN_NODES, GaussianPreconditioned

LAM_FLOOR = np.arange(
    -4.0, 4.01, 0.5
)  # log-SNR where the floor asks for less error than the linear denoiser
LAM_ALL = np.r_[-5.0, -4.5, LAM_FLOOR, 4.5]  # nowhere here more than 5 % above it


@torch.no_grad()
def fit_gain(
    module: GaussianPreconditioned,
    images: Tensor,
    schedule,
    cond: Tensor | None = None,
    per_node: int = 256,
    seed: int = 0,
) -> Tensor:
    """Least-squares gain of the residual at each node of the table, in [0, 1]; images (B, C, H, W)
    not trained on, with what else the network is told about each, (B, k).

    gain = <F, target> / <F, F>: the shrinkage that minimises the error of x0 hat, smoothed over
    three nodes.
    """
    module.eval()
    out = []
    for k, v in enumerate(np.linspace(*GAIN_LAM, GAIN_NODES)):
        gen = np.random.default_rng([seed, k])
        pick = gen.choice(len(images), min(per_node, len(images)), replace=False)
        x0 = images[pick]
        told = () if cond is None else (cond[pick],)
        a, s = map(float, alpha_sigma(v))
        x = a * x0 + s * noise(range(len(x0)), x0.shape[1:], "forward")
        t = torch.full((len(x0),), float(schedule.t_of(v)))
        linear, c_out, F = module.parts(x, t, torch.full((len(x0),), float(v)), *told)
        target = (x0 - linear) / c_out
        out.append(float((F * target).sum() / (F * F).sum().clamp_min(1e-12)))
    gain = np.clip(out, 0, 1)
    padded = np.pad(gain, 1, mode="edge")
    return torch.tensor((padded[:-2] + padded[1:-1] + padded[2:]) / 3, dtype=torch.float32)


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float16; vectors (norms, biases, statistics) and the eigenvectors of a Gaussian that
    travels with its network stay float32: where the network adds nothing they are the denoiser.
    """
    exact = lambda k, v: v.ndim < 2 or k.endswith(".U")  # noqa: E731
    return {k: (v.float() if exact(k, v) else v.half()).contiguous() for k, v in state.items()}


def packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a GAN in int8, each row of the first axis on a scale of its own, for
    `weights.unpacked`; vectors and filters (under 1,000 numbers) stay float32.

    A generator answers for its samples alone, so the card measures what this costs.
    """
    out = {}
    for k, v in state.items():
        if v.ndim < 2 or v.numel() < 1000:
            out[k] = v.float().contiguous()
            continue
        scale = v.float().flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        scale = scale.view(-1, *[1] * (v.ndim - 1))
        out[k] = (v.float() / scale).round().to(torch.int8).contiguous()
        out[k + weights.SCALE] = scale.contiguous()
    return out


def save(folder: Path, file: str, state: dict[str, Tensor]) -> str:
    """Write safetensors and enter its sha256 in the folder's manifest; returns the hash."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{file}"
    save_file(state, part)
    sha = hashlib.sha256(part.read_bytes()).hexdigest()
    part.chmod(0o644)
    part.rename(folder / file)
    manifest = folder / "manifest.json"
    known = json.loads(manifest.read_text()) if manifest.is_file() else {}
    write_json(manifest, known | {file: sha})
    return sha


def write_json(path: Path, value) -> None:
    """Write JSON in one step, sorted and indented."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    part.rename(path)


@contextmanager
def space(model, images: Tensor):
    """(denoiser, what it denoises) of a system on images (B, 3, H, W): pixels, pixels given their
    semantic codes, or latents.
    """
    if isinstance(model, DAE):
        with model.given(model.semantic(images)) as diffusion:
            yield diffusion.denoiser, images
    elif isinstance(model, LatentDiffusion):
        yield model.denoiser, model.latents(images).float()
    else:
        yield model.denoiser, images


def quality(
    model,
    linear: Gaussian,
    pixels: Gaussian,
    held_out: Tensor,
    reference: Tensor,
    samples: int = 512,
    seed: int = 10_000,
) -> tuple[dict, Tensor]:
    """What the card says, and whether it passes the floor; returns (facts, samples in [-1, 1]).

    linear: the best linear denoiser in the model's space (pixels or latents). pixels: the Gaussian
    of the training images. held_out: images (B, 3, 32, 32) not trained on. reference: features (n,
    1280) of training images. The floor: error ÷ linear error below 1 for log-SNR in [-4, 4] and
    nowhere above 1.05, KID of samples below that of the exact Gaussian's samples, no sample nearer
    to a training image than held-out images are.
    """
    with space(model, held_out) as (d, data):
        ratio, lo, hi = ratio_interval(error_ratio(d, linear, data, LAM_ALL))
    facts, fake = sampled(model, pixels, held_out, reference, samples, seed)
    inside = np.isin(LAM_ALL, LAM_FLOOR)
    floor = {
        "below_linear": bool((ratio[inside] < 1).all()),
        "never_5_percent_above": bool((ratio < 1.05).all()),
        **facts.pop("floor"),
    }
    return {
        "lam": LAM_ALL.tolist(),
        "error_ratio": _round(ratio),
        "error_ratio_low": _round(lo),
        "error_ratio_high": _round(hi),
        **facts,
        "floor": floor | {"passed": all(floor.values())},
    }, fake


def sampled(
    model,
    pixels: Gaussian,
    held_out: Tensor,
    reference: Tensor,
    samples: int = 512,
    seed: int = 10_000,
) -> tuple[dict, Tensor]:
    """What a card says of samples, and the samples in [-1, 1]; arguments as in `quality`.

    The floor's half that every generator has: KID below that of the exact Gaussian's samples, and
    no sample nearer to a training image than held-out images are.
    """
    real = metrics.features(held_out)
    fake = model.decode(model.prior(samples, seed)).float().clamp(-1, 1)
    gauss = PixelDiffusion(exact(pixels, tuple(held_out.shape[1:])))
    gauss = gauss.decode(gauss.prior(samples, seed)).float().clamp(-1, 1)
    f_fake, f_gauss = metrics.features(fake), metrics.features(gauss)
    kid = {
        "samples": metrics.kid(f_fake, real),
        "gaussian": metrics.kid(f_gauss, real),
        "training": metrics.kid(reference, real),
    }
    near = {
        k: float(metrics.nearest(f, reference)[0].median())
        for k, f in (("samples", f_fake), ("held_out", real))
    }
    facts = {
        "kid": {
            k: {"value": round(v, 5), "low": round(a, 5), "high": round(b, 5)}
            for k, (v, (a, b)) in kid.items()
        },
        "fd64": {
            k: round(metrics.fd(f, real), 3)
            for k, f in (("samples", f_fake), ("gaussian", f_gauss), ("training", reference))
        },
        "nearest_training_feature": {k: round(v, 4) for k, v in near.items()},
        "images": {"held_out": len(held_out), "samples": samples, "seed": seed},
        "floor": {
            "kid_below_gaussian": kid["samples"][1][1] < kid["gaussian"][1][0],
            "no_memorisation": near["samples"] > 0.8 * near["held_out"],
        },
    }
    return facts, fake


def curve_point(model, real: Tensor, samples: int = 256, seed: int = 10_000) -> dict:
    """KID with its interval, and FD on 64 components, of samples against features real (n, 1280):
    one point of a card's curve.
    """
    fake = metrics.features(model.decode(model.prior(samples, seed)).float().clamp(-1, 1))
    value, (low, high) = metrics.kid(fake, real)
    kid = {"value": round(value, 5), "low": round(low, 5), "high": round(high, 5)}
    return {"kid": kid, "fd64": round(metrics.fd(fake, real), 3)}


def flat(curve: list[dict]) -> bool:
    """Whether the last fifth of training lowered KID by less than half its interval's width."""
    if len(curve) < 2:
        return False
    last = curve[-1]
    before = min(curve[:-1], key=lambda p: abs(p["images"] - 0.8 * last["images"]))
    width = last["kid"]["high"] - last["kid"]["low"]
    return before["kid"]["value"] - last["kid"]["value"] < width / 2


def reconstruction(model, images: dict[str, Tensor], steps: int = 20) -> dict:
    """PSNR and SSIM of a round trip by image domain, and of the autoencoder alone where there is
    one: medians over images (B, 3, H, W).
    """
    out = {}
    for name, x in images.items():
        row = {}
        for kind in ("round trip", "autoencoder alone"):
            m = model.with_(steps=steps)
            if kind == "autoencoder alone":
                if not isinstance(m, LatentDiffusion):
                    continue
                m = m.with_(mode="ae_only")
            back = m.decode(m.encode(x))
            row[kind] = {
                "psnr": round(float(metrics.psnr(x, back).median()), 2),
                "ssim": round(float(metrics.ssim(x, back).median()), 4),
            }
        out[name] = row
    return out


def _round(x) -> list[float]:
    return [round(float(v), 4) for v in x]


def write_sheet(path: Path, images: Tensor, columns: int = 16) -> None:
    """Sample sheet as PNG of 256 colours."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(sheet(images, columns))
    picture.quantize(256, kmeans=3, dither=0).save(path, optimize=True)
