"""Unseen domains in numbers: the heavy tables of the chapter on their priors.

Every row is a number with an interval: row (a system and a setting), domain, measure, value, low,
high. Neither latents nor pictures are kept. Walks are shared by the parts of one process.
Built in: gaussian_priors.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import (
    data, gap, gaussians, generators, images, inversion_table, metrics, normality, results, unseen,
    zoo,
)
from .code import Code, noise
from .perceptual import lpips
from .unseen import KINDS, MIXING, STEPS

OWN = "vehicles"
FAR = ("animals", "landscapes", "emoji", "quickdraw", "turbulence")  # whose latents are judged
DRAWN = ("animals", "emoji", "quickdraw")  # from whose fits samples are drawn
GAPS = (OWN, *DRAWN)  # whose bandwidth is measured
FITTED, HELD, SAMPLES = 48, 128, 48  # images to fit, held out; pictures drawn
IMAGE_END, LAST = 2.19, -99.0  # log-SNR of a rung near the image (t = 30), of the last one
LEVELS = {"near the image": IMAGE_END, "half-way": 0.58, "mixing": MIXING, "last": LAST}
ETAS = (0.05, 0.1, 0.2, 0.4, 1.0)
SEEN, PERCEIVED = 30.0, 0.1  # dB and LPIPS up to which an image counts as returned
MORE = 256  # latents of a domain at the mixing step: as many as the smallest set has
BAND = 10  # images of a bandwidth; 25 at the mixing step, where domains are compared
POOL, CANDIDATES = 64, 2048  # decoded candidates, and those of which shares are taken

# changes that nobody sees, of other images of the model's own domain
INVISIBLE: dict[str, Callable[[Tensor], Tensor]] = {
    "2 % less contrast": lambda x: images.contrast(x, 0.98),
    "one grey level more": lambda x: (x + 2 / 255).clamp(-1, 1),
    "lowest bit cleared": images.drop_bit,
}
HALF = "other half"

EMBEDDED = {
    "zero network": "zero",
    "untrained network": "untrained",
    "exact Gaussian": "gaussian-vehicles32",
    "DDPM": "ddpm-vehicles32",
    "DAE": "dae-vehicles32",
    "v": "v-vehicles32",
    "LDM": "ldm-vehicles32",
    "D2C": "d2c-vehicles32",
}
DECIDING = ("DDPM", "DAE")  # above the quality floor
LEARNED_NOTHING = ("zero network", "untrained network")
UNDER_FLOOR = ("v", "LDM", "D2C")
PIXELS = "pixels"  # no network at all
GIVEN = "given model"
# where more latents are taken of some domains only: of those that fewer left open
MORE_OF = {"DDPM": ("animals", "landscapes", "emoji"), "DAE": ("animals",)}
SWEPT = ("exact Gaussian", "DDPM", GIVEN)  # sampled at every level
OFFICIAL = {"DAE": "dae-ffhq256", "LDM": "ldm-ffhq256", "D2C": "d2c-ffhq256"}

Sets = dict[str, Tensor]  # images by domain, the model's own first
Row = dict[str, object]


@dataclass(frozen=True, eq=False)
class Shared:
    """Tensors that are equal if their values are, so that what rests on them is computed once."""

    values: Tensor

    def __hash__(self):
        return zlib.crc32(np.ascontiguousarray(self.values.numpy()).tobytes())

    def __eq__(self, other):
        return torch.equal(self.values, other.values)


@lru_cache(maxsize=64)
def _features(x: Shared) -> Tensor:
    return metrics.features(x.values)


def features(x: Tensor) -> Tensor:
    """`metrics.features`, once for each set of images of a process."""
    return _features(Shared(x.float()))


@lru_cache(maxsize=48)
def _codes(model: str, x: Shared, at: tuple[int, ...], steps: int, seed: int) -> list[Code]:
    m, n, size = zoo.load(model), len(x.values), 64 if x.values.shape[-1] <= 64 else 8
    cut = [slice(i, min(i + size, n)) for i in range(0, n, size)]
    found = [unseen.invert(m, x.values[c], at, steps, range(seed + c.start, seed + c.stop))
             for c in cut]
    return [join([f[k] for f in found]) for k in range(len(at))]


def join(codes: Sequence[Code]) -> Code:
    """Codes of one model as one batch."""
    seeds = [s for c in codes for s in c.seeds or ()]
    parts = {k: torch.cat([c[k] for c in codes]) for k in codes[0].tensors}
    return Code(parts, codes[0].geometry, tuple(seeds) or None)


def codes(model: str, x: Tensor, lams: Sequence[float], steps: int = STEPS, seed: int = 0):
    """Codes of images on the rungs nearest to log-SNRs, walked once in a process."""
    m = zoo.load(model)
    at = tuple(unseen.rung(m, v, steps) for v in lams)
    return _codes(model, Shared(x), at, steps, seed)


def decoded(model: str, code: Code, at: int, steps: int = STEPS) -> Tensor:
    """`unseen.decode` in batches."""
    m = zoo.load(model)
    size = 64 if m.size <= 64 else 8
    pieces = [code.select(slice(i, i + size)) for i in range(0, len(code), size)]
    return torch.cat([unseen.decode(m, c, at, steps) for c in pieces])


def _table(who: dict, found: Sequence[tuple[str, float, float, float]]) -> pd.DataFrame:
    rows = [who | {"measure": k, "value": v, "low": a, "high": b} for k, v, a, b in found]
    return pd.DataFrame(rows)


def rows_of(z: Tensor) -> np.ndarray:
    """The battery's statistics of latents as rows (n, k)."""
    return np.stack(list(normality.statistics(z).values()), 1)


