"""What lies between two images: the heavy tables of the chapter on geodesics.

One table is about roads between pairs of images (a row is a pair, a system and a road), one about
roads from an image to an edit of it (a row is an image, an edit and a system). Pictures on the way
are judged by features of EfficientNet-Lite0; neither latents nor pictures are kept.
Built in: geodesics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from . import data, images, inversion_table, metrics, paths, results, sphere, zoo
from .code import Code

AT = (0.0, 0.25, 0.5, 0.75, 1.0)  # where a road between two images is looked at
FINE = tuple(i / 8 for i in range(9))  # and one from an image to its edit
STEPS, GAN_STEPS = 10, 300  # of a walk of the ODE, of an optimisation
REFERENCE = 160  # real images to compare with
UNSEEN = ("animals", "emoji")
OWN, MIXED = "own", "mixed"  # pictures that the model drew itself; one end seen, one unseen
PAIRS = {OWN: 16, "vehicles": 40, "animals": 16, "emoji": 16, MIXED: 16}
LATENT = ("norm", "mean", "latent_high", "inner", "miss")
MOVED = ("on the sphere", "noise only", "semantic only")
SLACK = 0.01  # of the whole change: a smaller step back is none


def lol(m, a: Code) -> paths.Road:
    """LOL about the mean that a system gives its flat parts: semantic codes, w and w+."""
    mean = {}
    if hasattr(m, "generator"):
        mean = {k: m.generator.statistics.mean for k in a.tensors if k in ("w", "w_plus")}
    elif "semantic" in a.tensors:
        mean = {"semantic": m.mean}
    return paths.centred(mean)


CROSS_FADE = "cross-fade"


def road(name: str, m, a: Code) -> paths.Road:
    """A road by name, for the codes of a model, of which a is one; ValueError with the names."""
    known = {
        "straight line": lambda: paths.LERP,
        "great circle": lambda: paths.SLERP,
        "on the sphere": lambda: paths.UNIT_SLERP,
        "LOL": lambda: lol(m, a),
        "along the ODE": lambda: paths.along_ode(m),
        "noise only": lambda: paths.only("noise"),
        "semantic only": lambda: paths.only("semantic"),
    }
    if name not in known:
        raise ValueError(f"no road {name!r}; known: {', '.join(known)}")
    return known[name]()


@dataclass(frozen=True)
class System:
    """A model, its settings and the roads that are looked at.

    pairs: how many of a kind, the first ones; empty for all. Evaluations are dear.
    """

    model: str
    settings: dict = field(default_factory=dict)
    roads: tuple[str, ...] = ("straight line", "great circle")
    pairs: dict[str, int] = field(default_factory=dict)


def diffusion(model: str, *more: str, steps: int = STEPS) -> System:
    """A diffusion model with the two first roads and more."""
    return System(model, {"steps": steps}, ("straight line", "great circle", *more))


def gan(model: str, recipe: str, steps: int = GAN_STEPS) -> System:
    """A space of a GAN; it is flat, so a great circle makes no sense in it."""
    return System(model, {"recipe": recipe, "steps": steps}, ("straight line", "LOL"))


EMBEDDED = {
    "exact Gaussian": diffusion("gaussian-vehicles32", "LOL"),
    "DDPM": diffusion("ddpm-vehicles32", "on the sphere", "LOL", "along the ODE"),
    "DAE": replace(
        diffusion("dae-vehicles32", "LOL", "along the ODE", "noise only", "semantic only"),
        pairs={OWN: 12, "vehicles": 28, "animals": 12, "emoji": 8, MIXED: 12}),
    "D2C": diffusion("d2c-vehicles32"),
    "LDM": replace(
        diffusion("ldm-vehicles32"),
        pairs={OWN: 16, "vehicles": 16, "animals": 8, "emoji": 8, MIXED: 8}),
    "W": replace(gan("stylegan2-vehicles32", "w"),
                 pairs={OWN: 16, "vehicles": 32, "animals": 16, "emoji": 8, MIXED: 12}),
    "W+": replace(gan("stylegan2-vehicles32", "w_plus", 150),
                  pairs={OWN: 16, "vehicles": 40}),
    "W+ 300 steps": replace(gan("stylegan2-vehicles32", "w_plus"),
                            pairs={"vehicles": 24, "animals": 12, "emoji": 8, MIXED: 12}),
}
GRADED = ("zero network", "exact Gaussian", "DDPM", "DAE", "D2C")


# How real is a picture


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images that are equal if their values are, so that their features are computed once."""

    values: Tensor

    def __hash__(self):
        return hash(results.key(x=self.values))

    def __eq__(self, other):
        return torch.equal(self.values, other.values)


