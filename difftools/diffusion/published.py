"""Published exact inverters, in their papers' charts, as steppers of the book's one signature.

All carry a second state: EDICT a coupled copy, BDIA and BELM the neighbour on the grid. Given both,
the walk back undoes the walk up but for rounding; given one, they start the second from the first.
They are baselines: chapter 6 measures what their exactness costs. Written from the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from .schedule import Node

Field = Callable[[Tensor, Node], Tensor]
Nodes = Sequence[Node]
Pair = tuple[Tensor, Tensor]


def _noise_chart(node: Node) -> float:
    """Factor from the flow chart y = x/(alpha + sigma) to the noise chart x/alpha."""
    return (node.alpha + node.sigma) / node.alpha


def _eps(field: Field, x_bar: Tensor, at: Node) -> Tensor:
    """eps hat at the state x/alpha."""
    y = x_bar / _noise_chart(at)
    return y + (1 - at.tau) * field(y, at)


def edict(
    field: Field, y: Tensor | Pair, nodes: Nodes, p: float = 0.93
) -> Iterator[tuple[Tensor, Tensor]]:
    """EDICT: two coupled copies, each moved by the other's eps hat, then mixed with weight p.

    Two evaluations a step; the copy that goes first alternates. Inverting divides by p twice a step
    and so magnifies rounding by p^(−2 steps). Source: Wallace et al. 2023, eq. 14–15.
    """
    pair = list(y) if isinstance(y, tuple) else [y, y]
    x = [v * _noise_chart(nodes[0]) for v in pair]
    up = nodes[0].tau < nodes[-1].tau
    for k, (a, b) in enumerate(pairwise(nodes)):
        noisy = b if up else a
        move = b.sigma / b.alpha - a.sigma / a.alpha
        # counted from the noise end, so that both directions agree on who goes first
        i = (len(nodes) - 2 - k if up else k) % 2
        j = 1 - i
        if up:
            x[j] = (x[j] - (1 - p) * x[i]) / p
            x[i] = (x[i] - (1 - p) * x[j]) / p
            x[j] = x[j] + move * _eps(field, x[i], noisy)
            x[i] = x[i] + move * _eps(field, x[j], noisy)
        else:
            x[i] = x[i] + move * _eps(field, x[j], noisy)
            x[j] = x[j] + move * _eps(field, x[i], noisy)
            x[i] = p * x[i] + (1 - p) * x[j]
            x[j] = p * x[j] + (1 - p) * x[i]
        yield x[0] / _noise_chart(b), x[1] / _noise_chart(b)


def _two_step(terms, field: Field, y: Tensor | Pair, nodes: Nodes) -> Iterator[Pair]:
    """z_clean = A z_noisy + (1 − A) z + D around each node, solved for whichever neighbour is next.

    terms(y, f, clean, at, noisy) -> (A, D, chart), chart(node) the factor from the flow chart to
    the method's own. Yields (state, the state before it); the first step is Euler unless the pair
    is given, in which case it is the given neighbour. """
    up = nodes[0].tau < nodes[-1].tau
    here, ahead = y if isinstance(y, tuple) else (y, None)
    a, b = nodes[0], nodes[1]
    if ahead is None:
        ahead = here + (b.tau - a.tau) * field(here, a)
    yield ahead, here
    for a, b, c in zip(nodes, nodes[1:], nodes[2:]):
        clean, noisy = (a, c) if up else (c, a)
        A, D, chart = terms(ahead, field(ahead, b), clean, b, noisy)
        before, z = here * chart(a), ahead * chart(b)
        z = (before - (1 - A) * z - D) / A if up else A * before + (1 - A) * z + D
        here, ahead = ahead, z / chart(c)
        yield ahead, here


def bdia(
    field: Field, y: Tensor | Pair, nodes: Nodes, gamma: float = 1.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """BDIA: z_{i−1} = γ z_{i+1} + (1 − γ) z_i − γ Δ(i → i+1) + Δ(i → i−1), Δ a DDIM move of x.

    One evaluation a step. γ = 1 is the leapfrog rule; γ < 1 magnifies errors by 1/γ a step when
    inverting. Source: Zhang et al. 2023, eq. 15.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma}")

    def terms(y, f, clean, at, noisy):
        move = lambda to: to.unchart(y + (to.tau - at.tau) * f) - at.unchart(y)  # noqa: E731
        return gamma, move(clean) - gamma * move(noisy), lambda n: n.alpha + n.sigma

    return _two_step(terms, field, y, nodes)


def belm(field: Field, y: Tensor | Pair, nodes: Nodes) -> Iterator[tuple[Tensor, Tensor]]:
    """O-BELM: the two-step rule of least local error in the noise chart.

    One evaluation a step. Stable when sampling, unstable when inverting: its parasitic factors
    multiply to (last step ÷ first step)². Source: Wang et al. 2024, eq. 18.
    """

    def terms(y, f, clean, at, noisy):
        s = [n.sigma / n.alpha for n in (clean, at, noisy)]
        h, h_next = s[1] - s[0], s[2] - s[1]
        eps = y + (1 - at.tau) * f
        return (h / h_next) ** 2, -h * (h + h_next) / h_next * eps, _noise_chart

    return _two_step(terms, field, y, nodes)
