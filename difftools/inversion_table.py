"""Every system against every image domain: inversion tables, sharded over processes, resumable.

Run: ``accelerate launch -m difftools.inversion_table FOLDER --rows DDPM --rows "StyleGAN2, W+"``,
with as many GPUs or machines as there are; on processors
``torchrun --nproc_per_node 2 -m difftools.inversion_table …``; or `difftools table`; see `results`.
Built in: inversion_tables.
"""

from __future__ import annotations

import base64
import difflib
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from . import data, gaussians, images, metrics, results, zoo
from .code import Code, noise
from .diffusion.inversion import round_trip
from .perceptual import lpips

PART = 16  # images of a part
ROOMS = ("code", "perceptual", "diffusion", "gan", "nets")  # whose code decides a row
DOMAINS = (
    "vehicles", "animals", "quickdraw", "emoji", "avatars", "pixel-art", "fashion", "textures",
    "landscapes", "dsprites",
)
TIMES = ("seconds",)  # columns that differ from run to run


@dataclass(frozen=True)
class Row:
    """One line of the table: a model and its settings. note: what the line is there for. picture:
    whether the table keeps what it returns of a domain's first image.
    """

    model: str
    settings: dict = field(default_factory=dict)
    note: str = ""
    picture: bool = False


def _gan(recipe: str, steps: int, model: str = "stylegan2-vehicles32", picture=False) -> Row:
    return Row(model, {"recipe": recipe, "steps": steps}, picture=picture)


EMBEDDED: dict[str, Row] = {
    "zero network": Row("zero", note="control"),
    "untrained network": Row("untrained", note="control"),
    "untrained, exact stepper": Row("untrained", {"stepper": "reversible_heun"}, "control"),
    "exact Gaussian": Row("gaussian-vehicles32", note="control"),
    "linear code, 96 numbers": Row("linear-vehicles32", {"numbers": 96}, "control"),
    "linear code, 128 numbers": Row("linear-vehicles32", {"numbers": 128}, "control", True),
    "linear code, 1024 numbers": Row("linear-vehicles32", {"numbers": 1024}, "control"),
    "DDPM": Row("ddpm-vehicles32"),
    "DDPM, v": Row("v-vehicles32"),
    "DAE": Row("dae-vehicles32", picture=True),
    "LDM": Row("ldm-vehicles32", picture=True),
    "LDM, autoencoder alone": Row("ldm-vehicles32", {"mode": "ae_only"}, "ceiling"),
    "D2C": Row("d2c-vehicles32", picture=True),
    "D2C, autoencoder alone": Row("d2c-vehicles32", {"mode": "ae_only"}, "ceiling"),
    "D2C, released pipeline": Row("d2c-vehicles32", {"mode": "official_r0"}),
    "StyleGAN2, z": _gan("z", 500),
    "StyleGAN2, W": _gan("w", 500),
    "StyleGAN2, W+": _gan("w_plus", 500, picture=True),
    "StyleGAN2, W+ and noise": _gan("w_plus_noise", 500),
    "SPHInX, style": _gan("sphinx_style", 1000),
    "SPHInX, style and content": _gan("sphinx_content", 1000),
    "SPHInX": _gan("sphinx", 1000, picture=True),
    "BigGAN": _gan("biggan", 500, "biggan-vehicles32", picture=True),
    "StyleGAN-XL": _gan("xl", 500, "styleganxl-vehicles32", picture=True),
}
# The same systems at their official size; a row needs its checkpoint (`difftools zoo`).
PAPER: dict[str, Row] = {
    "DDPM": Row("ddpm-ffhq256"),
    "DAE": Row("dae-ffhq256", picture=True),
    "LDM": Row("ldm-ffhq256", picture=True),
    "LDM, autoencoder alone": Row("ldm-ffhq256", {"mode": "ae_only"}, "ceiling"),
    "D2C": Row("d2c-ffhq256", picture=True),
    "D2C, autoencoder alone": Row("d2c-ffhq256", {"mode": "ae_only"}, "ceiling"),
    "D2C, released pipeline": Row("d2c-ffhq256", {"mode": "official_r0"}),
    "StyleGAN2, W+": _gan("w_plus", 2000, "stylegan2-ffhq256", picture=True),
    "SPHInX": _gan("sphinx", 5000, "stylegan2-config-f256", picture=True),
    "BigGAN": _gan("biggan", 2000, "biggan-deep-256", picture=True),
    "StyleGAN-XL": _gan("xl", 2000, "styleganxl-imagenet256", picture=True),
}
# The steps that their authors give, on a few images of a few sets: does the budget decide?
LONGER = {
    "StyleGAN2, W+": _gan("w_plus", 2000),
    "StyleGAN2, W+ and noise": _gan("w_plus_noise", 2000),
    "SPHInX": _gan("sphinx", 5000),
    "BigGAN": _gan("biggan", 2000, "biggan-vehicles32"),
    "StyleGAN-XL": _gan("xl", 2000, "styleganxl-vehicles32"),
}
FEWER = ("vehicles", "quickdraw", "emoji", "textures", "dsprites")


