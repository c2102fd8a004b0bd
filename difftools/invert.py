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
) -> list[dict]:
    """Invert an image file or folder; returns one row an image and writes latents, images, report
    and sheet.

    Raises before any work on a bad model, path or setting; `out` must be new or empty, and stays
    untouched if anything fails.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another with --out")
    m = zoo.load(model, steps=steps, stepper=stepper, refine=refine, dtype=torch.float64)
    x = im.read(path, size=m.denoiser.shape[-1])
    names = [p.name for p in im.paths(path)]
    rows, z, back = [], [], []
    for i in tqdm(range(0, len(x), batch), unit="batch", leave=False, disable=len(x) <= batch):
        part = x[i : i + batch]
        r = round_trip(m, part, seeds=range(seed + i, seed + i + len(part)))
        z.append(r["code"]["noise"]), back.append(r["images"])
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
    z, back = torch.cat(z), torch.cat(back)
    null = normality.null(tuple(z.shape[1:]))
    report = {
        "model": model,
        "steps": steps,
        "stepper": stepper,
        "refine": refine,
        "seed": seed,
        "images": rows,
        "white_noise_95": {
            k: [round(float(q), 4) for q in np.quantile(null[k], [0.025, 0.975])] for k in SHOWN
        },
    }
    _write(out, names, x, z, back, report, seed)
    return rows


def _write(out: Path, names, x, z, back, report: dict, seed: int) -> None:
    """Everything into a scratch folder beside `out`, then one rename."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        (part / "reconstruction").mkdir()
        for i, (n, b) in enumerate(zip(names, im.to_uint8(back), strict=True)):
            Image.fromarray(b).save(part / "reconstruction" / f"{i:04d}-{Path(n).stem}.png")
        seeds = torch.arange(seed, seed + len(z))
        save_file({"noise": z.contiguous(), "seeds": seeds}, part / "latents.safetensors")
        (part / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        strip = torch.stack([x.double(), (z / 3).clamp(-1, 1), back.clamp(-1, 1)], 1).flatten(0, 1)
        Image.fromarray(im.grid(strip, columns=3)).save(part / "sheet.png")
        if out.exists():
            out.rmdir()
        part.chmod(0o755)
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
