"""Heavy tables of the chapter on Boomerang: closeness, privacy, training, enlargement, survival.

Nothing here is special to a system: a part names a model, a level t and the images. What came back
is kept in memory only, so that a process flies each image once, and the tables hold numbers.
Built in: boomerang.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from . import boomerang as fly
from . import (
    data,
    gaussians,
    images,
    inversion_table,
    metrics,
    perceptual,
    results,
    stable_diffusion,
    traversal,
    zoo,
)
from .code import generator, noise
from .gan.model import GAN
from .weights import shipped

T, MIDDLE, LOW = (0.2, 0.4, 0.6, 0.8), 0.4, 0.2
STEPS = 10  # of a walk
EXACT = 250  # where steps cost nothing
RUNS = {0.8: 24}  # of each draw, else 6: few directions count at this level
TRAININGS, LARGEST_TRAININGS, FOLDS = 16, 24, 8  # halves both ways; all pictures in 8 folds
BUNDLED = "bundled vehicles"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled images: x (n, 3, H, W), y (n,) indices into classes; equal if they are the same
    object, so that what came back from them is computed once.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    def first(self, n: int) -> Pictures:
        """The first n of each class."""
        at = torch.cat([(self.y == k).nonzero()[:n, 0] for k in range(len(self.classes))])
        at = at.sort().values
        return replace(self, x=self.x[at], y=self.y[at])

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """Indices of two random halves, class by class: to train on, to test on."""
        gen, halves = generator(seed, "data"), ([], [])
        for k in range(len(self.classes)):
            at = (self.y == k).nonzero()[:, 0]
            at = at[torch.randperm(len(at), generator=gen)]
            for half, part in zip(halves, (at[: len(at) // 2], at[len(at) // 2 :])):
                half.append(part)
        return tuple(torch.cat(h) for h in halves)


def _labels(name: str, rows: np.ndarray) -> Tensor:
    """Classes of rows of a set, as indices into `data.VEHICLES`."""
    names = data.classes(name)
    return torch.tensor([data.VEHICLES.index(names[k]) for k in data.labels(name)[rows]])


@lru_cache(maxsize=1)
def vehicles() -> Pictures:
    """The bundled CIFAR-10 test vehicles, 128 of each class, in the order of `data.domain`."""
    y = _labels("vehicles", data.pick(len(data.load("vehicles")), None, 0))
    return Pictures(BUNDLED, data.domain("vehicles"), y, data.VEHICLES)


@lru_cache(maxsize=1)
def everything() -> Pictures:
    """All bundled CIFAR-10 test photographs with a class of their own, ten of them: 512 vehicles,
    256 animals without horses, and 300 horses.
    """
    own = vehicles()
    more = {k: data.domain("animals", only=[k]) for k in ("bird", "cat", "deer", "dog", "frog")}
    more["horse"] = data.domain("horses")
    y = [torch.full((len(v),), k) for k, v in enumerate(more.values(), len(own.classes))]
    return Pictures("bundled photographs", torch.cat([own.x, *more.values()]),
                    torch.cat([own.y, *y]), (*own.classes, *more))


def training_vehicles() -> Pictures:
    """All 20,000 training vehicles of CIFAR-10, fetched: for the regime of much data."""
    rows = data._rows("cifar10-train", data.VEHICLES)
    x = images.to_float(data.load("cifar10-train")[rows])
    return Pictures("training vehicles", x, _labels("cifar10-train", rows), data.VEHICLES)


def labelled(source: str | Path, size: int) -> Pictures:
    """A folder whose sub-folders are classes, or "cifar10-train"; without one the bundled vehicles,
    both at 32 px.

    ValueError with fewer than two classes or fewer than four images of one.
    """
    if source in ("", "cifar10-train"):
        if size != 32:
            raise ValueError(f"bundled images have 32 px, the model {size}: give a folder of them")
        return training_vehicles() if source else vehicles()
    found = inversion_table.folder(Path(source), size)
    few = [k for k, v in found.items() if len(v) < 4]
    if len(found) < 2 or few:
        raise ValueError("expected two sub-folders or more, one a class, with 4 images or more "
                         f"each; found {({k: len(v) for k, v in found.items()})}")
    y = torch.cat([torch.full((len(v),), k) for k, v in enumerate(found.values())])
    return Pictures(Path(source).name, torch.cat(list(found.values())), y, tuple(found))


LARGEST = 64  # px: above, a Gaussian of all values is too large to fit


def law_of(pictures: Pictures) -> gaussians.Gaussian | None:
    """The Gaussian of world S for the bundled vehicles, else one fitted to the pictures; None for
    pictures above 64 px.
    """
    if pictures.name == BUNDLED:
        return zoo.gaussian_vehicles32().to(torch.float64)
    x = pictures.x.flatten(1)
    small = pictures.x.shape[-1] <= LARGEST
    return gaussians.fit(x, max(1, min(256, len(x) // 5)), floor=1e-4) if small else None


def spectrum_of(pictures: Pictures) -> Tensor:
    """Eigenvalues (d,) of the covariance of the pictures: of their Gaussian, or of their Gram
    matrix, with 1e-4 where it has none.
    """
    if (law := law_of(pictures)) is not None:
        return law.spectrum
    x = pictures.x.flatten(1).double()
    x = x - x.mean(0)
    own = torch.linalg.eigvalsh(x @ x.T / len(x)).flip(0).clamp_min(1e-4)
    return torch.cat([own, own.new_full((x.shape[1] - len(x),), 1e-4)])


def reference(pictures: Pictures, others: Tensor) -> Tensor:
    """Features (m, 1280) of real images: of 1000 training vehicles, which ship with the book, or of
    other images of a set of your own.
    """
    if pictures.name == BUNDLED:
        return shipped("reference-features.safetensors")["features"].double()
    return metrics.features(others)


# What came back, once per process


class Flights:
    """Images of a set after a run of Boomerang, as 8-bit files hold them; flown when asked for."""

    def __init__(self, model: str, pictures: Pictures, t: float, copy: int):
        self.model, self.pictures, self.t, self.copy = model, pictures, t, copy
        self.back: dict[int, Tensor] = {}

    def at(self, index: Tensor) -> Tensor:
        """Those of the images at index (k,), (k, 3, H, W) in [-1, 1]."""
        todo = [int(i) for i in index if int(i) not in self.back]
        if todo:
            m = zoo.load(self.model)
            seeds = [1_000_000 + 100_000 * self.copy + i for i in todo]
            back = fly.boomerang(m, self.pictures.x[todo], self.t, steps=STEPS, seeds=seeds)
            self.back |= dict(zip(todo, filed(back), strict=True))
        return torch.stack([self.back[int(i)] for i in index])


@lru_cache(maxsize=64)
def flights(model: str, pictures: Pictures, t: float, copy: int = 0) -> Flights:
    """The flights of a set with a model from a level; another copy has other noise."""
    return Flights(model, pictures, t, copy)


def filed(x: Tensor) -> Tensor:
    """Images as 8-bit files return them."""
    return images.to_float(images.to_uint8(x.clamp(-1, 1)))


def drawn(model: str, n: int, classes: int = 0) -> tuple[Tensor, Tensor | None]:
    """(n pictures that a model draws, their labels if it knows so many classes), as 8-bit files.

    Labels come in turn, so that every class has its share.
    """
    x, y, known = _drawn(model, n)
    return x, y if known == classes else None


@lru_cache(maxsize=8)
def _drawn(model: str, n: int) -> tuple[Tensor, Tensor | None, int]:
    """(pictures, labels, how many classes the model knows)."""
    m = zoo.load(model)
    if not isinstance(m, GAN):
        return filed(torch.cat([m.decode(m.prior(min(64, n - i), seed=i))
                                for i in range(0, n, 64)])), None, 0
    g, y = m.generator, torch.arange(n) % max(1, m.generator.classes)
    with torch.no_grad():
        parts = g.latents(noise(range(n), (g.z,)), y) if g.classes else g.draw(range(n))
        x = filed(g({k: v for k, v in parts.items() if k != "w_plus"}))
    return x, y, g.classes


# Closeness


def closeness_code() -> str:
    """Hash of the code that decides a row of the table of closeness."""
    return results.code_version(("code", "boomerang", "diffusion", "nets", "gaussians"), (
        ClosenessPart, ExactPart, SetPart, mean_square, drawn, _drawn, metrics.features,
        metrics.feature_network, metrics.kid))


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference per value of images of the last three axes."""
    return (a.double() - b.double()).square().flatten(-3).mean(-1)


