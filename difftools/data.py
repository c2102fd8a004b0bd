"""Image sets by name: found here or fetched, always checked by the hash of their content.

Looked for in this order: the cache (``$DIFFTOOLS_DATA``, default the platform's cache folder), the
slices that ship with the book, local archives (folders in ``$DIFFTOOLS_ARCHIVES``), the official
address, a mirror of yours (``$DIFFTOOLS_SOURCES``, a TOML file with ``[set]`` and ``url = "…"``).
``DIFFTOOLS_OFFLINE=1`` forbids the last two. Wherever bytes come from, the decoded arrays must have
the hashes of ``data/datasets.toml``: a mirror is as safe as the original, damage is refused.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import io
import logging
import os
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pooch
import torch
from torch import Tensor

from . import generators, images, importers

ROOT = Path(__file__).resolve().parents[1] / "data"                 # the repository's data folder
USED: dict[str, str] = {}            # bundled file opened in this process -> sha256 (provenance)
VEHICLES = ("airplane", "automobile", "ship", "truck")
ANIMALS = ("bird", "cat", "deer", "dog", "frog")                    # horses are a few-shot target
SKETCHES = ("airplane", "bus", "car", "cruise ship", "pickup truck", "sailboat", "speedboat",
            "truck")

log = logging.getLogger(__name__)

# name -> kind of shift and title; set and classes where they are not the domain's name and all
DOMAINS: dict[str, dict] = {
    "vehicles": {"kind": "extended", "title": "CIFAR-10 vehicles, test images",
                 "classes": VEHICLES},
    "vehicles-train": {"kind": "in-domain", "title": "CIFAR-10 vehicles, training images",
                       "set": "cifar10-train", "classes": VEHICLES},
    "animals": {"kind": "near", "title": "CIFAR-10 animals, test images", "classes": ANIMALS},
    "horses": {"kind": "near", "title": "CIFAR-10 horses, test images", "classes": ("horse",)},
    "landscapes": {"kind": "far", "title": "Crops of five landscape photographs"},
    "textures": {"kind": "far", "title": "Brick, grass and gravel, grey"},
    "fashion": {"kind": "far", "title": "Fashion-MNIST, white on black"},
    "quickdraw": {"kind": "far", "title": "Quick, Draw! sketches"},
    "sketches": {"kind": "far", "title": "Quick, Draw! vehicles", "set": "quickdraw",
                 "classes": SKETCHES},
    "emoji": {"kind": "far", "title": "3-D emoji"},
    "icons": {"kind": "far", "title": "3-D emoji of vehicles", "set": "emoji",
              "classes": ("vehicles",)},
    "avatars": {"kind": "far", "title": "Open Peeps avatars"},
    "avatars-sunglasses": {"kind": "far", "title": "The first 256 avatars, with sunglasses"},
    "lorelei": {"kind": "far", "title": "Lorelei line-art avatars"},
    "notionists": {"kind": "far", "title": "Notionists line-art avatars"},
    "pixel-art": {"kind": "far", "title": "Pixel-art avatars"},
    "dsprites": {"kind": "far", "title": "dSprites shapes, procedural"},
    "turbulence": {"kind": "far", "title": "Turbulence-like fields, procedural"},
    "uniform-noise": {"kind": "noise", "title": "Uniform noise"},
    "constant": {"kind": "noise", "title": "Constant colours"},
}
# splits beside "slice": domain -> split -> the set that it is taken from
SPLITS = {
    **dict.fromkeys(("vehicles", "animals", "horses"), {"test": "cifar10-test"}),
    "fashion": {"test": "fashion-mnist-test"},
    "avatars": {"paired": "avatars"}, "avatars-sunglasses": {"paired": "avatars-sunglasses"},
}


class DataError(ValueError):
    """A data set that is unknown, missing, or not the registered one."""


@functools.cache
def registry() -> dict[str, dict]:
    """``data/datasets.toml``: set -> title, licence, homepage, citation, arrays (shape, sha256)."""
    file = ROOT / "datasets.toml"
    if not file.is_file():
        raise DataError(f"{file} is missing: difftools reads its data from a checkout of the book; "
                        "clone the repository and install it with `pip install -e .`")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _lookup(what: str, table: dict[str, dict], name: str) -> dict:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(f"given the {what} {name!r}, which is unknown: {hint}"
                    f"known are {', '.join(table)}")


def _entry(name: str) -> dict:
    return _lookup("data set", registry(), name)


def cache_folder() -> Path:
    """Where fetched sets are kept: ``$DIFFTOOLS_DATA`` or the platform's cache folder."""
    return Path(os.environ.get("DIFFTOOLS_DATA") or pooch.os_cache("difftools")).expanduser()


