"""What the certificate of a hole reads of latents that take long to find: the heavy tables of the
chapter on prior holes.

One table is about latents that a GAN's inverter optimised, one about the latents that each stepper
of a diffusion model ends in. A row is an image: the PSNR of its round trip and a few statistics of
its latent, never the latent. Built in: prior_holes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import code, data, images, metrics, normality, results, zoo

if TYPE_CHECKING:  # GANs are imported when one is asked for
    from .gan.generator import Generator, Parts

UNSEEN = ("animals", "quickdraw", "emoji", "textures")
GENERATED = "generated"  # images of the GAN itself, of known latents
STEPS, SIZE = 300, 16  # of an optimisation; images of a part
# name -> (model, recipe, steps, images of vehicles and of the GAN itself, of an unseen domain)
GANS = {
    "z": ("stylegan2-vehicles32", "z", STEPS, 64, 32),
    "W": ("stylegan2-vehicles32", "w", STEPS, 64, 32),
    "W+": ("stylegan2-vehicles32", "w_plus", STEPS, 64, 32),
    "W, brief": ("stylegan2-vehicles32", "w", STEPS // 5, 32, 16),
    "XL": ("styleganxl-vehicles32", "xl", STEPS, 32, 16),
    "BigGAN": ("biggan-vehicles32", "biggan", STEPS, 32, 16),
}
OCTAVES = {
    "first": (0, 1 / 8), "second": (1 / 8, 1 / 4), "third": (1 / 4, 1 / 2), "last": (1 / 2, 1)
}
FIT, FIRST, KNOWN = 4096, 2**28, 2**27  # draws behind `whitening`; first seeds of these, of images
SIDES = 16  # half-spaces at random
# steps that 20 network evaluations pay for, each way
STEPPERS = {
    "ddim": 20, "fixed_point_ddim": 8, "heun": 10, "dpm2m": 20, "pec": 20,
    "reversible_heun": 20, "edict": 10, "bdia": 20, "belm": 20,
}


@lru_cache(maxsize=4)
def whitening(g: Generator) -> tuple[Tensor, Tensor]:
    """Mean (w,) and matrix (w, w) that take w to principal components of unit variance, the
    largest first; from 4096 seeded draws.
    """
    w = g.draw(range(FIRST, FIRST + FIT))["w"].double().cpu()
    lam, U = torch.linalg.eigh(torch.cov(w.T))
    U = U * U.gather(0, U.abs().argmax(0, keepdim=True)).sign()  # eigh leaves the sign open
    return w.mean(0), (U / lam.clamp_min(1e-6 * lam[-1]).sqrt()).flip(1)


def coordinates(g: Generator, parts: Parts) -> Tensor:
    """Latents as the certificate sees them, (B, L, d), float64, of variance 1 under the prior.

    w+ has L rows, w has one; z is read through the mapping, which divides its length out; without
    a mapping (BigGAN) it is z itself.
    """
    if "w" not in g.shapes:
        return parts["z"].double().cpu()[:, None]
    w = parts.get("w_plus", parts.get("w"))
    if w is None:
        with torch.no_grad():
            w = g.latents(parts["z"].to(g.device, g.dtype), None)["w"]
    mean, matrix = whitening(g)
    return ((w if w.ndim == 3 else w[:, None]).double().cpu() - mean) @ matrix


def read(u: Tensor) -> dict[str, np.ndarray]:
    """Statistics of `coordinates` (B, L, d), (B,) each.

    norm, kurtosis and ks of `normality.statistics`, over all of them; log mean square in octaves of
    the components; rows, the share of the mean square that the L rows do not have in common; sides,
    a number whose 16 bits say on which sides of 16 random hyperplanes through the mean it lies.
    """
    found, d = normality.statistics(u.flatten(1)), u.shape[2]
    del found["mean"]  # components have no sign
    for name, (low, high) in OCTAVES.items():
        part = u[..., round(low * d) : round(high * d)]
        found[name] = part.square().mean((1, 2)).log().numpy()
    found["rows"] = (1 - u.mean(1).square().mean(1) / u.square().mean((1, 2))).numpy()
    normals = torch.randn((SIDES, *u.shape[1:]), generator=code.generator(0, "data")).double()
    over = torch.einsum("bld,sld->bs", u, normals) > 0
    found["sides"] = (over.double() @ 2.0 ** torch.arange(SIDES).double()).numpy()
    return found


def sides(column: Iterable[float]) -> np.ndarray:
    """The column `sides` as bools (B, 16)."""
    numbers = np.asarray(column, dtype=np.int64)
    return (numbers[:, None] >> np.arange(SIDES) & 1).astype(bool)


def draws(m, n: int, seed: int = 0, rows: str = "one") -> pd.DataFrame:
    """`read` of n draws of the prior of a GAN, seeds seed, seed + 1, …

    rows: "one", a draw of w+ repeats one w (what the generator is trained on), or "independent",
    each row its own draw (style mixing in every layer), n × L seeds.
    """
    if rows == "independent":
        L = m.generator.shapes["w_plus"][0]
        w = m.generator.draw(range(seed, seed + n * L))["w"]
        return pd.DataFrame(read(coordinates(m.generator, {"w_plus": w.unflatten(0, (n, L))})))
    return pd.DataFrame(read(coordinates(m.generator, m.prior(n, seed).tensors)))


def _rounded(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Three decimals: the table is kept in the repository."""
    return pd.DataFrame(columns).round(3)


