"""Ten images and what is made of them: points on roads between codes, and measures of samples.

A row of the table is a method on one set of shots of a target. The images of a target fall into a
pool, from which sets are drawn, and a reference, with which samples are compared; an image is in
one of the two. Every method makes as many samples as there are roads that are looked at, and
samples of one set are made of that set alone. Neither codes nor pictures are kept.
Built in: few_shot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from . import (
    data,
    fewshot,
    inversion_table,
    metrics,
    paths,
    perceptual,
    results,
    sphere,
    zoo,
)
from . import geodesic_tables as roads
from .code import Code, generator

SHOTS, SAMPLES = 10, 20  # images of a set; what every method makes of it
SHOWN = 5  # samples of a rival that the table keeps, side by side
PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of samples on their roads: middles of five fifths
POOL, REFERENCE = 200, 300  # images of a target: at most so many, and never the same
NEIGHBOURS = 3  # of precision and recall
COMPONENTS = 64  # of the Fréchet distance
SIZES = (10, 12, 15, 20)  # samples from which it is extrapolated
STEPS = 6  # of a walk of the ODE

# Ten images: which, and what is made of them without training


def members(total: int, index: int, n: int = SHOTS) -> list[int]:
    """Which n images of a pool of `total` are set number `index`; each set is drawn on its own.

    Raises DataError if the pool is smaller than a set. Built in: few_shot.
    """
    return data.pick(total, n, index).tolist()


def draws(n: int, count: int, seed: int) -> tuple[list[tuple[int, int]], list[float]]:
    """Pairs (i, j) of n shots, all different as long as there are n (n − 1) / 2, and places u of
    `PLACES` on their roads, each as often as the others (up to one); `count` of both.

    Raises ValueError with fewer than 2 shots. Built in: few_shot.
    """
    if n < 2:
        raise ValueError(f"a road needs two ends, got {n} shot")
    gen = generator(seed, "data")
    every = [(i, j) for i in range(n) for j in range(i + 1, n)]
    order = lambda k: torch.randperm(k, generator=gen).tolist()  # noqa: E731
    pairs = [every[k] for _ in range(math.ceil(count / len(every))) for k in order(len(every))]
    places = [PLACES[k % len(PLACES)] for k in order(count)]
    return pairs[:count], places


def between(way: paths.Road, shots: Code, count: int = SAMPLES, seed: int = 0) -> Code:
    """Codes (count) on roads between shots (N): the pairs and places of `draws`, in their order.

    Source: Ramachandran et al. 2024, section on few-shot generation. Built in: few_shot.
    """
    pairs, places = draws(len(shots), count, seed)
    found: dict[int, Code] = {}
    for u in sorted(set(places)):
        at = [k for k, v in enumerate(places) if v == u]
        a, b = (paths.ends(shots.select([pairs[k][end] for k in at])) for end in (0, 1))
        c = way(a, b, u)
        found |= {k: c.select([row]) for row, k in enumerate(at)}
    parts = {k: torch.cat([found[i][k] for i in range(count)]) for k in shots.tensors}
    return Code(parts, shots.geometry)


def cross_fades(x: Tensor, count: int = SAMPLES, seed: int = 0) -> Tensor:
    """Cross-fades (count, 3, H, W) of the shots x (N, 3, H, W): what `between` is in pixels."""
    return between(paths.LERP, Code({"x": x}, {"x": "flat"}), count, seed)["x"]


def copies(x: Tensor, count: int = SAMPLES, seed: int = 0) -> Tensor:
    """The shots x (N, 3, H, W), drawn with replacement."""
    return x[torch.randint(len(x), (count,), generator=generator(seed, "data"))]


def jittered(x: Tensor, count: int = SAMPLES, seed: int = 0) -> Tensor:
    """`copies` that are mirrored with probability one half and moved by up to an eighth of the side
    either way, the edge replicated.
    """
    gen, out = generator(seed, "forward"), []
    k = x.shape[-1] // 8
    for v in F.pad(copies(x, count, seed), (k,) * 4, mode="replicate"):
        v = v.flip(2) if torch.rand((), generator=gen) < 0.5 else v
        i, j = torch.randint(2 * k + 1, (2,), generator=gen).tolist()
        out.append(v[:, i : i + x.shape[-1], j : j + x.shape[-1]])
    return torch.stack(out)


def weights(n: int, k: int, count: int = SAMPLES, seed: int = 0) -> Tensor:
    """Rows (count, n) of weights that add up to 1: uniform over those of k of the n shots, the
    others 0 (Dirichlet with all parameters 1).

    Raises ValueError unless 1 <= k <= n. Built in: few_shot.
    """
    if not 1 <= k <= n:
        raise ValueError(f"given k = {k}, expected 1 to {n}, the number of shots")
    gen, out = generator(seed, "data"), torch.zeros(count, n, dtype=torch.float64)
    for row in out:
        e = -torch.rand(k, generator=gen, dtype=torch.float64).clamp_min(1e-12).log()
        row[torch.randperm(n, generator=gen)[:k]] = e / e.sum()
    return out


def spherical_mean(points: Tensor, w: Tensor, steps: int = 100, tol: float = 1e-12) -> Tensor:
    """Weighted means (B, d) of unit vectors `points` (N, d) on the sphere, weights w (B, N): where
    the sum of w times squared angle is least.

    Of two points it is the point of the great circle with weights (1 − u, u). Raises RuntimeError
    if it is not found, which happens for points that lie in no common half of the sphere.
    Source: Buss and Fillmore 2001. Built in: few_shot.
    """
    z = F.normalize(w @ points, dim=1)
    for _ in range(steps):
        cos = (z @ points.T).clamp(-1, 1)  # (B, N)
        rest = points[None] - cos[..., None] * z[:, None]  # (B, N, d): tangential
        angle = torch.atan2(rest.norm(dim=2), cos)
        logs = rest * (angle / rest.norm(dim=2).clamp_min(1e-300))[..., None]
        step = (w[..., None] * logs).sum(1)
        size = step.norm(dim=1, keepdim=True)
        z = F.normalize(size.cos() * z + step * (size.sin() / size.clamp_min(1e-300)), dim=1)
        if float(size.max()) < tol:
            return z
    raise RuntimeError(f"no spherical mean after {steps} steps: the last one was {size.max():.2g}")


def convex(shots: Code, w: Tensor) -> Code:
    """Convex combinations (B) of shots (N) with weights w (B, N) that add up to 1.

    A part on a sphere is a `spherical_mean` of directions with the mean of the norms, a flat one
    the weighted mean; with all weight on two shots, the road `paths.SLERP` between them. Raises
    ValueError on weights that are negative, do not add up to 1, or are not one for each shot.
    Built in: few_shot.
    """
    one = torch.ones(len(w), dtype=w.dtype)
    if w.shape[1] != len(shots) or bool((w < 0).any()) or not torch.allclose(w.sum(1), one):
        raise ValueError(f"expected weights (B, {len(shots)}) >= 0 that add up to 1, got "
                         f"{tuple(w.shape)} with sums {w.sum(1).min():.3g} to {w.sum(1).max():.3g}")

    def mix(v: Tensor, geometry: str) -> Tensor:
        flat, at = v.double().flatten(1), w.double()
        if geometry == "flat":
            found = at @ flat
        else:
            found = spherical_mean(F.normalize(flat, dim=1), at)
            found = found * (at @ sphere.norm(flat))[:, None]
        return found.reshape(len(w), *v.shape[1:]).to(v)

    return shots.map(mix)


# How good are samples


def frechet(a: Tensor, b: Tensor, components: int = COMPONENTS) -> float:
    """`metrics.fd` of samples a (n, d) from reference b (m, d), with as many components however
    small n is: at small n it is too large by about a constant over n.
    """
    k = min(components, len(b) - 1)
    V = torch.linalg.svd(b - b.mean(0), full_matrices=False).Vh[:k].T
    return _frechet(a @ V, b @ V)


def _frechet(a: Tensor, b: Tensor) -> float:
    ca, cb = torch.cov(a.T), torch.cov(b.T)
    lam, U = torch.linalg.eigh(cb)
    root = U * lam.clamp_min(0).sqrt() @ U.T
    cross = torch.linalg.eigvalsh(root @ ca @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * cross)


def frechet_infinite(a: Tensor, b: Tensor, components: int = COMPONENTS,
                     sizes: Sequence[int] = SIZES, draws: int = 8, seed: int = 0) -> float:
    """`frechet` extrapolated to infinitely many samples: a line in 1 / n, fitted to random parts of
    a (n, d) of the given sizes.

    Raises ValueError if fewer than two of the sizes are there. Source: Chong and Forsyth 2020.
    Built in: few_shot.
    """
    sizes = [n for n in sizes if n <= len(a)]
    if len(set(sizes)) < 2:
        raise ValueError(f"a line needs two sizes up to {len(a)}, the number of samples")
    k = min(components, len(b) - 1)
    V = torch.linalg.svd(b - b.mean(0), full_matrices=False).Vh[:k].T
    a, b, gen = a @ V, b @ V, generator(seed, "data")
    part = lambda n: a[torch.randperm(len(a), generator=gen)[:n]]  # noqa: E731
    found = [np.mean([_frechet(part(n), b) for _ in range(1 if n == len(a) else draws)])
             for n in sizes]
    return float(np.polyfit(1 / np.array(sizes), found, 1)[1])


def _radii(f: Tensor, k: int) -> Tensor:
    return torch.cdist(f, f).kthvalue(k + 1, dim=1).values  # the nearest is itself


def precision_recall(a: Tensor, b: Tensor, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of samples a (n, d) that are closer to some real image of b (m, d) than its k-th
    neighbour among these, and the same with the roles exchanged.

    Features are scaled to unit length first: the angle tells damaged pictures from good ones, the
    Euclidean distance does not (chapter geodesics). Raises ValueError with k or fewer in either.
    Source: Kynkäänniemi et al. 2019. Built in: few_shot.
    """
    if min(len(a), len(b)) <= k:
        raise ValueError(f"{k} neighbours need {k + 1} images or more, got {len(a)} and {len(b)}")
    a, b = (F.normalize(v, dim=1) for v in (a, b))
    d = torch.cdist(a, b)
    inside = (d <= _radii(b, k)).any(1), (d.T <= _radii(a, k)).any(1)
    return tuple(float(v.double().mean()) for v in inside)


