"""Repairing pictures through latents: a small network that maps the latent of a damaged picture to
that of the original, and everything that it has to beat.

Damage, pairs of latents, the network of Ramachandran et al. 2024 (Table 4), linear maps, a
convolutional map, the best linear estimate of a Gaussian, two recipes of GANs; one table of them
all. Built in: nonlinear_traversal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from . import data, images, inversion_table, metrics, results, sphere, zoo
from .code import Code
from .code import noise as draws
from .gaussians import Gaussian
from .inversion_table import to_text
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
        if min(self.epochs + 1, self.batch, self.hidden, self.width) < 1:
            raise ValueError(f"epochs must be 0 or more, batch, hidden and width 1: {self}")


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


class LatentConv(nn.Module):
    """A step (B, d) -> (B, d) that starts at zero: a `ConvMap` over the largest part of a latent,
    whose side is a multiple of 16, and a linear map over the other parts.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        sizes = [math.prod(s) for s in shapes.values()]
        self.sizes, self.at = sizes, sizes.index(max(sizes))
        self.shape = list(shapes.values())[self.at]
        self.conv, rest = ConvMap(self.shape[0]), sum(sizes) - max(sizes)
        self.rest = nn.Linear(rest, rest)
        nn.init.zeros_(self.rest.weight)
        nn.init.zeros_(self.rest.bias)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(x.split(self.sizes, 1))
        whole = parts.pop(self.at).unflatten(1, self.shape)
        rest = self.rest(torch.cat([*parts, x[:, :0]], 1))
        out = list(rest.split(self.sizes[: self.at] + self.sizes[self.at + 1 :], 1))
        return torch.cat([*out[: self.at], (self.conv(whole) - whole).flatten(1),
                          *out[self.at :]], 1)


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


def marked(epochs: int) -> list[int]:
    """Epochs at which a training is looked at: dense at its start, its end among them."""
    return [*(e for e in range(epochs) if e in (1, 2, 4, 7) or e % 10 == 0), epochs]


def train(
    net: nn.Module, f: Callable[[Tensor], Tensor], source: Tensor, target: Tensor, recipe: Recipe,
    seed: int, held: tuple[Tensor, Tensor], look: Callable[[int], dict] = lambda epoch: {},
) -> list[dict]:
    """Descend the mean absolute error of f (a map through `net`) with Adam; (n, ...) each.

    Returns a dict for each of the `marked` epochs, the first before training: epoch, loss (of the
    first 256 pairs), of the held pairs held (mean absolute error) and angle (degrees), and what
    `look` adds. Raises ValueError on unequal numbers of sources and targets, FloatingPointError if
    the loss is not finite.
    """
    if len(source) != len(target):
        raise ValueError(f"given {len(source)} sources and {len(target)} targets: pairs are needed")
    adam = torch.optim.Adam(net.parameters(), recipe.lr)
    order, curve, marks = torch.Generator().manual_seed(seed), [], set(marked(recipe.epochs))
    for epoch in range(recipe.epochs + 1):
        if epoch in marks:
            with torch.no_grad():
                out = f(held[0])
                loss = (f(source[:256]) - target[:256]).abs().mean()
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"the loss is {loss} before epoch {epoch}: take a "
                                         "smaller lr")
            curve.append({"epoch": epoch, "loss": float(loss),
                          "held": float((out - held[1]).abs().mean()),
                          "angle": angle(out, held[1])} | look(epoch))
        if epoch == recipe.epochs:
            return curve
        for pick in torch.randperm(len(source), generator=order).split(recipe.batch):
            adam.zero_grad()
            (f(source[pick]) - target[pick]).abs().mean().backward()
            adam.step()
    return curve


def epochs_to(epochs: Sequence[float], curve: Sequence[float], level: float) -> float:
    """Epochs until a falling curve is at `level`, linear between the epochs that it was looked at;
    0 if it is there from the start, NaN if it never is.
    """
    for k, now in enumerate(curve):
        if now <= level:
            before = curve[k - 1] if k else now
            part = 1.0 if before == now else (before - level) / (before - now)
            return epochs[k - 1] + part * (epochs[k] - epochs[k - 1]) if k else epochs[0]
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