@dataclass(frozen=True)
class GANPart:
    """Images `first`, first + 1, … of a domain, inverted by one recipe; x None: n images of the GAN
    itself, unclipped values clipped as in a file.
    """

    name: str
    model: str
    recipe: str
    domain: str
    first: int
    n: int
    x: Tensor | None
    seed: int  # of the first image's draws
    steps: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.domain}, {self.first}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return results.key(
            label=self.label, model=self.model, recipe=self.recipe, steps=self.steps, n=self.n,
            seed=self.seed, images=self.x, weights=_weights(zoo.load(self.model).generator.net),
            code=gan_code(), reading=(OCTAVES, FIT, FIRST, KNOWN, SIDES),
        )

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """A row an image: row, domain, image; psnr (dB, unclipped); `read`; apart, for images of
        the GAN itself the distance of the latent found from the true one, in units of that of two
        draws.
        """
        m = zoo.load(self.model, device, recipe=self.recipe, steps=self.steps)
        seeds, x, known = range(self.seed, self.seed + self.n), self.x, None
        if x is None:
            known = m.prior(self.n, seed=KNOWN + self.first)
            x = m.decode(known).clamp(-1, 1)
        found = m.encode(x, seeds)
        u = coordinates(m.generator, found.tensors)
        apart = np.full(self.n, np.nan)
        if known is not None:
            gap = u - coordinates(m.generator, known.tensors)
            apart = (gap.square().mean((1, 2)) / 2).sqrt().numpy()
        columns = {"psnr": metrics.psnr(x, m.decode(found)).numpy()} | read(u) | {"apart": apart}
        images = range(self.first, self.first + self.n)
        who = {"row": self.name, "domain": self.domain, "image": list(images)}
        return pd.DataFrame(who).join(_rounded(columns))


@dataclass(frozen=True)
class StepperPart:
    """Images of a domain, inverted by one stepper of a diffusion model."""

    stepper: str
    model: str
    domain: str
    x: Tensor
    seed: int  # of the first image's start noise
    steps: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.stepper}, {self.domain}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return results.key(
            label=self.label, model=self.model, steps=self.steps, seed=self.seed, images=self.x,
            weights=_weights(zoo.load(self.model).denoiser.net), code=stepper_code(),
        )

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """A row an image: row (the stepper), domain, image; psnr (dB); `normality.statistics` of
        the latent, of two states the first.
        """
        m = zoo.load(self.model, device, stepper=self.stepper, steps=self.steps)
        found = m.encode(self.x, range(self.seed, self.seed + len(self.x)))
        columns = {"psnr": metrics.psnr(self.x, m.decode(found)).numpy()}
        columns |= normality.statistics(found["noise"])
        who = {"row": self.stepper, "domain": self.domain, "image": range(len(self.x))}
        return pd.DataFrame(who).join(pd.DataFrame(columns).round(4))


@lru_cache(maxsize=8)
def _weights(net: torch.nn.Module) -> str:
    """Hash of a network's weights as loaded, whichever file they came from."""
    return results.key(**dict(net.named_parameters()), **dict(net.named_buffers()))