def told_from_fit(z: Tensor, kind: str, seed: int = 0) -> tuple[float, float, float]:
    """AUC, with interval, of latents z (n, …) told from draws of a fit, cross-fitted.

    Each half meets draws of the fit to the other half, so no latent meets a fit that it made.
    """
    n = len(z) // 2
    halves, drawn = (z[:n], z[n : 2 * n]), []
    for k, half in enumerate(halves):
        white = noise(range(seed + k * n, seed + (k + 1) * n), (z[0].numel(),), "prior",
                      torch.float64)
        drawn.append(unseen.fit(half, kind).sample(white).reshape(-1, *z.shape[1:]))
    return gap.told_apart(rows_of(z[: 2 * n]), rows_of(torch.cat(drawn)), seed=seed)


@dataclass(frozen=True)
class LatentPart:
    """Latents of a domain x (n, 3, H, W) in a system, beside those of its own domain."""

    name: str
    model: str
    domain: str
    x: Tensor
    own: Tensor
    levels: tuple[str, ...] = ("mixing", "last")
    steps: int = STEPS
    seed: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, latents of {self.domain}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return results.key(label=self.label, model=self.model, x=self.x, own=self.own,
                           levels=[(k, LEVELS[k]) for k in self.levels], steps=self.steps,
                           seed=self.seed, weights=inversion_table.weights_of(self.model),
                           code=latent_code())

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Measures at each level: separate; fit and null of each kind; the three of
        `unseen.over_white`; norm; rejected, the share that fails the battery.
        """
        lams = [LEVELS[k] for k in self.levels]
        here = codes(self.model, self.x, lams, self.steps, self.seed)
        there = codes(self.model, self.own, lams, self.steps, self.seed + 10_000)
        out = []
        for level, a, b in zip(self.levels, here, there, strict=True):
            who = {"row": f"{self.name}, {level}", "domain": self.domain}
            out.append(_table(who, _latent_measures(a["noise"].double(), b["noise"].double())))
        return pd.concat(out, ignore_index=True)


def _latent_measures(z: Tensor, own: Tensor) -> Iterator[tuple[str, float, float, float]]:
    yield "separate", *gap.told_apart(rows_of(z), rows_of(own))
    for kind in KINDS:
        yield f"fit, {kind}", *told_from_fit(z, kind)
        white = noise(range(len(z)), (z[0].numel(),), "data", torch.float64)
        cloud = unseen.fit(z, kind).sample(white).reshape(z.shape)
        yield f"null, {kind}", *told_from_fit(cloud, kind)
    value, half = unseen.over_white(z)
    for k, v, h in zip(unseen.PROPERTIES, value, half, strict=True):
        yield k, float(v), float(v - h), float(v + h)
    size = z.flatten(1).square().mean(1).sqrt().numpy()
    yield "norm", float(np.median(size)), *metrics.bootstrap(size)
    share = normality.battery(z)["any"]["p"] < 0.05
    yield "rejected", float(share.mean()), *metrics.proportion(int(share.sum()), len(share))


@dataclass(frozen=True)
class SamplePart:
    """Pictures drawn from a fit in a system at a level: x to fit, held-out images, own domain.

    kind: a fit; "inverted" decodes the inverted images themselves. model "": pixels, no network.
    """

    name: str
    model: str
    domain: str
    level: str
    kind: str
    x: Tensor
    held: Tensor
    own: Tensor
    n: int = SAMPLES
    steps: int = STEPS
    seed: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.kind}, {self.level}: samples of {self.domain}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        weights = self.model and inversion_table.weights_of(self.model)
        return results.key(label=self.label, model=self.model, lam=LEVELS.get(self.level),
                           x=self.x, held=self.held, own=self.own, n=self.n, steps=self.steps,
                           seed=self.seed, weights=weights, code=sample_code())

    def pictures(self) -> Tensor:
        """What is drawn, (n, 3, H, W)."""
        if not self.model:
            if self.kind == "copies":
                return self.x
            code = Code({"noise": self.x.double()}, {"noise": "flat"})
            return unseen.draw(unseen.fit_code(code, self.kind), code, self.n, self.seed)["noise"]
        (code,) = codes(self.model, self.x, [LEVELS[self.level]], self.steps)
        at = unseen.rung(zoo.load(self.model), LEVELS[self.level], self.steps)
        if self.kind != "inverted":
            code = unseen.draw(unseen.fit_code(code, self.kind), code, self.n, self.seed)
        return decoded(self.model, code, at, self.steps)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Measures: kid to the held-out images; own, the KID of the model's domain to them; target,
        the share whose nearest neighbour is held-out and not of the own domain; novelty.
        """
        f, held, own = (features(v) for v in (self.pictures(), self.held, self.own))
        value, ends = metrics.kid(f, held)
        gap_value, gap_ends = metrics.kid(own, held)
        hit = unseen.target_share(f, held, own)
        found = [("kid", value, *ends), ("own", gap_value, *gap_ends),
                 ("target", hit.mean(), *metrics.proportion(int(hit.sum()), len(hit)))]
        new = unseen.novelty(f, features(self.x), held)
        found.append(("novelty", new, new, new))
        return _table({"row": f"{self.name}, {self.kind}, {self.level}", "domain": self.domain},
                      found)


