"""`difftools invert`: the reader's own images through a model, all or nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

from . import images as im
from . import metrics, normality, zoo
from .diffusion.inversion import round_trip
from .folders import whole
from .gan.model import GAN

ENLARGED = 4  # pixels a side for each pixel of the sheet
SHOWN = (
    "norm",
    "kurtosis",
    "lag1",
)  # latent statistics in the table, each with its white-noise range


STEPS = 1000  # of a GAN's optimisation, unless its recipe takes fewer


def settled(m, name: str, given: dict) -> tuple[object, dict]:
    """(model, settings) with defaults for what is None; ValueError on an option of another kind of
    model.
    """
    gan = isinstance(m, GAN)
    for option, wanted in (("stepper", not gan), ("refine", not gan), ("recipe", gan)):
        if given[option] is not None and not wanted:
            kind = "a GAN, inverted by optimisation" if gan else "a diffusion model"
            raise ValueError(f"{name} is {kind}: it takes no --{option}")
    given = {k: v for k, v in given.items() if v is not None}
    if not gan:
        settings = {"steps": 20, "stepper": "pec", "refine": 0} | given
        return m.with_(**settings, dtype=torch.float64), settings
    m = m.with_(**given)
    settings = {"recipe": m.recipe, "steps": min(STEPS, m.plan.steps)} | given
    return m.with_(**settings, progress=True), settings


def invert_files(
    path: Path,
    out: Path,
    model: str,
    steps: int | None = None,
    stepper: str | None = None,
    refine: int | None = None,
    recipe: str | None = None,
    seed: int = 0,
    batch: int = 16,
) -> dict:
    """Invert an image file or folder; writes latents, images, report and sheet, and returns the
    report: `images`, one row each, and for a diffusion model `white_noise_95`, the range of each
    statistic for noise.

    steps: of the grid (20), or of a GAN's optimisation (its recipe's own, at most 1000). stepper,
    refine: of diffusion models (pec, 0); recipe: of GANs. Raises before any work on a bad model,
    path or setting; `out` must be new or empty, and stays untouched if anything fails.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another with --out")
    given = {"steps": steps, "stepper": stepper, "refine": refine, "recipe": recipe}
    m, settings = settled(zoo.load(model), model, given)
    x = im.read(path, size=m.size)
    names = [p.name for p in im.paths(path)]
    rows, codes, back = [], [], []
    for i in tqdm(range(0, len(x), batch), unit="batch", leave=False, disable=len(x) <= batch):
        part = x[i : i + batch]
        began = time.perf_counter()
        r = round_trip(m, part, seeds=range(seed + i, seed + i + len(part)))
        seconds = (time.perf_counter() - began) / len(part)
        codes.append(r["code"]), back.append(r["images"])
        quality = metrics.ssim(part, r["images"]).tolist()
        more = _gan_columns(m, len(part), seconds) if isinstance(m, GAN) else _statistics(r["code"])
        rows += [
            {
                "image": n,
                "psnr_db": round(float(p), 2),
                "ssim": round(q, 4),
                **own,
                "evaluations": r["up"] + r["down"],
            }
            for n, p, q, own in zip(names[i : i + batch], r["psnr"], quality, more, strict=True)
        ]
    back = torch.cat(back)
    latents = {k: torch.cat([c[k] for c in codes]).contiguous() for k in codes[0].tensors}
    report = {
        "model": model,
        **settings,
        "seed": seed,
        "preparation": f"centre square, resized to {m.size} px, RGB; transparency on white",
        "images": rows,
    }
    if not isinstance(m, GAN):
        null = normality.null(tuple(latents["noise"].shape[1:]))
        report["white_noise_95"] = {
            k: [round(float(q), 4) for q in np.quantile(null[k], [0.025, 0.975])] for k in SHOWN
        }
    _write(out, names, x, latents, back, report, seed)
    return report


def _statistics(code) -> list[dict]:
    """A row of latent statistics for each image."""
    s = normality.statistics(code["noise"])
    return [{k: round(float(s[k][j]), 3) for k in SHOWN} for j in range(len(code))]


def _gan_columns(m: GAN, n: int, seconds: float) -> list[dict]:
    """What an optimisation costs, and how many numbers it may choose."""
    return [{"dof_per_value": round(m.dof_per_value, 4), "seconds": round(seconds, 2)}] * n


def as_picture(z: torch.Tensor, size: int) -> torch.Tensor:
    """Three channels of latents (B, c, h, w) at ±3 as pictures (B, 3, size, size)."""
    z = (z[:, :3] / 3).clamp(-1, 1)
    k = size // z.shape[-1]
    return z.repeat_interleave(k, 2).repeat_interleave(k, 3)


def _write(out: Path, names, x, latents: dict, back, report: dict, seed: int) -> None:
    """All files of the command's folder."""
    with whole(out) as part:
        (part / "reconstruction").mkdir()
        for i, (n, b) in enumerate(zip(names, im.to_uint8(back), strict=True)):
            Image.fromarray(b).save(part / "reconstruction" / f"{i:04d}-{Path(n).stem}.png")
        seeds = torch.arange(seed, seed + len(x))
        save_file(latents | {"seeds": seeds}, part / "latents.safetensors")
        (part / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        shown = [x.double(), back.double().clamp(-1, 1)]
        if "white_noise_95" in report:  # a latent of the image's shape
            shown.insert(1, as_picture(latents["noise"], x.shape[-1]))
        strip = torch.stack(shown, 1).flatten(0, 1)
        strip = strip.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
        Image.fromarray(im.grid(strip, columns=len(shown))).save(part / "sheet.png")
