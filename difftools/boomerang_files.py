"""`difftools boomerang`: the reader's own images, flown n times each, all or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from . import boomerang as fly
from . import images as im
from . import metrics, zoo
from .diffusion.latent import LatentDiffusion
from .folders import whole
from .invert import ENLARGED

SHARE, RUNS, STEPS = 0.4, 8, 20  # t, runs of each image, steps of a walk
COLUMNS = {
    "psnr_db": "mean PSNR of the runs against the image, dB",
    "distance": "mean squared distance per value, -1 to 1, of the runs from the image",
    "between_runs": "the same of two runs from each other; for a picture of the model's own kind "
                    "up to twice the distance close to it, and no more than it where none is left",
    "twice_error": "twice the error of one denoising of the image at t: the distance that theory "
                   "expects of a long stochastic walk; one of few steps ends closer",
}


def boomerang_files(
    path: Path, out: Path, model: str, t: float = SHARE, n: int = RUNS, eta: float = 1.0,
    steps: int = STEPS, spacing: str = "time", seed: int = 0, prompt: str = "",
    guidance: float = 7.5,
) -> dict:
    """Fly an image file or folder; writes pictures, latents, report and sheet, returns the report:
    `level`, what t means, `images`, one row each, and `columns`, how to read them.

    Raises before any work on a bad model, path or setting; `out` must be new or empty, and stays
    untouched if anything fails. prompt, guidance: for Stable Diffusion alone. Built in: boomerang.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another with --out")
    if not 0 < t <= 1:
        raise ValueError(f"t is the share of the noise schedule, above 0 and at most 1, got {t:g}: "
                         "t = 0 is the image itself, t = 1 a picture that the model draws")
    if n < 1:
        raise ValueError(f"n is the number of runs of each image, 1 or more, got {n}")
    m = load(model, prompt, guidance)
    at = fly.level(m.denoiser.schedule, t)
    nodes = fly.way_down(m.denoiser.schedule, t, steps, spacing)
    x = im.read(path, size=m.size)
    names = [p.name for p in im.paths(path)]
    settings = {"eta": eta, "steps": steps, "spacing": spacing}
    back = fly.runs(m, x, t, n, seed, **settings, progress=True)  # (n, B, 3, H, W)
    report = {
        "model": model, "t": t, "runs": n, **settings, "seed": seed,
        **({"prompt": prompt, "guidance": guidance} if prompt else {}),
        "level": {"time": round(at.t, 2), "log_snr": round(at.lam, 4),
                  "alpha": round(at.alpha, 4), "sigma": round(at.sigma, 4)},
        "evaluations": len(nodes),
        "preparation": f"centre square, resized to {m.size} px, RGB; transparency on white",
        "images": [row(name, x[i], back[:, i]) for i, name in enumerate(names)],
        "columns": COLUMNS,
    }
    if isinstance(m, LatentDiffusion):  # the error is one of latents
        report["columns"] = {k: v for k, v in COLUMNS.items() if k != "twice_error"}
    else:
        errors = fly.denoised_error(m, x, t, range(seed, seed + len(x)))
        for one, error in zip(report["images"], errors):
            one["twice_error"] = round(2 * float(error), 5)
    _write(out, names, x, back, latents(m, x, t, n, seed), report)
    return report


def load(model: str, prompt: str = "", guidance: float = 7.5):
    """A latent model by name, or with a prompt a folder of Stable Diffusion."""
    if not prompt:
        m = zoo.load(model)
        if not hasattr(m, "denoiser"):
            raise ValueError(f"{model} is no diffusion model: Boomerang adds noise and walks back")
        return m
    from . import stable_diffusion

    return stable_diffusion.load(model, prompt, guidance)


def row(name: str, x: torch.Tensor, back: torch.Tensor) -> dict:
    """What the report says of one image x (3, H, W) and its runs back (n, 3, H, W)."""
    away = (back - x).square().mean((1, 2, 3))
    two = [(back[a] - back[b]).square().mean() for a in range(len(back)) for b in range(a)]
    psnr = metrics.psnr(x.expand_as(back), back)
    return {"image": name, "psnr_db": round(float(psnr.mean()), 2),
            "distance": round(float(away.mean()), 5),
            "between_runs": round(float(torch.stack(two).mean()), 5) if two else None}


def latents(m, x: torch.Tensor, t: float, n: int, seed: int) -> dict[str, torch.Tensor]:
    """The noised states that the walks start from, (n, B, …), and their seeds (n, B); for DAE the
    semantic codes too.
    """
    seeds = torch.arange(seed, seed + n * len(x)).reshape(n, len(x))
    with torch.no_grad(), fly.space(m, x) as (diffusion, x0, _):
        at = fly.level(diffusion.denoiser.schedule, t)
        states = [diffusion.forward_noise(x0, s.tolist(), at) for s in seeds]
    more = {"semantic": m.semantic(x)} if hasattr(m, "semantic") else {}
    return {"noised": torch.stack(states).contiguous(), "seeds": seeds, **more}


def _write(out: Path, names, x, back, tensors: dict, report: dict) -> None:
    """All files of the command's folder."""
    with whole(out) as part:
        (part / "returned").mkdir()
        for i, name in enumerate(names):
            for r, picture in enumerate(im.to_uint8(back[:, i].clamp(-1, 1))):
                file = part / "returned" / f"{i:04d}-{Path(name).stem}-{r:02d}.png"
                Image.fromarray(picture).save(file)
        save_file(tensors, part / "latents.safetensors")
        (part / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        strip = torch.cat([x[None].double(), back.clamp(-1, 1)]).transpose(0, 1).flatten(0, 1)
        if x.shape[-1] < 128:
            strip = strip.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
        Image.fromarray(im.grid(strip, columns=len(back) + 1)).save(part / "sheet.png")
