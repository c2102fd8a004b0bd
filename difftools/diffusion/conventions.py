"""Published inversion conventions as data: a grid for each direction, and whether x0 hat is
clipped.

In the flow chart Euler is DDIM, also at the levels alpha = 0 and sigma = 0, where official samplers
end. So a convention needs no sampler of its own: it is the `ddim` stepper on these nodes. All take
the clean image itself as the state on the first node, and none adds start noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .schedule import Node, Schedule, alpha_sigma

IMAGE = Node(math.inf, 0.0, 1.0, 0.0, 0.0)  # no noise left; never evaluated
NOISE = Node(-math.inf, math.inf, 0.0, 1.0, 1.0)  # no image left; never evaluated


@dataclass(frozen=True)
class Convention:
    """Nodes walked to invert, nodes walked to reconstruct, and whether x0 hat is clipped to [-1, 1]
    (with eps derived again from the clipped value).
    """

    up: tuple[Node, ...]
    down: tuple[Node, ...]
    clip: bool = False


def _at(schedule: Schedule, level: int, label: float | None = None) -> Node:
    """Noise of table row `level`; the network is told `label`, by default that row's own time."""
    lam = float(schedule.lam[level])
    alpha, sigma = map(float, alpha_sigma(lam))
    t = float(schedule.t[level]) if label is None else float(label)
    return Node(lam, t, alpha, sigma, sigma / (alpha + sigma))


def _stride(steps: int, T: int) -> range:
    """0, k, 2k, … with exactly `steps` entries; ValueError if no integer stride has that many."""
    for k in range(1, T + 1):
        if len(range(0, T, k)) == steps:
            return range(0, T, k)
    raise ValueError(
        f"no integer stride through {T} times has {steps} steps; 10, 20, 25, 50, 100, 125, 200, "
        "250, 500 and 1000 work for 1000"
    )


def adm(schedule: Schedule, steps: int) -> Convention:
    """guided-diffusion, improved-diffusion and DiffAE: up 0, k, … and on to alpha = 0; down to
    sigma = 0.

    The two grids meet half a step apart: the last state is eps hat, and the way back takes it as
    the state at the last time. Source: Dhariwal & Nichol 2021, Preechakul et al. 2022.
    """
    grid = tuple(_at(schedule, i) for i in _stride(steps, len(schedule.t)))
    return Convention((*grid, NOISE), (*grid[::-1], IMAGE), clip=True)


def d2c(schedule: Schedule, steps: int) -> Convention:
    """D2C's encoding steps: 0, k, …, and the last time itself, walked up and down; no clipping.

    Source: Sinha et al. 2021, released code (never called there).
    """
    T = len(schedule.t)
    grid = tuple(_at(schedule, i) for i in [*range(0, T - 1, max(1, (T - 1) // steps)), T - 1])
    return Convention(grid, grid[::-1])


def stability(schedule: Schedule, steps: int) -> Convention:
    """The often copied `encode` of a latent-diffusion sampler: times 1, 1 + k, …, each one step
    late.

    On the way up the network is told the loop's index instead of the time: right for 1000 steps
    only.
    """
    T = len(schedule.t)
    times = [t + 1 for t in range(0, T, T // steps) if t + 1 < T]
    levels = [0, *times]  # state before and after each step
    last = _at(schedule, times[-1])
    up = (*(_at(schedule, a, label=i) for i, a in enumerate(levels[:-1])), last)
    down = (*(_at(schedule, t) for t in times[::-1]), _at(schedule, 0))
    return Convention(up, down)


CONVENTIONS = {"adm": adm, "d2c": d2c, "stability": stability}