@dataclass(frozen=True)
class ClosenessPart:
    """Runs of one system from one level, on images x (n, 3, H, W)."""

    row: str
    model: str
    t: float
    x: Tensor
    runs: int = 2
    eta: float = 1.0
    steps: int = STEPS
    spacing: str = "time"

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}, t = {self.t}, {self.steps} steps of {self.spacing}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images."""
        return results.key(label=self.label, model=self.model, x=self.x, runs=self.runs,
                           how=(self.eta, self.spacing), code=closeness_code(),
                           weights=inversion_table.weights_of(self.model))

    def first(self, n: int) -> ClosenessPart:
        """The part with its first n images and one run, whose seeds are the same."""
        return replace(self, x=self.x[:n], runs=1)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row, domain (t, and what is unusual about the walk), image; distance (mean
        square to the original, mean of the runs) and first, that of the first run; pair (of two
        runs); same (pairs equal at 8 bits); error (of the one-step denoiser, in the space of the
        model).
        """
        m = zoo.load(self.model, device)
        back = fly.runs(m, self.x, self.t, self.runs, eta=self.eta, steps=self.steps,
                        spacing=self.spacing)
        away = mean_square(back, self.x)
        two = [(a, b) for a in range(self.runs) for b in range(a)]
        apart = torch.stack([mean_square(back[a], back[b]) for a, b in two]) if two else None
        files = torch.stack([torch.from_numpy(images.to_uint8(v.clamp(-1, 1))) for v in back])
        same = sum((files[a] == files[b]).flatten(1).all(1).long() for a, b in two) if two else 0
        found = {"distance": away.mean(0).numpy(), "first": away[0].numpy(),
                 "pair": apart.mean(0).numpy() if two else np.nan,
                 "same": same.numpy() if two else 0,
                 "error": fly.denoised_error(m, self.x, self.t, range(len(self.x)))}
        who = {"row": self.row, "domain": domain_of(self), "image": range(len(self.x))}
        return pd.DataFrame(who).join(pd.DataFrame(found).round(5))


def said_distance(
    law: gaussians.Gaussian, x0: Tensor, gain: Tensor, variance: Tensor
) -> np.ndarray:
    """Expected mean squared distance of images x0 (B, ...) from what comes back of them by a law
    x' − m = gain · (x0 − m) + N(0, variance), (B,).
    """
    v = x0.double().flatten(1) - law.mean
    c = (v @ law.U).square()
    k = law.lam.numel()
    moved = (c * (1 - gain[:k]) ** 2).sum(1) + (v.square().sum(1) - c.sum(1)) * (1 - gain[-1]) ** 2
    return ((moved + variance.sum()) / law.d).numpy()


def draws(n: int) -> Tensor:
    """The n draws of the Gaussian that `ExactPart` starts from, (n, d)."""
    law = zoo.gaussian_vehicles32().to(torch.float64)
    return law.sample(noise(range(n), (law.d,), "data", torch.float64))


