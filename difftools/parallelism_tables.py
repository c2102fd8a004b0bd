"""The heavy tables of the chapter on parallelism: angles in every system, the global direction,
descents through the decoder.

A row is a number about latents, never a latent. Built in: parallelism.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import code, descent, images, metrics, results, zoo
from . import parallelism as angles
from .inversion_table import to_picture, to_text, weights_of
from .parallelism import EDITS, PRINTED, SUNGLASSES, Pairs, edited
from .perceptual import lpips

FEW = 4  # images behind the column `few`, which a spot check computes again
SHUFFLES = 5  # permutations that are averaged
COUNTS, FIT, NEW = (1, 2, 4, 8, 16, 32, 64), 64, 32  # pairs of a global direction, new pictures
ONCE = 16  # pairs where all ways are tried
SHOWN = 5  # pictures of a strip
TRUE, TRULY = "true shift", 32  # the control without a descent, and its bundled pictures
LONGER, LONG = "{}, longer", (12, 60)  # geometric descents that are given time: pictures, steps
MOVED = (*PRINTED, SUNGLASSES)  # edits with a global direction
ROOMS = ("code", "diffusion", "gan", "nets", "images", "sphere", "parallelism")


@dataclass(frozen=True)
class System:
    """A model, its settings, the parts of its code that are read, how many images, and how many
    pairs of avatars get sunglasses (0: as many).
    """

    model: str
    parts: tuple[str, ...] = ("noise",)
    n: int = 32
    settings: dict = field(default_factory=lambda: {"steps": 10})
    glasses: int = 0

    def load(self, device: str = "cpu") -> zoo.LatentModel:
        """The model with its settings."""
        return zoo.load(self.model, device, **self.settings)


def _gan(recipe: str, steps: int, n: int, *parts: str, model: str = "stylegan2-vehicles32"):
    return System(model, parts, n, {"recipe": recipe, "steps": steps}, glasses=12)


EMBEDDED = {
    "DDPM": System("ddpm-vehicles32"),
    "DAE": System("dae-vehicles32", ("noise", "semantic")),
    "LDM": System("ldm-vehicles32"),
    "D2C": System("d2c-vehicles32"),
    "StyleGAN2": _gan("w_plus", 300, 12, "w_plus"),
    "SPHInX": _gan("sphinx", 1000, 8, "w_plus", "content"),
}
PAPER = {
    "DAE": System("dae-ffhq256", ("noise", "semantic")),
    "LDM": System("ldm-ffhq256"),
    "D2C": System("d2c-ffhq256"),
    "StyleGAN2": _gan("w_plus", 2000, 12, "w_plus", model="stylegan2-ffhq256"),
    "SPHInX": _gan("sphinx", 5000, 8, "w_plus", "content", model="stylegan2-config-f256"),
}


def name_of(system: str, s: System, part: str) -> str:
    """The row of a part of a system's code: "DAE, semantic"; "DDPM" where there is one part."""
    return system if len(s.parts) == 1 else f"{system}, {part.replace('w_plus', 'W+')}"


@dataclass(frozen=True)
class AnglePart:
    """Every definition of the angle, for edits of pictures x in one system. x None: sunglasses."""

    name: str
    system: System
    x: Tensor
    edits: dict[str, Tensor]  # edit -> edited pictures

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {', '.join(self.edits)}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return _key(self, x=self.x, edits=list(self.edits), y=torch.cat([*self.edits.values()]),
                    code=code_of(type(self)))

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """A row for each part of the code, edit and definition: row, edit, definition; value, low,
        high (rad, jackknife over images); permuted, the same of permuted pairs; few, of the first
        4; images, dimension. Edit "none": angles between other pictures, seen from one.
        """
        m, seeds = self.system.load(device), range(len(self.x))
        source = m.encode(self.x, seeds)
        targets = {k: m.encode(y, seeds) for k, y in self.edits.items()}
        out = []
        for part in self.system.parts:
            who = {"row": name_of(self.name, self.system, part),
                   "dimension": source.flat(part).shape[1], "images": len(self.x)}
            for edit, target in targets.items():
                p = angles.pairs(source[part], target[part])
                out += [who | {"edit": edit, "definition": k} | _read(d.of, p)
                        for k, d in angles.DEFINITIONS.items()]
            alone = Pairs(p.ss, p.ss, p.ss)
            out.append(who | {"edit": "none", "definition": "shared base"}
                       | _read(angles.shared_base, alone))
        return pd.DataFrame(out).round(4)


def _read(f, p: Pairs) -> dict[str, float]:
    """One definition of pairs, its interval and its null."""
    low, high = angles.jackknife(f, p)
    null = np.mean([f(p.permuted(i)) for i in range(SHUFFLES)]) if (p.st != p.ss).any() else np.nan
    return {"value": f(p), "low": low, "high": high, "permuted": float(null),
            "few": f(p.select(range(min(FEW, len(p)))))}


