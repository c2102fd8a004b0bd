"""A GAN's generator as data: which inputs it has, of which shape, and how they are distributed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import code

Parts = dict[str, Tensor]  # input name -> (B, ...)
Shapes = dict[str, tuple[int, ...]]

DRAWS, SEED = 10_000, 123  # of the statistics of w, as the StyleGAN2 projector has them
SLOPE = 0.2  # of the mapping's last leaky ReLU


@dataclass(frozen=True)
class Statistics:
    """Of w over seeded z. centres (classes or 1, w): mean of each class, equally weighted; std:
    one number, √E‖w − mean‖². m, s (w,): mean and deviation of w before its last leaky ReLU.
    """

    centres: Tensor
    std: float
    m: Tensor
    s: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of w, (w,)."""
        return self.centres.mean(0)

    def gaussianise(self, w: Tensor) -> Tensor:
        """w (..., w) -> v, near N(0, I): undo the last leaky ReLU, standardise."""
        return (F.leaky_relu(w, 1 / SLOPE) - self.m.to(w)) / self.s.to(w)

    def degaussianise(self, v: Tensor) -> Tensor:
        """w = LeakyReLU(s v + m), the way back. Source: Menon et al. 2020, section 3.2."""
        return F.leaky_relu(self.s.to(v) * v + self.m.to(v), SLOPE)