def domain_of(part) -> str:
    """The level, and what is unusual about the walk."""
    usual = part.steps == STEPS and part.spacing == "time"
    return f"t = {part.t:g}" + ("" if usual else f", {part.steps} {part.spacing}")


@dataclass(frozen=True)
class ExactPart:
    """Draws of the Gaussian itself, and its exact denoiser with many steps: world S.

    lam: the law is the shipped Gaussian. Draws leave [-1, 1], so no image is checked.
    """

    t: float
    eta: float
    n: int = 64
    runs: int = 2
    steps: int = EXACT
    row: str = "draws"

    @property
    def label(self) -> str:
        """For people."""
        return f"draws of the Gaussian, t = {self.t}, eta = {self.eta:g}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        return results.key(label=self.label, n=self.n, runs=self.runs, steps=self.steps,
                           code=closeness_code(),
                           weights=inversion_table.weights_of("gaussian-vehicles32"))

    def first(self, n: int) -> ExactPart:
        """The part with its first n draws and one run."""
        return replace(self, n=n, runs=1)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row ("draws", or "draws, deterministic"), domain, image; distance, first, pair,
        same, as in `ClosenessPart`; dot_ and own_ of each band, the sums of `slopes`.
        """
        m, law = zoo.load("gaussian-vehicles32"), zoo.gaussian_vehicles32().to(torch.float64)
        x0 = law.sample(noise(range(self.n), (law.d,), "data", torch.float64))
        x0 = x0.reshape(-1, *m.denoiser.shape)
        nodes = fly.way_down(m.denoiser.schedule, self.t, self.steps)
        back = torch.stack([
            fly.returned(m, x0, nodes, self.eta, range(r * self.n, (r + 1) * self.n))
            for r in range(self.runs)])
        away = mean_square(back, x0)
        pair = mean_square(back[0], back[1]).numpy() if self.runs > 1 else np.nan
        files = (127.5 * (back + 1)).round()  # draws leave [-1, 1]: steps of 8 bits, not cut off
        same = (files[0] == files[-1]).flatten(1).all(1) if self.runs > 1 else torch.zeros(self.n)
        found = {"distance": away.mean(0).numpy(), "first": away[0].numpy(), "pair": pair,
                 "same": same.long().numpy(), "error": np.nan}
        for band, (dot, own) in fly.slopes(law, x0, back).items():
            found |= {f"dot_{band}": dot.numpy(), f"own_{band}": own.numpy()}
        name = self.row if self.eta else f"{self.row}, deterministic"
        who = {"row": name, "domain": f"t = {self.t:g}", "image": range(self.n)}
        return pd.DataFrame(who).join(pd.DataFrame(found).round(4))


@dataclass(frozen=True)
class SetPart:
    """How real a set is: what came back, the originals with noise, and a model's own pictures, by
    KID against real features (m, 1280).
    """

    row: str
    model: str
    t: float
    pictures: Pictures
    n: int
    reference: Tensor

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}, sets, t = {self.t}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        return results.key(label=self.label, model=self.model, x=self.pictures.x, n=self.n,
                           reference=self.reference, code=closeness_code(),
                           how=results.code_version((), (Flights, filed, fly.noised)),
                           weights=inversion_table.weights_of(self.model))

    def first(self, n: int) -> SetPart:
        """The part with its first n images."""
        return replace(self, n=n)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row, domain (which set), image (0), kid, low, high."""
        x = self.pictures.x[: self.n]
        back = flights(self.model, self.pictures, self.t).at(torch.arange(len(x)))
        sets = {"back": back, "drawn": drawn(self.model, len(x))[0], "originals": x,
                "noised": filed(fly.noised(x, mean_square(back, x), range(len(x))))}
        out = []
        for name, v in sets.items():
            value, (low, high) = metrics.kid(metrics.features(v), self.reference)
            out.append({"row": self.row, "domain": f"{name}, t = {self.t:g}", "image": 0,
                        "kid": value, "low": low, "high": high})
        return pd.DataFrame(out)


# Privacy


def lpips_vectors(x: Tensor) -> Tensor:
    """Vectors (n, d) whose squared Euclidean distance is LPIPS of images (n, 3, h, w)."""
    with torch.no_grad():
        seen, net = perceptual.taps(x.float()), perceptual.network()
    out = [v * (net[f"lin.{i}.weight"] / v[0, 0].numel()).clamp_min(0).sqrt()
           for i, v in enumerate(seen)]
    return torch.cat([v.flatten(1) for v in out], 1)


# name -> images as vectors, in whose distance an attacker searches
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "pixels": lambda x: x.float().flatten(1),
    "features": lambda x: F.normalize(metrics.features(x), dim=1).float(),
    "LPIPS": lpips_vectors,
}


def to_mask(bits: Sequence[bool]) -> str:
    """A list of bits as text."""
    return "".join("1" if b else "0" for b in bits)


def bits(text: str) -> np.ndarray:
    """The list of bits of `to_mask`, as numbers."""
    return np.array([c == "1" for c in str(text).removeprefix("m")], dtype=float)


def auc(near: Tensor, far: Tensor, draws: int = 299) -> tuple[float, float, float]:
    """(AUC, low, high) of distances (n,) of members against (m,) of others: 1 if every member is
    nearer, 0.5 if nothing can be told; 95 % bootstrap over both.
    """
    a, b = near.double().numpy(), far.double().numpy()
    wins = (a[:, None] < b) + 0.5 * (a[:, None] == b)
    rng = np.random.default_rng(0)
    wa, wb = (rng.multinomial(len(v), [1 / len(v)] * len(v), draws) / len(v) for v in (a, b))
    low, high = np.quantile(((wa @ wins) * wb).sum(1), [0.025, 0.975])
    return float(wins.mean()), float(low), float(high)