def spread(f: Tensor) -> float:
    """Mean `cosine_distance` of pairs of rows of f (n, d), n >= 2."""
    d = roads.cosine_distance(f, f)
    return float((d.sum() - d.trace()) / (len(f) * (len(f) - 1)))


@torch.no_grad()
def lpips_nearest(x: Tensor, shots: Tensor) -> float:
    """Median LPIPS from samples x (n, 3, H, W) to the nearest of the shots (N, 3, H, W)."""
    x = x.float().clamp(-1, 1)
    far = torch.stack([perceptual.lpips(x, s.float().expand_as(x)) for s in shots], 1)
    return float(far.amin(1).median())


def kid_of_copies(b: Tensor, n: int = SHOTS) -> float:
    """Mean KID, over sets, of copies of n images drawn from those with features b (m, d): the
    kernel's mean at equal images less that at different ones, over n.

    See the theorem of the chapter. Built in: few_shot.
    """
    k = (b @ b.T / b.shape[1] + 1) ** 3
    m = len(b)
    return float((k.trace() / m - (k.sum() - k.trace()) / (m * (m - 1))) / n)


def look(x: Tensor, shots: Tensor, reference: Tensor, features: Tensor) -> dict[str, float]:
    """What samples x (n, 3, H, W) of shots (N, 3, H, W) are like, beside the features of the
    reference; `features` are those of the shots.

    kid, fd, fd_inf; precision, recall; nearest: median `cosine_distance` to the nearest shot;
    pixel: median root-mean-square distance to it in pixels; spread.
    """
    f = metrics.features(x)
    precision, recall = precision_recall(f, reference)
    far = torch.cdist(x.double().flatten(1), shots.double().flatten(1)) / shots[0].numel() ** 0.5
    return {
        "kid": metrics.kid(f, reference)[0], "fd": frechet(f, reference),
        "fd_inf": frechet_infinite(f, reference) if len(f) >= SIZES[1] else math.nan,
        "precision": precision, "recall": recall,
        "nearest": float(roads.cosine_distance(f, features).amin(1).median()),
        "pixel": float(far.amin(1).median()), "spread": spread(f),
    }


