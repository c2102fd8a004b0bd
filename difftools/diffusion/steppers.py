"""Steppers for the probability-flow ODE: one signature, both directions, no inverse schedulers.

A stepper is a generator ``stepper(field, y, nodes)`` that yields the state after each step.
`field(y, node)` is dy/dtau (see `denoiser`), y = x/(alpha+sigma) the charted state, `nodes` a grid
walked from its first to its last node: image to noise inverts, the reversed grid reconstructs. From
y and f = dy/dtau the two predictions are x0 = y − tau f and eps = y + (1 − tau) f, and Euler in tau
is DDIM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from .published import bdia, belm, edict
from .schedule import Node

Field = Callable[[Tensor, Node], Tensor]
Nodes = Sequence[Node]


def ddim(field: Field, y: Tensor, nodes: Nodes) -> Iterator[Tensor]:
    """Textbook DDIM: Euler in tau, first order. Source: Song et al. 2021, eq. 12 with eta = 0.
    Built in: inversion.
    """
    for a, b in pairwise(nodes):
        y = y + (b.tau - a.tau) * field(y, a)
        yield y


def fixed_point_ddim(
    field: Field, y: Tensor, nodes: Nodes, iterations: int = 4, extrapolate: bool = True
) -> Iterator[Tensor]:
    """The step that `ddim` undoes: y_b = y_a + (tau_b − tau_a) f(y_b, b), by fixed-point iteration.

    Its first guess is the line through the last two fields (or the last field alone: the published
    recipe). Source: the implicit form in Pan et al. 2023 (AIDI) and Hong et al. 2024.
    """
    history = [(nodes[0].tau, field(y, nodes[0]))]
    for a, b in pairwise(nodes):
        h, (tau_1, f) = b.tau - a.tau, history[0]
        if extrapolate and len(history) > 1:
            tau_0, f_0 = history[1]
            f = f + (b.tau - tau_1) / (tau_1 - tau_0) * (f - f_0)
        for _ in range(iterations):
            f = field(y + h * f, b)
        y = y + h * f
        history = [(b.tau, f), *history[:1]]
        yield y


def heun(field: Field, y: Tensor, nodes: Nodes) -> Iterator[Tensor]:
    """Heun's rule, two evaluations a step, second order. Source: Karras et al. 2022, algorithm
    1.
    """
    for a, b in pairwise(nodes):
        h, f = b.tau - a.tau, field(y, a)
        y = y + h / 2 * (f + field(y + h * f, b))
        yield y


def dpm2m(field: Field, y: Tensor, nodes: Nodes) -> Iterator[Tensor]:
    """DPM-Solver++(2M): x0 extrapolated in log-SNR, one evaluation a step. Source: Lu et al. 2022,
    algorithm 2.
    """
    x0_old, h_old = None, None
    for a, b in pairwise(nodes):
        f = field(y, a)
        x0, h = y - a.tau * f, b.lam - a.lam
        D = x0 if x0_old is None else x0 + h / (2 * h_old) * (x0 - x0_old)
        x = b.sigma / a.sigma * a.unchart(y) - b.alpha * np.expm1(-h) * D
        y, x0_old, h_old = b.chart(x), x0, h
        yield y


def lagrange(nodes: Nodes, k: int, support: Sequence[int]) -> list[float]:
    """∫ dtau over step k of each Lagrange basis polynomial in lam through `support` (node
    indices).
    """
    x, w = np.polynomial.legendre.leggauss(24)
    a, b = nodes[k].lam, nodes[k + 1].lam
    lam = a + (b - a) * (x + 1) / 2
    dtau = w * (b - a) / 2 * -np.exp(lam) / (1 + np.exp(lam)) ** 2  # tau = 1/(1 + e^lam)
    z = [nodes[j].lam for j in support]
    basis = [np.prod([(lam - v) / (u - v) for v in z if v != u], axis=0) for u in z]
    return [float(np.sum(dtau * p)) for p in basis]


def pec(field: Field, y: Tensor, nodes: Nodes) -> Iterator[Tensor]:
    """Predict, evaluate, correct: Adams–Bashforth 2 then Adams–Moulton in log-SNR; the default.

    One evaluation a step (plus one to start), second order, third on a round trip. UniPC's idea
    (Zhao et al. 2023) in the flow chart, walked both ways.
    """
    past = [field(y, nodes[0])]
    for k, (_, b) in enumerate(pairwise(nodes)):
        old = [k - j for j in range(len(past))]
        predict, correct = lagrange(nodes, k, old), lagrange(nodes, k, [k + 1, *old])
        f = field(y + sum(w * v for w, v in zip(predict, past, strict=True)), b)
        y = y + sum(w * v for w, v in zip(correct, [f, *past], strict=True))
        past = [f, *past[:1]]
        yield y


def reversible_heun(
    field: Field, y: Tensor | tuple[Tensor, Tensor], nodes: Nodes
) -> Iterator[tuple[Tensor, Tensor]]:
    """Reversible Heun: the reversed grid undoes it exactly if it gets both states (y, y_hat).

    One evaluation a step (plus one to start). Given y alone it starts with y_hat = y.
    Source: Kidger et al. 2021, algorithm 1 (drift only).
    """
    y, y_hat = y if isinstance(y, tuple) else (y, y)
    f = field(y_hat, nodes[0])
    for a, b in pairwise(nodes):
        h = b.tau - a.tau
        y_hat = 2 * y - y_hat + h * f
        f_new = field(y_hat, b)
        y, f = y + h / 2 * (f + f_new), f_new
        yield y, y_hat


STEPPERS = {
    "ddim": ddim,
    "fixed_point_ddim": fixed_point_ddim,
    "heun": heun,
    "dpm2m": dpm2m,
    "pec": pec,
    "reversible_heun": reversible_heun,
    "edict": edict,
    "bdia": bdia,
    "belm": belm,
}
REVERSE = {"fixed_point_ddim": "ddim"}  # every other stepper is its own way back


def integrate(stepper, field: Field, y, nodes: Nodes):
    """The last state of a walk over `nodes`."""
    return deque(stepper(field, y, nodes), maxlen=1).pop()