def blurred_like(x: Tensor, squared: float) -> Tensor:
    """x with one Gaussian blur for all, of a given mean squared distance; the strongest, 8 pixels,
    if none goes so far.
    """
    low, high = 0.2, 8.0
    for _ in range(12):
        sigma = (low * high) ** 0.5
        far = float(mean_square(images.blur(x, sigma), x).mean()) > squared
        low, high = (low, sigma) if far else (sigma, high)
    return images.blur(x, high)


KINDS = ("", "noise", "blur")


@lru_cache(maxsize=8)
def _seen(view: str, pictures: Pictures, half: int) -> Tensor:
    """The vectors of the originals of one half of split 0."""
    return VIEWS[view](pictures.x[pictures.split(0)[half]])


@dataclass(frozen=True)
class ReleasePart:
    """A set of pictures is released in place of its originals; who finds them?

    kind: "" what came back from t, "noise" or "blur" the originals with as much of that as gives
    the same squared distance, "drawn" pictures of the model itself. probes: of the released
    pictures that are searched, 0 for all.
    """

    row: str
    model: str
    t: float
    pictures: Pictures
    kind: str = ""
    probes: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}{self.kind and ', ' + self.kind}, released from t = {self.t}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        code = results.code_version(("code", "boomerang", "diffusion", "nets", "perceptual"), (
            Pictures, Flights, filed, drawn, _drawn, lpips_vectors, to_mask, auc, blurred_like,
            ReleasePart, metrics.features))
        return results.key(label=self.label, model=self.model, x=self.pictures.x, code=code,
                           weights=inversion_table.weights_of(self.model))

    def first(self, n: int) -> ReleasePart:
        """The search for the first n released pictures only, among all originals."""
        return replace(self, probes=n)

    def release(self, members: Tensor) -> Tensor:
        """The pictures that are given away (k, 3, H, W)."""
        x = self.pictures.x[members]
        if self.kind == "drawn":
            return drawn(self.model, len(members))[0]
        back = flights(self.model, self.pictures, self.t).at(members)
        away = mean_square(back, x)
        if self.kind == "noise":
            return filed(fly.noised(x, away, [int(i) for i in members]))
        return filed(blurred_like(x, float(away.mean()))) if self.kind == "blur" else back

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """One row for each distance of an attacker. Columns row, domain (t), image (the distance);
        found (share whose nearest original is their own), mask (which), auc, low, high (members
        against the other half, by the distance to the nearest released picture), distance.
        """
        members, _ = self.pictures.split(0)
        members = members[: self.probes] if self.probes else members
        x, y = self.release(members), self.pictures.x[members]
        out, own = [], torch.arange(len(x))
        for name, view in VIEWS.items():
            given, a, b = view(x), *(_seen(name, self.pictures, half) for half in (0, 1))
            hit = torch.cdist(given, a).argmin(1) == own
            near, far = (torch.cdist(v, given).amin(1) for v in (a[: len(x)], b))
            area, low, high = auc(near, far)
            away = float(mean_square(x, y).mean())
            out.append({"row": f"{self.row}{self.kind and ', ' + self.kind}",
                        "domain": f"t = {self.t:g}", "image": name,
                        "found": float(hit.double().mean()), "mask": f"m{to_mask(hit)}",
                        "auc": area, "low": low, "high": high, "distance": away})
        return pd.DataFrame(out).round(4)


# Training


@dataclass(frozen=True)
class Arm:
    """What a classifier is trained on.

    kind: "originals", "back" (in their place what came back from t with `model`), "drawn" (pictures
    of `model`, labelled by a teacher if it has no classes). extra: "" or what takes the place of
    half of the pictures of a step: "boomerang" or "noise". base: flips and shifts. few: images of a
    class, 0 for all.
    """

    name: str
    kind: str = "originals"
    model: str = ""
    t: float = MIDDLE
    extra: str = ""
    base: bool = True
    few: int = 0


COPIES = 2  # runs of each image that augmentation draws from


class Net(nn.Sequential):
    """Three strided convolutions with group norm, pooled; weights from a generator of its own."""

    def __init__(self, classes: int, gen: torch.Generator, width: int = 24):
        w, body, c = width, [], 3
        for k in (w, 2 * w, 4 * w):
            body += [nn.Conv2d(c, k, 3, stride=2, padding=1), nn.GroupNorm(4, k), nn.ReLU()]
            c = k
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes))
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.kaiming_uniform_(p, a=5**0.5, generator=gen)
        for layer in self:
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)


def shifted(x: Tensor, gen: torch.Generator) -> Tensor:
    """The baseline augmentation: mirror half of the images, shift each by up to an eighth of its
    side, reflected at the edge.
    """
    n, side = len(x), x.shape[-1]
    room = side // 8
    flip = torch.rand(n, generator=gen) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    x = F.pad(x, (room,) * 4, mode="reflect")
    at = torch.randint(2 * room + 1, (2, n, 1), generator=gen) + torch.arange(side)  # (2, n, side)
    own, channel = torch.arange(n)[:, None, None, None], torch.arange(x.shape[1])[:, None, None]
    return x[own, channel, at[0][:, None, :, None], at[1][:, None, None, :]]


