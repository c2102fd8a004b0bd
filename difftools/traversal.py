"""Repairing pictures through latents: a small network that maps the latent of a damaged picture to
that of the original, and everything that it has to beat.

Damage, pairs of latents, the network of Ramachandran et al. 2024 (Table 4), linear maps, a
convolutional map, the best linear estimate of a Gaussian, two recipes of GANs; one table of them
all. Built in: nonlinear_traversal.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from . import data, images, inversion_table, metrics, results, sphere, zoo
from .code import Code
from .code import noise as draws
from .gaussians import Gaussian
from .perceptual import lpips

ALPHAS = np.logspace(0, 6, 13)  # of ridge regressions; leave-one-out picks one


@dataclass(frozen=True)
class Task:
    """A damage. measure: images (B, 3, H, H) -> what is left, (B, 3, h, h), the operator of a GAN's
    recipe; affine. picture: the same as a picture of the old size, what an encoder is given.
    """

    measure: Callable[[Tensor], Tensor]
    picture: Callable[[Tensor], Tensor]


def enlarge(small: Tensor, size: int) -> Tensor:
    """Bicubic enlargement of (B, 3, h, h) to `size` px, clipped to [-1, 1] as in a file."""
    return F.interpolate(small, size=(size, size), mode="bicubic").clamp(-1, 1)


def _shrunk(side: int) -> Task:
    def measure(x: Tensor) -> Tensor:
        return images.downsample(x, x.shape[-1] // side)

    return Task(measure, lambda x: enlarge(measure(x), x.shape[-1]))


def boxed(x: Tensor) -> Tensor:
    """A white box in the middle, an eighth of the side: 4 px of 32, 32 px of 256."""
    return images.white_box(x, x.shape[-1] // 8)


def around(x: Tensor) -> Tensor:
    """Zero within the box of `boxed`, the picture around it."""
    return images.fill_box(x, torch.zeros_like(x), x.shape[-1] // 8)


TASKS: dict[str, Task] = {
    "colour": Task(images.grayscale, images.grayscale),
    "enlarge 4": _shrunk(4),
    "enlarge 8": _shrunk(8),
    "inpaint": Task(around, boxed),
}


# Codes as vectors


@dataclass(frozen=True)
class Frame:
    """How the codes of a system become vectors (B, d) and vectors become codes.

    Parts follow each other by name. Parts on a sphere stay as they are; flat ones are taken in
    units of their deviation over the codes that the frame was made from.
    """

    shapes: dict[str, tuple[int, ...]]
    geometry: dict[str, str]
    mean: dict[str, Tensor]
    std: dict[str, Tensor]

    @classmethod
    def of(cls, code: Code) -> Frame:
        """The frame of a batch of codes, at least two."""
        if len(code) < 2:
            raise ValueError(f"a frame needs two codes or more, got {len(code)}")
        flat = [k for k in sorted(code.tensors) if code.geometry[k] == "flat"]
        return cls(
            {k: tuple(code[k].shape[1:]) for k in sorted(code.tensors)},
            dict(code.geometry),
            {k: code.flat(k).float().mean(0) for k in flat},
            {k: code.flat(k).float().std(0).clamp_min(1e-6) for k in flat},
        )

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where in a vector the parts on a sphere lie: (first, past the last)."""
        sizes = {k: math.prod(s) for k, s in self.shapes.items()}
        ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
        return [(ends[k] - sizes[k], ends[k]) for k in sizes if self.geometry[k] == "sphere"]

    def vectors(self, code: Code) -> Tensor:
        """(B, d), float32; ValueError if the parts are not those of the frame."""
        found = {k: tuple(v.shape[1:]) for k, v in code.tensors.items()}
        if found != self.shapes:
            raise ValueError(f"a code with parts {found} does not fit a frame of {self.shapes}")
        out = {k: code.flat(k).float() for k in self.shapes}
        out |= {k: (out[k] - self.mean[k]) / self.std[k] for k in self.mean}
        return torch.cat([out[k] for k in self.shapes], 1)

    def codes(self, vectors: Tensor, seeds: Sequence[int] | None = None) -> Code:
        """The way back. seeds: of the start noise that a decoder takes off."""
        sizes = [math.prod(s) for s in self.shapes.values()]
        parts = dict(zip(self.shapes, vectors.split(sizes, 1), strict=True))
        parts |= {k: parts[k] * self.std[k] + self.mean[k] for k in self.mean}
        tensors = {k: v.reshape(-1, *self.shapes[k]).double() for k, v in parts.items()}
        return Code(tensors, self.geometry, None if seeds is None else tuple(seeds))


