"""The one optimising inverter: images -> inputs of a frozen generator.

A batch is a loop: losses are summed over images and never averaged, heads are linear layers of one
image each (batched), every draw comes from its image's seed. So Adam treats each image as if it
were alone, and a result depends neither on the batch nor on the device beyond rounding, which many
steps amplify. In float32, 200 steps alone or in a batch of 3: PSNR moves by less than 0.001 dB, by
0.1 dB for PULSE and its large steps; in float64 not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import code
from . import recipes
from .generator import Generator, Parts
from .recipes import PROJECTIONS, SCHEDULES, TERMS, Free, Recipe, Seen

EVERY = 25  # steps between two looks at the code that heads would return
ENCODER, DECODER, CONTENT = (256, 128, 32), (64, 128), (32, 128)  # widths of SPHInX's heads
CONTENT_INPUT = (8, 4, 4)

Operator = Callable[[Tensor], Tensor]
Perceptual = Callable[[Tensor], Callable[[Tensor], Tensor]]  # target -> (images -> (B,))


class Variable(NamedTuple):
    """What Adam moves for one input: leaves (B, ...), value(fresh) -> the input, and the shape of
    the fresh Gaussian input that it takes, None if it takes none.
    """

    leaves: list[Tensor]
    value: Callable[[Tensor | None], Tensor]
    fresh: tuple[int, ...] | None = None


@dataclass(frozen=True)
class State:
    """One step. loss, terms (weighted): (B,) of the current inputs; images: (B, 3, size, size),
    made from them; best: lowest loss so far of each image, and parts, the inputs that gave it.

    With heads the current inputs come from one fresh draw, but best and parts speak of the mean
    code, looked at every 25 steps.
    """

    step: int
    loss: Tensor
    terms: dict[str, Tensor]
    best: Tensor
    parts: Parts
    _images: Tensor

    @property
    def images(self) -> Tensor:
        """The current images, copied off the device when asked for."""
        return self._images.cpu()


def chain(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], act, after: Sequence[int]) -> Tensor:
    """x (B, n, k) through linear layers of one image each, weight (B, k, m) and bias (B, 1, m);
    `act` behind the layers in `after`.
    """
    for i, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias, x, weight)
        x = act(x) if i in after else x
    return x


def _layers(gens, widths: Sequence[int], groups: tuple = (), equalised: bool = False):
    """Leaves (B, *groups, k, m), (B, *groups, 1, m) of linear layers, each image's from its own
    generator: uniform up to 1/√k, or N(0, 1) for equalised layers.
    """
    out = []
    for k, m in zip(widths, widths[1:]):
        for rows in (k, 1):
            shape, bound = (*groups, rows, m), 1 / math.sqrt(k)
            if not equalised:
                v = [(2 * torch.rand(shape, generator=g) - 1) * bound for g in gens]
            elif rows == k:
                v = [torch.randn(shape, generator=g) for g in gens]
            else:
                v = [torch.zeros(shape) for g in gens]
            out.append(torch.stack(v))
    return out


def style_head(gens, rows: int, w: int, like: Tensor) -> Variable:
    """SPHInX's P_s: z (B, K, L, w) -> w+ (B, K, L, w); one encoder, a decoder for each row.

    Source: Subramanyam et al. 2022.
    """
    leaves = _layers(gens, (w, *ENCODER)) + _layers(gens, (ENCODER[-1], *DECODER, w), (rows,))
    leaves = [v.to(like).requires_grad_() for v in leaves]

    def value(z: Tensor) -> Tensor:
        B, K = z.shape[:2]
        encoder = list(zip(leaves[:6:2], leaves[1:6:2], strict=True))
        decoder = [(a.flatten(0, 1), b.flatten(0, 1)) for a, b in zip(leaves[6::2], leaves[7::2])]
        h = chain(z.reshape(B, K * rows, w), encoder, F.relu, (0,))
        h = h.unflatten(1, (K, rows)).transpose(1, 2)  # (B, L, K, 32)
        out = chain(h.reshape(B * rows, K, -1), decoder, F.relu, (0,))
        return out.unflatten(0, (B, rows)).transpose(1, 2)

    return Variable(leaves, value, (rows, w))


def content_head(gens, shape: tuple[int, ...], like: Tensor) -> Variable:
    """SPHInX's P_c: z (B, K, 8, 4, 4) -> content (B, K, C, 4, 4), three equalised 1×1
    convolutions. Source: Subramanyam et al. 2022.
    """
    widths = (CONTENT_INPUT[0], *CONTENT, shape[0])
    leaves = [v.to(like).requires_grad_() for v in _layers(gens, widths, equalised=True)]

    def value(z: Tensor) -> Tensor:
        B, K = z.shape[:2]
        x = z.flatten(3).transpose(2, 3).reshape(B, K * 16, -1)  # every position a row
        layers = [(a / math.sqrt(a.shape[1]), b) for a, b in zip(leaves[::2], leaves[1::2])]
        x = chain(x, layers, lambda v: F.leaky_relu(v, 0.2) * math.sqrt(2), (0, 1))
        return x.unflatten(1, (K, 16)).transpose(2, 3).reshape(B, K, *shape)

    return Variable(leaves, value, CONTENT_INPUT)


def direct(start: Tensor, free: Free, statistics) -> Variable:
    """The input itself, or w+ through its Gaussianised v."""
    leaf = start.clone().requires_grad_()
    if not free.gaussian:
        return Variable([leaf], lambda fresh: leaf)
    return Variable([leaf], lambda fresh: statistics().degaussianise(leaf))


def _head(gens, name: str, shape, free: Free, like: Tensor, statistics) -> Variable:
    """A head whose output is on the sphere or Gaussianised if the recipe says so."""
    if name not in ("w_plus", "content"):
        raise ValueError(f"there is a head for w_plus and content, none for {name}")
    if name == "content":
        return content_head(gens, shape, like)
    head = style_head(gens, *shape, like)

    def value(fresh: Tensor) -> Tensor:
        v = head.value(fresh)
        if free.after == "sphere":
            v = recipes.root_d(v.flatten(0, 1)).unflatten(0, v.shape[:2])
        return statistics().degaussianise(v) if free.gaussian else v

    return head._replace(value=value)


def _start(g: Generator, name: str, shape, free: Free, gens, p: Tensor) -> Tensor:
    """Where a directly optimised input starts, (B, *shape)."""
    if free.start == "sample":
        return torch.stack([torch.randn(shape, generator=k) for k in gens]).to(p)
    if free.start == "own" and name in g.own:
        return g.own[name].to(p).expand(len(p), *shape).clone()
    if free.start == "mean" and name in ("w", "w_plus", "e"):
        centre = p @ g.centres.to(p)  # of the classes' mixture
        return (centre[:, None].expand(-1, *shape) if name == "w_plus" else centre).clone()
    raise ValueError(f"{name} cannot start at {free.start!r}")


def optimise(
    g: Generator,
    recipe: Recipe,
    target: Tensor,
    seeds: Sequence[int],
    operator: Operator = lambda x: x,
    perceptual: Perceptual | None = None,
    probabilities: Tensor | None = None,
    steps: int | None = None,
    every: int = 1,
) -> Iterator[State]:
    """Find inputs whose images, measured by `operator`, come close to `target` (B, 3, h, w).

    target: on the generator's device, in the dtype of the optimised inputs. seeds: one an image.
    operator: differentiable and image by image. probabilities (B, classes): mixture of classes
    that the start stands for, by default all alike. Yields a state each `every` steps, and the
    last. Raises FloatingPointError with step and image when a loss is not finite, ValueError on
    an unknown space. Built in: inversion_tables.
    """
    steps = recipe.steps if steps is None else steps
    weights, B = recipe.seen(perceptual is not None), len(target)
    classes = max(1, g.classes)
    p = target.new_full((B, classes), 1 / classes)
    p = p if probabilities is None else probabilities.to(p)
    distance = perceptual(target) if "perceptual" in weights else None
    gens = [code.generator(s, "start") for s in seeds]

    # z of a class-conditional network becomes w together with labels, which stay
    fixed = {"y": p} if "z" in recipe.free and "w" in g.shapes and g.classes else {}

    def look(parts: Parts) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Images, weighted terms and loss, (B,) each, of the generator's inputs."""
        images = g(parts | fixed)
        seen = Seen(operator(images), target, parts, g, distance)
        terms = {k: v * TERMS[k](seen) for k, v in weights.items()}
        return images, terms, torch.stack(list(terms.values())).sum(0)

    variables, starts, free = _variables(g, recipe, gens, p, look)
    groups = [(name, v) for name, v in variables.items() if v.leaves]
    adam = torch.optim.Adam([{"params": v.leaves, "lr": 0.0} for _, v in groups], fused=True)
    fresh = Fresh(variables, seeds, target)
    jitter = {k: f.jitter * g.statistics.std for k, f in free.items() if f.jitter}

    best, kept = target.new_full((B,), torch.inf), {}
    for t in range(steps + 1):
        with torch.set_grad_enabled(t < steps):
            parts = {
                k: v.value(fresh.next(k))[:, 0] if v.fresh else v.value(None)
                for k, v in variables.items()
            }
            parts = fresh.jittered(parts, jitter, t / max(1, steps))
            images, terms, loss = look(parts)
        _finite(loss, t, seeds)
        if not recipe.heads:
            best, kept = _better(best, kept, loss, parts)
        elif t % EVERY == 0 or t == steps:
            with torch.no_grad():
                mean = fresh.mean(recipe.draws)
                best, kept = _better(best, kept, look(mean)[2], mean)
        if t % every == 0 or t == steps:
            shown = {k: v.detach() for k, v in terms.items()}
            yield State(t, loss.detach(), shown, best, kept | fixed, images.detach())
        if t == steps:
            return
        for (name, _), group in zip(groups, adam.param_groups, strict=True):
            group["lr"] = free[name].lr * SCHEDULES[free[name].schedule](t / steps)
        adam.zero_grad()
        loss.backward(torch.ones_like(loss))  # summed, not averaged: an image is alone
        g.backwards += 1
        adam.step()
        with torch.no_grad():
            for name, v in groups:
                if v.fresh is None:
                    leaf = v.leaves[0]
                    leaf.copy_(PROJECTIONS[free[name].after](leaf, starts[name]))