CHOICES = {"distance": [0], "pair angle": [1], "origin angle": [2], "all three": [0, 1, 2]}


@dataclass(frozen=True)
class RejectPart:
    """Candidates of one sort for a domain, chosen by the three properties.

    sort: "draws" of a scalar fit, as in the source, "great circles" from an inverted image to a
    draw, "hot pixel". Windows: the middle half of held-out real latents.
    """

    name: str
    model: str
    domain: str
    sort: str
    x: Tensor
    held: Tensor
    n: int = POOL
    many: int = CANDIDATES
    steps: int = STEPS
    seed: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.sort}: candidates for {self.domain}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return results.key(label=self.label, model=self.model, x=self.x, held=self.held, n=self.n,
                           many=self.many, steps=self.steps, seed=self.seed, lam=MIXING,
                           weights=inversion_table.weights_of(self.model), code=reject_code())

    def candidates(self, code: Code, n: int) -> Code:
        """n candidates as codes of the shape of `code`."""
        laws = unseen.fit_code(code, "scalar")
        drawn = unseen.draw(laws, code, n, self.seed)
        if self.sort == "great circles":
            pick = torch.arange(n) // 20 % len(code)
            some = drawn.select(torch.arange(n) // 20)
            on = unseen.great_circles(code.select(pick[::20])["noise"], some["noise"][::20])
            return Code(drawn.tensors | {"noise": on[:n]}, drawn.geometry)
        if self.sort == "hot pixel":
            hot = unseen.hot_pixel(laws["noise"], n, self.seed).reshape(drawn["noise"].shape)
            return Code(drawn.tensors | {"noise": hot}, drawn.geometry)
        return drawn

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Measures: accepted, by each property and by all; kid of a pool of n, decoded; gain by each
        choice within the pool, for all three with more candidates that pass, about n/2.
        """
        z, real = (codes(self.model, v, [MIXING], self.steps)[0]
                   for v in (self.x, self.held[:POOL]))
        references = z["noise"][: unseen.REFERENCES]
        judged = unseen.properties(real["noise"], references)
        bounds, d = unseen.windows(judged), z["noise"][0].numel()
        many = self.candidates(z, self.many)["noise"]
        found, ok = [], unseen.passes(unseen.properties(many, references), bounds)
        for k, use in CHOICES.items():
            hit = ok[:, use].all(1)
            ends = metrics.proportion(int(hit.sum()), len(hit))
            found.append((f"accepted, {k}", float(hit.double().mean()), *ends))
        at = unseen.rung(zoo.load(self.model), MIXING, self.steps)
        step = self.many // self.n | 1                  # odd: great circles are met at every u
        pool = torch.arange(0, self.many, step)
        rest = ok.all(1).clone()
        rest[pool] = False
        more = torch.nonzero(rest).flatten()            # accepted, and not in the pool
        pick = torch.cat([pool, more[:: max(1, 2 * len(more) // self.n)]])
        drawn = self.candidates(z, self.many).select(pick)
        f, held = features(decoded(self.model, drawn, at, self.steps)), features(self.held)
        inside = torch.arange(len(pick)) < len(pool)
        value, ends = metrics.kid(f[inside], held)
        found.append(("kid", value, *ends))
        for k, use in CHOICES.items():
            hit = ok[pick][:, use].all(1) & (inside | (k == "all three"))
            value, ends = unseen.kid_gain(f, hit, held, inside)
            found.append((f"gain, {k}", value, *ends))
        return _table({"row": f"{self.name}, {self.sort}", "domain": self.domain}, found)


@dataclass(frozen=True)
class BandPart:
    """Bandwidths of the images of a domain at a level, by three criteria.

    near, far: reference images of the domain and of the model's own (for its own: of another).
    """

    name: str
    model: str
    domain: str
    level: str
    x: Tensor
    near: Tensor
    far: Tensor
    steps: int = STEPS
    seed: int = 0

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.level}: bandwidth of {self.domain}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return results.key(label=self.label, model=self.model, x=self.x, near=self.near,
                           far=self.far, lam=LEVELS[self.level], etas=ETAS, steps=self.steps,
                           marks=(SEEN, PERCEIVED), seed=self.seed,
                           weights=inversion_table.weights_of(self.model), code=band_code())

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """A row for each image: psnr, lpips and target, its bandwidths; back, the PSNR at eta = 0;
        p1 … p5, that at each of `ETAS`; gap, the KID between near and far.

        Latents are those from which plain DDIM comes back. target is NaN for an image whose own
        nearest neighbour is not in its domain.
        """
        m = zoo.load(self.model)
        at, seeds = unseen.rung(m, LEVELS[self.level], self.steps), range(len(self.x))
        (code,) = unseen.invert(m, self.x, [at], self.steps, seeds, exact_ddim=3)
        code = Code(code.tensors, code.geometry)
        near, far = features(self.near), features(self.far)
        psnr, seen, hit = [], [], []
        for eta in ETAS:
            y = unseen.decode(m, code, at, self.steps, eta, seeds).float().clamp(-1, 1)
            psnr.append(metrics.psnr(self.x, y).numpy())
            with torch.no_grad():
                seen.append(lpips(self.x.float(), y).numpy())
            hit.append(unseen.target_share(metrics.features(y), near, far))
        back = unseen.decode(m, code, at, self.steps, None)
        psnr, seen, hit = (np.stack(v, 1) for v in (psnr, seen, hit))
        band = unseen.bandwidth
        kept = np.where(unseen.target_share(features(self.x), near, far), band(hit, ETAS, 0.5),
                        np.nan)
        found = {"psnr": band(psnr, ETAS, SEEN), "lpips": band(seen, ETAS, PERCEIVED, below=True),
                 "target": kept, "back": metrics.psnr(self.x, back).numpy()}
        found |= {f"p{k}": v for k, v in enumerate(psnr.T, 1)}
        found["gap"] = np.full(len(seeds), metrics.kid(near, far)[0])
        who = {"row": f"{self.name}, {self.level}", "domain": self.domain}
        return pd.DataFrame(who | {"image": seeds}).join(pd.DataFrame(found).round(3))


# The scientific set: which way is a flow sheared?

CLASSES = 4  # directions, 45 degrees each
SHEARED = 1.3  # least stretch of a field that has a direction to speak of
FEW, MANY, ADDED, TEST = 8, 128, 16, 128  # images of a class
TRAINING = 250  # steps of 32 images
ARMS = ("few", "few + samples", "few + copies", "few + mixtures", "few + pixel draws", "many")


def sheared(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n fields a class of `generators.turbulence` with stretch >= `SHEARED`, and their classes.

    Images (4 n, 3, 32, 32) in [-1, 1], class 0 … 3 by the angle of the shear, n in a row of each.
    The two numbers are drawn again as the generator draws them: first the angle, then the stretch.
    """
    mark, found, i = zlib.crc32(b"turbulence"), [[] for _ in range(CLASSES)], 0
    while min(map(len, found)) < n:
        rng = np.random.default_rng([seed, mark, i])
        turn, stretch = rng.random(), 1 + rng.random()
        if stretch >= SHEARED:
            found[int(turn * CLASSES)].append(i)
        i += 1
    pick = [k for ids in found for k in ids[:n]]
    draw = lambda k: generators.turbulence(np.random.default_rng([seed, mark, k]))  # noqa: E731
    return images.to_float(np.stack([draw(k) for k in pick])), torch.arange(CLASSES
                                                                          ).repeat_interleave(n)


def classifier(gen: torch.Generator, width: int = 16) -> nn.Sequential:
    """Three strided convolutions, pooled, and one score for each class."""
    conv = lambda a, b: [nn.Conv2d(a, b, 3, 2, 1, padding_mode="circular"), nn.ReLU()]  # noqa: E731
    body = [*conv(3, width), *conv(width, 2 * width), *conv(2 * width, 2 * width)]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, CLASSES))
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.kaiming_uniform_(p, a=5**0.5, generator=gen)
        else:
            nn.init.zeros_(p)
    return net


