"""Every system against every image domain: inversion tables, sharded over processes, resumable.

Run: ``accelerate launch -m difftools.inversion_table FOLDER --rows DDPM --rows "StyleGAN2 W+"``,
with as many processes or machines as there are, or `difftools table`. The work is cut into parts of
a few images; a process takes every n-th part and writes it whole or not at all, under a name that
says what it rests on. So a killed run goes on where it stopped, a stale part is never served, and
any number of processes writes the table of one. Built in: inversion_tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import data, images, metrics, zoo
from .diffusion.inversion import round_trip
from .perceptual import lpips
from .provenance import ROOT, code_hash

PART = 16  # images of a part
CODE = (
    "code", "images", "metrics", "gaussians", "weights", "zoo", "perceptual", "diffusion", "gan",
    "nets", "inversion_table",
)  # rooms that decide a row
DOMAINS = (
    "vehicles", "animals", "quickdraw", "emoji", "avatars", "pixel-art", "fashion", "textures",
    "landscapes", "dsprites",
)
TIMES = ("seconds",)  # columns that differ from run to run


@dataclass(frozen=True)
class Row:
    """One line of the table: a model and its settings. note: what the line is there for."""

    model: str
    settings: dict = field(default_factory=dict)
    note: str = ""


def _gan(recipe: str, steps: int, model: str = "stylegan2-vehicles32", note: str = "") -> Row:
    return Row(model, {"recipe": recipe, "steps": steps}, note)


EMBEDDED: dict[str, Row] = {
    "zero network": Row("zero", note="control"),
    "untrained network": Row("untrained", note="control"),
    "exact Gaussian": Row("gaussian-vehicles32", note="control"),
    "DDPM": Row("ddpm-vehicles32"),
    "DDPM, v": Row("v-vehicles32"),
    "DAE": Row("dae-vehicles32"),
    "LDM": Row("ldm-vehicles32"),
    "LDM, autoencoder alone": Row("ldm-vehicles32", {"mode": "ae_only"}, "ceiling"),
    "D2C": Row("d2c-vehicles32"),
    "D2C, autoencoder alone": Row("d2c-vehicles32", {"mode": "ae_only"}, "ceiling"),
    "D2C, released pipeline": Row("d2c-vehicles32", {"mode": "official_r0"}),
    "StyleGAN2, z": _gan("z", 500),
    "StyleGAN2, W": _gan("w", 500),
    "StyleGAN2, W+": _gan("w_plus", 500),
    "StyleGAN2, W+ and noise": _gan("w_plus_noise", 500),
    "SPHInX, style": _gan("sphinx_style", 1000),
    "SPHInX, style and content": _gan("sphinx_content", 1000),
    "SPHInX": _gan("sphinx", 1000),
    "BigGAN": _gan("biggan", 500, "biggan-vehicles32"),
    "StyleGAN-XL": _gan("xl", 500, "styleganxl-vehicles32"),
}
# The same systems at their official size; a row needs its checkpoint (`difftools zoo`).
PAPER: dict[str, Row] = {
    "DDPM": Row("ddpm-ffhq256"),
    "DAE": Row("dae-ffhq256"),
    "LDM": Row("ldm-ffhq256"),
    "LDM, autoencoder alone": Row("ldm-ffhq256", {"mode": "ae_only"}, "ceiling"),
    "D2C": Row("d2c-ffhq256"),
    "D2C, autoencoder alone": Row("d2c-ffhq256", {"mode": "ae_only"}, "ceiling"),
    "D2C, released pipeline": Row("d2c-ffhq256", {"mode": "official_r0"}),
    "StyleGAN2, W+": _gan("w_plus", 2000, "stylegan2-ffhq256"),
    "SPHInX": _gan("sphinx", 5000, "stylegan2-config-f256"),
    "BigGAN": _gan("biggan", 2000, "biggan-deep-256"),
    "StyleGAN-XL": _gan("xl", 2000, "styleganxl-imagenet256"),
}
WORLDS = {"embedded": EMBEDDED, "paper": PAPER}


def measure(row: Row, x: Tensor, seeds: Iterable[int], device: str = "cpu") -> list[dict]:
    """One dict an image of x (B, 3, H, W) in [-1, 1]: psnr (dB, clipped as displayed, float64),
    psnr_raw (unclipped), ssim, lpips, seconds (of the batch, over B), evaluations (network passes,
    forward and backward, both ways), dof_per_value.
    """
    m = zoo.load(row.model, device, **row.settings)
    start = time.perf_counter()
    r = round_trip(m, x, seeds=list(seeds))
    seconds = (time.perf_counter() - start) / len(x)
    back = r["images"].to(x)
    columns = {
        "psnr": metrics.psnr(x, back, clip=True),
        "psnr_raw": metrics.psnr(x, back),
        "ssim": metrics.ssim(x, back),
        "lpips": lpips(x.clamp(-1, 1), back.clamp(-1, 1)),
    }
    shared = {
        "seconds": seconds,
        "evaluations": r["up"] + r["down"],
        "dof_per_value": m.dof_per_value,
    }
    return [{k: float(v[i]) for k, v in columns.items()} | shared for i in range(len(x))]


def slices(domains: Iterable[str], n: int | None = None) -> dict[str, Tensor]:
    """Bundled evaluation domains by name, n images of each (None for all)."""
    return {k: data.domain(k, n) for k in domains}


def folder(path: Path, size: int) -> dict[str, Tensor]:
    """Any folder of images, at `size` px: its sub-folders are the domains, else it is one."""
    parts = sorted(p for p in Path(path).iterdir() if p.is_dir() and images.paths(p))
    return {p.name: images.read(p, size) for p in parts or [Path(path)]}


@dataclass(frozen=True)
class Part:
    """A piece of work: images `first`, first + 1, … of a domain, by one row."""

    label: str
    row: Row
    domain: str
    first: int
    x: Tensor

    @property
    def key(self) -> str:
        """Hash of all that decides the part: code, weights, settings, images, seeds."""
        raw = self.x.double().numpy().tobytes()
        facts = {
            "label": self.label,
            "model": self.row.model,
            "settings": {k: repr(v) for k, v in self.row.settings.items()},
            "domain": self.domain,
            "first": self.first,
            "images": hashlib.sha256(raw).hexdigest(),
            "weights": weights_of(self.row.model),
            "code": code_version(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]

    def run(self, device: str = "cpu") -> pd.DataFrame:
        """The rows of the table that this part gives."""
        seeds = range(self.first, self.first + len(self.x))
        found = pd.DataFrame(measure(self.row, self.x, seeds, device))
        who = {"row": self.label, "domain": self.domain, "image": list(seeds)}
        return pd.DataFrame(who).join(found)


def weights_of(model: str) -> str:
    """sha256 of a model's weights file, empty for a control."""
    entry = zoo.MODELS.get(model)
    if entry is None or entry.module is None:
        return ""
    if entry.source:
        note = zoo.imported(model).with_suffix(".json")
        return json.loads(note.read_text())["sha256"] if note.is_file() else "missing"
    known = json.loads((zoo.WEIGHTS / "manifest.json").read_text())
    return known.get(f"{model}.safetensors", "missing")