def sha256(array: np.ndarray) -> str:
    """The hash of an array's decoded bytes in C order (shape and type are compared beside it)."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def _matches(array: np.ndarray, spec: dict) -> bool:
    return (array.dtype == spec.get("dtype", "uint8") and list(array.shape) == spec["shape"]
            and sha256(array) == spec["sha256"])


def _read_npz(file: Path, name: str) -> dict[str, np.ndarray]:
    """Every array of a set from its npz, verified; DataError names the file."""
    bundled = file.is_relative_to(ROOT)
    todo = "restore it with git" if bundled else "delete it and fetch the set again"
    raw = file.read_bytes()
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as f:
            found = {k: f[k] for k in f.files}
    except Exception as err:             # a flipped bit can surface as any error of zip or numpy
        raise DataError(f"{file} is damaged ({err}): {todo}") from err
    specs = _entry(name)["arrays"]
    bad = sorted(k for k in specs.keys() | found.keys()
                 if k not in specs or k not in found or not _matches(found[k], specs[k]))
    if bad:
        raise DataError(f"{file} is not the registered set {name!r} (it differs in "
                        f"{', '.join(bad)}): {todo}")
    if bundled:
        USED[file.relative_to(ROOT.parent).as_posix()] = hashlib.sha256(raw).hexdigest()
    return found


def _write_cache(name: str, parts: dict[str, np.ndarray]) -> None:
    """Write a set to the cache in one step: a reader sees the whole file or none."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
        part = Path(scratch) / f"{name}.npz"
        np.savez(part, **parts)
        part.replace(folder / part.name)


def _place(name: str) -> Path | None:
    """The npz of a set on this machine, if any: cached, else bundled."""
    _entry(name)
    both = cache_folder() / f"{name}.npz", ROOT / "slices" / f"{name}.npz"
    return next((p for p in both if p.is_file()), None)