@lru_cache(maxsize=8)
def _features(x: Pixels) -> tuple[Tensor, float]:
    f = metrics.features(x.values)
    apart = cosine_distance(f, f).kthvalue(2, dim=1).values  # the first is itself
    return f, float(apart.median())


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 − cosine of the angle between rows of a (n, d) and of b (m, d), (n, m)."""
    return 1 - F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def unreal(features: Tensor, reference: Tensor) -> np.ndarray:
    """`cosine_distance` of features (B, 1280) to the nearest of the real images `reference` (n, 3,
    H, W), over the median of the same distance among these images themselves; (B,).

    1: as real as they are. The Euclidean distance would be no judge: pictures laid over each
    other, blurred or noisy have weaker features, and lie closer to everything. ValueError with
    fewer than 2 real images. Built in: geodesics.
    """
    if len(reference) < 2:
        raise ValueError(f"expected 2 real images or more, got {len(reference)}")
    real, usual = _features(Pixels(reference))
    return (cosine_distance(features, real).amin(1) / usual).numpy()


@lru_cache(maxsize=8)
def _critic(x: Pixels) -> Pipeline:
    v, good = x.values, _features(x)[0]
    bad = torch.cat([(v[:-1:2] + v[1::2]) / 2, images.blur(v[::2], v.shape[-1] / 32)])
    both = torch.cat([good, metrics.features(bad)]).numpy()
    critic = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return critic.fit(both, np.r_[np.zeros(len(good)), np.ones(len(bad))])


def damage(features: Tensor, reference: Tensor) -> np.ndarray:
    """Log-odds that pictures with features (B, 1280) are damaged, (B,), by a critic of their kind.

    It is a logistic regression on the same features, trained on the real images `reference` (n, 3,
    H, W) against their own cross-fades and blurred copies; of roads it has seen nothing.
    Built in: geodesics.
    """
    return _critic(Pixels(reference)).decision_function(features.numpy())


def euclidean(features: Tensor, reference: Tensor) -> np.ndarray:
    """Euclidean distance of features (B, 1280) to the nearest of the real images `reference` (n, 3,
    H, W), (B,): the judge that `unreal` replaces. Built in: geodesics.
    """
    return torch.cdist(features, _features(Pixels(reference))[0]).amin(1).numpy()


def auc(
    bad: np.ndarray, good: np.ndarray, draws: int = 999, seed: int = 0
) -> tuple[float, float, float]:
    """How often a bad picture scores above a good one, ties half, and its bootstrap interval.

    good (2 n,), bad (k n,): scores of n pairs of images, in order, and of what was made of them. A
    pair is drawn together with its bad pictures. ValueError if the numbers do not fit.
    Built in: geodesics.
    """
    n = len(good) // 2
    b, g = np.reshape(bad, (n, -1)), np.reshape(good, (n, 2))
    above = np.subtract.outer(b, g)  # (n, k, n, 2)
    wins = ((above > 0) + (above == 0) / 2).mean((1, 3))
    picks = np.random.default_rng(seed).integers(n, size=(draws, n))
    weight = (picks[:, :, None] == np.arange(n)).mean(1)  # (draws, n)
    found = np.einsum("di,ij,dj->d", weight, wins, weight)
    return float(wins.mean()), *(float(q) for q in np.quantile(found, [0.025, 0.975]))


def high(x: Tensor) -> Tensor:
    """Power of (B, C, H, W) above half of the highest frequency, per value, (B,)."""
    n = x.shape[-1]
    f = torch.fft.fftfreq(n, dtype=x.dtype).abs()
    above = torch.maximum(f[:, None], f[None]) > 0.25
    power = torch.fft.fft2(x, norm="ortho").abs().square()
    return power[..., above].mean((1, 2))


# Roads between two images


def look(
    frames: Sequence[Tensor], reference: Tensor, first: Tensor, last: Tensor | None = None
) -> dict[str, np.ndarray]:
    """What pictures (B, 3, H, W) at u of `AT` are like, (B,) each.

    q0 … q4: `unreal` at each. c0, c2, c4: `damage` at u = 0, 1/2 and 1. s1 … s4: feature distance
    from the frame before, over that of the ends. contrast, high: spread and high-frequency power
    at u = 1/2, over the mean of the ends.
    first, last: features of the ends, as far as they are computed already.
    """
    inside = frames[1:] if last is None else frames[1:-1]
    f = metrics.features(torch.cat(list(inside))).unflatten(0, (len(inside), len(frames[0])))
    f = torch.stack([first, *f, *([] if last is None else [last])])
    apart = (f[-1] - f[0]).norm(dim=1)
    found = {f"q{i}": unreal(v, reference) for i, v in enumerate(f)}
    found |= {f"c{i}": damage(f[i], reference) for i in (0, 2, 4)}
    found |= {f"s{i}": (f[i] - f[i - 1]).norm(dim=1) / apart for i in range(1, len(f))}
    x, middle, y = frames[0], frames[len(frames) // 2], frames[-1]
    spread = lambda v: v.flatten(1).std(dim=1)  # noqa: E731
    found["contrast"] = 2 * spread(middle) / (spread(x) + spread(y))
    found["high"] = 2 * high(middle) / (high(x) + high(y))
    return {k: np.asarray(v) for k, v in found.items()}


def look_inside(codes: Sequence[Code]) -> dict[str, np.ndarray]:
    """What codes at u of `AT` are like, (B,) each: at u = 1/2 the norm and the high-frequency power
    of the noise (without noise: of w) over the mean of the ends; its mean in units of 1/√d; and
    inner, ⟨a, b⟩ of the noise at the ends.
    """
    k = "noise" if "noise" in codes[0].tensors else next(iter(codes[0].tensors))
    a, z, b = (codes[i][k].double() for i in (0, len(codes) // 2, -1))
    over = lambda f: 2 * f(z) / (f(a) + f(b))  # noqa: E731
    found = {"norm": over(sphere.norm), "mean": z.flatten(1).mean(1) * z[0].numel() ** 0.5}
    if k == "noise":
        found |= {"latent_high": over(high), "inner": paths.inner(a, b)}
    return {k: v.numpy() for k, v in found.items()}


@dataclass(frozen=True)
class PairPart:
    """Pairs of images of one kind, by every road of a system.

    a, b: images at the ends (n, 3, H, W), None for pictures that the model draws itself.
    """

    name: str
    system: System
    kind: str
    n: int
    a: Tensor | None
    b: Tensor | None
    reference: Tensor
    seed: int  # of the first pair's draws

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.kind}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return results.key(
            label=self.label, model=self.system.model, roads=self.system.roads, n=self.n,
            settings=sorted(self.system.settings.items()), a=self.a, b=self.b,
            reference=self.reference, seed=self.seed,
            weights=inversion_table.weights_of(self.system.model),
            measure=(AT, MOVED), code=pair_code(),
        )

    def first(self, n: int) -> PairPart:
        """The part with its first n pairs only; pairs do not see each other."""
        cut = lambda x: None if x is None else x[:n]  # noqa: E731
        return replace(self, n=min(n, self.n), a=cut(self.a), b=cut(self.b))

    def codes(self, m) -> tuple[Code, Code]:
        """Codes of both ends, (n,) each."""
        if self.a is None:
            drawn = m.prior(2 * self.n, seed=self.seed)
            return drawn.select(slice(0, None, 2)), drawn.select(slice(1, None, 2))
        seeds = range(self.seed, self.seed + 2 * self.n)
        return m.encode(self.a, seeds[::2]), m.encode(self.b, seeds[1::2])

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row ("system, road"), domain (the kind), image (the pair), those of `look` and
        `look_inside`, and miss, `paths.misses`; NaN where a road has no latent.

        The cross-fade of the decoded ends needs no latent. Roads share their ends, but for those
        in `MOVED`: on the sphere the norms go, and with one part alone the far end is not reached.
        """
        m = zoo.load(self.system.model, device, **self.system.settings)
        a, b = (paths.ends(c) for c in self.codes(m))
        x, y = (m.decode(c).double() for c in (a, b))
        f, g = metrics.features(torch.cat([x, y])).split(len(x))
        out = []
        for name in (CROSS_FADE, *self.system.roads):
            found, moved, start = dict.fromkeys(LATENT, np.nan), name in MOVED, f
            if name == CROSS_FADE:
                frames = [paths.straight(x, y, u) for u in AT]
            else:
                way = road(name, m, a)
                codes = [way(a, b, u) for u in AT]
                frames = [x, *(m.decode(c).double() for c in codes[1 : 5 if moved else 4])]
                frames += [] if moved else [y]
                if name == "on the sphere":
                    frames[0] = m.decode(codes[0]).double()
                    start = metrics.features(frames[0])
                found |= look_inside(codes)
                found |= {"miss": paths.misses(way, a, b)} if name == "great circle" else {}
            found = look(frames, self.reference, start, None if moved else g) | found
            who = {"row": f"{self.name}, {name}", "domain": self.kind, "image": range(self.n)}
            out.append(pd.DataFrame(who).join(pd.DataFrame(found).round(3)))
        return pd.concat(out, ignore_index=True)


