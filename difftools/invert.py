"""`difftools invert`: the reader's own images through a model, all or nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

from . import images as im
from . import metrics, normality, zoo
from .diffusion.inversion import round_trip

ENLARGED = 4  # pixels a side for each pixel of the sheet
SHOWN = (
    "norm",
    "kurtosis",
    "lag1",
)  # latent statistics in the table, each with its white-noise range


def invert_files(
    path: Path,
    out: Path,
    model: str,
    steps: int = 20,
    stepper: str = "pec",
    refine: int = 0,
    seed: int = 0,
    batch: int = 16,
) -> dict:
    """Invert an image file or folder; writes latents, images, report and sheet, and returns the
    report: `images`, one row each, and `white_noise_95`, the range of each statistic for noise.

    Raises before any work on a bad model, path or setting; `out` must be new or empty, and stays
    untouched if anything fails.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another with --out")
    m = zoo.load(model, steps=steps, stepper=stepper, refine=refine, dtype=torch.float64)
    x = im.read(path, size=m.size)
    names = [p.name for p in im.paths(path)]
    rows, codes, back = [], [], []
    for i in tqdm(range(0, len(x), batch), unit="batch", leave=False, disable=len(x) <= batch):
        part = x[i : i + batch]
        r = round_trip(m, part, seeds=range(seed + i, seed + i + len(part)))
        codes.append(r["code"]), back.append(r["images"])
        s = normality.statistics(r["code"]["noise"])
        quality = metrics.ssim(part, r["images"]).tolist()
        rows += [
            {
                "image": n,
                "psnr_db": round(float(p), 2),
                "ssim": round(q, 4),
                **{k: round(float(s[k][j]), 3) for k in SHOWN},
                "evaluations": r["up"] + r["down"],
            }
            for j, (n, p, q) in enumerate(
                zip(names[i : i + batch], r["psnr"], quality, strict=True)
            )
        ]
    back = torch.cat(back)
    latents = {k: torch.cat([c[k] for c in codes]).contiguous() for k in codes[0].tensors}
    null = normality.null(tuple(latents["noise"].shape[1:]))
    report = {
        "model": model,
        "steps": steps,
        "stepper": stepper,
        "refine": refine,
        "seed": seed,
        "preparation": f"centre square, resized to {m.size} px, RGB; transparency on white",
        "images": rows,
        "white_noise_95": {
            k: [round(float(q), 4) for q in np.quantile(null[k], [0.025, 0.975])] for k in SHOWN
        },
    }
    _write(out, names, x, latents, back, report, seed)
    return report


def as_picture(z: torch.Tensor, size: int) -> torch.Tensor:
    """Three channels of latents (B, c, h, w) at ±3 as pictures (B, 3, size, size)."""
    z = (z[:, :3] / 3).clamp(-1, 1)
    k = size // z.shape[-1]
    return z.repeat_interleave(k, 2).repeat_interleave(k, 3)


def _write(out: Path, names, x, latents: dict, back, report: dict, seed: int) -> None:
    """Everything into a scratch folder beside `out`, then one rename."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        (part / "reconstruction").mkdir()
        for i, (n, b) in enumerate(zip(names, im.to_uint8(back), strict=True)):
            Image.fromarray(b).save(part / "reconstruction" / f"{i:04d}-{Path(n).stem}.png")
        seeds = torch.arange(seed, seed + len(x))
        save_file(latents | {"seeds": seeds}, part / "latents.safetensors")
        (part / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        z = as_picture(latents["noise"], x.shape[-1])
        strip = torch.stack([x.double(), z, back.clamp(-1, 1)], 1).flatten(0, 1)
        strip = strip.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
        Image.fromarray(im.grid(strip, columns=3)).save(part / "sheet.png")
        if out.exists():
            out.rmdir()
        part.chmod(0o755)
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