@dataclass(eq=False)
class Generator:
    """A frozen network, seen by an inverter: named inputs -> images.

    spaces: what may be optimised, name -> shapes of its inputs for one image; "noise" has one
    input a layer. render: inputs -> images (B, 3, size, size), about [-1, 1]; an input that is
    not given is the network's own. latents: z (B, z) ~ N(0, I) and labels y (B,) or None -> all
    inputs that follow from them. own: the network's own content and noise maps, (1, ...).
    forwards, backwards: passes through the network so far, counted and never assumed.
    Built in: inversion_tables.
    """

    net: nn.Module
    size: int
    z: int
    classes: int
    spaces: dict[str, Shapes]
    render: Callable[[Parts], Tensor]
    latents: Callable[[Tensor, Tensor | None], Parts]
    own: Parts = field(default_factory=dict)
    forwards: int = 0
    backwards: int = 0

    def __post_init__(self):
        self.net.eval().requires_grad_(False)

    @property
    def shapes(self) -> Shapes:
        """Every input and its shape for one image."""
        return {k: s for parts in self.spaces.values() for k, s in parts.items()}

    @property
    def dtype(self) -> torch.dtype:
        """In which the network computes."""
        return next(self.net.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """On which the network lies."""
        return next(self.net.parameters()).device

    def __call__(self, parts: Parts) -> Tensor:
        """Images (B, 3, size, size) in the dtype of the inputs; ValueError on an unknown input."""
        if extra := set(parts) - {*self.shapes, "y"}:
            raise ValueError(
                f"this generator has no input {', '.join(sorted(extra))}; it has "
                f"{', '.join(self.shapes)}"
            )
        self.forwards += 1
        dtype = next(iter(parts.values())).dtype
        return self.render({k: v.to(self.dtype) for k, v in parts.items()}).to(dtype)

    def inputs(self, spaces: Iterable[str]) -> Shapes:
        """Inputs of the given spaces; ValueError with the known ones."""
        if unknown := set(spaces) - set(self.spaces):
            raise ValueError(
                f"this generator has no space {', '.join(sorted(unknown))}; it has "
                f"{', '.join(self.spaces)}"
            )
        return {k: s for name in spaces for k, s in self.spaces[name].items()}

    def dof(self, *spaces: str) -> float:
        """Free numbers per pixel value when these spaces are optimised."""
        return sum(math.prod(s) for s in self.inputs(spaces).values()) / (3 * self.size**2)

    @cached_property
    @torch.no_grad()
    def statistics(self) -> Statistics:
        """Statistics of w over 10,000 seeded z, at least 100 a class; computed once."""
        k = max(1, self.classes)
        each = max(DRAWS // k, 100)
        z = torch.randn(k * each, self.z, generator=code.generator(SEED)).to(self.device)
        y = torch.arange(k, device=self.device).repeat_interleave(each)
        pairs = zip(z.split(DRAWS), y.split(DRAWS), strict=True)
        w = torch.cat([self._w(*pair) for pair in pairs]).double()
        before = F.leaky_relu(w, 1 / SLOPE)
        std = float((w - w.mean(0)).square().sum(1).mean().sqrt())
        return Statistics(w.unflatten(0, (k, each)).mean(1), std, before.mean(0), before.std(0))

    def _w(self, z: Tensor, y: Tensor) -> Tensor:
        return self.latents(z.to(self.dtype), y if self.classes else None)["w"]

    @cached_property
    @torch.no_grad()
    def centres(self) -> Tensor:
        """Where an optimisation starts, a row a class (or one): mean w, or class embedding e."""
        if "w" in self.shapes:
            return self.statistics.centres
        y = torch.arange(self.classes, device=self.device)
        z = torch.zeros(self.classes, self.z, device=self.device, dtype=self.dtype)
        return self.latents(z, y)["e"].double()

    def draw(self, seeds: Sequence[int]) -> Parts:
        """All inputs of a sample for each seed: z, a label if there are classes, noise maps."""
        gens = [code.generator(s) for s in seeds]
        normal = lambda shape: torch.stack([torch.randn(shape, generator=g) for g in gens])  # noqa: E731
        z = normal((self.z,)).to(self.device, self.dtype)
        y = None
        if self.classes:
            y = torch.stack([torch.randint(self.classes, (), generator=g) for g in gens])
        with torch.no_grad():
            parts = self.latents(z, None if y is None else y.to(self.device))
        return parts | {k: normal(s) for k, s in self.spaces.get("noise", {}).items()}


def styled(net: nn.Module) -> Generator:
    """Of a network with `mapping` and `synthesise`: StyleGAN2, conditional or not, StyleGAN-XL.

    Spaces z, w, w_plus, and, if the network has them, noise and content.
    """
    maps, classes = list(getattr(net, "noise_shapes", [])), getattr(net, "classes", 0)
    spaces = {
        "z": {"z": (net.z,)},
        "w": {"w": (net.w,)},
        "w_plus": {"w_plus": (net.num_ws, net.w)},
    }
    own = {}
    if maps:
        spaces["noise"] = {f"noise_{i}": tuple(s) for i, s in enumerate(maps)}
        own |= dict(zip(spaces["noise"], net.constants(), strict=True))
    if hasattr(net, "content_shape"):
        spaces["content"] = {"content": tuple(net.content_shape)}
        own["content"] = net.synthesis.b4.const.detach()[None]

    def mapping(z, y):
        return net.mapping(z, y=y) if classes else net.mapping(z)

    def render(parts):
        ws = parts.get("w_plus", parts.get("w"))
        ws = mapping(parts["z"], parts.get("y")) if ws is None else ws
        inputs = {"noise": [parts.get(k) for k in spaces["noise"]]} if maps else {}
        inputs |= {"content": parts["content"]} if "content" in parts else {}
        return net.synthesise(ws, **inputs)

    def latents(z, y):
        w = mapping(z, y)
        label = {} if y is None else {"y": F.one_hot(y, classes).to(z)}
        return {"z": z, "w": w, "w_plus": w[:, None].expand(-1, net.num_ws, -1)} | label

    return Generator(net, net.size, net.z, classes, spaces, render, latents, own)


def embedded(net: nn.Module) -> Generator:
    """Of a network with `embed` and `synthesise(z, e)`: BigGAN. Spaces z and e, the embedding."""
    e = net.embed(torch.zeros(1, dtype=torch.long, device=next(net.parameters()).device))
    spaces = {"z": {"z": (net.z,)}, "e": {"e": tuple(e.shape[1:])}}
    own = {"e": net.embed(e.new_full((1, net.classes), 1 / net.classes)).detach()}  # no class

    def latents(z, y):
        return {"z": z, "e": net.embed(y)}

    def render(parts):
        e = parts["e"] if "e" in parts else own["e"].expand(len(parts["z"]), -1)
        return net.synthesise(parts["z"], e)

    return Generator(net, net.size, net.z, net.classes, spaces, render, latents, own)