def race(model: str, gan: str, steps: int = 500) -> dict[str, Row]:
    """Rows that race to equal PSNR: recipes of a GAN, steppers of a diffusion model."""
    recipes = {"GAN, W": "w", "GAN, W+": "w_plus", "GAN, W+ and noise": "w_plus_noise",
               "GAN, SPHInX": "sphinx"}
    rows = {k: _gan(recipe, steps, gan) for k, recipe in recipes.items()}
    return rows | {f"diffusion, {s}": Row(model, {"stepper": s}) for s in ("ddim", "pec")}


RACE = race("ddpm-vehicles32", "stylegan2-vehicles32")
WORLDS = {"embedded": EMBEDDED, "paper": PAPER}


def to_text(image: Tensor) -> str:
    """An image (3, H, W) in [-1, 1], clipped and rounded to 8 bits, as text: base64 of a lossless
    WebP.
    """
    buffer = io.BytesIO()
    Image.fromarray(images.to_uint8(image[None].clamp(-1, 1))[0]).save(
        buffer, "WEBP", lossless=True, method=6
    )
    return base64.b64encode(buffer.getvalue()).decode()


def to_picture(text: str) -> Tensor:
    """The way back of `to_text`: (3, H, W) in [-1, 1], exact at 8 bits."""
    image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
    return images.to_float(np.asarray(image)[None])[0]


def measure(row: Row, x: Tensor, seeds: Sequence[int], device: str = "cpu") -> list[dict]:
    """One dict an image of x (B, 3, H, W) in [-1, 1]: psnr (dB, clipped as displayed, float64),
    psnr_raw (unclipped), ssim, lpips, latent_psnr (of latents around the diffusion, in the unit of
    their standard deviation; NaN without an autoencoder), seconds (of the batch, over B),
    evaluations (network passes, forward and backward, both ways), dof_per_value, and for the image
    of seed 0 its `picture`, where the row keeps one.
    """
    m = zoo.load(row.model, device, **row.settings)
    start = time.perf_counter()
    r = round_trip(m, x, seeds=seeds)
    seconds = (time.perf_counter() - start) / len(x)
    back = r["images"].to(x)
    columns = {
        "psnr": metrics.psnr(x, back, clip=True),
        "psnr_raw": metrics.psnr(x, back),
        "ssim": metrics.ssim(x, back),
        "lpips": lpips(x.clamp(-1, 1), back.clamp(-1, 1)),
        "latent_psnr": latent_psnr(m, x, r["code"]),
    }
    shared = {
        "seconds": seconds,
        "evaluations": r["up"] + r["down"],
        "dof_per_value": m.dof_per_value,
    }
    rows = [{k: float(v[i]) for k, v in columns.items()} | shared for i in range(len(x))]
    if row.picture and seeds[0] == 0:
        rows[0]["picture"] = to_text(back[0])
    return rows


def latent_psnr(m: zoo.LatentModel, x: Tensor, code: Code) -> Tensor:
    """What the diffusion alone returns of the latents of x, without the autoencoder, (B,): minus
    the mean squared error in dB, in the unit of the latents' standard deviation; else NaN.
    """
    if not hasattr(m, "autoencoder") or "noise" not in code.tensors:
        return torch.full((len(x),), torch.nan)
    error = m.diffusion.decode(code) - m.latents(x)
    return -10 * (error.double() ** 2).flatten(1).mean(1).log10()


EVERY = 25  # optimisation steps between two looks
STEPS = (1, 2, 3, 4, 6, 8, 12, 20)  # of round trips