# The methods


@dataclass(frozen=True)
class System:
    """A latent model, its settings and what lies between its codes.

    roads: names of `geodesic_tables.road`, or "convex, k". sets: of shots of each target; targets:
    names, empty for all.
    """

    model: str
    settings: dict = field(default_factory=lambda: {"steps": STEPS})
    roads: tuple[str, ...] = ("great circle",)
    sets: int = 20
    targets: tuple[str, ...] = ()

    @property
    def rests_on(self) -> dict:
        """For `results.key`."""
        return {"model": self.model, "settings": sorted(self.settings.items()),
                "roads": self.roads, "weights": inversion_table.weights_of(self.model),
                "code": system_code()}

    def samples(self, shots: Tensor, seeds: Sequence[int], count: int, seed: int, device: str):
        """Pairs of a method's name and its samples (count, 3, H, W)."""
        m = zoo.load(self.model, device, **self.settings)
        codes = m.encode(shots, seeds)
        for name in self.roads:
            yield name, m.decode(on_road(m, codes, name, count, seed))


def on_road(m, codes: Code, name: str, count: int = SAMPLES, seed: int = 0) -> Code:
    """Codes (count) between the codes of shots of a model, by the name of a road or "convex, k"."""
    if name.startswith("convex, "):
        return convex(codes, weights(len(codes), int(name.split()[1]), count, seed))
    return between(roads.road(name, m, codes), codes, count, seed)