STEPS, PAIRS, HELD, SHOWN, OWN = 8, 256, 64, 20, 8
NEAR, FAR = "near", "far"
LESS = 128, 16, 8  # pairs, held out and shown, of rows that stand beside and decide nothing
FEWER = 64  # of the pairs: would more help?
LONG, CUT = 100, ("colour", "enlarge 8")  # epochs of a long training, tasks of side rows
GAN_STEPS, GAN_SHOWN = 300, 8
DRAWN = 8192  # pairs of a world where they cost nothing


@dataclass(frozen=True)
class Pictures:
    """A set, split: the first `pairs` to train on, the others held out; of these the first `shown`
    are decoded and judged.
    """

    name: str
    x: Tensor
    pairs: int = PAIRS
    shown: int = SHOWN

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

    def less(self, pairs: int, held: int, shown: int) -> Pictures:
        """The first of its pairs and of its held-out pictures."""
        x = torch.cat([self.x[:pairs], self.x[self.pairs : self.pairs + held]])
        return Pictures(self.name, x, pairs, shown)


def near(pairs: int = PAIRS, held: int = HELD) -> Pictures:
    """Photographs that no model was trained on: animals and horses, shuffled."""
    x = torch.cat([data.domain("animals"), data.domain("horses")])
    return Pictures(NEAR, x[data.pick(len(x), pairs + held, 0)], pairs)


def far(pairs: int = LESS[0], held: int = LESS[1], shown: int = LESS[2]) -> Pictures:
    """Drawings in colour, out of every model's domain: emoji, avatars, pixel art, shuffled."""
    x = torch.cat([data.domain(name) for name in ("emoji", "avatars", "pixel-art")])
    return Pictures(FAR, x[data.pick(len(x), pairs + held, 0)], pairs, shown)


