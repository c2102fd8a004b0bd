"""Images per second of an inversion, side by side in one run: ours, diffusers' loop, and the bare
network (the limit).

Run: `difftools bench` or `python benchmarks/inversion_speed.py`. Rounds are interleaved (A, B, C,
A, B, C, …) and the median of the ratios is reported, so that a slow minute of the machine hits all
three alike.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from difftools import data, zoo
from difftools.diffusion.reference import ddim_pair
from difftools.metrics import psnr


def main(
    steps: int = 20, batch: int = 16, repeats: int = 7, model: str = "ddpm-vehicles32"
) -> list[dict]:
    """Print and return one row a method: images/s, time ÷ (evaluations × bare network), round-trip
    PSNR.
    """
    x = data.domain("animals", batch)
    ours = {
        name: zoo.load(model, steps=steps, stepper=name, dtype=torch.float32)
        for name in ("ddim", "pec", "reversible_heun")
    }
    d = ours["pec"].denoiser
    at = ours["pec"].nodes[steps // 2]

    def network():
        for _ in range(2 * steps):
            d.x0_eps(x, at)
        return x

    def round_trip(m):
        return lambda: m.decode(m.encode(x))

    jobs = {
        "bare network": network,
        "diffusers DDIM pair": lambda: ddim_pair(d, x, steps, dtype=torch.float32)[1],
        **{f"ours, {k}": round_trip(m) for k, m in ours.items()},
    }
    seconds, calls, quality = {k: [] for k in jobs}, {}, {}
    for _ in range(repeats + 1):  # the first round warms up and is dropped
        for name, job in jobs.items():
            before, start = d.calls, time.perf_counter()
            out = job()
            seconds[name].append(time.perf_counter() - start)
            calls[name] = d.calls - before
            quality[name] = float(psnr(x, out).median())
    rows = []
    for name in jobs:
        t = np.array(seconds[name][1:])
        per_call = t / calls[name] / (np.array(seconds["bare network"][1:]) / calls["bare network"])
        rows.append(
            {
                "method": name,
                "evaluations": calls[name],
                "images_per_s": round(batch / float(np.median(t)), 2),
                "time_over_network": round(float(np.median(per_call)), 3),
                "round_trip_db": None if name == "bare network" else round(quality[name], 1),
            }
        )
    print(
        f"{model}, {steps} steps each way, batch {batch}, {torch.get_num_threads()} threads, "
        f"median of {repeats} rounds"
    )
    for r in rows:
        print("  ".join(f"{k}={v}" for k, v in r.items()))
    return rows


if __name__ == "__main__":
    main()