@dataclass(frozen=True)
class Rival:
    """A GAN that is moved to the shots: Ojha et al., or Latent Learner.

    recipe: an `OjhaRecipe` or a `LearnerRecipe`. vgg: whether styles are VGG19's. shown: targets of
    whose first set the table keeps `SHOWN` samples. looks: steps of Ojha et al. at which the moving
    average is looked at on the way, none for the end alone.
    """

    model: str
    recipe: fewshot.OjhaRecipe | fewshot.LearnerRecipe
    sets: int = 5
    targets: tuple[str, ...] = ()
    vgg: bool = False
    shown: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()

    @property
    def rests_on(self) -> dict:
        """For `results.key`."""
        return {"model": self.model, "recipe": self.recipe, "vgg": self.vgg,
                "shown": self.shown, "looks": self.looks, "code": rival_code(),
                "weights": inversion_table.weights_of(self.model)}

    def samples(self, shots: Tensor, seeds: Sequence[int], count: int, seed: int, device: str):
        """Pairs of nothing, or of "n steps", and the samples (count, 3, H, W) in [-1, 1]."""
        nets, seen = zoo.module(self.model).to(device), []
        g, d = (nets[k].eval().requires_grad_(False) for k in ("g", "d"))
        if isinstance(self.recipe, fewshot.OjhaRecipe):
            z = torch.stack([torch.randn(g.z, generator=generator(1000 * seed + i))
                             for i in range(count)]).to(shots)
            draw = torch.no_grad()(lambda net: net(z).clamp(-1, 1).cpu())

            def watch(step, losses, average):
                if step + 1 in self.looks:
                    seen.append((f"{step + 1} steps", draw(average)))

            last = fewshot.ojha(g, d, shots, self.recipe, seed, watch)
            yield from seen or [("", draw(last))]
            return
        from .perceptual import vgg19_maps

        maps = vgg19_maps if self.vgg else zoo.classifier().to(device).maps
        x, _ = fewshot.latent_learner(g, d, maps, shots, count, self.recipe, seed)
        yield "", x.clamp(-1, 1).cpu()