@lru_cache(maxsize=1)
def code_version() -> str:
    """Hash of the code that decides a row: a change elsewhere makes no part stale."""
    package = ROOT / "difftools"
    files = [f for room in CODE for f in (package / f"{room}.py", *(package / room).glob("*.py"))]
    hashes = [code_hash(f.read_text(encoding="utf-8")) for f in sorted(files) if f.is_file()]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def parts(rows: dict[str, Row], domains: dict[str, Tensor], size: int = PART) -> list[Part]:
    """All work, in an order that does not depend on the number of processes."""
    return [
        Part(label, row, name, i, x[i : i + size])
        for label, row in rows.items()
        for name, x in domains.items()
        for i in range(0, len(x), size)
    ]


def work(
    todo: list[Part], out: Path, rank: int = 0, processes: int = 1, device: str = "cpu"
) -> int:
    """Run the parts of this process that are not done yet; returns how many it ran.

    Each goes to ``out/parts/KEY.csv`` in one step. Which process ran it shows nowhere.
    """
    store, ran = out / "parts", 0
    store.mkdir(parents=True, exist_ok=True)
    for part in tqdm(todo[rank::processes], unit="part", disable=None):
        target = store / f"{part.key}.csv"
        if target.is_file():
            continue
        scratch = target.with_suffix(f".{rank}.tmp")
        part.run(device).to_csv(scratch, index=False)
        scratch.rename(target)
        ran += 1
    return ran