# Roads from an image to an edit of it


def sharpness(x: Tensor) -> Tensor:
    """Root-mean-square difference of neighbouring values of (B, 3, H, W), (B,)."""
    square = [v.square().flatten(1) for v in (x.diff(dim=2), x.diff(dim=3))]
    return torch.cat(square, 1).mean(1).sqrt()


def colour(x: Tensor) -> Tensor:
    """Root-mean-square distance of (B, 3, H, W) from its own grey picture, (B,)."""
    return (x - images.grayscale(x)).square().flatten(1).mean(1).sqrt()


def box(x: Tensor) -> tuple[int, int]:
    """Side of the white box and its corner, of images (B, 3, H, W): three eighths of the side."""
    side = round(x.shape[-1] * 3 / 8)
    return side, (x.shape[-1] - side) // 2


def brightness(x: Tensor) -> Tensor:
    """Mean of (B, 3, H, W) where `box` is, (B,)."""
    side, at = box(x)
    return x[:, :, at : at + side, at : at + side].flatten(1).mean(1)


def blurred(x: Tensor) -> Tensor:
    """Gaussian blur of 1.5 px at 32 px, and in proportion."""
    return images.blur(x, x.shape[-1] * 1.5 / 32)


def boxed(x: Tensor) -> Tensor:
    """A white box in the middle."""
    return images.white_box(x, box(x)[0])


