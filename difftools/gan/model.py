"""A GAN as a latent model: encode = optimise the generator's inputs, decode = generate."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import perceptual as lpips
from ..code import Code
from ..images import validate
from . import inverter, recipes
from .generator import Generator, Parts
from .inverter import Operator, Perceptual, State

PERCEPTUAL: dict[str | None, Perceptual | None] = {
    None: None,
    "lpips": lpips.towards,
    "lpips-vgg": partial(lpips.towards, name="lpips-vgg"),
}


def identity(images: Tensor) -> Tensor:
    """The measurement that sees everything."""
    return images


@dataclass
class GAN:
    """A generator and the recipe that inverts it.

    recipe: a name in `recipes.RECIPES` or a Recipe. steps: of the optimisation, None for the
    recipe's own number. perceptual: what stands for a recipe's perceptual term: None leaves it out
    (what SPHInX does under 256 px), "lpips" is LPIPS on AlexNet at 64 px or more, "lpips-vgg" on
    VGG16 (what the published programs descend; imported first, else ModelError), or a function
    target -> (images -> (B,)). operator: the measurement A that recipes for restoration compare.
    probabilities: images (B, 3, h, w) -> (B, classes), where a class-conditional network starts;
    None for all classes alike. dtype: of the optimised inputs, float32 or float64.

    dof_per_value counts the inputs that end up in the code; with heads that is what the heads
    give, not their weights. Built in: inversion_tables.
    """

    generator: Generator
    name: str = "gan"
    recipe: str | recipes.Recipe = "w_plus"
    steps: int | None = None
    perceptual: str | Perceptual | None = None
    operator: Operator = identity
    probabilities: Callable[[Tensor], Tensor] | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"  # the network must be there (`zoo.load(…, device=…)`)
    progress: bool = False  # a bar over the steps of `encode`

    def __post_init__(self):
        self.generator.inputs(self.plan.free)  # a recipe of spaces that the network has
        if not callable(self.perceptual):
            if self.perceptual not in PERCEPTUAL:
                raise ValueError(
                    "perceptual must be None, 'lpips', 'lpips-vgg' or a function, got "
                    f"{self.perceptual!r}: the network that judges (EfficientNet-Lite0) is never "
                    "descended"
                )
            lpips.require(self.perceptual)
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"given {self.steps} steps, expected 1 or more")
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"the inputs must be float32 or float64, got {self.dtype}")

    def with_(self, **changes) -> GAN:
        """A copy with other settings: `model.with_(recipe="sphinx", steps=500)`."""
        return replace(self, **changes)

    @property
    def plan(self) -> recipes.Recipe:
        """The recipe itself."""
        return recipes.recipe(self.recipe)

    @property
    def size(self) -> int:
        """Pixels a side of the images."""
        return self.generator.size

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The generator's inputs that the recipe optimises, with their shapes."""
        shapes = self.generator.inputs(self.plan.free)
        return {k: s for k, s in shapes.items() if self.plan.trains(k)}

    @property
    def dof_per_value(self) -> float:
        """Optimised numbers per pixel value."""
        return sum(math.prod(s) for s in self.inputs.values()) / (3 * self.size**2)

    @property
    def calls(self) -> int:
        """Batched passes through the network so far, forward and backward, as a denoiser counts."""
        return self.generator.forwards + self.generator.backwards

    @property
    def evaluations(self) -> dict[str, int]:
        """Passes through the network for one image's inversion; a backward pass with frozen weights
        costs about as much as a forward pass.
        """
        return dict(zip(("forward", "backward"), inverter.passes(self.plan, self._steps)))

    @property
    def _steps(self) -> int:
        return self.plan.steps if self.steps is None else self.steps

    def walk(self, images: Tensor, seeds=None, every: int = 1) -> Iterator[State]:
        """States of the inversion of images (B, 3, size, size), one each `every` steps: loss
        curves and intermediate images.
        """
        validate(images, size=self.size)
        p = self.probabilities(images) if self.probabilities else None
        return self._run(self.operator(images), seeds, every, p)

    def _run(self, target: Tensor, seeds, every: int, p: Tensor | None) -> Iterator[State]:
        perceptual = self.perceptual if callable(self.perceptual) else PERCEPTUAL[self.perceptual]
        return inverter.optimise(
            self.generator,
            self.plan,
            target.to(self.device, self.dtype),
            _seeds(target, seeds),
            self.operator,
            perceptual,
            None if p is None else p.to(self.device),
            self._steps,
            every,
        )

    def encode(self, images: Tensor, seeds=None) -> Code:
        """Invert images (B, 3, size, size) in [-1, 1]; seeds (B,) of all draws, by default 0, 1, …

        The code of each image is its best (lowest loss) of all steps; with heads the best mean
        code. Raises ValueError on images that `images.validate` refuses, FloatingPointError when a
        loss is not finite.
        """
        states = self.walk(images, seeds)
        bar = tqdm(states, total=self._steps + 1, leave=False, disable=not self.progress)
        return self.code(_last(bar).parts, _seeds(images, seeds))

    def restore(self, measured: Tensor, seeds=None) -> Code:
        """Code of the image whose measurement by `operator` is given, (B, 3, h, w) in [-1, 1].

        `encode(images)` measures the images first; here they are not known.
        """
        states = self._run(validate(measured), seeds, self._steps, None)
        return self.code(_last(states).parts, _seeds(measured, seeds))

    def code(self, parts: Parts, seeds=None) -> Code:
        """Inputs of the generator as a Code: z and noise maps on spheres, everything else flat."""
        sphere = lambda k: k == "z" or k.startswith("noise_")  # noqa: E731
        geometry = {k: "sphere" if sphere(k) else "flat" for k in parts}
        return Code({k: v.to("cpu", self.dtype) for k, v in parts.items()}, geometry, seeds)

    @torch.no_grad()
    def decode(self, code: Code) -> Tensor:
        """Images (B, 3, size, size), near [-1, 1] and not clipped; an input that the code has not
        is the network's own.
        """
        return self.generator({k: v.to(self.device) for k, v in code.tensors.items()}).cpu()

    def prior(self, n: int, seed: int = 0) -> Code:
        """n codes in the recipe's spaces that z ~ N(0, I), its class and noise maps lead to; seeds
        seed, seed + 1, …
        """
        drawn = self.generator.draw(range(seed, seed + n))
        names = [*self.generator.inputs(self.plan.free), *(["y"] if "z" in self.plan.free else [])]
        return self.code({k: drawn[k] for k in names if k in drawn})


def _last(states: Iterable[State]) -> State:
    """The last of many states, of which no other is kept."""
    return deque(states, maxlen=1).pop()


def _seeds(images: Tensor, seeds) -> tuple[int, ...]:
    return tuple(range(len(images))) if seeds is None else tuple(int(s) for s in seeds)
