"""`difftools unseen`: sample the domain of the reader's own images, all or nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

from . import images as im
from . import metrics, unseen, zoo
from .code import Code
from .diffusion.schedule import linear
from .folders import whole
from .invert import ENLARGED

LEAST = 4  # images from which a Gaussian can be fitted and its fit judged at all
TRIES = 20  # draws for each sample that is wanted, before rejection gives up


def unseen_files(
    path: Path, out: Path, model: str, n: int = 64, kind: str = "spectral", t_m: float = 603,
    eta: float = 0.0, reject: bool = False, steps: int = 20, seed: int = 0, batch: int = 16,
) -> dict:
    """Sample from a folder's domain; writes samples, latents, report and sheet, returns the report.

    kind: of the fit, see `unseen.fit`. t_m: where to sample, as t of 1000 on the linear schedule
    (other schedules: the node of equal log-SNR). eta: of stochastic DDIM on the way down. reject:
    keep what passes the three properties. Raises ValueError before any work on a bad model, path or
    setting, and if rejection leaves too few; `out` must be new or empty, and stays untouched if
    anything fails. Built in: gaussian_priors.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another with --out")
    m = zoo.load(model)
    if not hasattr(m, "denoiser"):
        raise ValueError(f"{model} has no diffusion inside: choose a diffusion model")
    if kind not in unseen.KINDS:
        raise ValueError(f"no fit {kind!r}; known: {', '.join(unseen.KINDS)}")
    if n < 1 or steps < 2:
        raise ValueError(f"expected 1 sample and 2 steps or more, got {n} and {steps}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta:g}")
    if not 1 <= t_m <= 999:
        raise ValueError(f"t_m must lie in 1 .. 999, got {t_m:g}")
    x = im.read(path, size=m.size)
    if len(x) < LEAST:
        raise ValueError(f"a fit needs {LEAST} images or more, {path} has {len(x)}")
    at = unseen.rung(m, float(linear().lam_of(t_m)), steps)
    seeds = range(seed, seed + len(x))
    go = lambda k: tqdm(range(0, k, batch), unit="batch", leave=False, disable=k <= batch)  # noqa: E731
    found = [unseen.invert(m, x[i : i + batch], [at], steps, seeds[i : i + batch])[0]
             for i in go(len(x))]
    code = Code({k: torch.cat([c[k] for c in found]) for k in found[0].tensors},
                found[0].geometry, tuple(seeds))
    drawn, report = _drawn(code, n, kind, reject, seed)
    y = torch.cat([unseen.decode(m, drawn.select(slice(i, i + batch)), at, steps, eta,
                                 range(seed + i, seed + min(i + batch, n))) for i in go(n)])
    y = y.clamp(-1, 1).float()
    report = {
        "model": model, "images": len(x), "samples": n, "fit": kind, "t_m": t_m, "rung": at,
        "steps": steps, "eta": eta, "seed": seed,
        "preparation": f"centre square, resized to {m.size} px, RGB; transparency on white",
        **report, **_judged(y, _in_pixels(x, n, kind, seed), x),
    }
    _write(out, x, y, drawn, report)
    return report


def _drawn(code: Code, n: int, kind: str, reject: bool, seed: int) -> tuple[Code, dict]:
    """n codes of the fit, with what share of draws has each property, and their norms."""
    laws = unseen.fit_code(code, kind)
    drawn = unseen.draw(laws, code, TRIES * n if reject else n, seed)
    z, half = code["noise"], len(code) // 2
    references = z[: max(2, min(unseen.REFERENCES, half))]
    bounds = unseen.windows(unseen.properties(z[half:], references))
    ok = unseen.passes(unseen.properties(drawn["noise"], references), bounds)
    report = {"norm of latents": float(z.flatten(1).square().mean(1).sqrt().median())}
    report |= {f"draws with the {k} of latents": round(float(v), 4)
               for k, v in zip(unseen.PROPERTIES, ok.double().mean(0), strict=True)}
    if reject:
        keep = torch.nonzero(ok.all(1)).flatten()[:n].tolist()
        if len(keep) < n:
            raise ValueError(f"only {len(keep)} of {TRIES * n} draws pass all three properties, "
                             f"{n} were asked for: take fewer, or leave out --reject")
        drawn = drawn.select(keep)
    return drawn, report | {"rejected": reject}


def _in_pixels(x: torch.Tensor, n: int, kind: str, seed: int) -> torch.Tensor:
    """n draws of the same fit to the images themselves: what no model adds to."""
    code = Code({"noise": x.double()}, {"noise": "flat"})
    return unseen.draw(unseen.fit_code(code, kind), code, n, seed)["noise"].clamp(-1, 1).float()


def _judged(y: torch.Tensor, pixels: torch.Tensor, x: torch.Tensor) -> dict:
    """KID of samples to the images and how new they are, beside the same of draws in pixels and of
    halves of the images, split at random.
    """
    f, p, g = (metrics.features(v) for v in (y, pixels, x))
    g = g[torch.randperm(len(g), generator=torch.Generator().manual_seed(0))]
    a, b = g[: len(g) // 2], g[len(g) // 2 :]
    kid = lambda a, b: metrics.kid(a, b) if min(len(a), len(b)) > 2 else (  # noqa: E731
        math.nan, (math.nan, math.nan))
    (near, ends), (plain, others), (same, _) = kid(f, g), kid(p, g), kid(a, b)
    report = {
        "kid to your images": round(near, 4),
        "kid of draws in pixels": round(plain, 4),
        "kid between halves of your images": round(same, 4),
        "novelty": round(unseen.novelty(f, a, b), 3),
        "in words": _words(ends, others),
    }
    return {k: None if v != v else v for k, v in report.items()}   # NaN is no JSON


def _words(ends: tuple[float, float], pixels: tuple[float, float]) -> str:
    """What two intervals of KID say about samples by the model and draws of pixels."""
    if math.isnan(ends[0] + pixels[0]):
        return "too few images or samples to say"
    if ends[1] < pixels[0]:
        return "nearer to your images than draws of the same Gaussian in pixels"
    if pixels[1] < ends[0]:
        return "farther from your images than draws of the same Gaussian in pixels"
    return "not shown to be nearer to your images than draws of the same Gaussian in pixels"


def _write(out: Path, x, y, drawn: Code, report: dict) -> None:
    """All files of the command's folder."""
    with whole(out) as part:
        (part / "samples").mkdir()
        for i, b in enumerate(im.to_uint8(y)):
            Image.fromarray(b).save(part / "samples" / f"{i:04d}.png")
        save_file({k: v.contiguous() for k, v in drawn.tensors.items()},
                  part / "latents.safetensors")
        (part / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        k = 8
        blank = x.new_ones(-len(x[: 2 * k]) % k, *x.shape[1:])
        both = torch.cat([x[: 2 * k], blank, y[: 6 * k]])
        both = both.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
        Image.fromarray(im.grid(both, columns=k)).save(part / "sheet.png")
