"""Noise schedules and grids, all in one coordinate: lam = log(alpha / sigma).

Every schedule is variance preserving inside (alpha² + sigma² = 1); a variance-exploding model such
as EDM is rescaled at the denoiser's edge. Images are at high lam, noise at low lam.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


def alpha_sigma(lam):
    """(alpha, sigma) of log-SNR lam = log(alpha/sigma), elementwise, float64."""
    lam = np.asarray(lam, dtype=np.float64)
    return 1 / np.sqrt(1 + np.exp(-2 * lam)), 1 / np.sqrt(1 + np.exp(2 * lam))


@dataclass(frozen=True)
class Schedule:
    """A table from what the network is told (``t``) to the log-SNR ``lam``; both run from image to
    noise.

    Shapes: ``t`` and ``lam`` (T,), ``t`` monotone, ``lam`` strictly decreasing. Continuous in
    between.
    """

    name: str
    t: np.ndarray
    lam: np.ndarray

    def __post_init__(self):
        if len(self.t) != len(self.lam) or not np.all(np.diff(self.lam) < 0):
            raise ValueError(f"schedule {self.name!r}: lam must fall strictly, one value per t")

    def t_of(self, lam):
        """What the network is told at log-SNR lam (interpolated, clamped to the table)."""
        return np.interp(-np.asarray(lam, dtype=np.float64), -self.lam, self.t)

    def lam_of(self, t):
        """Log-SNR at time t; inverse of `t_of`."""
        sign = 1.0 if self.t[-1] > self.t[0] else -1.0
        return np.interp(sign * np.asarray(t, dtype=np.float64), sign * self.t, self.lam)

    def told(self, times: float) -> Schedule:
        """The same levels with the network's times multiplied: improved-diffusion tells a chain of
        T steps t · 1000 / T. """
        return replace(self, t=self.t * times)

    @property
    def alpha_bar(self) -> np.ndarray:
        """alpha² at the table's nodes, (T,): the field's ``alphas_cumprod``."""
        return alpha_sigma(self.lam)[0] ** 2


def from_betas(name: str, betas) -> Schedule:
    """Schedule of a discrete chain with the given betas (T,), each in (0, 1). Source: Ho et al.
    2020, eq. 4.
    """
    betas = np.asarray(betas, dtype=np.float64)
    if betas.ndim != 1 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError("betas must be a list of numbers in (0, 1)")
    log_ab = np.cumsum(np.log1p(-betas))
    lam = 0.5 * (log_ab - np.log(-np.expm1(log_ab)))
    return Schedule(name, np.arange(len(betas), dtype=np.float64), lam)


def linear(T: int = 1000, beta_0: float = 1e-4, beta_T: float = 0.02) -> Schedule:
    """Linear betas. Source: Ho et al. 2020."""
    return from_betas("linear", np.linspace(beta_0, beta_T, T))


def sqrt_linear(T: int = 1000, beta_0: float = 0.0015, beta_T: float = 0.0195) -> Schedule:
    """Betas linear in their square root. Source: Rombach et al. 2022 (latent diffusion)."""
    return from_betas("sqrt_linear", np.linspace(beta_0**0.5, beta_T**0.5, T) ** 2)


def cosine(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """alpha_bar follows cos². Source: Nichol & Dhariwal 2021, eq. 17."""
    u = np.arange(T + 1) / T
    ab = np.cos((u + s) / (1 + s) * np.pi / 2) ** 2
    return from_betas("cosine", np.minimum(1 - ab[1:] / ab[:-1], beta_max))


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, n: int = 257) -> Schedule:
    """Noise levels of EDM; the network is told log(sigma)/4. Source: Karras et al. 2022, table
    1.
    """
    log_s = np.linspace(np.log(sigma_min), np.log(sigma_max), n)
    return Schedule("edm", log_s / 4, -log_s)


def constant(T: int = 1000, beta: float = 0.008) -> Schedule:
    """One beta at all times. Source: Preechakul et al. 2022 (over semantic codes)."""
    return from_betas("constant", np.full(T, beta))


SCHEDULES = {
    "constant": constant,
    "linear": linear,
    "sqrt_linear": sqrt_linear,
    "cosine": cosine,
    "edm": edm,
}


@dataclass(frozen=True)
class Node:
    """One level of noise: log-SNR ``lam``, network time ``t``, and alpha, sigma, tau =
    sigma/(alpha+sigma).
    """

    lam: float
    t: float
    alpha: float
    sigma: float
    tau: float

    def chart(self, x):
        """State x = alpha x0 + sigma eps -> y = x / (alpha + sigma), the flow chart."""
        return x / (self.alpha + self.sigma)

    def unchart(self, y):
        """Inverse of `chart`."""
        return y * (self.alpha + self.sigma)


def node(schedule: Schedule, lam: float) -> Node:
    """The node of a schedule at log-SNR lam."""
    alpha, sigma = map(float, alpha_sigma(lam))
    return Node(float(lam), float(schedule.t_of(lam)), alpha, sigma, sigma / (alpha + sigma))


def grid(
    schedule: Schedule,
    steps: int,
    spacing: str = "log_snr",
    start: float | None = None,
    end: float | None = None,
) -> tuple[Node, ...]:
    """steps + 1 nodes from image to noise; walk it up to invert, `grid[::-1]` to reconstruct.

    spacing: "log_snr" (uniform in lam, the default) or "time" (uniform in t, the samplers' habit).
    start, end: log-SNR of the ends, by default those of the schedule.
    """
    if steps < 1:
        raise ValueError(f"a grid needs at least one step, got {steps}")
    a = schedule.lam[0] if start is None else start
    b = schedule.lam[-1] if end is None else end
    if not a > b:
        raise ValueError(
            f"the grid must run from image to noise: start {a:.2f} must exceed end {b:.2f}"
        )
    u = np.linspace(0, 1, steps + 1)
    if spacing == "log_snr":
        lam = a + (b - a) * u
    elif spacing == "time":
        ta, tb = schedule.t_of(a), schedule.t_of(b)
        lam = schedule.lam_of(ta + (tb - ta) * u)
    else:
        raise ValueError(f"spacing must be 'log_snr' or 'time', got {spacing!r}")
    return tuple(node(schedule, v) for v in lam)