def _identify(pool: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Registered sets that are complete in a pool {sha256: array}; names play no part."""
    return {
        name: {k: pool[s["sha256"]] for k, s in entry["arrays"].items()}
        for name, entry in registry().items()
        if all(s["sha256"] in pool and _matches(pool[s["sha256"]], s)
               for s in entry["arrays"].values())
    }


def import_archive(path: str | Path) -> list[str]:
    """Recognise an archive or a folder of its pieces, cache the sets in it, return their names.

    Formats: CIFAR python batches (in a tar or loose), PNG sheets with JSON labels, idx(.gz), npz.
    DataError, and nothing written, unless every array of a set is there with the registered hash.
    """
    try:
        pool = importers.read(path)
    except (importers.ArchiveError, FileNotFoundError) as err:
        raise DataError(str(err)) from err
    found = _identify({sha256(a): a for a in pool.values()})
    if not found:
        seen = ", ".join(f"{k} {a.shape} {sha256(a)[:12]}…" for k, a in pool.items())
        raise DataError(f"{path} holds {seen}: no registered set is complete in it. Give the "
                        "unchanged official archive, or a folder with all of its files")
    for name, parts in found.items():
        _write_cache(name, parts)
    return list(found)


def _archives() -> Iterator[Path]:
    for folder in filter(None, os.environ.get("DIFFTOOLS_ARCHIVES", "").split(os.pathsep)):
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise DataError(f"DIFFTOOLS_ARCHIVES names {folder}, which is not a folder")
        yield from sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        yield folder                                                # loose pieces of one archive


def _from_archives(name: str) -> bool:
    """Look through the local archives until the set is complete, then cache all that is."""
    known = {s["sha256"] for e in registry().values() for s in e["arrays"].values()}
    pool: dict[str, np.ndarray] = {}
    for path in _archives():
        try:
            pieces = importers.read(path).values()
        except importers.ArchiveError:
            continue                                                # something else lies there
        pool |= {h: a for h, a in ((sha256(a), a) for a in pieces) if h in known}
        if name in (found := _identify(pool)):
            for each, parts in found.items():
                _write_cache(each, parts)
            return True
    return False


def _sources(name: str) -> list[dict]:
    """Where a set can be fetched, {url, sha256}: its official archive, then the user's mirror."""
    sources = [_entry(name).get("archive")]
    if file := os.environ.get("DIFFTOOLS_SOURCES"):
        try:
            mirrors = tomllib.loads(Path(file).expanduser().read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as err:
            raise DataError(f"DIFFTOOLS_SOURCES names {file}, which is unreadable: {err}") from err
        sources.append(mirrors.get(name))
    return [s for s in sources if s]


def fetch(name: str, progress: bool = False) -> Path:
    """Make a set present on this machine and return its npz; DataError says what to get by hand.

    An archive serves every set in it: fetching cifar10-test also caches cifar10-train.
    """
    if (here := _place(name)) or _from_archives(name):
        return here or _place(name)
    official = _entry(name).get("archive")
    what = (f"download {official['url']} (sha256 {official['sha256']}), then run `difftools data "
            "import FILE` or put the file into a folder named in DIFFTOOLS_ARCHIVES"
            if official else f"restore data/slices/{name}.npz with git")
    if os.environ.get("DIFFTOOLS_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        raise DataError(f"{name} is not here and DIFFTOOLS_OFFLINE forbids fetching it: {what}")
    why = "no address known"
    pooch.get_logger().setLevel(logging.WARNING)                    # or it chatters in notebooks
    for source in _sources(name):
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = pooch.retrieve(source["url"], source.get("sha256"), "archive", folder,
                                      progressbar=progress)
                if name not in (found := import_archive(file)):
                    raise DataError(f"the archive holds {', '.join(found)}")
            return _place(name)
        except (OSError, ValueError, KeyError) as err:              # no network, wrong content
            why = f"{type(err).__name__}: {str(err)[:300]}"
    raise DataError(f"{name} could not be fetched ({why}): {what}")


@functools.cache                                                    # once per process and set
def _show_licence(name: str) -> None:
    entry = _entry(name)
    log.info("%s: %s; licence: %s; %s", name, entry["title"], entry["licence"], entry["homepage"])


def arrays(name: str) -> dict[str, np.ndarray]:
    """Every array of a set, verified: ``images``, often ``labels``, and what its entry lists."""
    file = fetch(name)
    _show_licence(name)
    return _read_npz(file, name)


def load(name: str) -> np.ndarray:
    """The images of a set as stored: uint8 (N, H, W, 3) or grey (N, H, W)."""
    return arrays(name)["images"]


def labels(name: str) -> np.ndarray:
    """The labels of a set, uint8 (N,), indices into ``classes(name)``; DataError if it has none."""
    if "labels" not in _entry(name)["arrays"]:
        raise DataError(f"the set {name!r} has no labels")
    return arrays(name)["labels"]


def classes(name: str) -> list[str]:
    """The class names of a set, in the order of its labels."""
    return _entry(name).get("classes", [])


def _rows(name: str, wanted: Sequence[str]) -> np.ndarray:
    """Indices of the images of some classes."""
    known = classes(name)
    if unknown := [c for c in wanted if c not in known]:
        raise DataError(f"{name} has no class {', '.join(unknown)}: it has {', '.join(known)}")
    return np.flatnonzero(np.isin(labels(name), [known.index(c) for c in wanted]))


def vehicles_train() -> np.ndarray:
    """The training set of the embedded world, uint8 (20000, 32, 32, 3); fetched, never shipped."""
    return load("cifar10-train")[_rows("cifar10-train", VEHICLES)]


def vehicles_test() -> np.ndarray:
    """All CIFAR-10 test vehicles, uint8 (4000, 32, 32, 3); fetched (the slice has 512 of them)."""
    return load("cifar10-test")[_rows("cifar10-test", VEHICLES)]


def pick(total: int, n: int | None, seed: int) -> np.ndarray:
    """The first n of a seeded permutation of range(total): n = 8 is a prefix of n = 16."""
    if n is not None and not 0 < n <= total:
        raise DataError(f"given n = {n}, expected 1 to {total}: this domain has {total} images")
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed)).numpy()[:n]


def domain(name: str, n: int | None = None, seed: int = 0, split: str = "slice",
           invert: bool | None = None, only: Sequence[str] | None = None) -> Tensor:
    """Images of a named evaluation domain: float32 (n, 3, 32, 32) in [-1, 1]; n = None for all.

    split: ``"slice"`` ships with the book; ``"test"`` is the whole test split of a CIFAR-10 or
    Fashion-MNIST domain (fetched); ``"paired"`` restricts avatars to the partners of
    avatars-sunglasses, so that equal seeds give equal rows. invert flips the polarity (default:
    QuickDraw black on white, others as stored). only: class names instead of the domain's own.
    Procedural sets draw image i from (seed, i) and have no end; n = None gives 512.
    """
    row = _lookup("domain", DOMAINS, name)
    splits = {"slice": row.get("set", name)} | SPLITS.get(name, {})
    if split not in splits:
        raise DataError(f"given split {split!r}, expected {' or '.join(splits)} for {name}")
    source, wanted = splits[split], only or row.get("classes")
    if source in generators.GENERATORS:
        pixels = generators.generate(source, 512 if n is None else n, seed)
        return images.to_float(pixels, invert=bool(invert))
    pixels = load(source)
    rows = _rows(source, wanted) if wanted else np.arange(256 if split == "paired" else len(pixels))
    flip = _entry(source).get("invert", False) if invert is None else invert
    return images.to_float(pixels[rows[pick(len(rows), n, seed)]], invert=flip)


def available() -> list[dict]:
    """One row per set: name, title, images, shape, where (bundled, cached or to fetch), licence."""
    rows = []
    for name, entry in registry().items():
        count, *shape = entry["arrays"]["images"]["shape"]
        here = _place(name)
        kind = "bundled" if here and here.is_relative_to(ROOT) else "cached"
        rows.append({"name": name, "images": count, "shape": "×".join(map(str, shape)),
                     "where": kind if here else "to fetch", "title": entry["title"],
                     **{k: entry[k] for k in ("licence", "redistributable", "homepage")}})
    return rows


def verify(name: str | None = None) -> list[dict]:
    """Re-hash every set here, or one: rows of name, file, status (ok, missing, damaged), detail."""
    rows = []
    for each in [name] if name else registry():
        file, status, detail = _place(each), "missing", "not on this machine"
        if file:
            try:
                status, detail = "ok", f"arrays: {', '.join(_read_npz(file, each))}"
            except DataError as err:
                status, detail = "damaged", str(err)
        rows.append({"name": each, "file": str(file or ""), "status": status, "detail": detail})
    return rows