def on_spheres(vectors: Tensor, spans: Iterable[tuple[int, int]]) -> Tensor:
    """Every span of every row at length √(its size), where N(0, I) has its mass; the rest stays.

    The spherical regularisation of Ramachandran et al. 2024; gradients pass.
    """
    out = vectors.clone()
    for a, b in spans:
        part = vectors[:, a:b]
        out[:, a:b] = part * (math.sqrt(b - a) / part.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return out


# Networks and their training


@dataclass(frozen=True)
class Recipe:
    """How a map is trained. reading: "latent", the network's output is the latent, or "step", it is
    added to the input. sphere: whether `on_spheres` follows, in training and in use.
    """

    reading: str = "latent"
    sphere: bool = True
    epochs: int = 10
    batch: int = 64
    lr: float = 1e-3
    hidden: int = 512
    width: int = 256

    def __post_init__(self):
        if self.reading not in ("latent", "step"):
            raise ValueError(f"reading must be 'latent' or 'step', got {self.reading!r}")
        if min(self.epochs, self.batch, self.hidden, self.width) < 1:
            raise ValueError(f"epochs, batch, hidden and width must be 1 or more: {self}")


def mlp(d: int, hidden: int = 512, width: int = 256) -> nn.Sequential:
    """Five linear layers, ReLU between them; the two in the middle give `width` numbers.

    Source: Ramachandran et al. 2024, who give width 256 and not `hidden`.
    """
    sizes = (d, hidden, width, width, hidden, d)
    layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class ConvMap(nn.Module):
    """A U of 3×3 convolutions over maps (B, C, H, H), its output added to the input.

    Four halvings, H a multiple of 16; about as many weights as `mlp` at 32 px, and no bottleneck:
    every scale has its way past the middle.
    """

    WIDTHS = (24, 48, 96, 192, 416)

    def __init__(self, channels: int = 3):
        super().__init__()
        w = self.WIDTHS
        conv = lambda a, b, stride=1: nn.Conv2d(a, b, 3, stride, 1)  # noqa: E731
        self.first = conv(channels, w[0])
        self.down = nn.ModuleList(conv(a, b, 2) for a, b in zip(w, w[1:]))
        self.middle = conv(w[-1], w[-1])
        self.up = nn.ModuleList(conv(b, a) for a, b in reversed(list(zip(w, w[1:]))))
        self.last = conv(w[0], channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = [self.first(x).relu()]
        for layer in self.down:
            h.append(layer(h[-1]).relu())
        y = self.middle(h.pop()).relu()
        for layer in self.up:
            y = (layer(F.interpolate(y, scale_factor=2)) + h.pop()).relu()
        return x + self.last(y)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose start depends on a seed alone; torch's global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def as_map(net: nn.Module, recipe: Recipe, spans=()) -> Callable[[Tensor], Tensor]:
    """The map that a network stands for under a recipe, (B, d) -> (B, d)."""
    step = (lambda s: s + net(s)) if recipe.reading == "step" else net
    return (lambda s: on_spheres(step(s), spans)) if recipe.sphere else step


def angle(a: Tensor, b: Tensor) -> float:
    """Mean angle between rows, degrees."""
    return float(sphere.angle(a.double(), b.double()).mean()) * 180 / math.pi


def train(
    net: nn.Module, f: Callable[[Tensor], Tensor], source: Tensor, target: Tensor, recipe: Recipe,
    seed: int, held: tuple[Tensor, Tensor],
) -> list[dict]:
    """Descend the mean absolute error of f (a map through `net`) with Adam; (n, ...) each.

    Returns a dict an epoch, the first before training: epoch, loss (of the first 256 pairs), and of
    the held pairs held (mean absolute error) and angle (degrees). Raises ValueError on unequal numbers of
    sources and targets, FloatingPointError if the loss is not finite.
    """
    if len(source) != len(target):
        raise ValueError(f"given {len(source)} sources and {len(target)} targets: pairs are needed")
    adam = torch.optim.Adam(net.parameters(), recipe.lr)
    order, curve = torch.Generator().manual_seed(seed), []
    for epoch in range(recipe.epochs + 1):
        with torch.no_grad():
            out = f(held[0])
            loss = (f(source[:256]) - target[:256]).abs().mean()
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss is {loss} before epoch {epoch}: take a smaller lr")
        curve.append({"epoch": epoch, "loss": float(loss),
                      "held": float((out - held[1]).abs().mean()), "angle": angle(out, held[1])})
        if epoch == recipe.epochs:
            return curve
        for pick in torch.randperm(len(source), generator=order).split(recipe.batch):
            adam.zero_grad()
            (f(source[pick]) - target[pick]).abs().mean().backward()
            adam.step()
    return curve


def epochs_to(curve: Sequence[float], level: float) -> float:
    """Epochs until a falling curve is at `level`, linear between epochs; NaN if it never is.

    A level that holds from the start counts as one hundredth of an epoch, so that it has a
    logarithm.
    """
    for k, now in enumerate(curve):
        if now <= level:
            before = curve[k - 1] if k else now
            part = 1.0 if before == now else (before - level) / (before - now)
            return max(k - 1 + part, 0.01)
    return math.nan


# Linear maps, and what they can do


def ridge(source: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    """Ridge regression (n, p) -> (n, q), its strength picked by leave-one-out; scikit-learn's."""
    fitted = RidgeCV(alphas=ALPHAS).fit(source.double().numpy(), target.double().numpy())
    return lambda s: torch.from_numpy(
        fitted.predict(s.double().numpy()).reshape(len(s), -1)).to(s.dtype)


def span(rows: Tensor, k: int) -> Callable[[Tensor], Tensor]:
    """Projection to the k leading principal components of rows (n, d), or all that there are."""
    mean = rows.double().mean(0)
    V = torch.linalg.svd(rows.double() - mean, full_matrices=False).Vh[: min(k, len(rows) - 1)]
    return lambda v: (mean + (v.double() - mean) @ V.T @ V).to(v.dtype)


def bracket(measured: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of x (n, d) on measured (n, p): residuals of the fit itself, and those of each
    row when it is left out; (n, d) each, float64.

    The mean square of the first is in expectation at most, of the second at least, that of the best
    linear estimate under the law of the rows. Raises ValueError unless n > p + 1.
    """
    y, x = (v.double().flatten(1) for v in (measured, x))
    A = torch.cat([y, y.new_ones(len(y), 1)], 1)
    if len(A) <= A.shape[1]:
        raise ValueError(f"given {len(A)} images for {A.shape[1]} coefficients, expected more")
    Q, R = torch.linalg.qr(A)
    if float(R.diagonal().abs().min()) < 1e-9 * float(R.diagonal().abs().max()):
        raise ValueError("the measured values are linearly dependent: measure fewer of them")
    inside = x - Q @ (Q.T @ x)
    return inside, inside / (1 - Q.square().sum(1, keepdim=True))


class Wiener:
    """The best estimate of x ~ N(mean, C) given y = A(x): the posterior mean, affine in y.

    law: a Gaussian on R^d, d = 3 size². measure: affine, images (B, 3, size, size) -> (B, 3, h, h).
    Directions that y does not see or that are copies are left out by a pseudo-inverse.
    """

    def __init__(self, law: Gaussian, measure: Callable[[Tensor], Tensor], size: int = 32):
        self.law, self.measure, self.shape = law.to(torch.float64), measure, (3, size, size)
        offset = measure(torch.zeros(1, *self.shape, dtype=torch.float64)).flatten(1)
        eye = torch.eye(self.law.d, dtype=torch.float64).reshape(-1, *self.shape)
        M = torch.cat([measure(e).flatten(1) - offset for e in eye.split(512)])  # (d, m), y = xM
        M = M[:, M.abs().sum(0) > 0]
        M = torch.unique(M, dim=1)
        self.M = M
        CM = self.law.apply(lambda v: v, M.T).T  # (d, m)
        self.root = torch.linalg.cholesky(M.T @ CM + 1e-10 * torch.eye(M.shape[1]).double())
        self.gain = torch.cholesky_solve(CM.T, self.root)  # (m, d)

    def __call__(self, x: Tensor) -> Tensor:
        """Estimate (B, 3, size, size) from what `measure` sees of x, float64."""
        v = x.double().flatten(1) - self.law.mean
        return (self.law.mean + (v @ self.M) @ self.gain).reshape(-1, *self.shape)

    def through(self, k: int, seed: int = 0) -> Callable[[Tensor], Tensor]:
        """The same, but with k of the numbers that y tells of the *latent*, C^(-1/2)(x − mean), at
        random: every choice leaves the same latent error, d − k, the least that k numbers can.
        """
        white = self.law.apply(lambda v: v**-0.5, self.gain)  # (m, d): y -> latent
        seen = torch.linalg.qr(white.T @ self.root).Q  # (d, m), orthonormal
        mix = draws([seed], (seen.shape[1], min(k, seen.shape[1])), "data", torch.float64)[0]
        U = seen @ torch.linalg.qr(mix).Q

        def estimate(x: Tensor) -> Tensor:
            z = ((x.double().flatten(1) - self.law.mean) @ self.M) @ white
            return self.law.sample(z @ U @ U.T).reshape(-1, *self.shape)

        return estimate


# The table


STEPS, PAIRS, HELD, SHOWN, OWN, PICTURES = 8, 256, 64, 20, 8, 3
NEAR = "near"
GAN_STEPS, GAN_SHOWN = 300, 8
DRAWN = 8192  # pairs of a world where they cost nothing


@dataclass(frozen=True)
class Pictures:
    """A set, split: the first `pairs` to train on, the others held out; of these the first `shown`
    are decoded and judged, and so are the first `own` of the training pictures.
    """

    name: str
    x: Tensor
    pairs: int = PAIRS
    shown: int = SHOWN
    own: int = OWN

    def __post_init__(self):
        if not 2 <= self.pairs < len(self.x):
            raise ValueError(f"{self.name} has {len(self.x)} pictures: {self.pairs} to train on "
                             "leave none to judge")

    def __hash__(self) -> int:  # by identity: a set is made once and shared by its parts
        return id(self)

    def __eq__(self, other) -> bool:
        return self is other

    @property
    def judged(self) -> list[int]:
        """Rows of the held-out pictures that are decoded."""
        return list(range(self.pairs, min(self.pairs + self.shown, len(self.x))))


def near(pairs: int = PAIRS, held: int = HELD) -> Pictures:
    """Photographs that no model was trained on: animals and horses, shuffled."""
    x = torch.cat([data.domain("animals"), data.domain("horses")])
    return Pictures(NEAR, x[data.pick(len(x), pairs + held, 0)], pairs)


def to_text(image: Tensor) -> str:
    """A small picture (3, H, W) for display, as text: base64 of a WebP that loses a little."""
    buffer = io.BytesIO()
    Image.fromarray(images.to_uint8(image[None].clamp(-1, 1))[0]).save(buffer, "WEBP", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def judged(x: Tensor, found: Tensor, rows: Sequence[int], task: str) -> pd.DataFrame:
    """Columns image, psnr (dB, clipped as displayed), ssim, lpips of found pictures against x, and
    where a box is filled pasted, the PSNR with what is known around the box put back.
    """
    found = found.to(x).clamp(-1, 1)
    kept = found if task != "inpaint" else images.fill_box(x, found, x.shape[-1] // 8)
    pasted = metrics.psnr(x, kept).numpy().round(3) if task == "inpaint" else np.nan
    return pd.DataFrame({
        "pasted": pasted,
        "picture": [to_text(v) for v in found],
        "image": list(rows),
        "psnr": metrics.psnr(x, found).numpy().round(3),
        "ssim": metrics.ssim(x, found).numpy().round(4),
        "lpips": lpips(x, found).numpy().round(4),
    })


@lru_cache(maxsize=6)
def codes(
    model: str, steps: int, pictures: Pictures, task: str, device: str = "cpu", batch: int = 16
) -> Code:
    """Codes of all pictures, damaged by a task (or "none"); picture i starts from noise of seed
    i.
    """
    m = zoo.load(model, device, steps=steps)
    x = pictures.x if task == "none" else TASKS[task].picture(pictures.x)
    found = [m.encode(x[i : i + batch], range(i, min(i + batch, len(x))))
             for i in range(0, len(x), batch)]
    parts = {k: torch.cat([c[k] for c in found]) for k in found[0].tensors}
    return Code(parts, found[0].geometry, tuple(range(len(x))))


def pairs(
    model: str, steps: int, pictures: Pictures, task: str, device: str = "cpu"
) -> tuple[Frame, Tensor, Tensor]:
    """(frame, source, target) of all pictures, (n, d) each; the frame is that of the training
    pictures' own codes.
    """
    target = codes(model, steps, pictures, "none", device)
    frame = Frame.of(target.select(range(pictures.pairs)))
    source = codes(model, steps, pictures, task, device)
    return frame, frame.vectors(source), frame.vectors(target)


@dataclass(frozen=True)
class MapPart:
    """One training of the network on pairs of latents: its curve, and the pictures it returns.

    limit: pairs that it is trained on, 0 for all.
    """

    row: str
    model: str
    pictures: Pictures
    task: str
    recipe: Recipe
    seed: int
    limit: int = 0
    steps: int = STEPS
    net: str = "mlp"

    @property
    def label(self) -> str:
        """For people."""
        return (f"{self.row}, {self.pictures.name}, {self.task}, {_how(self)}, seed {self.seed}"
                + (f", {self.limit} pairs" if self.limit else ""))

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        return _key(self, what=_model(self.model), code=map_code())

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Rows of `columns`: an epoch each, then a judged picture each."""
        p, n = self.pictures, self.limit or self.pictures.pairs
        frame, source, target = pairs(self.model, self.steps, p, self.task, device)
        d, spans = source.shape[1], frame.spans
        if self.net == "mlp":
            net = seeded(lambda: mlp(d, self.recipe.hidden, self.recipe.width), self.seed)
        else:
            (shape,) = frame.shapes.values()  # of one map
            net = seeded(lambda: nn.Sequential(
                nn.Unflatten(1, shape), ConvMap(shape[0]), nn.Flatten()), self.seed)
        f = as_map(net.to(device), self.recipe, spans)
        source, target = source.to(device), target.to(device)
        held = source[p.pairs :], target[p.pairs :]
        curve = train(net, f, source[:n], target[:n], self.recipe, self.seed, held)
        m, rows = zoo.load(self.model, device, steps=self.steps), p.judged
        rows = [*range(p.own), *rows] if self.seed == 0 and not self.limit else rows
        with torch.no_grad():
            found = m.decode(frame.codes(f(source[rows]).cpu(), rows))
        scores = judged(p.x[rows], found, rows, self.task)
        return _table(self, pd.DataFrame(curve).round(5), scores, p)


@dataclass(frozen=True)
class LatentPart:
    """What the same latents give without a network: the walk there and back, ridge regression, and
    the linear code of the network's width, given the true latent.
    """

    row: str
    model: str
    pictures: Pictures
    task: str
    width: int = 256
    steps: int = STEPS

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}, {self.pictures.name}, {self.task}, linear"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        return _key(self, what=_model(self.model), code=map_code())

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Rows of `columns`, a judged picture each."""
        p, rows = self.pictures, self.pictures.judged
        frame, source, target = pairs(self.model, self.steps, p, self.task, device)
        n, m = p.pairs, zoo.load(self.model, device, steps=self.steps)
        found = {
            "damaged, there and back": source[rows],
            "original, there and back": target[rows],
            "ridge of latents": ridge(source[:n], target[:n])(source[rows]),
            "true latent, linear code": span(target[:n], self.width)(target[rows]),
        }
        out = []
        for name, v in found.items():
            pictures = judged(p.x[rows], m.decode(frame.codes(v, rows)), rows, self.task)
            out.append(_table(self, None, pictures, p).assign(how=name))
        return pd.concat(out)


@dataclass(frozen=True)
class PixelPart:
    """What needs no latents: the damaged picture itself, ridge regression of pixels, the linear
    code of the network's width, and where asked for a convolutional map.
    """

    row: str
    pictures: Pictures
    task: str
    width: int = 256
    recipe: Recipe = Recipe("step", False, epochs=6)
    conv: bool = True

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}, {self.pictures.name}, {self.task}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        return _key(self, weights=_model("linear-vehicles32"), code=map_code())

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Rows of `columns`, a judged picture each."""
        p, rows, task = self.pictures, self.pictures.judged, TASKS[self.task]
        x, n, size = p.x, p.pairs, p.x.shape[-1]
        damaged, seen = task.picture(x), task.measure(x).flatten(1)
        line = ridge(seen[:n], x[:n].flatten(1))(seen[rows])
        if self.task == "inpaint":  # what is seen is known
            line = images.fill_box(x[rows], line.reshape(-1, *x.shape[1:]), size // 8)
        found = {"as given": damaged[rows], "ridge of pixels": line.reshape(-1, *x.shape[1:])}
        own = span(x[:n].flatten(1), self.width)(x[rows].flatten(1))
        found["true pixels, linear code"] = own.reshape(-1, *x.shape[1:])
        if size == 32:
            m = zoo.load("linear-vehicles32", numbers=self.width)
            found["true pixels, linear code of vehicles"] = m.decode(m.encode(x[rows]))
            law = zoo.gaussian_vehicles32()
            found["Gaussian of vehicles"] = Wiener(law, task.measure)(x[rows])
        if self.conv:
            net = seeded(ConvMap, 0)
            train(net, net, damaged[:n], x[:n], self.recipe, 0, (damaged[n:], x[n:]))
            with torch.no_grad():
                found["convolutions of pixels"] = net(damaged[rows])
        return pd.concat([
            _table(self, None, judged(x[rows], v, rows, self.task), p).assign(how=k)
            for k, v in found.items()
        ])


@dataclass(frozen=True)
class GANPart:
    """Pictures restored by a recipe of a GAN from what the damage left."""

    row: str
    model: str
    recipe: str
    pictures: Pictures
    task: str
    steps: int = GAN_STEPS
    shown: int = GAN_SHOWN

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}, {self.pictures.name}, {self.task}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        rooms = ("code", "images", "gan", "nets/stylegan2")
        code = results.code_version(rooms, (GANPart.run, *SHARED))
        return _key(self, weights=_model(self.model), code=code)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Rows of `columns`, a judged picture each."""
        p, rows = self.pictures, self.pictures.judged[: self.shown]
        measure = TASKS[self.task].measure
        m = zoo.load(self.model, device, recipe=self.recipe, steps=self.steps, operator=measure)
        found = m.decode(m.restore(measure(p.x[rows]), rows))
        return _table(self, None, judged(p.x[rows], found, rows, self.task), p)


@dataclass(frozen=True)
class SolvablePart:
    """The network in a world where latents are exact, pairs cost nothing and the best answer is
    known: draws of a Gaussian, the latent of x being C^(-1/2)(x − mean).
    """

    row: str
    task: str
    recipe: Recipe = Recipe("latent", False, epochs=3)
    drawn: int = DRAWN
    shown: int = HELD
    seed: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}, {self.task}, {self.recipe.reading}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        return _key(self, weights=_model("gaussian-vehicles32"), code=map_code())

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Rows of `columns`, a judged picture each."""
        law, task = zoo.gaussian_vehicles32(), TASKS[self.task]
        n, n_all = self.drawn, self.drawn + self.shown
        blocks, shape = [range(a, min(a + 256, n_all)) for a in range(0, n_all, 256)], zoo.IMAGE
        z = torch.cat([draws(b, (law.d,), "data") for b in blocks])
        rows = list(range(n, n_all))
        x = law.sample(z[rows]).reshape(-1, *shape)
        damage = lambda v: task.picture(law.sample(v).reshape(-1, *shape)).flatten(1)  # noqa: E731
        source = torch.cat([law.whiten(damage(v)) for v in z.split(256)])
        net = seeded(lambda: mlp(law.d, self.recipe.hidden, self.recipe.width), self.seed)
        f = as_map(net, self.recipe, [(0, law.d)])
        curve = train(net, f, source[:n], z[:n], self.recipe, self.seed, (source[n:], z[n:]))
        with torch.no_grad():
            back = law.sample(f(source[rows])).reshape(-1, *shape)
        out = [_table(self, pd.DataFrame(curve).round(5), judged(x, back, rows, self.task), None)]
        if self.recipe.reading == "latent":
            best = Wiener(law, task.measure)
            found = {"as given": task.picture(x), "best estimate": best(x),
                     "best through 256 numbers": best.through(self.recipe.width, self.seed)(x)}
            for name, v in found.items():
                out.append(_table(self, None, judged(x, v, rows, self.task), None).assign(how=name))
        return pd.concat(out)


def _model(name: str) -> tuple:
    """What a model is: its weights and its configuration."""
    config = zoo.MODELS[name].config if name in zoo.MODELS else None
    return inversion_table.weights_of(name), repr(config)


def _key(part, **facts: object) -> str:
    """Hash of a part's fields, its pictures by value, and of more facts."""
    own = {f.name: getattr(part, f.name) for f in fields(part)}
    if (p := own.pop("pictures", None)) is not None:
        own |= {"images": p.x, "split": (p.name, p.pairs, p.shown, p.own)}
    return results.key(kind=type(part).__name__, **own, **facts)


def _how(part) -> str:
    """The reading of a network, its sphere, and what is no `mlp`."""
    recipe = getattr(part, "recipe", None)
    if not isinstance(recipe, Recipe):
        return ""
    also = ["sphere"] if recipe.sphere else []
    also += ["conv"] if getattr(part, "net", "") == "conv" else []
    return ", ".join([recipe.reading, *also])


def _table(part, curve: pd.DataFrame | None, pictures: pd.DataFrame, p: Pictures | None):
    """Rows of the table: row, domain, task, how, seed, pairs, what (epoch, held or own) and the
    numbers.
    """
    who = {
        "row": part.row, "domain": p.name if p else "draws", "task": part.task, "how": _how(part),
        "seed": getattr(part, "seed", 0),
        "pairs": getattr(part, "limit", 0) or (p.pairs if p else part.drawn),
    }
    first = p.pairs if p else 0
    what = np.where(pictures["image"] < first, "own", "held")
    keep = (what == "held") & (pictures["image"] < first + PICTURES) & (who["seed"] == 0)
    keep &= who["pairs"] == (p.pairs if p else 0)
    found = [pictures.assign(what=what, picture=pictures["picture"].where(keep))]
    if curve is not None:
        found = [curve.assign(what="epoch"), *found]
    rows = pd.concat(found, ignore_index=True)
    return rows.assign(**who).reindex(columns=COLUMNS)


COLUMNS = ["row", "domain", "task", "how", "seed", "pairs", "what", "image", "psnr", "ssim",
           "lpips", "pasted", "epoch", "loss", "held", "angle", "picture"]
SHARED = (Task, enlarge, _shrunk, boxed, around, to_text, judged, _how, _table, lpips, metrics.psnr,
          metrics.ssim)


def map_code() -> str:
    """Hash of the code that decides a row of a map."""
    return results.code_version(("code", "images", "diffusion", "nets", "sphere"), (
        *SHARED, Frame, on_spheres, Recipe, mlp, ConvMap, seeded, as_map, train, ridge, span,
        Wiener, codes, pairs, MapPart.run, LatentPart.run, PixelPart.run, SolvablePart.run,
        Gaussian))


READINGS = [Recipe(r, s) for r in ("latent", "step") for s in (False, True)]
SEEDS = 5
GANS = {"SPHInX-PULSE": "sphinx_pulse", "SPHInX-BRGM": "sphinx_brgm"}
SOLVABLE = "exact Gaussian"


def system(
    row: str, model: str, pictures: Pictures, tasks: Iterable[str] = tuple(TASKS), seeds: int = 1,
    steps: int = STEPS, recipes: Sequence[Recipe] = tuple(READINGS),
) -> list[MapPart | LatentPart]:
    """All work on one system's latents of one set."""
    return [p for t in tasks for p in (
        *(MapPart(row, model, pictures, t, r, s, steps=steps)
          for r in recipes for s in range(seeds)),
        LatentPart(row, model, pictures, t, recipes[0].width, steps),
    )]


def parts() -> list:
    """All work of the book's table. DAE on near pictures is what decides; the rest stands beside
    it.
    """
    pictures, cut = near(), ("colour", "enlarge 8")
    todo = [PixelPart("pixels", pictures, t) for t in TASKS]
    todo += system("DAE", "dae-vehicles32", pictures, seeds=SEEDS)
    todo += [MapPart("DAE", "dae-vehicles32", pictures, t, r, 0, limit=n)
             for t in cut for r in READINGS[::2] for n in (64, 128)]
    todo += [GANPart(row, "stylegan2-vehicles32", recipe, pictures, t)
             for t in TASKS for row, recipe in GANS.items()]
    todo += system("D2C", "d2c-vehicles32", pictures)
    todo += [SolvablePart(SOLVABLE, t, Recipe(r, False, epochs=3))
             for t, r in (("colour", "latent"), ("colour", "step"), ("enlarge 8", "latent"))]
    return todo


def own_parts(
    model: str, folder: str | Path = "", gan: str = "", n: int = PAIRS + HELD, seeds: int = SEEDS,
    epochs: int = 10, gan_steps: int = GAN_STEPS,
) -> list:
    """The same work for a model of yours and a folder of pictures, a fifth of them held out.

    Without a folder the book's near pictures, for a model of 32 px; without a GAN its two rows are
    left out. Raises ValueError on a model of another size without a folder, or too few pictures.
    """
    size = zoo.load(model).size
    if not folder and size != 32:
        raise ValueError(f"{model} has {size} px, the bundled pictures 32: download a set such as "
                         "LHQ-256 and give its folder as `images`")
    if folder:
        x, name = torch.cat([images.read(f, size) for f in images.paths(folder)[:n]]), "yours"
    else:
        x, name = near(n - max(1, n // 5), max(1, n // 5)).x, NEAR
    held = max(1, len(x) // 5)
    p = Pictures(name, x, len(x) - held, min(SHOWN, held), min(OWN, len(x) - held))
    recipes = [Recipe(r.reading, r.sphere, epochs) for r in READINGS]
    todo = [PixelPart("pixels", p, t, conv=False) for t in TASKS]
    todo += system("the given model", model, p, seeds=seeds, recipes=recipes)
    todo += [GANPart(row, gan, recipe, p, t, gan_steps)
             for t in TASKS for row, recipe in GANS.items() if gan]
    return todo


def facts(todo: Sequence) -> dict:
    """What the note beside a table says: hash of the code, sets and settings."""
    sets = {p.pictures.name: (p.pictures.pairs, len(p.pictures.x) - p.pictures.pairs)
            for p in todo if hasattr(p, "pictures")}
    return {"code": map_code(), "sets (pairs, held out)": sets, "steps": STEPS,
            "GAN steps": GAN_STEPS}