Batch = tuple[Tensor, Tensor]


def accuracy(
    few: Batch, added: Callable[[torch.Generator], Batch] | None, test: Batch, seed: int,
    steps: int = TRAINING,
) -> float:
    """Test accuracy of a `classifier`: half of each batch from `few`, half from added(gen), where
    there is something added. All arms see as many images.
    """
    gen = torch.Generator().manual_seed(seed)
    net = classifier(gen)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in range(steps):
        half = 32 if added is None else 16
        i = torch.randint(len(few[0]), (half,), generator=gen)
        x, y = few[0][i], few[1][i]
        if added is not None:
            more = added(gen)
            x, y = torch.cat([x, more[0]]), torch.cat([y, more[1]])
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    with torch.no_grad():
        return float((net(test[0]).argmax(1) == test[1]).double().mean())


def of_a_set(x: Tensor, y: Tensor) -> Callable[[torch.Generator], Batch]:
    """16 at random of a set of images."""
    def pick(gen):
        i = torch.randint(len(x), (16,), generator=gen)
        return x[i], y[i]
    return pick


def copies(x: Tensor, y: Tensor) -> Callable[[torch.Generator], Batch]:
    """Shifted, as the fields live on a torus, and noised copies."""
    def pick(gen):
        i = torch.randint(len(x), (16,), generator=gen)
        by = torch.randint(32, (16, 2), generator=gen).tolist()
        moved = torch.stack([x[k].roll(tuple(b), (1, 2)) for k, b in zip(i, by, strict=True)])
        return moved + 0.05 * torch.randn(moved.shape, generator=gen), y[i]
    return pick