@dataclass(frozen=True)
class Controls:
    """What needs no model. Real: other images of the pool, the best that a generator can do."""

    sets: int = 20
    targets: tuple[str, ...] = ()

    @property
    def rests_on(self) -> dict:
        """For `results.key`."""
        return {"code": control_code()}


REAL, ONCE, COPIES, JITTER, FADE = "real images", "shots", "copies", "copies, jittered", "cross-fade"
Method = System | Rival | Controls


# The work


@dataclass(frozen=True, eq=False)
class Target:
    """Images to be generated (n, 3, H, W): a pool that gives the shots, a reference that judges."""

    name: str
    pool: Tensor
    reference: Tensor

    @cached_property
    def digest(self) -> str:
        """Hash of the images."""
        return results.key(pool=self.pool, reference=self.reference)

    @cached_property
    def judge(self) -> Tensor:
        """Features of the reference (m, 1280)."""
        return metrics.features(self.reference)


@dataclass(frozen=True)
class Part:
    """Set number `index` of shots of a target, by one method; seed: of its samples, by default the
    number of the set.
    """

    name: str
    method: Method
    target: Target
    index: int
    count: int = SAMPLES
    shots: int = SHOTS
    seed: int | None = None

    @property
    def label(self) -> str:
        """For people."""
        way = "".join(f", {r}" for r in getattr(self.method, "roads", ()))
        again = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.name}{way}, {self.target.name}, set {self.index}{again}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return results.key(label=self.label, count=self.count, shots=self.shots,
                           target=self.target.digest, **self.method.rests_on,
                           measure=(PLACES, NEIGHBOURS, COMPONENTS, SIZES))

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row (the method), domain (the target), image (the set, or the seed if it is given)
        and those of `look`.
        """
        pool, out = self.target.pool, []
        at = members(len(pool), self.index, self.shots)
        shots = pool[at]
        f = metrics.features(shots)
        for name, x in self._samples(shots, at, device):
            found = look(x, shots, self.target.judge, f)
            number = self.index if self.seed is None else self.seed
            who = {"row": name, "domain": self.target.name, "image": number}
            found = {k: round(v, 4) for k, v in found.items()}
            if self.index == 0 and self.target.name in getattr(self.method, "shown", ()):
                found["picture"] = inversion_table.to_text(torch.cat(list(x[:SHOWN]), 2))
            out.append(who | found)
        return pd.DataFrame(out)

    def _samples(self, shots: Tensor, at: list[int], device: str):
        seed = self.index if self.seed is None else self.seed
        if not isinstance(self.method, Controls):
            made = self.method.samples(shots.to(device), at, self.count, seed, device)
            yield from ((f"{self.name}, {way}" if way else self.name, x) for way, x in made)
            return
        pool = self.target.pool
        others = [i for i in data.pick(len(pool), None, self.index).tolist() if i not in at]
        yield REAL, pool[others[: self.count]]
        yield ONCE, shots
        for name, make in ((COPIES, copies), (JITTER, jittered), (FADE, cross_fades)):
            yield name, make(shots, self.count, seed)


SHARED = (metrics.features, metrics.feature_network, metrics.kid, roads.cosine_distance, members,
          frechet, _frechet, frechet_infinite, _radii, precision_recall, spread, look, Part)


def control_code() -> str:
    """Hash of the code that decides a control's row."""
    return results.code_version(("code", "paths"), (
        *SHARED, draws, between, cross_fades, copies, jittered))