def passes(recipe: Recipe, steps: int) -> tuple[int, int]:
    """(forward, backward) passes through the generator of a batch, for `steps` steps."""
    looks = len(range(0, steps, EVERY)) + 1 if recipe.heads else 0
    return steps + 1 + looks + (recipe.best_of if recipe.best_of > 1 else 0), steps


def _variables(g, recipe: Recipe, gens, p: Tensor, look):
    """Variables, where they start, and their `Free`, by input, in the order of the recipe."""
    free = {k: f for space, f in recipe.free.items() for k in g.inputs([space])}
    shapes = g.inputs(recipe.free)
    stats = lambda: g.statistics  # noqa: E731  (computed if a recipe asks for them)
    heads = {k: _head(gens, k, shapes[k], f, p, stats) for k, f in free.items() if f.head}

    def sample() -> Parts:
        starts = {k: _start(g, k, shapes[k], f, gens, p) for k, f in free.items() if not f.head}
        return {k: PROJECTIONS[free[k].after](v, v) for k, v in starts.items()}

    starts = sample()
    if recipe.best_of > 1:
        with torch.no_grad():
            least = look(starts)[2]
            for _ in range(recipe.best_of - 1):
                again = sample()
                least, starts = _better(least, starts, look(again)[2], again)
    if not all(map(recipe.trains, free)):
        last = list(g.spaces["noise"])[-1]
        starts[last] = torch.zeros_like(starts[last])
    variables = {
        k: heads[k]
        if f.head
        else direct(starts[k], f, stats)
        if recipe.trains(k)
        else Variable([], lambda fresh, held=starts[k]: held)
        for k, f in free.items()
    }
    return variables, starts, free


