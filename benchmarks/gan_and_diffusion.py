"""Three tables about inversion by optimisation. Run: `difftools bench --gan` or
`python benchmarks/gan_and_diffusion.py`.

The ladder: PSNR beside degrees of freedom, from z to SPHInX, on images in and out of domain. And
seconds an image to equal PSNR, for GAN inversion and for diffusion inversion, side by side in one
run. And what 16 images cost beside one.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from difftools import data, metrics, zoo
from difftools.cli import show

GAN = "stylegan2-vehicles32"
DIFFUSION = "ddpm-vehicles32"
DOMAINS = ("vehicles", "animals", "quickdraw", "emoji", "textures")
LADDER = ("z", "w", "w_plus", "w_plus_noise", "sphinx_style", "sphinx_content", "sphinx")
LINES = (15.0, 20.0, 25.0, 30.0, 40.0)  # dB
STEPS = (2, 3, 4, 5, 6, 8, 10, 14, 20)
EVERY = 25  # optimisation steps between two looks at the clock


def ladder(per_domain: int = 6, steps: int = 600) -> list[dict]:
    """One row a recipe and domain: degrees of freedom per pixel value, median PSNR with its
    bootstrap interval over images, seconds an image.
    """
    images = torch.cat([data.domain(k, per_domain) for k in DOMAINS])
    rows = []
    for recipe in LADDER:
        m = zoo.load(GAN, recipe=recipe, steps=steps)
        start = time.perf_counter()
        quality = metrics.psnr(images, m.decode(m.encode(images)), clip=True).numpy()
        seconds = (time.perf_counter() - start) / len(images)
        for name, values in zip(DOMAINS, np.split(quality, len(DOMAINS)), strict=True):
            low, high = metrics.bootstrap(values)
            rows.append(
                {
                    "recipe": recipe,
                    "dof / value": round(m.dof_per_value, 3),
                    "domain": name,
                    "PSNR dB": round(float(np.median(values)), 2),
                    "low": round(low, 2),
                    "high": round(high, 2),
                    "s / image": round(seconds, 2),
                }
            )
    return rows


def optimised(recipe: str, images: torch.Tensor, steps: int) -> list[tuple[float, float, int]]:
    """(seconds an image, median PSNR of the best so far, passes) along one optimisation."""
    m, out, spent = zoo.load(GAN, recipe=recipe, steps=steps), [], 0.0
    walk = m.walk(images, every=EVERY)
    while True:
        start, before = time.perf_counter(), m.calls
        state = next(walk, None)
        spent += time.perf_counter() - start  # decoding and judging is not on the clock
        if state is None:
            return out
        passes = m.calls - before + (out[-1][2] if out else 0)
        back = m.decode(m.code(state.parts))
        out.append((spent / len(images), float(metrics.psnr(images, back).median()), passes))


def walked(stepper: str, images: torch.Tensor) -> list[tuple[float, float, int]]:
    """The same of round trips of a diffusion model with more and more steps."""
    out = []
    for steps in STEPS:
        m = zoo.load(DIFFUSION, steps=steps, stepper=stepper, dtype=torch.float32)
        start, before = time.perf_counter(), m.denoiser.calls
        back = m.decode(m.encode(images))
        seconds = (time.perf_counter() - start) / len(images)
        quality = float(metrics.psnr(images, back).median())
        out.append((seconds, quality, m.denoiser.calls - before))
    return out


def race(per_domain: int = 3, steps: int = 600) -> list[dict]:
    """One row a method: seconds an image and network passes until the median PSNR over unseen
    images passes each line, None where it never does.
    """
    images = torch.cat([data.domain(k, per_domain) for k in DOMAINS[1:]])
    runs = {f"{GAN}, {r}": optimised(r, images, steps) for r in LADDER[1:4] + LADDER[-1:]}
    runs |= {f"{DIFFUSION}, {s}": walked(s, images) for s in ("ddim", "pec", "reversible_heun")}
    rows = []
    for name, points in runs.items():
        row = {"method": name, "best dB": round(max(q for _, q, _ in points), 1)}
        for line in LINES:
            first = next(((t, n) for t, q, n in points if q >= line), None)
            row[f"{line:.0f} dB"] = "-" if first is None else f"{first[0]:.2f} s, {first[1]}"
        rows.append(row)
    return rows


def batching(steps: int = 100, rounds: int = 3) -> list[dict]:
    """One row a recipe: time of 16 images over time of one, median of interleaved rounds."""
    images, rows = data.domain("animals", 16), []
    for recipe in ("w_plus", "sphinx"):
        m, ratios = zoo.load(GAN, recipe=recipe, steps=steps), []
        for _ in range(rounds + 1):  # the first round warms up and is dropped
            seconds = []
            for n in (1, 16):
                start = time.perf_counter()
                m.encode(images[:n])
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[1] / seconds[0])
        rows.append({"recipe": recipe, "time of 16 / time of 1": round(np.median(ratios[1:]), 2)})
    return rows


def main() -> None:
    """Print the tables."""
    print(f"{GAN}, degrees of freedom and PSNR:")
    show(ladder(), False)
    print("\nSeconds an image and network passes to a median PSNR over unseen images:")
    show(race(), False)
    print("\nOne batch of 16 images:")
    show(batching(), False)


if __name__ == "__main__":
    main()