@dataclass(frozen=True)
class SteadyPart(AnglePart):
    """The same, with an interval of `halves` whose splits stay when an image is left out."""

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """The rows of an `AnglePart`; low and high of the definition "halves" by `steady`."""
        rows, m, seeds = super().run(device), self.system.load(device), range(len(self.x))
        source = m.encode(self.x, seeds)
        for edit, y in self.edits.items():
            target = m.encode(y, seeds)
            for part in self.system.parts:
                which = {"row": name_of(self.name, self.system, part), "edit": edit,
                         "definition": "halves"}
                at = (rows[list(which)] == pd.Series(which)).all(axis=1)
                rows.loc[at, ["low", "high"]] = steady(angles.pairs(source[part], target[part]))
        return rows.round(4)


def steady(p: Pairs) -> tuple[float, float]:
    """Jackknife interval of `halves` over images: its splits stay when an image is left out.

    The general `jackknife` draws new splits each time, and their noise widens the interval.
    """
    G, n, rng = p.displacements, len(p), np.random.default_rng(0)
    side = np.argsort([rng.permutation(n) for _ in range(angles.SPLITS)], 1) < n // 2

    def mean_angle(keep):
        a, b = (side & keep).astype(float), (~side & keep).astype(float)  # (splits, n)
        aa, ab, bb = ((u @ G * v).sum(1) for u, v in ((a, a), (a, b), (b, b)))
        return np.arccos(np.clip(ab / np.sqrt(np.maximum(aa * bb, angles.TINY)), -1, 1)).mean()

    every = mean_angle(np.full(n, True))
    left = np.array([mean_angle(np.arange(n) != i) for i in range(n)])
    low, high = metrics.t_interval(n * every - (n - 1) * left)  # pseudo-values
    return every - (high - low) / 2, every + (high - low) / 2


@dataclass(frozen=True)
class GlobalPart:
    """The mean direction of pairs (x, y), brought to other pictures whose true edit is known."""

    name: str
    system: System
    edit: str
    x: Tensor
    y: Tensor
    new: Tensor
    true: Tensor

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.edit}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return _key(self, images=torch.cat([self.x, self.y, self.new, self.true]),
                    counts=(COUNTS, ONCE), code=code_of(GlobalPart))

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """A row for each new picture: row, edit, image; for each space, way and number of pairs
        its PSNR to the true edit (dB, clipped) in a column "psnr, SPACE, WAY, PAIRS", see
        `by_pairs`, and for the mean of 16 pairs "lpips, SPACE"; picture, for the first image.

        Spaces: "none", the unedited picture; "pixels", the same ways without a model; "latents",
        with 0 pairs inverted and decoded alone.
        """
        m, n = self.system.load(device), len(self.x)
        s, t = m.encode(self.x, range(n)), m.encode(self.y, range(n))
        z = m.encode(self.new, range(n, n + len(self.new)))
        made = {("none", "no edit", 0): self.new, ("latents", "mean", 0): m.decode(z)}
        for k in sorted({min(k, n) for k in COUNTS}):
            for way in angles.WAYS if k == min(ONCE, n) else ("mean",):
                made["pixels", way, k] = angles.move(self.new, self.x[:k], self.y[:k], way)
                parts = {p: angles.move(z[p], s[p][:k], t[p][:k], way) for p in self.system.parts}
                made["latents", way, k] = m.decode(code.Code(parts, z.geometry, z.seeds))
        return self._compare({which: v.to(self.true) for which, v in made.items()})

    def _compare(self, made: dict[tuple[str, str, int], Tensor]) -> pd.DataFrame:
        table = pd.DataFrame({"row": self.name, "edit": self.edit, "image": range(len(self.new))})
        for (space, way, k), v in made.items():
            near = metrics.psnr(self.true, v, clip=True).numpy().round(2)
            table[f"psnr, {space}, {way}, {k}"] = near
            if space == "none" or (way, k) == ("mean", min(ONCE, len(self.x))):
                table[f"lpips, {space}"] = lpips(self.true, v.clamp(-1, 1)).numpy().round(4)
        shown = to_text(made["latents", "mean", min(ONCE, len(self.x))][0])
        return table.assign(picture=[shown] + [""] * (len(table) - 1))