def mixtures(x: Tensor, y: Tensor) -> Callable[[torch.Generator], Batch]:
    """Convex mixtures of two images of a class."""
    def pick(gen):
        i = torch.randint(len(x), (16,), generator=gen)
        others = [torch.nonzero(y == y[k]).flatten() for k in i]
        j = torch.stack([o[torch.randint(len(o), (1,), generator=gen)][0] for o in others])
        u = torch.rand(16, 1, 1, 1, generator=gen)
        return u * x[i] + (1 - u) * x[j], y[i]
    return pick


@dataclass(frozen=True)
class SciencePart:
    """A classifier of the direction of shear, trained one way, with one seed."""

    name: str
    model: str
    arm: str
    seed: int
    kind: str = "spectral"
    steps: int = STEPS

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.arm}, seed {self.seed}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, seeds."""
        weights = inversion_table.weights_of(self.model) if self.arm == "few + samples" else ""
        return results.key(label=self.label, model=self.model, kind=self.kind, weights=weights,
                           sizes=(FEW, MANY, ADDED, TEST, TRAINING, SHEARED), steps=self.steps,
                           code=science_code())

    def samples(self, x: Tensor, in_pixels: bool) -> Tensor:
        """`ADDED` pictures a class, from one fit a class: they inherit its label."""
        m, out = zoo.load(self.model), []
        at = unseen.rung(m, MIXING, self.steps)
        code = (Code({"noise": x.double()}, {"noise": "flat"}) if in_pixels else
                codes(self.model, x, [MIXING], self.steps, self.seed)[0])
        for c in range(CLASSES):
            mine = code.select(slice(c * FEW, (c + 1) * FEW))
            laws = unseen.fit_code(mine, self.kind)
            out.append(unseen.draw(laws, mine, ADDED, 1000 * self.seed + ADDED * c))
        drawn = join(out)
        x = drawn["noise"] if in_pixels else decoded(self.model, drawn, at, self.steps)
        return x.float().clamp(-1, 1)

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row (the arm), domain ("turbulence"), image (the seed), accuracy."""
        few, test = sheared(FEW, 1000 + self.seed), sheared(TEST, 5000)
        y = torch.arange(CLASSES).repeat_interleave(ADDED)
        added = {
            "few": lambda: None, "many": lambda: None,
            "few + copies": lambda: copies(*few), "few + mixtures": lambda: mixtures(*few),
            "few + samples": lambda: of_a_set(self.samples(few[0], False), y),
            "few + pixel draws": lambda: of_a_set(self.samples(few[0], True), y),
        }[self.arm]()
        real = sheared(MANY, 1000 + self.seed) if self.arm == "many" else few
        value = accuracy(real, added, test, self.seed)
        return pd.DataFrame([{"row": self.arm, "domain": "turbulence", "image": self.seed,
                              "accuracy": value}])