def gather(todo: list[Part], out: Path) -> pd.DataFrame | None:
    """The table, once every part is there: written to ``out/table.csv`` with its provenance in
    ``out/table.json``; None while parts are missing.
    """
    files = [out / "parts" / f"{part.key}.csv" for part in todo]
    if not all(f.is_file() for f in files):
        return None
    table = pd.concat([pd.read_csv(f) for f in files], ignore_index=True)
    note = {
        "code": code_version(),
        "rows": {
            p.label: {"model": p.row.model, "settings": p.row.settings, "note": p.row.note,
                      "weights": weights_of(p.row.model)}
            for p in todo
        },
        "domains": {p.domain: sum(len(q.x) for q in todo if q.label == p.label
                                  and q.domain == p.domain) for p in todo},
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "parts": {part.key: f"{part.label}, {part.domain}, {part.first}" for part in todo},
    }
    for name, text in (
        ("table.csv", table.to_csv(index=False)),
        ("table.json", json.dumps(note, indent=1, sort_keys=True, default=repr) + "\n"),
    ):
        scratch = out / f".{name}.{os.getpid()}"  # two processes may see the last part at once
        scratch.write_text(text)
        scratch.rename(out / name)
    return table


def stale(todo: list[Part], note: dict) -> list[str]:
    """What a recorded table (its table.json) no longer rests on: parts whose key has changed."""
    return [f"{p.label}, {p.domain}, {p.first}" for p in todo if p.key not in note["parts"]]


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


def run(
    out: Path,
    world: str = "embedded",
    labels: Iterable[str] = (),
    source: Path | None = None,
    domains: Iterable[str] = DOMAINS,
    n: int | None = None,
) -> pd.DataFrame | None:
    """This process's share of a table; returns the table where this process completed it.

    labels: rows of `WORLDS[world]`, by default all. source: a folder of images; else `domains` of
    the bundled slices, n of each. Process number and device come from `accelerate launch`; alone,
    there is one. Raises ValueError on an unknown world, row or domain before any work.
    """
    from accelerate import PartialState

    if world not in WORLDS:
        raise ValueError(f"unknown world {world!r}; known: {', '.join(WORLDS)}")
    known = WORLDS[world]
    labels = list(labels) or list(known)
    if unknown := [k for k in labels if k not in known]:
        raise ValueError(f"unknown row {unknown[0]!r}; known: {'; '.join(known)}")
    rows = {k: known[k] for k in labels}
    sizes = {zoo.load(r.model).size for r in rows.values()}  # says what is missing, too
    if source is None and sizes != {32}:
        raise ValueError("the bundled slices are 32 px: give a folder of images for these rows")
    if len(sizes) > 1:
        raise ValueError(f"these rows have different sizes, {sorted(sizes)} px: run them apart")
    sets = slices(domains, n) if source is None else folder(Path(source), sizes.pop())
    state = PartialState()
    todo = parts(rows, sets)
    work(todo, out, state.process_index, state.num_processes, str(state.device))
    return gather(todo, out)


def main(argv: list[str] | None = None) -> None:
    """`python -m difftools.inversion_table`, also under `accelerate launch`: as `difftools
    table`.
    """
    import sys

    from .cli import main as cli

    cli(["table", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    main()