def _better(best: Tensor, kept: Parts, loss: Tensor, parts: Parts) -> tuple[Tensor, Parts]:
    """The lower loss of each image, and the inputs that belong to it."""
    loss = loss.detach()
    won = loss < best
    pick = lambda new, old: torch.where(won.view(-1, *[1] * (new.ndim - 1)), new, old)  # noqa: E731
    new = {k: v.detach() for k, v in parts.items()}
    return torch.where(won, loss, best), {
        k: pick(v, kept[k]) if k in kept else v.clone() for k, v in new.items()
    }


def _finite(loss: Tensor, step: int, seeds) -> None:
    loss = loss.detach()
    bad = (~loss.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(
            f"the loss of image {bad[0]} (seed {seeds[bad[0]]}) is {loss[bad[0]].item()} at step "
            f"{step}: take a smaller lr, or look at the image"
        )


class Fresh:
    """Fresh Gaussian draws, each image's from its own seed."""

    def __init__(self, variables: dict[str, Variable], seeds: Sequence[int], like: Tensor):
        self.variables, self.seeds, self.like = variables, seeds, like
        self.gens = [code.generator(s, "forward") for s in seeds]

    def _draw(self, shape, gens) -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in gens]).to(self.like)

    def next(self, name: str) -> Tensor:
        """One more draw (B, 1, ...) for a head."""
        return self._draw((1, *self.variables[name].fresh), self.gens)

    def mean(self, draws: int) -> Parts:
        """All inputs, those of heads as means over draws that are the same at every step."""
        gens = [code.generator(s, "prior") for s in self.seeds]
        out = {}
        for k, v in self.variables.items():
            fresh = self._draw((draws, *v.fresh), gens) if v.fresh else None
            out[k] = v.value(fresh).mean(1) if v.fresh else v.value(None)
        return out

    def jittered(self, parts: Parts, jitter: dict[str, float], t: float) -> Parts:
        """Noise on w that is gone after 3/4 of the steps. Source: Karras et al. 2020, app. D."""
        fading = max(0.0, 1 - t / 0.75) ** 2
        for k, scale in jitter.items():
            parts[k] = parts[k] + fading * scale * self._draw(parts[k].shape[1:], self.gens)
        return parts