# The work of the book, and of a reader

ROOMS = ("code", "sphere", "diffusion", "nets")
WALK = (unseen.rung, unseen._inside, unseen.invert, unseen.decode, codes, _codes, join, decoded)
FIT = (gaussians.Gaussian, gaussians.fit, unseen.Stationary, unseen.stationary, unseen.fit,
       unseen._low_rank, unseen.fit_code, unseen.draw)
LOOK = (metrics.features, metrics.feature_network, unseen.target_share)


def latent_code() -> str:
    """Hash of the code that decides a row of the table of latents."""
    return results.code_version((*ROOMS, "normality"), (
        *WALK, *FIT, LatentPart, _latent_measures, told_from_fit, rows_of, gap.told_apart,
        gap._log_odds, unseen.over_white, unseen._spread, unseen.triangle_angles))


def sample_code() -> str:
    """Hash of the code that decides a row of the table of samples."""
    return results.code_version(ROOMS, (*WALK, *FIT, *LOOK, SamplePart, metrics.kid,
                                        unseen.novelty))


def reject_code() -> str:
    """Hash of the code that decides a row of the table of candidates."""
    return results.code_version(ROOMS, (
        *WALK, *FIT, *LOOK, RejectPart, metrics.kid, unseen.great_circles, unseen.properties,
        unseen.windows, unseen.passes, unseen.hot_pixel, unseen.kid_gain, unseen._cubic))


def band_code() -> str:
    """Hash of the code that decides a row of the table of bandwidths."""
    return results.code_version((*ROOMS, "perceptual"), (
        *WALK, *LOOK, BandPart, metrics.psnr, metrics.kid, unseen.bandwidth))


def science_code() -> str:
    """Hash of the code that decides a row of the table of classifiers."""
    return results.code_version((*ROOMS, "generators"), (
        *WALK, *FIT, SciencePart, sheared, classifier, accuracy, of_a_set, copies, mixtures))


def sets(source: str | Path = "", size: int = 32, names: Sequence[str] = (OWN, *FAR),
         own: str = OWN, n: int = FITTED + HELD) -> Sets:
    """n images or fewer of each domain, the model's own first: bundled, or sub-folders of a folder.

    ValueError if the folder has no `own`, no other domain, or one with fewer than 8 images.
    """
    if not source:
        if size != 32:
            raise ValueError(f"bundled images have 32 px, the model {size}: give a folder of them")
        have = {k: n if k in generators.GENERATORS else min(n, len(data.domain(k))) for k in names}
        return {k: data.domain(k, v) for k, v in have.items()}
    found = inversion_table.folder(Path(source), size)
    if own not in found or len(found) < 2:
        raise ValueError(f"expected sub-folders {own!r} and another one, found {list(found)}")
    if poor := [k for k, v in found.items() if len(v) < 8]:
        raise ValueError(f"expected 8 images or more of each domain, {poor[0]!r} has fewer")
    return {k: found[k][:n] for k in (own, *(k for k in found if k != own))}