# name -> the edit, the attribute that it changes
EDITS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "blur": (blurred, sharpness),
    "grayscale": (images.grayscale, colour),
    "white box": (boxed, brightness),
}


def graded(frames: Sequence[Tensor], attribute: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Share of the whole change of an attribute that each frame (B, 3, H, W) has reached, (B, F):
    0 at the first, 1 at the last.
    """
    v = torch.stack([attribute(x.double()) for x in frames], 1)
    return ((v - v[:, :1]) / (v[:, -1:] - v[:, :1])).numpy()


def monotone(g: np.ndarray, slack: float = SLACK) -> np.ndarray:
    """Whether shares (B, F) never step back by more than `slack`, bool (B,)."""
    return (np.diff(g, axis=1) >= -slack).all(1)


def largest_step(g: np.ndarray) -> np.ndarray:
    """Largest step of shares (B, F), either way, in units of an even one, (B,): 1 for even steps,
    F − 1 if all change comes at once.
    """
    return np.abs(np.diff(g, axis=1)).max(1) * (g.shape[1] - 1)


def detour(frames: Sequence[Tensor]) -> np.ndarray:
    """Length of a path of pictures (B, ...) over the distance of its ends, (B,): 1 is straight."""
    x = torch.stack([v.double().flatten(1) for v in frames])
    return ((x[1:] - x[:-1]).norm(dim=2).sum(0) / (x[-1] - x[0]).norm(dim=1)).numpy()


@dataclass(frozen=True)
class GradePart:
    """Images of a domain and their edits, joined in one system; without a system, by a cross-fade
    of pixels.
    """

    name: str
    system: System | None
    domain: str
    x: Tensor
    seed: int  # of the first image's start noise

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, edits of {self.domain}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        s = self.system
        return results.key(
            label=self.label, model=s and s.model, settings=s and sorted(s.settings.items()),
            images=self.x, seed=self.seed, weights=s and inversion_table.weights_of(s.model),
            measure=FINE, code=grade_code(),
        )

    def first(self, n: int) -> GradePart:
        """The part with its first n images only."""
        return replace(self, x=self.x[:n])

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row (the system), domain ("edit, domain"), image; g1 … g7, the `graded` share
        at u of `FINE`; detour; inner, ⟨a, b⟩ of the noise; miss, `paths.misses`.
        """
        out, seeds = [], range(self.seed, self.seed + len(self.x))
        m = self.system and zoo.load(self.system.model, device, **self.system.settings)
        a = m and m.encode(self.x, seeds)
        for edit, (change, attribute) in EDITS.items():
            y, more = change(self.x), {}
            if m is None:
                frames = [paths.straight(self.x, y, u) for u in FINE]
            else:
                frames, more = _joined(m, a, m.encode(y, seeds))
            g = graded(frames, attribute)
            found = {f"g{i}": g[:, i] for i in range(1, len(FINE) - 1)}
            found |= {"detour": detour(frames), "inner": np.nan, "miss": np.nan} | more
            who = {"row": self.name, "domain": f"{edit}, {self.domain}"}
            found = pd.DataFrame(who | {"image": range(len(self.x))} | found)
            out.append(found.round(4))
        return pd.concat(out, ignore_index=True)


def _joined(m, a: Code, b: Code) -> tuple[list[Tensor], dict[str, np.ndarray]]:
    """Frames on the great circle of two codes; columns inner and miss."""
    a, b = paths.ends(a), paths.ends(b)
    frames = [m.decode(c) for c in paths.walk(paths.SLERP, a, b, FINE)]
    inner = paths.inner(a["noise"].double(), b["noise"].double()).numpy()
    return frames, {"inner": inner, "miss": paths.misses(paths.SLERP, a, b)}


def shares(table: pd.DataFrame) -> np.ndarray:
    """The shares (B, F) of rows of the table of edits, with their ends 0 and 1."""
    g = table[[f"g{i}" for i in range(1, len(FINE) - 1)]].to_numpy(float)
    return np.pad(g, ((0, 0), (1, 1)), constant_values=(0.0, 1.0))


# The work of the book, and of a reader


def pair_code() -> str:
    """Hash of the code that decides a row of the table of pairs."""
    return results.code_version(("code", "sphere", "paths", "diffusion", "gan", "nets"), (
        lol, road, _features, cosine_distance, unreal, _critic, damage, high, look, look_inside,
        PairPart, metrics.features, metrics.feature_network))


def grade_code() -> str:
    """Hash of the code that decides a row of the table of edits."""
    return results.code_version(("code", "sphere", "paths", "diffusion", "nets"), (
        sharpness, colour, box, brightness, blurred, boxed, graded, detour, GradePart, _joined,
        images.blur, images.grayscale, images.white_box))


Ends = tuple[Tensor, Tensor, Tensor]  # images at either end, real images to compare with


def ends(x: Tensor, n: int) -> Ends:
    """n pairs of the first 2 n images of a domain, the next ones to compare with.

    ValueError if too few are left for that.
    """
    if len(x) < 2 * n + 2:
        raise ValueError(f"{n} pairs need {2 * n + 2} images or more, got {len(x)}")
    return x[: 2 * n : 2], x[1 : 2 * n : 2], x[2 * n : 2 * n + REFERENCE]


def sets(
    source: str | Path = "", size: int = 32, counts: dict[str, int] = PAIRS, own: str = "vehicles",
) -> dict[str, Ends]:
    """Pairs by kind: `own`, the model's domain; every unseen one; mixed, `own` and the first of
    these. Bundled images, or sub-folders of a folder, read at `size`.

    counts: pairs of a kind, for a kind without an entry those of "vehicles". ValueError if the
    folder has no `own`, no other domain, or one with too few images.
    """
    if source:
        found = inversion_table.folder(Path(source), size)
        if own not in found or len(found) < 2:
            raise ValueError(f"expected sub-folders {own!r} and another one, found {list(found)}")
    else:
        if size != 32:
            raise ValueError(f"bundled images have 32 px, the model {size}: give a folder of them")
        found = {k: data.domain(k) for k in (own, *UNSEEN)}
    names = [own, *(k for k in found if k != own)]
    few = counts["vehicles"]
    out = {k: ends(found[k], counts.get(k, few)) for k in names}
    (a, _, real), (_, b, more), n = out[own], out[names[1]], counts.get(MIXED, few)
    out[MIXED] = a[:n], b[:n], torch.cat([real, more])
    return out


def pair_parts(
    systems: dict[str, System] = EMBEDDED, found: Callable[[int], dict[str, Ends]] | None = None,
    drawn: int = PAIRS[OWN],
) -> list[PairPart]:
    """All work of the table of pairs. found: size of a model -> pairs by kind, its own domain
    first; by default `sets`. drawn: pairs of pictures that a model draws itself.
    """
    out = []
    for name, s in systems.items():
        size = zoo.load(s.model).size
        here = sets(size=size) if found is None else found(size)
        own = next(iter(here.values()))[2]
        parts = [PairPart(name, s, OWN, drawn, None, None, own, 500_000)] if drawn else []
        for k, (kind, (a, b, real)) in enumerate(here.items()):
            n = min(len(a), len(b))
            parts.append(PairPart(name, s, kind, n, a[:n], b[:n], real, 10_000 * k))
        few = s.pairs or {p.kind: p.n for p in parts}
        out += [p.first(few[p.kind]) for p in parts if p.kind in few]
    return out


def grade_parts(
    systems: dict[str, System] | None = None,
    found: Callable[[int], dict[str, Tensor]] | None = None, n: int = 12,
) -> list[GradePart]:
    """All work of the table of edits: n images of each domain, by default vehicles and animals.

    found: size of a model -> images by domain. The cross-fade has the size of the first system.
    """
    systems = systems or {k: EMBEDDED.get(k, diffusion("zero")) for k in GRADED}
    found = found or (lambda size: {k: data.domain(k, n) for k in ("vehicles", "animals")})
    sizes = {name: zoo.load(s.model).size for name, s in systems.items()}
    rows = {CROSS_FADE: (None, next(iter(sizes.values())))}
    rows |= {name: (s, sizes[name]) for name, s in systems.items()}
    return [GradePart(name, s, domain, x[:n], 10_000 * k) for name, (s, size) in rows.items()
            for k, (domain, x) in enumerate(found(size).items())]


GIVEN = "given model"
OFFICIAL = {"DAE": "dae-ffhq256", "LDM": "ldm-ffhq256", "D2C": "d2c-ffhq256"}


def paper(model: str, gan_name: str = "", gan_steps: int = GAN_STEPS) -> dict[str, System]:
    """Systems of world P: a model of yours, official ones that are imported, W and W+ of a GAN.

    Raises ModelError if the GAN was not imported.
    """
    out = {GIVEN: diffusion(model, "on the sphere", "LOL", "along the ODE")}
    out |= {k: diffusion(v, "LOL", "along the ODE") for k, v in OFFICIAL.items() if zoo.present(v)}
    if gan_name:
        zoo.load(gan_name)  # says what is missing
        out |= {"W": gan(gan_name, "w", gan_steps), "W+": gan(gan_name, "w_plus", gan_steps)}
    return out


def paper_parts(
    systems: dict[str, System], source: str = "", own: str = "vehicles", n: int = 16,
) -> tuple[list[PairPart], list[GradePart]]:
    """All work of both tables on your systems and images (`sets`), n pairs or images of each."""
    def here(size: int) -> dict[str, Ends]:
        found = sets(source, size, {"vehicles": n}, own)
        return {k: (a, b, real[: 10 * n]) for k, (a, b, real) in found.items()}

    x = lambda size: {k: v[0] for k, v in here(size).items() if k != MIXED}  # noqa: E731
    walked = {k: s for k, s in systems.items() if "recipe" not in s.settings}
    return pair_parts(systems, here, n), grade_parts(walked, x, n)


def facts(todo: Sequence[PairPart | GradePart]) -> dict:
    """What the note beside a table says: systems and hashes of their weights and code, images."""
    systems = {p.name: p.system for p in todo if p.system}
    rows = {k: {"model": s.model, "settings": s.settings,
                "weights": inversion_table.weights_of(s.model)} for k, s in systems.items()}
    count = {p.label: p.n if isinstance(p, PairPart) else len(p.x) for p in todo}
    code = pair_code() if isinstance(todo[0], PairPart) else grade_code()
    return {"code": code, "systems": rows, "counts": count}