def judged(x: Tensor, found: Tensor, rows: Sequence[int], task: str) -> pd.DataFrame:
    """Columns image, psnr (dB, clipped as displayed), ssim, lpips of found pictures against x, and
    where a box is filled pasted, the PSNR with what is known around the box put back; the first
    one's `picture`.
    """
    found = found.to(x).clamp(-1, 1)
    kept = found if task != "inpaint" else images.fill_box(x, found, x.shape[-1] // 8)
    pasted = metrics.psnr(x, kept).numpy().round(2) if task == "inpaint" else np.nan
    return pd.DataFrame({
        "pasted": pasted,
        "picture": [to_text(found[0])] + [None] * (len(found) - 1),
        "image": list(rows),
        "psnr": metrics.psnr(x, found).numpy().round(2),
        "ssim": metrics.ssim(x, found).numpy().round(3),
        "lpips": lpips(x, found).numpy().round(3),
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
    """Trainings of a network on pairs of latents, a seed each: their curves, and of the pictures
    that they return the scores, means over seeds.

    limit: pairs that it is trained on, 0 for all. looks: epochs at which pictures are judged too,
    besides the last. own: training pictures that are judged. net: "mlp" or "conv". note: what
    tells the row from others. picture: whether the table keeps seed 0's first picture. Looks are
    kept where there is more than one seed or a note. The task "none" maps a latent to itself: an
    oracle, which is given what it should find.
    """

    row: str
    model: str
    pictures: Pictures
    task: str
    recipe: Recipe = Recipe()
    seeds: int = 1
    limit: int = 0
    steps: int = STEPS
    looks: tuple[int, ...] = ()
    own: int = 0
    net: str = "mlp"
    note: str = ""
    picture: bool = False

    @property
    def label(self) -> str:
        """For people."""
        return (f"{self.row}, {self.pictures.name}, {self.task}, {_how(self)}"
                + (f", {self.limit} pairs" if self.limit else ""))

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        return _key(self, what=_model(self.model), code=map_code())

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Rows of `columns`: of each seed the looks at its training, then a judged picture each."""
        found = [self.once(seed, device) for seed in range(self.seeds)]
        mean = pd.concat([pictures for _, pictures in found]).groupby("image", as_index=False)
        mean = mean[["psnr", "ssim", "lpips", "pasted"]].mean().round(3)
        if self.picture:
            first = found[0][1]
            mean = mean.merge(first[["image", "picture"]][first.image == self.pictures.pairs],
                              how="left")
        curve = pd.concat([curve for curve, _ in found])
        return _table(self, curve if self.seeds > 1 or self.note else None, mean, self.pictures)

    def once(self, seed: int, device: str = "cpu") -> tuple[pd.DataFrame, pd.DataFrame]:
        """The curve and the judged pictures of one training."""
        p, n, rec = self.pictures, self.limit or self.pictures.pairs, self.recipe
        frame, source, target = pairs(self.model, self.steps, p, self.task, device)
        source, target = source.to(device), target.to(device)
        net = seeded(lambda: LatentConv(frame.shapes) if self.net == "conv" else
                     mlp(source.shape[1], rec.hidden, rec.width), seed)
        f = as_map(net.to(device), rec, frame.spans)
        m = zoo.load(self.model, device, steps=self.steps)

        @torch.no_grad()
        def pictures(rows: list[int]) -> pd.DataFrame:
            found = m.decode(frame.codes(f(source[rows]).cpu(), rows))
            return judged(p.x[rows], found, rows, self.task)

        def look(epoch: int) -> dict:
            if epoch not in (*self.looks, rec.epochs):
                return {}
            last.append(pictures(p.judged))
            return dict(last[-1][["psnr", "ssim", "lpips"]].mean())

        last: list[pd.DataFrame] = []
        curve = train(net, f, source[:n], target[:n], rec, seed, (source[p.pairs :],
                      target[p.pairs :]), look)
        own = [pictures(list(range(self.own)))] if self.own else []
        curve = pd.DataFrame(curve).round(4).round({"angle": 2, "psnr": 3}).assign(seed=seed)
        return curve, pd.concat([last[-1], *own])


@dataclass(frozen=True)
class SidePart(MapPart):
    """The same, of whose looks the table keeps each seed's last: for rows that decide nothing."""

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        code = map_code(), results.code_version((), (SidePart.run,))
        return _key(self, what=_model(self.model), code=code)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Rows of `columns`: the end of each seed's training, then a judged picture each."""
        found = super().run(device)
        return found[found["epoch"].isna() | (found["epoch"] == self.recipe.epochs)]


@dataclass(frozen=True)
class LatentPart:
    """What the same latents give without a network: from a damaged picture the walk there and back
    and ridge regression; for the task "none", whatever the damage, the original's walk, the mean
    latent of the training pictures, and the linear code of the network's width, given the true
    latent.
    """

    row: str
    model: str
    pictures: Pictures
    task: str
    width: int = 256
    steps: int = STEPS
    picture: bool = False  # whether the table keeps the mean latent's

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
        mean = target[:n].mean(0).expand(len(rows), -1)
        found = {
            "original, there and back": target[rows],
            "mean latent": mean,
            "true latent, linear code": span(target[:n], self.width)(target[rows]),
        } if self.task == "none" else {
            "damaged, there and back": source[rows],
            "ridge of latents": ridge(source[:n], target[:n])(source[rows]),
        }
        out = []
        for name, v in found.items():
            pictures = judged(p.x[rows], m.decode(frame.codes(v, rows)), rows, self.task)
            pictures = pictures.drop(columns=["picture"] if name != "mean latent" else [])
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
        return f"{self.row}, {self.pictures.name}, {self.task}, {_how(self)}"

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
class BudgetPart(GANPart):
    """A recipe's walk with all the steps that its authors give, looked at on the way.

    The recipe slows down towards its last step: a look is no run that stops there.
    """

    steps: int = 5000
    shown: int = 4
    looks: tuple[int, ...] = (75, 300, 1200, 2500, 5000)

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        code = results.code_version(("code", "images", "gan", "nets/stylegan2"),
                                    (BudgetPart.run, *SHARED))
        return _key(self, weights=_model(self.model), code=code)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Rows of `columns`: a look at a judged picture each, its epoch the step, its loss the
        recipe's lowest so far.
        """
        p, rows, out = self.pictures, self.pictures.judged[: self.shown], []
        m = zoo.load(self.model, device, recipe=self.recipe, steps=self.steps,
                     operator=TASKS[self.task].measure)
        for state in m.walk(p.x[rows], rows):
            if state.step in self.looks:
                now = judged(p.x[rows], m.decode(m.code(state.parts, rows)), rows, self.task)
                loss = np.asarray(state.best.tolist()).round(4)
                out.append(now.assign(epoch=state.step, loss=loss))
            if state.step >= max(self.looks):
                break
        return _table(self, None, pd.concat(out), p)


@dataclass(frozen=True)
class SolvablePart:
    """The network in a world where latents are exact, pairs cost nothing and the best answer is
    known: draws of a Gaussian, the latent of x being C^(-1/2)(x − mean).
    """

    row: str
    task: str
    recipe: Recipe = Recipe("latent", False, epochs=3)
    drawn: int = DRAWN
    held: int = HELD
    shown: int = SHOWN
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
        n, n_all = self.drawn, self.drawn + self.held
        blocks, shape = [range(a, min(a + 256, n_all)) for a in range(0, n_all, 256)], zoo.IMAGE
        z = torch.cat([draws(b, (law.d,), "data") for b in blocks])
        rows = list(range(n, n + self.shown))
        x = law.sample(z[rows]).reshape(-1, *shape)
        damage = lambda v: task.picture(law.sample(v).reshape(-1, *shape)).flatten(1)  # noqa: E731
        source = torch.cat([law.whiten(damage(v)) for v in z.split(256)])
        net = seeded(lambda: mlp(law.d, self.recipe.hidden, self.recipe.width), self.seed)
        f = as_map(net, self.recipe, [(0, law.d)])
        curve = train(net, f, source[:n], z[:n], self.recipe, self.seed, (source[n:], z[n:]))
        with torch.no_grad():
            back = law.sample(f(source[rows])).reshape(-1, *shape)
        curve = pd.DataFrame(curve).round(4).assign(seed=self.seed)
        out = [_table(self, curve, judged(x, back, rows, self.task), None)]
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
        own |= {"images": p.x, "split": (p.name, p.pairs, p.shown)}
    return results.key(kind=type(part).__name__, **own, **facts)


def _how(part) -> str:
    """The reading of a network, its sphere, what is no `mlp`, and a part's note; a GAN's steps."""
    if isinstance(part, GANPart):
        return f"{part.steps} steps"
    recipe, what = getattr(part, "recipe", None), []
    if isinstance(recipe, Recipe):
        what = [recipe.reading] + ["sphere"] * recipe.sphere
        what += ["conv"] * (getattr(part, "net", "") == "conv")
    return ", ".join(filter(None, [*what, getattr(part, "note", "")]))


def _table(part, curve: pd.DataFrame | None, pictures: pd.DataFrame, p: Pictures | None):
    """Rows of the table: row, domain, task, how, pairs and the numbers, a judged picture each, or
    with an epoch a look at the training of a seed, with means over the judged pictures.
    """
    who = {
        "row": part.row, "domain": p.name if p else "draws", "task": part.task, "how": _how(part),
        "pairs": getattr(part, "limit", 0) or (p.pairs if p else part.drawn),
    }
    if not getattr(part, "picture", False):
        pictures = pictures.drop(columns="picture", errors="ignore")
    rows = pd.concat([pictures] if curve is None else [curve, pictures], ignore_index=True)
    return rows.assign(**who).reindex(columns=COLUMNS)


def kinds(table: pd.DataFrame) -> np.ndarray:
    """What each row of a table is: "epoch", a look at a training, or a judged picture, "held" out
    or the training's "own".
    """
    picture = np.where(table["image"] < table["pairs"], "own", "held")
    return np.where(table["epoch"].notna(), "epoch", picture)


COLUMNS = ["row", "domain", "task", "how", "pairs", "seed", "epoch", "image", "psnr", "ssim",
           "lpips", "pasted", "loss", "held", "angle", "picture"]
SHARED = (Task, enlarge, _shrunk, boxed, around, to_text, judged, _how, _table, lpips, metrics.psnr,
          metrics.ssim)


def map_code() -> str:
    """Hash of the code that decides a row of a map."""
    return results.code_version(("code", "images", "diffusion", "nets", "sphere"), (
        *SHARED, Frame, on_spheres, Recipe, mlp, ConvMap, LatentConv, seeded, as_map, marked, train,
        ridge, span, Wiener, codes, pairs, MapPart.run, MapPart.once, LatentPart.run, PixelPart.run,
        SolvablePart.run, Gaussian))


READINGS = [Recipe(r, s) for r in ("latent", "step") for s in (False, True)]
SEEDS = 5
GANS = {"SPHInX-PULSE": "sphinx_pulse", "SPHInX-BRGM": "sphinx_brgm"}
SOLVABLE = "exact Gaussian"


def system(
    row: str, model: str, pictures: Pictures, tasks: Iterable[str] = tuple(TASKS), seeds: int = 1,
    steps: int = STEPS, recipes: Sequence[Recipe] = tuple(READINGS), kind: type = MapPart,
) -> list[MapPart | LatentPart]:
    """All work on one system's latents of one set; kind: `MapPart` or `SidePart`."""
    line = lambda task, picture=False: LatentPart(  # noqa: E731
        row, model, pictures, task, recipes[0].width, steps, picture)
    maps = [kind(row, model, pictures, t, r, seeds, steps=steps) for t in tasks for r in recipes]
    return [line("none", seeds > 1 and kind is MapPart), *maps, *map(line, tasks)]


def beside(
    row: str, model: str, pictures: Pictures, tasks: Iterable[str] = CUT, seeds: int = SEEDS,
    long: int = LONG, recipes: Sequence[Recipe] = tuple(READINGS),
) -> list[MapPart]:
    """What stands beside the trainings of a system that decides: untrained networks, and a training
    of one seed that is `long`, which judges training pictures, too.
    """
    own = min(OWN, pictures.pairs)
    return [p for t in tasks for r in recipes for p in (
        MapPart(row, model, pictures, t, replace(r, epochs=0), seeds, note="untrained"),
        MapPart(row, model, pictures, t, replace(r, epochs=long), looks=(10, 30), own=own,
                note="long", picture=r.sphere == (r.reading == "latent")),
    )]


def parts() -> list:
    """All work of the book's table. DAE on near pictures is what decides; the rest stands beside
    it.
    """
    pictures, drawn = near(), far()
    dae, less = ("DAE", "dae-vehicles32"), pictures.less(*LESS)
    beneath = {"seeds": SEEDS, "kind": SidePart}
    todo = [PixelPart("pixels", pictures, t) for t in TASKS]
    todo += system(*dae, pictures, seeds=SEEDS)
    todo += beside(*dae, pictures)
    todo += [MapPart(*dae, pictures, "none", READINGS[0], note="oracle")]
    todo += [SidePart(*dae, pictures, t, Recipe("step", False, 10), SEEDS, net="conv") for t in CUT]
    todo += [SidePart(*dae, pictures, t, r, SEEDS, limit=FEWER)
             for t in CUT for r in READINGS[::2]]
    gans = [(row, "stylegan2-vehicles32", recipe) for row, recipe in GANS.items()]
    todo += [GANPart(*gan, pictures, t) for t in TASKS for gan in gans]
    todo += [BudgetPart(*gan, pictures, t) for t in CUT for gan in gans]
    todo += system("D2C", "d2c-vehicles32", replace(pictures, shown=LESS[2]), **beneath)
    todo += [SolvablePart(SOLVABLE, t, Recipe(r, False, epochs=3))
             for t, r in (("colour", "latent"), ("colour", "step"), ("enlarge 8", "latent"))]
    for row in ("LDM", "DDPM"):
        todo += system(row, f"{row.lower()}-vehicles32", less, CUT, **beneath)
    todo += system(*dae, drawn, CUT, **beneath)
    todo += [PixelPart("pixels", drawn, t, conv=False) for t in CUT]
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
    p = Pictures(name, x, len(x) - held, min(SHOWN, held))
    recipes = [Recipe(r.reading, r.sphere, epochs) for r in READINGS]
    todo = [PixelPart("pixels", p, t, conv=False) for t in TASKS]
    todo += system("the given model", model, p, seeds=seeds, recipes=recipes)
    todo += beside("the given model", model, p, seeds=seeds, long=10 * epochs, recipes=recipes)
    todo += [GANPart(row, gan, recipe, p, t, gan_steps)
             for t in TASKS for row, recipe in GANS.items() if gan]
    return todo


def facts(todo: Sequence) -> dict:
    """What the note beside a table says: hash of the code, sets and settings."""
    sets = {(p.name, p.pairs, len(p.x) - p.pairs)
            for p in (part.pictures for part in todo if hasattr(part, "pictures"))}
    return {"code": map_code(), "sets (name, pairs, held out)": sorted(sets), "steps": STEPS,
            "GAN steps": GAN_STEPS}