def halves(x: Tensor, fitted: int = FITTED) -> tuple[Tensor, Tensor]:
    """Images to fit and held out: the first `fitted` or half of them, and the others."""
    k = min(fitted, len(x) // 2)
    return x[:k], x[k:]


def latent_parts(systems: dict[str, str] | None = None, found: Sets | None = None,
                 fitted: int = FITTED, steps: int = STEPS) -> list[LatentPart]:
    """All work of the table of latents: every unseen domain in every system, the other half of the
    own one; in those of `SWEPT` also the changes that nobody sees and a level near the image.
    """
    systems, found = systems or EMBEDDED, found or sets()
    own, *far = found
    first, second = (v[:fitted] for v in halves(found[own], fitted))
    near = {HALF: second} | {k: f(second) for k, f in INVISIBLE.items()}
    out = []
    for name, model in systems.items():
        swept = name in SWEPT
        levels = ("near the image", "mixing", "last") if swept else ("mixing",)
        domains = near if swept else {HALF: second}
        domains = domains | {k: halves(found[k], fitted)[0] for k in far}
        out += [LatentPart(name, model, k, x, first, levels, steps) for k, x in domains.items()]
    return out


def more_parts(systems: dict[str, str] | None = None, found: Sets | None = None,
               n: int = MORE, steps: int = STEPS) -> list[LatentPart]:
    """All work of the table of more latents, at the mixing step alone: of the systems that decide
    and of two that learned no image; for those of `MORE_OF` the domains that fewer left open.
    """
    systems = systems or {k: EMBEDDED[k] for k in ("zero network", "exact Gaussian", *DECIDING)}
    found = found or sets(n=2 * n)
    own, *far = found
    first, second = (v[:n] for v in halves(found[own], n))
    out = []
    for name, model in systems.items():
        near = {HALF: second}
        near |= {k: f(second) for k, f in INVISIBLE.items()} if name in SWEPT else {}
        domains = near | {k: found[k][:n] for k in far if k in MORE_OF.get(name, far)}
        out += [LatentPart(name, model, k, x, first, ("mixing",), steps)
                for k, x in domains.items()]
    return out


def sample_parts(systems: dict[str, str] | None = None, found: Sets | None = None,
                 n: int = SAMPLES, fitted: int = FITTED, steps: int = STEPS) -> list[SamplePart]:
    """All work of the table of samples: all fits in pixels, all or two at the mixing step, in the
    systems of `SWEPT` two at every level; of the book's own sets also fits to more images.
    """
    out = [] if found else larger_parts(steps=steps)
    systems, found = systems or EMBEDDED, found or sets(names=(OWN, *DRAWN))
    own, *far = found
    theirs = halves(found[own], fitted)[1]
    for k in far:
        x, held = halves(found[k], fitted)
        rest = {"x": x, "held": held, "own": theirs, "n": n, "steps": steps}
        out += [SamplePart(PIXELS, "", k, PIXELS, kind, **rest) for kind in (*KINDS, "copies")]
        for name, model in systems.items():
            swept = name in SWEPT
            kinds = KINDS if swept else ("scalar", "low-rank", "spectral")
            kinds = kinds if name in (*SWEPT, *DECIDING) else ("scalar", "spectral")
            todo = [("mixing", kind) for kind in kinds]
            if swept:
                todo += [("mixing", "inverted")]
                todo += [(v, "scalar") for v in LEVELS if v != "mixing"]
                if name == "exact Gaussian":
                    todo += [(v, "spectral") for v in LEVELS if v != "mixing"]
            out += [SamplePart(name, model, k, level, kind, **rest) for level, kind in todo]
    return out


LARGER = {f"DDPM, {n} images": n for n in (FITTED, HELD)}  # the same system, fits to so many


def larger_parts(kind: str = "spectral", steps: int = STEPS) -> list[SamplePart]:
    """Does a fit to more images help? Both numbers of images beside the same held-out ones."""
    own, *far = found = sets(names=(OWN, *DRAWN), n=2 * HELD)
    return [SamplePart(name, EMBEDDED["DDPM"], k, "mixing", kind, found[k][:n], found[k][HELD:],
                       found[own][HELD:], steps=steps)
            for k in far for name, n in LARGER.items()]


SORTS = ("draws", "great circles", "hot pixel")


def reject_parts(name: str = "DDPM", model: str = "ddpm-vehicles32", found: Sets | None = None,
                 n: int = POOL, fitted: int = FITTED, steps: int = STEPS,
                 many: int = CANDIDATES) -> list[RejectPart]:
    """All work of the table of candidates."""
    found = found or sets(names=(OWN, *DRAWN))
    far = list(found)[1:]
    return [RejectPart(name, model, k, sort, *halves(found[k], fitted), n=n, many=many, steps=steps)
            for k in far for sort in SORTS]


def band_parts(systems: dict[str, str] | None = None, found: Sets | None = None, n: int = BAND,
               fitted: int = FITTED, steps: int = STEPS) -> list[BandPart]:
    """All work of the table of bandwidths, by default of the exact Gaussian and DDPM: n images, and
    2.5 n at the mixing step, where domains are compared.
    """
    systems = systems or {k: EMBEDDED[k] for k in ("exact Gaussian", "DDPM")}
    found = found or sets(names=GAPS)
    own, *far = found
    reference = {k: halves(v, fitted)[1] for k, v in found.items()}
    out = []
    for name, model in systems.items():
        for k, x in found.items():
            other = reference[own] if k != own else torch.cat([reference[v] for v in far])
            out += [BandPart(name, model, k, level, x[: 5 * n // 2 if level == "mixing" else n],
                             reference[k], other, steps) for level in LEVELS]
    return out


def science_parts(seeds: int = 10, name: str = "DDPM", model: str = "ddpm-vehicles32"):
    """All work of the table of classifiers."""
    return [SciencePart(name, model, arm, s) for s in range(seeds) for arm in ARMS]


def facts(todo: Sequence) -> dict:
    """What the note beside a table says: models, hashes of their weights, the tables' settings."""
    models = sorted({p.model for p in todo if p.model})
    return {"weights": {k: inversion_table.weights_of(k) for k in models}, "levels": LEVELS,
            "steps": STEPS}


def paper(model: str) -> dict[str, str]:
    """Systems of world P: a model of yours, and official ones of its size that are imported."""
    size = zoo.load(model).size
    here = {k: v for k, v in OFFICIAL.items() if zoo.present(v)}
    return {GIVEN: model} | {k: v for k, v in here.items() if zoo.load(v).size == size}


# Reading the tables

Estimate = tuple[float, float, float]  # value, low, high


def measured(table: pd.DataFrame, row: str, measure: str) -> dict[str, Estimate]:
    """Domain -> (value, low, high) of a measure; KeyError if the row has no such measure."""
    rows = table[(table.row == row) & (table.measure == measure)]
    if not len(rows):
        raise KeyError(f"the table has no {measure!r} of {row!r}")
    return {r.domain: (r.value, r.low, r.high) for r in rows.itertuples()}


def best(options: dict[str, dict[str, Estimate]]) -> dict[str, tuple[str, Estimate]]:
    """Domain -> (option, estimate) of the smallest value."""
    domains = next(iter(options.values()))
    return {d: min(((k, v[d]) for k, v in options.items()), key=lambda p: p[1][0]) for d in domains}


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates; half-widths add in square."""
    v = np.array(list(estimates))
    half = np.sqrt((((v[:, 2] - v[:, 1]) / 2) ** 2).sum()) / len(v)
    return float(v[:, 0].mean()), float(v[:, 0].mean() - half), float(v[:, 0].mean() + half)


def minus(a: Estimate, b: Estimate) -> Estimate:
    """a − b; half-widths add in square: too wide where both share the images compared with."""
    half = np.hypot((a[2] - a[1]) / 2, (b[2] - b[1]) / 2)
    return a[0] - b[0], a[0] - b[0] - half, a[0] - b[0] + half


def closed(kid: Estimate, own: Estimate) -> Estimate:
    """Share of the gap to the model's own domain that samples take away, 1 − kid/own."""
    ratio, h, g = kid[0] / own[0], (kid[2] - kid[1]) / 2, (own[2] - own[1]) / 2
    half = np.hypot(h, ratio * g) / abs(own[0])
    return 1 - ratio, 1 - ratio - half, 1 - ratio + half