def gmac(call: Callable[[], object]) -> float:
    """Multiplications of a call of networks, in units of 10^9."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2e9


def curve(row: Row, x: Tensor, seeds: Sequence[int], device: str = "cpu") -> list[dict]:
    """PSNR against arithmetic, one dict an image and look: image, gmac (10^9 multiplications an
    image so far), psnr.

    A GAN is looked at along one optimisation; a diffusion model walks round trips of more and more
    steps, each from the start. A backward pass with frozen weights counts as a forward pass.
    """
    m, points = zoo.load(row.model, device, **row.settings), []
    if "recipe" in row.settings:
        one, start = gmac(lambda: m.decode(m.prior(1))), m.calls
        for looks, state in enumerate(m.walk(x, seeds, EVERY)):
            spent = m.calls - start - looks  # a look is not on the bill
            points.append((spent * one, m.decode(m.code(state.parts))))
    else:
        one = gmac(lambda: m.denoiser.x0_eps(x[:1].to(m.dtype), m.nodes[0]))
        for steps in STEPS:
            r = round_trip(m.with_(steps=steps), x, seeds=seeds)
            points.append(((r["up"] + r["down"]) * one, r["images"]))
    return [
        {"image": seed, "gmac": cost, "psnr": float(q)}
        for cost, back in points
        for seed, q in zip(seeds, metrics.psnr(x, back.to(x), clip=True), strict=True)
    ]


def slices(domains: Iterable[str], n: int | None = None) -> dict[str, Tensor]:
    """Bundled evaluation domains by name, n images of each (None for all)."""
    return {k: data.domain(k, n) for k in domains}


def files(path: Path, n: int | None = None) -> dict[str, list[Path]]:
    """Image files of a folder by domain, the first n of each by name: its sub-folders are domains,
    and the pictures beside them one more, named after the folder. ValueError if there is none.
    """
    path, found = Path(path), {}
    for f in images.paths(path):
        below = f.relative_to(path).parts  # none if the path is a picture itself
        found.setdefault(below[0] if len(below) > 1 else path.resolve().name, []).append(f)
    return {k: v[:n] for k, v in found.items()}


def folder(path: Path, size: int, n: int | None = None) -> dict[str, Tensor]:
    """The images of `files`, at `size` px."""
    return {
        k: torch.cat([images.read(f, size) for f in found]) for k, found in files(path, n).items()
    }


@dataclass(frozen=True)
class Part:
    """A piece of work: images `first`, first + 1, … of a domain, by one row."""

    name: str
    row: Row
    domain: str
    first: int
    x: Tensor

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name}, {self.domain}, {self.first}"

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        return results.key(
            label=self.label,
            model=self.row.model,
            settings=sorted(self.row.settings.items()),
            picture=self.row.picture,
            images=self.x,
            weights=weights_of(self.row.model),
            config=zoo.MODELS[self.row.model].config if self.row.model in zoo.MODELS else None,
            code=code(),
        )

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """The rows of the table that this part gives."""
        seeds = range(self.first, self.first + len(self.x))
        found = pd.DataFrame(measure(self.row, self.x, seeds, device))
        who = {"row": self.name, "domain": self.domain, "image": list(seeds)}
        return pd.DataFrame(who).join(found)


class Race(Part):
    """The same images by one row, looked at on the way: `curve`."""

    @property
    def key(self) -> str:
        """That of the part, and of the code of the race."""
        return results.key(part=super().key, code=results.code_version((), (curve, gmac)))

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """Columns row, domain, image, gmac, psnr."""
        seeds = range(self.first, self.first + len(self.x))
        found = pd.DataFrame(curve(self.row, self.x, seeds, device))
        return pd.DataFrame({"row": self.name, "domain": self.domain}, found.index).join(found)


def code() -> str:
    """Hash of the code that decides a row."""
    return results.code_version(
        ROOMS, (measure, latent_psnr, metrics.psnr, metrics.ssim, gaussians.Gaussian)
    )


def weights_of(model: str) -> str:
    """sha256 of a model's weights file and of the Gaussian behind siblings and controls."""
    entry = zoo.MODELS.get(model)
    if entry is None:  # a pipeline by hub name or folder: what it answers to one image of noise
        m = zoo.load(model)
        return results.key(eps=m.denoiser.x0_eps(noise([0], m.denoiser.shape), m.nodes[0])[1])
    if entry.source:
        note = zoo.imported(model).with_suffix(".json")
        return json.loads(note.read_text())["sha256"] if note.is_file() else "missing"
    known = json.loads((zoo.WEIGHTS / "manifest.json").read_text())
    files = {f"{model}.safetensors", "gaussian-vehicles32.safetensors"}
    return " ".join(known[f] for f in sorted(files & set(known)))


def parts(
    rows: dict[str, Row], domains: dict[str, Tensor], size: int = PART, kind: type[Part] = Part
) -> list[Part]:
    """All work, in an order that does not depend on the number of processes."""
    return [
        kind(label, row, name, i, x[i : i + size])
        for label, row in rows.items()
        for name, x in domains.items()
        for i in range(0, len(x), size)
    ]


def facts(rows: dict[str, Row], domains: dict[str, Tensor]) -> dict:
    """What the note beside a table says about its rows and domains."""
    return {
        "code": code(),
        "rows": {
            k: {"model": r.model, "settings": r.settings, "note": r.note,
                "weights": weights_of(r.model)}
            for k, r in rows.items()
        },
        "domains": {k: len(x) for k, x in domains.items()},
    }