def fit(
    x: Tensor, y: Tensor, classes: int, seed: int, base: bool = True, extra: Tensor | None = None,
    steps: int = 200, batch: int = 32,
) -> Net:
    """A classifier of images x (n, 3, H, W), labels y (n,): the same number of steps and pictures
    whatever it is given; Adam, one-cycle rate.

    extra (k, n, 3, H, W): k other pictures of each image, one of which takes its place half of the
    time. base: see `shifted`.
    """
    gen = generator(seed, "data")
    net = Net(classes, gen).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), 4e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        i = torch.randint(len(x), (batch,), generator=gen)
        v = x[i]
        if extra is not None:
            k = torch.randint(len(extra), (batch,), generator=gen)
            use = torch.rand(batch, generator=gen) < 0.5
            v = torch.where(use[:, None, None, None], extra[k, i], v)
        v = shifted(v, gen) if base else v
        loss = F.cross_entropy(net(v.contiguous(memory_format=torch.channels_last)), y[i])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    return net.eval().requires_grad_(False)


def fold(pictures: Pictures, number: int, parts: int = 2) -> tuple[Tensor, Tensor]:
    """Indices to train on and to test on, class by class: of `parts` random parts one is tested,
    each in turn, then comes another draw. Number 0 of two parts is `Pictures.split` 0.
    """
    gen, train, test = generator(number // parts, "data"), [], []
    for k in range(len(pictures.classes)):
        at = (pictures.y == k).nonzero()[:, 0]
        own = list(at[torch.randperm(len(at), generator=gen)].tensor_split(parts))
        test.append(own.pop(parts - 1 - number % parts))
        train += own
    return torch.cat(train), torch.cat(test)


@lru_cache(maxsize=32)
def teacher(pictures: Pictures, seed: int, steps: int) -> Net:
    """A classifier of the originals, which labels pictures that have no label."""
    train, _ = fold(pictures, seed)
    return fit(pictures.x[train], pictures.y[train], len(pictures.classes), seed, steps=steps)


@dataclass(frozen=True)
class TrainPart:
    """One training: an arm and a number, which is its seed and its draw of the pictures (`fold`);
    tested on the pictures that it was not to see.
    """

    arm: Arm
    seed: int
    pictures: Pictures
    steps: int = 200
    parts: int = 2

    @property
    def label(self) -> str:
        """For people."""
        return f"trained on {self.arm.name}, seed {self.seed}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        code = results.code_version(("code", "boomerang", "diffusion", "nets", "gan"), (
            Pictures, Flights, filed, drawn, _drawn, Arm, Net, shifted, fit, fold, teacher,
            TrainPart))
        models = [m for m in (self.arm.model,) if m]
        return results.key(label=self.label, arm=self.arm, x=self.pictures.x, y=self.pictures.y,
                           code=code, steps=(self.steps, STEPS, COPIES), parts=self.parts,
                           weights=[inversion_table.weights_of(m) for m in models])

    def given(self, train: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(images, labels, extra pictures or None) that the arm trains on."""
        p, a = self.pictures, self.arm
        x, y, extra = p.x[train], p.y[train], None
        if a.kind == "back":
            x = flights(a.model, p, a.t).at(train)
        if a.kind == "drawn":
            x, y = drawn(a.model, len(p.x), len(p.classes))  # as many, and the same share of them
            x, y = x[train], None if y is None else y[train]
            y = teacher(p, self.seed, self.steps)(x).argmax(1) if y is None else y
        if a.extra:
            extra = torch.stack([flights(a.model, p, a.t, k).at(train) for k in range(COPIES)])
        if a.extra == "noise":
            away = [mean_square(v, x) for v in extra]
            extra = torch.stack([filed(fly.noised(x, d, [100_000 * k + int(i) for i in train]))
                                 for k, d in enumerate(away)])
        return x, y, extra

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """One row: row (the arm), domain (the seed), image (0), accuracy, mask (which test images
        were right, as hexadecimal bits).
        """
        p = self.pictures
        train, test = fold(p, self.seed, self.parts)
        if self.arm.few:
            own = [(p.y[train] == k).nonzero()[: self.arm.few, 0] for k in range(len(p.classes))]
            train = train[torch.cat(own)]
        x, y, extra = self.given(train)
        net = fit(x, y, len(p.classes), self.seed, self.arm.base, extra, self.steps)
        right = (net(p.x[test]).argmax(1) == p.y[test]).numpy()
        return pd.DataFrame([{"row": self.arm.name, "domain": f"seed {self.seed}", "image": 0,
                              "accuracy": round(float(right.mean()), 5),
                              "mask": f"m{np.packbits(right).tobytes().hex()}"}])


class Digest(str):
    """What `results.key` takes a tensor for, computed once."""

    __repr__ = str.__str__


@lru_cache(maxsize=8)
def printed(pictures: Pictures) -> Pictures:
    """A set with digests in place of its images and labels."""
    x, y = (Digest(hashlib.sha256(v.double().numpy().tobytes()).hexdigest())
            for v in (pictures.x, pictures.y))
    return replace(pictures, x=x, y=y)


class Training(TrainPart):
    """A `TrainPart` whose key does not hash the same images again for each of hundreds."""

    @property
    def key(self) -> str:
        """That of `TrainPart`."""
        return TrainPart.key.fget(replace(self, pictures=printed(self.pictures)))


def said_right(table: pd.DataFrame, arm: str, pictures: Pictures, parts: int = 2) -> np.ndarray:
    """Whether each image was classified rightly, (trainings, images); NaN where not tested."""
    masks = table[table.row == arm].set_index("domain")["mask"]
    out = np.full((len(masks), len(pictures.y)), np.nan)
    for k, own in enumerate(out):
        test = fold(pictures, k, parts)[1].numpy()
        packed = np.frombuffer(bytes.fromhex(masks[f"seed {k}"][1:]), np.uint8)
        own[test] = np.unpackbits(packed, count=len(test))
    return out


def two_way(values: np.ndarray, draws: int = 999, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of values (trainings, images), NaN where there is none: 95 % bootstrap over
    trainings and images at once, so that it speaks about other ones of both. Source: Owen 2007.
    """
    rng, there = np.random.default_rng(seed), ~np.isnan(values)
    ws, wn = (rng.multinomial(k, [1 / k] * k, draws) / k for k in values.shape)
    total, count = (((ws @ v) * wn).sum(1) for v in (np.nan_to_num(values), there.astype(float)))
    return float(np.nanmean(values)), *map(float, np.quantile(total / count, [0.025, 0.975]))


def components(values: np.ndarray) -> tuple[float, float, float]:
    """Variances of values (trainings, images), NaN where there is none: between trainings, between
    images, and the rest; by cross-products, which have no bias and may come out negative.
    """
    there, c = ~np.isnan(values), np.nan_to_num(values - np.nanmean(values))
    own = []
    for axis in (1, 0):  # cross-products within a training, within an image
        n = there.sum(axis)
        own.append((c.sum(axis) ** 2 - (c**2).sum(axis)).sum() / (n * (n - 1)).sum())
    return float(own[0]), float(own[1]), float((c**2).sum() / there.sum() - sum(own))


def decides(values: np.ndarray, power: float = 2.8) -> tuple[float, float, float]:
    """What would decide the sign of a mean as large as that of values (trainings, images), from
    their `components`: (the smallest mean that is decided as things are, trainings on these images,
    inf if no number is enough, how many times as many of both).

    power: 1.96 + 0.84 standard errors, four times in five.
    """
    between, own, rest = (max(0.0, v) for v in components(values))
    (j, n), tested = values.shape, float((~np.isnan(values)).mean())
    rest /= n * tested
    now, allowed = between / j + own / n + rest / j, (float(np.nanmean(values)) / power) ** 2
    more = lambda above, below: above / below if below > 0 else np.inf  # noqa: E731
    return power * now**0.5, more(between + rest, allowed - own / n), more(now, allowed)


# Enlargement


@dataclass(frozen=True)
class EnlargePart:
    """Images shrunk by a factor and enlarged again in one way.

    method: "bicubic", "linear MMSE", or "boomerang" from the bicubic enlargement. passes: runs, one
    after another.
    """

    method: str
    factor: int
    x: Tensor
    law: gaussians.Gaussian
    reference: Tensor
    model: str = ""
    t: float = MIDDLE
    passes: int = 1
    steps: int = STEPS

    @property
    def row(self) -> str:
        """The way."""
        if self.method != "boomerang":
            return self.method
        more = f" × {self.passes}" if self.passes > 1 else ""
        return f"t = {self.t:g}{more}" + ("" if self.steps == STEPS else f", {self.steps} steps")

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}, enlarged {self.factor} times"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        code = results.code_version(("code", "boomerang", "diffusion", "nets", "perceptual"), (
            EnlargePart, filed, traversal.enlarge, traversal.Wiener, images.downsample,
            metrics.psnr, metrics.ssim, metrics.kid, metrics.features))
        weights = inversion_table.weights_of(self.model) if self.model else ""
        return results.key(label=self.label, x=self.x, law=self.law.mean, weights=weights,
                           code=code, reference=self.reference)

    def first(self, n: int) -> EnlargePart:
        """The part with its first n images."""
        return replace(self, x=self.x[:n])

    def enlarged(self) -> Tensor:
        """What becomes of the images (n, 3, H, W), as 8-bit files."""
        size, shrink = self.x.shape[-1], lambda x: images.downsample(x, self.factor)
        if self.method == "linear MMSE":
            return filed(traversal.Wiener(self.law, shrink, size)(self.x))
        y = traversal.enlarge(shrink(self.x), size)
        if self.method == "boomerang":
            m = zoo.load(self.model)
            for k in range(self.passes):
                seeds = range(10_000 * k, 10_000 * k + len(y))
                y = fly.boomerang(m, y, self.t, steps=self.steps, seeds=seeds).clamp(-1, 1).float()
        return filed(y)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row (the way), domain (factor), image; psnr, ssim, lpips, low (PSNR of the result
        shrunk again against what was given); kid, kid_low, kid_high of the set, in every row.
        """
        y, shrink = self.enlarged(), lambda x: images.downsample(x, self.factor)
        found = {"psnr": metrics.psnr(self.x, y).numpy(), "ssim": metrics.ssim(self.x, y).numpy(),
                 "lpips": perceptual.lpips(self.x, y).numpy(),
                 "low": metrics.psnr(shrink(self.x), shrink(y)).numpy()}
        value, ends = metrics.kid(metrics.features(y), self.reference)
        found |= {"kid": value, "kid_low": ends[0], "kid_high": ends[1]}
        who = {"row": self.row, "domain": f"{self.factor} times", "image": range(len(y))}
        return pd.DataFrame(who).join(pd.DataFrame(found, index=range(len(y))).round(4))


# Survival


@dataclass(frozen=True)
class SurvivalPart:
    """How much of a domain's images survives a level, with the law's prediction beside it."""

    row: str
    model: str
    domain: str
    x: Tensor
    t: float
    runs: int = 2
    steps: int = STEPS

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.row}, {self.domain}, survival at t = {self.t}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part."""
        code = results.code_version(("code", "boomerang", "diffusion", "nets", "gaussians"),
                                    (SurvivalPart,))
        return results.key(label=self.label, x=self.x, runs=self.runs, steps=self.steps, code=code,
                           weights=inversion_table.weights_of(self.model))

    def first(self, n: int) -> SurvivalPart:
        """The part with its first n images and one run."""
        return replace(self, x=self.x[:n], runs=1)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row, domain ("name, t = …"), image; measured and law (share of the difference
        from the mean that survives; the law is the closed form of the same walk); dot_ and own_ of
        each band (`slopes`), and said_, what the law says of dot_.
        """
        m, law = zoo.load(self.model, device), zoo.gaussian_vehicles32().to(torch.float64)
        nodes = fly.way_down(m.denoiser.schedule, self.t, self.steps)
        back = fly.runs(m, self.x, self.t, self.runs, steps=self.steps)
        gain, _ = fly.kernel(law.spectrum, nodes)
        found = {"measured": fly.measured(law, self.x, back), "law": fly.kept(law, self.x, gain)}
        for band, (dot, own) in fly.slopes(law, self.x, back).items():
            found |= {f"dot_{band}": dot.numpy(), f"own_{band}": own.numpy()}
        v = self.x.double().flatten(1) - law.mean
        said = law.mean + law.apply(lambda lam: _gain(lam, nodes), v)
        said = said.reshape(1, *self.x.shape)
        for band, (dot, _) in fly.slopes(law, self.x, said).items():
            found |= {f"said_{band}": dot.numpy()}
        who = {"row": self.row, "domain": f"{self.domain}, t = {self.t:g}",
               "image": range(len(self.x))}
        return pd.DataFrame(who).join(pd.DataFrame(found).round(4))


def _gain(spectrum: Tensor, nodes) -> Tensor:
    """The gains of `kernel` alone."""
    return fly.kernel(torch.as_tensor(spectrum, dtype=torch.float64), nodes)[0]


# What it costs, counted without weights

PRICED = {"DDPM (ADM, 256 px)": "adm-imagenet256", "DAE (256 px)": "dae-ffhq256",
          "LDM (256 px)": "ldm-ffhq256", "D2C (256 px)": "d2c-ffhq256",
          "Stable Diffusion (512 px)": "", "DDPM, ours (32 px)": "ddpm-vehicles32",
          "DAE, ours (32 px)": "dae-vehicles32"}


class _Alive(TorchDispatchMode):
    """Bytes of the tensors that are alive at once while operations run, as float32, and their peak.

    A view counts like a tensor of its own, so this is rather too much than too little.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def _gone(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for v in out if isinstance(out, tuple | list) else (out,):
            if isinstance(v, Tensor):
                self.now += 4 * v.numel()
                weakref.finalize(v, self._gone, 4 * v.numel())
        self.peak = max(self.peak, self.now)
        return out


def price(name: str) -> dict[str, float]:
    """Of one image and one evaluation of a network: gmac (10^9 multiplications), gib (weights and
    what is alive at once, float32). Counted on the architecture, without its weights.

    name: a model of the zoo, "" for Stable Diffusion 1 with guidance, which asks twice.
    """
    with torch.device("meta" if not name or zoo.MODELS[name].source else "cpu"):
        if name:
            entry = zoo.MODELS[name]
            net = entry.module(entry.config)
            m = entry.model(net, entry.config)
            told = [torch.zeros(1, *m.denoiser.shape), torch.zeros(1), torch.zeros(1)]
            told += [torch.zeros(1, m.mean.numel())] if hasattr(m, "semantic") else []
            call, times = lambda: m.denoiser.net(*told), 1
        else:
            from diffusers import UNet2DConditionModel

            net = UNet2DConditionModel(**stable_diffusion.SD1)
            x, text = torch.zeros(1, 4, 64, 64), torch.zeros(1, 77, 768)
            call, times = lambda: net(x, torch.zeros(1), encoder_hidden_states=text), 2
        with torch.no_grad(), _Alive() as seen:
            gmac = inversion_table.gmac(call)
    weights = sum(4 * p.numel() for p in net.parameters())
    return {"gmac": times * gmac, "gib": (weights + seen.peak) / 2**30}


# The work of the book, and of a reader

EMBEDDED = {"DDPM": "ddpm-vehicles32", "DAE": "dae-vehicles32", "LDM": "ldm-vehicles32",
            "D2C": "d2c-vehicles32", "exact Gaussian": "gaussian-vehicles32"}
JUDGED = ("DDPM", "DAE")  # above the quality floor
GANS = {"BigGAN": "biggan-vehicles32", "StyleGAN-XL": "styleganxl-vehicles32"}
SOLVED = "exact Gaussian"
DOMAINS = ("vehicles", "animals", "emoji", "quickdraw", "textures")
STRIDES = (5, 20, 40)  # beside ten
CASCADE, ONE_PASS = 4, 43  # passes of 10 steps from t = 0.2; steps of one pass, 44 evaluations each


def closeness_parts(
    systems: dict[str, str] = EMBEDDED, found: Callable[[int], Pictures] | None = None,
    judged: Sequence[str] = JUDGED, n: int = 64, sets: int = 256, exact: bool = True,
) -> list:
    """All work of the table of closeness. The first judged system has n images, and deterministic
    and otherwise strided walks; other judged ones have half as many, the rest a quarter.

    found: size of a model -> pictures, by default `labelled` ones of the bundle.
    """
    out, found = [], found or (lambda size: labelled("", size))
    for name, model in systems.items():
        p, first = found(zoo.load(model).size), name == judged[0]
        x = p.x[: n if first else max(2, n // 2 if name in judged else n // 4)]
        out += [ClosenessPart(name, model, t, x, 4 if first and t == LOW else 2) for t in T]
        if first:
            few, own = x[: max(2, n // 2)], x[: max(2, n // 4)]
            out += [ClosenessPart(f"{name}, deterministic", model, t, few, 1 + (t == MIDDLE), 0.0)
                    for t in T]
            out += [ClosenessPart(f"{name}{how}", model, MIDDLE, own, 1, eta, k, spacing)
                    for eta, how in ((1.0, ""), (0.0, ", deterministic"))
                    for k, spacing in (*((k, "time") for k in STRIDES), (STEPS, "log_snr"))]
        if name in judged:
            real = reference(p, p.x[-sets:])
            k = min(sets if first else sets // 2, len(p.x))
            out.append(SetPart(name, model, MIDDLE, p, k, real))
    if exact:
        out += [ExactPart(t, eta, runs=RUNS.get(t, 6) if eta else 1, steps=EXACT if eta else 100)
                for eta in (1.0, 0.0) for t in T]
    return out


def release_parts(pictures: Pictures | None = None, systems: dict[str, str] | None = None) -> list:
    """All work of the table of privacy: what came back, its nulls and the models' own pictures."""
    p = pictures or vehicles()
    systems = systems or {k: EMBEDDED[k] for k in ("DDPM", SOLVED)}
    out = []
    for name, model in systems.items():
        for t in T:
            kinds = KINDS if t == MIDDLE else KINDS[:2]
            out += [ReleasePart(name, model, t, p, kind) for kind in kinds]
        out.append(ReleasePart(name, model, MIDDLE, p, "drawn"))
    return out


def arms(name: str, model: str, gans: dict[str, str], more: bool = True) -> list[Arm]:
    """What classifiers are trained on, with a system and with GANs; `more` adds augmentation."""
    out = [Arm(f"{name}, t = {t:g}", "back", model, t) for t in T[1:]]
    out += [Arm(f"{name}, drawn", "drawn", model)]
    out += [Arm(k, "drawn", v) for k, v in gans.items()]
    if more:
        own = Arm("originals")
        few, bare = replace(own, name="few", few=8), replace(own, name="bare", base=False)
        out += [own, few, bare]
        out += [replace(a, name=f"{a.name} + boomerang", model=model, extra="boomerang")
                for a in (own, few, bare)]
        out += [replace(own, name="originals + noise", model=model, extra="noise")]
    return out


def train_parts(
    pictures: Pictures | None = None, name: str = "DDPM", model: str = EMBEDDED["DDPM"],
    gans: dict[str, str] | None = None, seeds: int = TRAININGS, steps: int = 200,
    bundled: bool = True,
) -> list[TrainPart]:
    """All work of the table of classifiers, training by training.

    bundled: world S too, and augmentation of seven eighths: of the vehicles ("most") and of all
    bundled photographs, ten classes ("all").
    """
    p = pictures or vehicles()
    todo = arms(name, model, GANS if gans is None else gans)
    todo += arms(SOLVED, EMBEDDED[SOLVED], {}, False) if bundled else []  # no GANs in world S
    out = [Training(a, seed, p, steps) for a in todo for seed in range(seeds)]
    if bundled:
        for which, extras in (("all", ("", "boomerang", "noise")), ("most", ("", "boomerang"))):
            q = everything() if which == "all" else p
            todo = [Arm(which, model=k and model, extra=k) for k in extras]
            todo = [replace(a, name=f"{which} + {a.extra}" if a.extra else which) for a in todo]
            out += [Training(a, seed, q, steps, FOLDS) for a in todo
                    for seed in range(LARGEST_TRAININGS)]
    return out


def enlarge_parts(
    pictures: Pictures | None = None, model: str = EMBEDDED["DDPM"], n: int = 40,
) -> list[EnlargePart]:
    """All work of the table of enlargement: 8 times the whole sweep, 4 and 2 times in short."""
    p = pictures or vehicles()
    law, x = law_of(p), p.x[:n]
    real = reference(p, p.x[n:][-256:] if len(p.x) > n + 8 else p.x)
    law = law or gaussians.Gaussian(torch.zeros(1), torch.ones(1), None)
    ways = [("bicubic", {}), ("linear MMSE", {})] if x.shape[-1] <= LARGEST else [("bicubic", {})]
    ways += [("boomerang", {"t": t}) for t in T]
    more = [("boomerang", {"t": LOW, "passes": CASCADE}), ("boomerang", {"steps": ONE_PASS})]
    return [EnlargePart(method, k, x, law, real, model if method == "boomerang" else "", **how)
            for k, todo in ((8, ways + more), (4, ways[:-2]), (2, ways[:-2]))
            for method, how in todo]


def survival_parts(n: int = 12) -> list[SurvivalPart]:
    """All work of the table of survival."""
    rows = {"DDPM": (STEPS, 1), SOLVED: (60, 2)}
    return [SurvivalPart(name, EMBEDDED[name], k, data.domain(k, n), t, runs, steps)
            for name, (steps, runs) in rows.items() for k in DOMAINS for t in T[:3]]


def paper(
    systems: dict[str, str], judged: Sequence[str], source: str, gans: dict[str, str], n: int,
    sets: int, each: int, seeds: int, steps: int,
) -> dict[str, list]:
    """All work of the tables in world P, on your own systems (the first is flown for privacy,
    training and enlargement) and images (`labelled`, `each` of a class), at the models' sizes.
    """
    cut = lru_cache(lambda size: labelled(source, size).first(each))
    name, model = next(iter(systems.items()))
    p = cut(zoo.load(model).size)
    return {"closeness": closeness_parts(systems, cut, judged, n, sets, exact=False),
            "enlarged": enlarge_parts(p, model, n),
            "released": release_parts(p, {name: model}),
            "trained": train_parts(p, name, model, gans, seeds, steps, bundled=False)}


TABLES = {"boomerang_closeness": closeness_parts, "boomerang_survival": survival_parts,
          "boomerang_enlarged": enlarge_parts, "boomerang_released": release_parts,
          "boomerang_trained": train_parts}


def facts(todo: Sequence) -> dict:
    """What the note beside a table says: the models and hashes of their weights."""
    models = {p.arm.model if isinstance(p, TrainPart) else getattr(p, "model", EMBEDDED[SOLVED])
              for p in todo} - {""}
    return {"weights": {m: inversion_table.weights_of(m) for m in sorted(models)}}
