"""What a round trip of 45 dB costs on unseen images: evaluations and seconds, side by side in one
run.

Run: `difftools bench --to-45-db` or `python benchmarks/evaluations_to_45_db.py`. Each method walks
through its step counts until the median PSNR of its round trip passes the line. diffusers' pair runs
without clipping, which is its better setting for a latent that means something (chapter 1).
"""

from __future__ import annotations

import time

import torch

from difftools import data, metrics, zoo
from difftools.cli import show
from difftools.diffusion.reference import ddim_pair

LINE = 45.0  # dB
DOMAINS = ("animals", "quickdraw", "emoji", "landscapes")
OURS = {
    "PEC": {},
    "PEC + 1 refinement": {"refine": 1},
    "DPM-Solver++ 2M": {"stepper": "dpm2m"},
    "reversible Heun": {"stepper": "reversible_heun"},
}
STEPS = (6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40, 50)
THEIRS = (20, 25, 50, 100, 125, 200, 250, 500)


def main(per_domain: int = 1, model: str = "ddpm-vehicles32") -> list[dict]:
    """Print and return one row a method: steps, evaluations both ways, seconds an image, ratio to
    diffusers.
    """
    x = torch.cat([data.domain(k, per_domain) for k in DOMAINS])
    m = zoo.load(model, dtype=torch.float32)
    d = m.denoiser

    def ours(settings):
        def trip(steps):
            now = m.with_(steps=steps, **settings)
            return now.decode(now.encode(x))

        return trip, STEPS

    jobs = {"diffusers DDIM pair, no clip": (lambda n: ddim_pair(d, x, n)[1], THEIRS)}
    jobs |= {name: ours(settings) for name, settings in OURS.items()}
    rows = [first_above(name, trip, steps, d, x) for name, (trip, steps) in jobs.items()]
    for row in rows:
        row["evaluations ÷ diffusers"] = round(row["evaluations"] / rows[0]["evaluations"], 3)
    show(rows, False)
    return rows


def first_above(name: str, trip, steps, denoiser, x) -> dict:
    """The first step count whose median PSNR reaches the line, or the last one tried."""
    for n in steps:
        before, start = denoiser.calls, time.perf_counter()
        quality = float(metrics.psnr(x, trip(n)).median())
        row = {
            "method": name,
            "steps": n,
            "evaluations": denoiser.calls - before,
            "seconds an image": round((time.perf_counter() - start) / len(x), 3),
            "PSNR dB": round(quality, 1),
            "reached": quality >= LINE,
        }
        if row["reached"]:
            break
    return row


if __name__ == "__main__":
    main()