def by_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The table of global directions with a row for each row, edit, image, space, way and number
    of pairs; psnr (dB) and gain, what it is above that of no edit.
    """
    columns = [c for c in table if c.startswith("psnr")]
    long = table.melt(["row", "edit", "image"], columns, "which", "psnr").dropna()
    long[["space", "way", "pairs"]] = long.pop("which").str.split(", ", expand=True).iloc[:, 1:]
    none = table.set_index(["row", "edit", "image"])["psnr, none, no edit, 0"].rename("none")
    long = long.astype({"pairs": int}).join(none, on=none.index.names)
    return long.assign(gain=long.psnr - long.pop("none"))


@dataclass(frozen=True)
class PathPart:
    """Descents from pictures x to targets of one kind, and the great circle to their ends; of the
    kind "true shift" there is no descent, the target is inverted. other: random targets.
    """

    name: str
    system: System
    kind: str
    x: Tensor
    other: Tensor
    iterations: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.kind}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return _key(self, kind=self.kind, x=self.x, other=self.other, iterations=self.iterations,
                    code=code_of(PathPart))

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """A row a picture: row, kind, image; arc and length (rad), straightness, detour of the
        path; graded and even, of the property along the great circle; faded, the rank correlation
        along a cross-fade of its end pictures; reached, whether half of the target is, 0 or 1;
        first and last loss; apart, PSNR between the end pictures, dB; strip, five pictures of the
        way.
        """
        m = self.system.load(device)
        path, kind = (descent.truly_shifted(m, self.x) if self.kind == TRUE else
                      descent.found(m, self.x, self.other, self.kind, self.iterations))
        decode, ends = descent.decoder(m, range(len(self.x))), (path.z[0], path.z[-1])
        value, graded = descent.gradation(decode, *ends, kind.seen)
        with torch.no_grad():
            a, b = (decode(v) for v in ends)
        u = torch.linspace(0, 1, len(value), dtype=a.dtype)
        fade = torch.stack([kind.seen((1 - v) * a + v * b) for v in u]).detach().double().numpy()
        columns = {
            "arc": path.straightness * path.length, "length": path.length,
            "straightness": path.straightness, "detour": path.detour, "graded": graded,
            "even": descent.evenness(value), "faded": descent.rank_correlation(fade),
            "reached": kind.reached(b).int(),
            "first": path.loss[0], "last": path.loss[-1],
            "apart": metrics.psnr(a, b, clip=True),
        }
        table = pd.DataFrame({"row": self.name, "kind": self.kind, "image": range(len(self.x))})
        table = table.join(pd.DataFrame({k: np.asarray(v) for k, v in columns.items()}).round(4))
        return table.assign(strip=[strip(decode, *ends)] + [""] * (len(self.x) - 1))


def strip(decode, a: Tensor, b: Tensor) -> str:
    """Pictures of the first image along the great circle, side by side, as text."""
    with torch.no_grad():
        way = [decode(angles.sphere.slerp(a, b, float(u)))[0] for u in np.linspace(0, 1, SHOWN)]
    return to_text(torch.cat(way, 2))


def pictures(text: str) -> Tensor:
    """The way back of `strip`: (5, 3, H, W) in [-1, 1]."""
    return torch.stack(to_picture(text).chunk(SHOWN, 2))


HeavyPart = AnglePart | GlobalPart | PathPart


def _key(part: HeavyPart, **facts: object) -> str:
    s = part.system
    return results.key(label=part.label, model=s.model, parts=s.parts, weights=weights_of(s.model),
                       settings=sorted(s.settings.items()), **facts)


def code_of(kind: type) -> str:
    """Hash of the code that decides a row."""
    more = {
        AnglePart: (_read, name_of),
        SteadyPart: (AnglePart.run, _read, name_of, steady, metrics.t_interval),
        GlobalPart: (GlobalPart._compare, metrics.psnr),
        PathPart: (strip, metrics.psnr),
    }[kind]
    rooms = (*ROOMS, *(("descent",) if kind is PathPart else ()))
    return results.code_version(rooms, (kind.run, *more))


def facts(todo: Sequence[HeavyPart]) -> dict:
    """What the note beside a table says: models, settings, hashes of weights and code, images."""
    return {
        "code": code_of(type(todo[0])),
        "systems": {p.name: {"model": p.system.model, "settings": p.system.settings,
                             "weights": weights_of(p.system.model)} for p in todo},
        "images": {p.label: len(p.x) for p in todo},
    }


def _pictures(m, folder: str | Path, n: int) -> Tensor | None:
    """The first n pictures of a folder at a model's size; None for the bundled ones at 32 px."""
    if folder:
        return torch.cat([images.read(f, m.size) for f in images.paths(folder)[:n]])
    if m.size != 32:
        raise ValueError(f"{m.name} takes pictures of {m.size} px and the bundled ones have 32: "
                         "give a folder of pictures")
    return None