def summary(table: pd.DataFrame, value: str = "psnr") -> pd.DataFrame:
    """Median of a column by row and domain, with its bootstrap interval over images: columns row,
    domain, median, low, high, images, dof_per_value, evaluations, seconds.
    """
    out = []
    for (row, domain), group in table.groupby(["row", "domain"], sort=False):
        low, high = metrics.bootstrap(group[value])
        facts = group[["dof_per_value", "evaluations", "seconds"]].median().to_dict()
        out.append(
            {"row": row, "domain": domain, "median": group[value].median(), "low": low,
             "high": high, "images": len(group)} | facts
        )
    return pd.DataFrame(out)


def ready(rows: dict[str, Row], steps: int = 0) -> dict[str, Row]:
    """Rows whose weights are on this machine. steps: in place of every GAN row's own, for a quick
    look; 0 leaves them.
    """
    here = {k: r for k, r in rows.items() if r.model not in zoo.MODELS or zoo.present(r.model)}
    less = lambda r: replace(r, settings=r.settings | {"steps": steps})  # noqa: E731
    return {k: less(r) if steps and "recipe" in r.settings else r for k, r in here.items()}


def plan(
    rows: dict[str, Row],
    source: Path | None = None,
    domains: Iterable[str] = DOMAINS,
    n: int | None = None,
    kind: type[Part] = Part,
) -> tuple[list[Part], dict]:
    """(all parts of a table, the facts for its note).

    source: a folder of images, read at the size of each row's model; else `domains` of the bundled
    slices. n images of each, None for all. Raises ModelError on a row without weights, ValueError
    on a row that is not of 32 px and has no folder.
    """
    size = {k: zoo.load(r.model).size for k, r in rows.items()}  # says what is missing, too
    if source is None and set(size.values()) - {32}:
        raise ValueError("the bundled slices are 32 px: give a folder of images for these rows")
    sets = {
        s: slices(domains, n) if source is None else folder(Path(source), s, n)
        for s in sorted(set(size.values()))
    }
    todo = [p for k, r in rows.items() for p in parts({k: r}, sets[size[k]], kind=kind)]
    note = facts(rows, next(iter(sets.values())))
    if source is not None:  # which picture is which image of the table
        named = files(source, n).items()
        note["files"] = {k: [f.name for f in found] for k, found in named}
    return todo, note


def run(
    out: Path,
    world: str = "embedded",
    labels: Iterable[str] = (),
    source: Path | None = None,
    domains: Iterable[str] = DOMAINS,
    n: int | None = None,
) -> pd.DataFrame | None:
    """This process's share of a table; returns the table where this process completed it.

    labels: rows of `WORLDS[world]`, by default all. For the rest see `plan`. Process number and
    device come from `accelerate launch` or `torchrun`; alone, there is one. Says on stderr how much
    is done, and when a table of other parts is replaced. Raises ValueError on an unknown world, row
    or domain before any work.
    """
    from accelerate import PartialState

    if world not in WORLDS:
        raise ValueError(f"unknown world {world!r}; known: {', '.join(WORLDS)}")
    known = WORLDS[world]
    labels = list(labels) or list(known)
    if unknown := [k for k in labels if k not in known]:
        close = difflib.get_close_matches(unknown[0].casefold(), [k.casefold() for k in known])
        meant = [k for k in known if k.casefold() in close]
        raise ValueError(
            f"unknown row {unknown[0]!r}; "
            + (f"did you mean {' or '.join(map(repr, meant))}? " if meant else "")
            + f"known: {'; '.join(known)}"
        )
    todo, note = plan({k: known[k] for k in labels}, source, domains, n)
    # without cpu=True each of torchrun's processes would think that it is alone, and do it all
    state = PartialState(cpu=not torch.cuda.is_available())
    if state.is_main_process:
        _announce(todo, out, state.num_processes)
    results.work(todo, out, state.process_index, state.num_processes, str(state.device))
    return results.gather(todo, out, note)


def _announce(todo: list[Part], out: Path, processes: int) -> None:
    keys, note = {p.key for p in todo}, Path(out) / "table.json"
    kept = sum((Path(out) / "parts" / f"{k}.csv").is_file() for k in keys)
    share = f"; {processes} processes share the rest" if processes > 1 else ""
    print(f"{len(todo)} parts, of which {kept} are done already{share}", file=sys.stderr)
    if note.is_file() and keys != set(json.loads(note.read_text())["parts"]):
        print(f"{out}/table.csv holds other rows or images: it will be replaced", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    """`python -m difftools.inversion_table`, also under `accelerate launch` or `torchrun`: as
    `difftools table`.
    """
    from .cli import main as cli

    cli(["table", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    main()