def gan_code() -> str:
    """Hash of the code that decides a row of a GAN."""
    rooms = ("code", "gan", *(f"nets/{k}" for k in ("stylegan2", "stylegan_xl", "biggan",
                                                    "biggan_deep")))
    return results.code_version(rooms, (
        whitening, coordinates, read, _rounded, GANPart.run, normality.statistics, normality._ks,
        metrics.psnr))


def stepper_code() -> str:
    """Hash of the code that decides a row of a stepper."""
    rooms = ("code", "diffusion", "nets/unet", "normality")
    return results.code_version(rooms, (StepperPart.run, metrics.psnr))


def facts(todo: Iterable[GANPart | StepperPart]) -> dict:
    """What the note beside a table says: models and hashes of their weights, hashes of code, images
    by row and domain.
    """
    todo = list(todo)
    net = lambda m: m.generator.net if hasattr(m, "generator") else m.denoiser.net  # noqa: E731
    images: dict[str, dict[str, int]] = {}
    for p in todo:
        row = images.setdefault(p.label.rsplit(f", {p.domain}", 1)[0], {})
        row[p.domain] = row.get(p.domain, 0) + (p.n if p.x is None else len(p.x))
    return {
        "weights": {k: _weights(net(zoo.load(k))) for k in {p.model for p in todo}},
        "code": {GANPart: gan_code, StepperPart: stepper_code}[type(todo[0])](),
        "images": images,
    }


def gan_parts(
    rows: dict[str, tuple[str, str, int, int, int]] = GANS, sets: dict[str, Tensor] | None = None,
) -> list[GANPart]:
    """All work of the table of GANs: `rows`, by default the book's, on sets (domain -> images), by
    default bundled ones, and on images of the GAN itself.
    """
    out = []
    for name, (model, recipe, steps, n, few) in rows.items():
        bundled = {"vehicles": n, **dict.fromkeys(UNSEEN, few)}
        found = sets or {k: data.domain(k, count) for k, count in bundled.items()}
        for k, (domain, x) in enumerate({GENERATED: None, **found}.items()):
            count = n if x is None else min(n, len(x))
            for first in range(0, count, SIZE):
                size = min(SIZE, count - first)
                images = None if x is None else x[first : first + size]
                out.append(GANPart(name, model, recipe, domain, first, size, images,
                                   10_000 * k + first, steps))
    return out


def stepper_parts(
    model: str = "ddpm-vehicles32", steppers: dict[str, int] = STEPPERS,
    n: tuple[int, int] = (32, 12),
) -> list[StepperPart]:
    """All work of the table of steppers (name -> steps): n[0] vehicles and n[1] images of each
    unseen domain.
    """
    sets = {k: data.domain(k, n[k in UNSEEN]) for k in ("vehicles", *UNSEEN)}
    return [StepperPart(name, model, domain, x, 10_000 * k, steps)
            for name, steps in steppers.items() for k, (domain, x) in enumerate(sets.items())]


def own_parts(gan: str, folder: str | Path, steps: int = STEPS, n: int = 64) -> list[GANPart]:
    """The same work for one GAN of yours and your images: every sub-folder is a domain, the one
    named in-domain is the GAN's own. No work without a GAN or without a folder.

    Raises ModelError if the GAN was not imported, ValueError if a domain has fewer than 4 images.
    """
    if not (gan and str(folder)):
        return []
    g = zoo.load(gan).generator
    names = {k: k.lower().replace("+", "_plus") for k in ("z", "W", "W+")}
    rows = {k: (gan, v, steps, n, n) for k, v in names.items() if v in g.spaces}
    if "w" not in g.spaces:
        rows = {"BigGAN": (gan, "biggan", steps, n, n)}
    elif g.classes:
        del rows["z"]  # z alone does not say which class
    found = sorted(p for p in Path(folder).iterdir() if p.is_dir() and images.paths(p))
    sets = {p.name: images.read(p, g.size) for p in found}
    if few := [k for k, x in sets.items() if len(x) < 4] or ([] if sets else [str(folder)]):
        raise ValueError(f"{few[0]} has fewer than 4 images: half of them choose a region, half "
                         "judge it")
    return gan_parts(rows, sets)