def angle_parts(
    systems: dict[str, System] = EMBEDDED, n: int | None = None, folder: str | Path = "",
) -> list[AnglePart]:
    """All work of the table of angles. n: images, None for each system's own number. folder:
    pictures to edit, by default bundled ones, which have sunglasses too.
    """
    out = []
    for name, s in systems.items():
        kind = AnglePart if "recipe" in s.settings else SteadyPart
        count = n or s.n
        x = _pictures(s.load(), folder, count)
        count = count if x is None else len(x)
        both = {k: edited(k, count, x) for k in EDITS}
        out.append(kind(name, s, both["blur"][0], {k: y for k, (_, y) in both.items()}))
        if x is None:
            x, y = edited(SUNGLASSES, n or s.glasses or s.n)
            out.append(kind(name, s, x, {SUNGLASSES: y}))
    return out


MOVERS = {k: EMBEDDED[k] for k in ("DDPM", "DAE", "D2C")}


def global_parts(
    systems: dict[str, System] = MOVERS, fit: int = FIT, new: int = NEW, folder: str | Path = "",
) -> list[GlobalPart]:
    """All work of the table of global directions: `fit` pairs and `new` other pictures."""
    out = []
    for name, s in systems.items():
        x = _pictures(s.load(), folder, fit + new)
        n = fit if x is None else min(fit, len(x) // 2)
        for edit in MOVED if x is None else PRINTED:
            a, b = edited(edit, fit + new if x is None else len(x), x)
            out.append(GlobalPart(name, s, edit, a[:n], b[:n], a[n:], b[n:]))
    return out


WALKER = {"DDPM": System("ddpm-vehicles32", n=10, settings={"steps": 6})}


def path_parts(
    systems: dict[str, System] = WALKER, iterations: int = 24, n: int | None = None,
    folder: str | Path = "", kinds: Iterable[str] = (*descent.KINDS, TRUE),
) -> list[PathPart]:
    """All work of the table of descents, on bundled horses or a folder's pictures: each kind, the
    control without a descent, and geometric descents of 2.5 times as many steps. Random targets
    are animals, or the folder's pictures in reverse.
    """
    out = []
    for name, s in systems.items():
        x = _pictures(s.load(), folder, n or s.n)
        todo = [(name, kind, TRULY if kind == TRUE else s.n, iterations) for kind in kinds]
        if "geometric" in kinds:
            todo.append((LONGER.format(name), "geometric", LONG[0], iterations * LONG[1] // 24))
        for row, kind, count, steps in todo:
            some = angles.data.domain("horses", n or count) if x is None else x
            other = angles.data.domain("animals", n or count) if x is None else x.flip(0)
            out.append(PathPart(row, s, kind, some, other, steps))
    return out


TABLES = {
    "parallelism_angles": angle_parts,
    "parallelism_global": global_parts,
    "parallelism_paths": path_parts,
}


GIVEN = "the given model"


def own_parts(
    model: str, folder: str | Path = "", n: int = 32, steps: int = 10, gan_steps: int = 0,
    fit: int = FIT, new: int = NEW, iterations: int = 24, paths: int = 10,
) -> dict[str, list[HeavyPart]]:
    """The same work for a model of yours and for the official ones on this machine, by table; on a
    folder of pictures, or on bundled ones for models of 32 px.

    gan_steps: in place of each recipe's own; 0 leaves them. Descents are walked by models whose
    only latent is noise. Raises ValueError on a GAN as `model`, on a model of another size than 32
    px without a folder, and on fewer than 8 pictures.
    """
    m = zoo.load(model)
    if not hasattr(m, "denoiser"):
        raise ValueError(f"{model} is no diffusion model: give one; GANs that are imported are "
                         "taken beside it")
    if folder and (count := len(images.paths(folder))) < 8:
        raise ValueError(f"{folder} holds {count} pictures, expected 8 or more: half of them give "
                         "a direction, half judge it")
    kind = type(m).__name__
    parts = ("noise", "semantic") if kind == "DAE" else ("noise",)
    given = {GIVEN: System(model, parts, settings={"steps": steps})}
    beside = {k: s for k, s in PAPER.items() if zoo.present(s.model) and s.model != model}
    if gan_steps:
        beside = {k: replace(s, settings=s.settings | {"steps": gan_steps})
                  if "recipe" in s.settings else s for k, s in beside.items()}
    if not folder:  # bundled pictures have 32 px, what is beside has not
        beside = {k: s for k, s in beside.items() if s.load().size == m.size}
    walker = {GIVEN: System(model, settings={"steps": min(steps, 6)})}
    return {
        "parallelism_angles": angle_parts(given | beside, n, folder),
        "parallelism_global": global_parts(given, fit, new, folder),
        "parallelism_paths": path_parts(walker if kind == "PixelDiffusion" else {}, iterations,
                                        paths, folder),
    }