def system_code() -> str:
    """Hash of the code that decides a row between codes."""
    return results.code_version(("code", "sphere", "paths", "diffusion", "nets"), (
        *SHARED, System, draws, between, weights, spherical_mean, convex, on_road, roads.road,
        roads.lol))


def rival_code() -> str:
    """Hash of the code that decides a rival's row."""
    return results.code_version(("code", "fewshot", "nets"), (*SHARED, Rival))


def target(name: str, x: Tensor) -> Target:
    """Images (n, 3, H, W) of a target, cut in two: at most half are the pool, the next ones the
    reference. Raises ValueError if there are too few.
    """
    half = min(POOL, len(x) // 2)
    if half < SHOTS + NEIGHBOURS + 1:
        raise ValueError(f"{name}: given {len(x)} images, expected {2 * (SHOTS + NEIGHBOURS + 1)} "
                         "or more: half give the shots, half judge")
    return Target(name, x[:half], x[half : half + REFERENCE])


TARGETS = {"horses": "horses", "sketches": "sketches", "icons": "emoji", "pixel-art": "pixel-art",
           "sunglasses": "avatars-sunglasses"}


@lru_cache(maxsize=4)
def targets(source: str = "", size: int = 32) -> tuple[Target, ...]:
    """Every target: bundled ones, or the sub-folders of a folder, read at `size`."""
    if source:
        found = inversion_table.folder(Path(source), size)
        return tuple(target(k, x) for k, x in found.items())
    if size != 32:
        raise ValueError(f"bundled images have 32 px, the model {size}: give a folder of them")
    return tuple(target(k, data.domain(v)) for k, v in TARGETS.items())


DAE, D2C = "FS-DAE", "FS-D2C"
LEARNER, OJHA = "Latent Learner", "Ojha et al."
CONTROLS, GIVEN, SOURCE = "controls", "given model", "the rivals' GAN as it is"
MORE = ("on the sphere", "LOL", "along the ODE", "noise only", "semantic only", "convex, 3",
        "convex, 10")
FEW = ("horses", "sketches")  # targets of whose rivals the table keeps samples
GAN = "stylegan2-vehicles32"
Plan = Sequence[tuple[str, Method]]  # names may come again, with other roads


def ojha(steps: int = fewshot.OJHA.steps, model: str = GAN, **given) -> Rival:
    """Ojha et al., by default in the recipe's steps; 0 for the GAN as it is."""
    return Rival(model, replace(fewshot.OJHA, steps=steps), **given)


def learner(iterations: int = fewshot.LATENT_LEARNER.iterations, model: str = GAN,
            **given) -> Rival:
    """Latent Learner, by default in the recipe's iterations of an episode."""
    return Rival(model, replace(fewshot.LATENT_LEARNER, iterations=iterations), **given)


def straight(model: str = "dae-vehicles32", **given) -> System:
    """The straight line, a control."""
    return System(model, roads=("straight line",), **given)


TRAINED = ("horses", "sketches", "pixel-art", "sunglasses")  # targets of the rivals
EMBEDDED: Plan = (
    (CONTROLS, Controls()),
    (DAE, System("dae-vehicles32")),
    (SOURCE, Rival(GAN, replace(fewshot.OJHA, steps=0, ema=0.0), targets=TRAINED)),
    (D2C, System("d2c-vehicles32", sets=5)),
    (DAE, straight(sets=5)),
    *((DAE, System("dae-vehicles32", roads=(r,), sets=5, targets=FEW[:1])) for r in MORE),
)
# How long the rivals train, set down before any result. First the recipes' lengths, 500 steps and
# 25 iterations of an episode, on five sets of each target, with looks on the way. Where the mean
# KID of a target still falls from the last look but one to the last, by more than the standard
# error of that difference over the sets, training goes on to twice as many steps, as far as there
# is time; the page says where it still fell at the end. The look with the lowest mean is the rival
# of a target: a choice in the rival's favour.
# Time was short. Sketches fell from 250 to 500 steps, by twice the error, and one set went on; so
# did one of pixel-art, as a pilot. Beside it pixel-art and sunglasses keep a brief training, and what
# is said about near does not rest on it.
LOOKS, ITERATIONS = (60, 125, 250, 500, 1000), 25
BRIEF = {OJHA: 30, LEARNER: 5}  # steps, iterations
LONGER: Plan = (  # of trainings of one set that differ in their last look, the last one listed
    (OJHA, ojha(targets=FEW, looks=LOOKS[:4])),
    (OJHA, ojha(LOOKS[4], sets=1, targets=TRAINED[1:3], shown=FEW, looks=LOOKS)),
    (OJHA, Rival(GAN, replace(fewshot.OJHA, steps=BRIEF[OJHA], ema=3.0), targets=TRAINED[2:],
                 shown=FEW)),
    (LEARNER, learner(BRIEF[LEARNER], targets=TRAINED, shown=FEW)),
    (f"{LEARNER}, {ITERATIONS} iterations", learner(ITERATIONS, targets=FEW, shown=FEW)),
)


def size_of(method: Method, first: int = 32) -> int:
    """Side of a method's images; controls have that of the `first` system."""
    if isinstance(method, Rival):
        return zoo.module(method.model)["g"].size
    return zoo.load(method.model).size if isinstance(method, System) else first


def parts(plan: Plan = EMBEDDED, source: str = "", count: int = SAMPLES) -> list[Part]:
    """All work of a plan on `targets`."""
    sizes = [size_of(m) for _, m in plan if isinstance(m, System)] or [32]
    out = []
    for name, m in plan:
        for t in targets(source, size_of(m, sizes[0])):
            if not m.targets or t.name in m.targets:
                out += [Part(name, m, t, i, count) for i in range(m.sets)]
    return out


OFFICIAL = {DAE: "dae-ffhq256", D2C: "d2c-ffhq256"}


def paper(model: str, gan: str = "", sets: int = 20, steps: int = 0, iterations: int = 0) -> Plan:
    """Methods of world P: a model of yours, DAE and D2C if they are imported, both rivals on an
    imported GAN. steps, iterations: of the rivals, 0 for those of their authors.

    Raises ModelError if the GAN, or for 256 px VGG19, is not on this machine.
    """
    found = {GIVEN: model} | {k: v for k, v in OFFICIAL.items() if zoo.present(v)}
    out = [(CONTROLS, Controls(sets))]
    for name, v in found.items():
        out += [(name, System(v, sets=sets)), (name, straight(v, sets=sets))]
    if gan:
        from .perceptual import require

        size = zoo.module(gan)["g"].size  # says what is missing
        large = size >= 256
        require("vgg19" if large else None)
        theirs = fewshot.OJHA_OFFICIAL if large else fewshot.OJHA
        mine = fewshot.LATENT_LEARNER_OFFICIAL if large else fewshot.LATENT_LEARNER
        few = min(5, sets)
        theirs = replace(theirs, patch=min(theirs.patch, size // 2), steps=steps or theirs.steps)
        mine = replace(mine, iterations=iterations or mine.iterations)
        out.append((SOURCE, Rival(gan, replace(theirs, steps=0), few)))
        out += [(OJHA, Rival(gan, theirs, few)), (LEARNER, Rival(gan, mine, few, vgg=large))]
    return tuple(out)


# Table 5 of Ramachandran et al. 2024, FID of FS-DAE and of Latent Learner
PRINTED = {"babies": (63.12, 63.31), "sunglasses": (35.51, 35.64), "sketches": (36.21, 35.59),
           "bitmoji": (64.43, 64.50)}


def noise(values: pd.Series, level: float) -> tuple[float, float, float]:
    """Standard deviation of values over sets as a share of a level, with its chi-square interval
    (95 %). Built in: few_shot.
    """
    v = values.dropna()
    n, sd = len(v), float(v.std())
    low, high = (sd * math.sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    return sd / level, low / level, high / level


def pictures_of(text: str) -> Tensor:
    """The samples (n, 3, H, H) that a rival's row keeps, side by side in its column `picture`."""
    x = inversion_table.to_picture(text)
    return torch.stack(x.split(x.shape[1], 2))


SEEDS = (100, 101, 102, 103, 104)


def more_parts() -> list[Part]:
    """All work of the second table: longer training, and one set of shots with other seeds."""
    again = parts(((DAE, System("dae-vehicles32", sets=1, targets=FEW[:1])),
                   (LEARNER, learner(BRIEF[LEARNER], sets=1, targets=FEW[:1]))))
    way = {(p.label, bool(p.method.looks)): p for p in parts(LONGER)}
    return [*way.values(), *(replace(p, seed=s) for p in again for s in SEEDS)]


def ways(more: pd.DataFrame) -> pd.DataFrame:
    """Rows of the second table that are looks at a rival; its name is in column rival, how long it
    had trained by then in column n.
    """
    parts = more.row.str.extract(r"^(?P<rival>.*), (?P<n>[0-9]+) (?:steps|iterations)$")
    parts = pd.DataFrame({"rival": parts.rival.fillna(more.row),
                          "n": parts.n.astype(float).fillna(more.row.map(BRIEF))})
    found = pd.concat([more, parts], axis=1)[parts.n.notna() & (more.image < SEEDS[0])]
    return found.astype({"n": int}).reset_index(drop=True)


def whole(looks: pd.DataFrame) -> pd.DataFrame:
    """Looks at which every set of the rival and target was there, not the pilots' last ones."""
    sets = looks.groupby(["rival", "domain", "n"]).image.transform("nunique")
    return looks[sets == sets.groupby([looks.rival, looks.domain]).transform("max")]


def chosen(looks: pd.DataFrame) -> pd.DataFrame:
    """Of `ways`, the look with the lowest mean KID for each rival and target, under its name."""
    looks = whole(looks)
    level = looks.groupby(["rival", "domain", "n"]).kid.mean()
    best = level.groupby(level=[0, 1]).idxmin()
    who = pd.MultiIndex.from_frame(looks[["rival", "domain", "n"]])
    return looks[who.isin(best)].assign(row=lambda t: t.rival)


def falls(looks: pd.DataFrame) -> pd.DataFrame:
    """By how much mean KID fell from the last look but one to the last of three sets or more, with
    its standard error over sets: columns rival, domain, n (of the last), fall, error, where there
    are two. The rule of `LONGER` asks whether fall > error.
    """
    out = []
    for (rival, domain), t in looks.groupby(["rival", "domain"]):
        wide = t.pivot(index="image", columns="n", values="kid").dropna(axis=1, thresh=3)
        if wide.shape[1] < 2:
            continue
        fall = (wide.iloc[:, -2] - wide.iloc[:, -1]).dropna()
        out.append({"rival": rival, "domain": domain, "n": wide.columns[-1],
                    "fall": fall.mean(), "error": fall.sem()})
    return pd.DataFrame(out)


def facts(todo: Sequence[Part]) -> dict:
    """What the note beside the table says: methods, and hashes of their weights and code."""
    rows = {p.label.split(f", {p.target.name}, set")[0]: p.method for p in todo}
    kept = {k: {n: v for n, v in m.rests_on.items() if n != "code"} for k, m in rows.items()}
    codes = {k: m.rests_on["code"] for k, m in rows.items()}
    return {"methods": kept, "code": codes, "shots": SHOTS, "samples": todo[0].count,
            "images": {p.target.name: p.target.digest for p in todo}}
