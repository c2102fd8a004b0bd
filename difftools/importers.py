"""Read image archives by what is inside them: CIFAR pickles, PNG sheets, idx, npz.

Each reader takes {base name: bytes} and returns {part: array}: images uint8 (N, H, W, 3) or
(N, H, W), labels uint8 (N,). Nothing is unpacked to disk. `data` decides, with a hash, whether the
content is the right one.
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

MOST = 256 * 2**20                   # bytes of one piece; the largest real one has 47 MB


class ArchiveError(ValueError):
    """An archive that no importer understands, or a damaged or hostile one."""


class _ArraysOnly(pickle.Unpickler):
    """Unpickle dicts, lists, bytes and numpy arrays; refuse everything else by name."""

    allowed = {
        ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module, name):
        module = module.replace("numpy.core", "numpy._core")        # its name since numpy 2
        if (module, name) in self.allowed:
            return getattr(importlib.import_module(module), name)
        raise ArchiveError(f"the pickle names {module}.{name}: refused, only arrays may be inside")


def _files(path: Path) -> dict[str, bytes]:
    """Base name -> bytes of the files directly in a folder, or anywhere in a tar archive."""
    if path.is_dir():
        small = (p for p in sorted(path.iterdir()) if p.is_file() and p.stat().st_size <= MOST)
        return {p.name: p.read_bytes() for p in small}
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        tar = tarfile.open(path)
    except tarfile.ReadError:                                       # no tar: one loose piece
        return {path.name: path.read_bytes()} if path.stat().st_size <= MOST else {}
    with tar:
        return {Path(m.name).name: tar.extractfile(m).read()
                for m in tar if m.isfile() and m.size <= MOST}


def cifar_pickles(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The official python archive: data_batch_1..5 and test_batch, rows of R, G, B planes."""
    out = {}
    parts = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    for part, names in parts.items():
        if not all(n in files for n in names):
            continue
        batches = [_ArraysOnly(io.BytesIO(files[n]), encoding="bytes").load() for n in names]
        x = np.concatenate([b[b"data"] for b in batches]).reshape(-1, 3, 32, 32)
        out[f"{part}-images"] = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        out[f"{part}-labels"] = np.concatenate([b[b"labels"] for b in batches]).astype(np.uint8)
    return out


def png_sheets(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """PNG sheets with one 32×32 RGB image in each row of 1024 pixels, labels in JSON lists."""
    out = {}
    for part, stem in (("train", "data_batch"), ("test", "test_batch")):
        names = sorted(n for n in files if n.startswith(stem) and n.endswith(".png"))
        labels = [n for n in files if n.startswith(part) and n.endswith(".json")]
        if not names or len(labels) != 1:
            continue
        sheets = [np.asarray(Image.open(io.BytesIO(files[n])).convert("RGB")) for n in names]
        if any(s.shape[1] != 1024 for s in sheets):
            raise ArchiveError(f"given PNG sheets {[s.shape[1] for s in sheets]} pixels wide, "
                               "expected 1024: one 32×32 image in each row")
        out[f"{part}-images"] = np.concatenate(sheets).reshape(-1, 32, 32, 3)
        out[f"{part}-labels"] = np.asarray(json.loads(files[labels[0]]), dtype=np.uint8)
    return out


def idx(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The MNIST family's idx files, plain or gzipped; the part is the name without endings."""
    out = {}
    for name, raw in files.items():
        with gzip.open(io.BytesIO(raw)) if raw[:2] == b"\x1f\x8b" else io.BytesIO(raw) as f:
            if (magic := f.read(4))[:3] != b"\0\0\x08" or len(magic) < 4:
                continue
            shape = struct.unpack(f">{magic[3]}I", f.read(4 * magic[3]))
            out[name.split(".")[0]] = np.frombuffer(f.read(MOST), np.uint8).reshape(shape)
    return out


def npz(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Numpy archives of plain arrays (no pickles)."""
    out = {}
    for name in (n for n in files if n.endswith(".npz")):
        with np.load(io.BytesIO(files[name]), allow_pickle=False) as f:
            out |= {k: f[k] for k in f.files}
    return out


def read(path: str | Path) -> dict[str, np.ndarray]:
    """All that an importer recognises in a file or folder; ArchiveError on none or on damage."""
    path, found = Path(path).expanduser(), {}
    try:
        files = _files(path)
        for importer in (cifar_pickles, png_sheets, idx, npz):
            found |= importer(files)
    except (ArchiveError, FileNotFoundError):
        raise
    except Exception as err:             # a damaged stream can raise anything, even zlib.error
        raise ArchiveError(f"{path} is damaged: {err!r}") from err
    if not found:
        raise ArchiveError(f"nothing recognised in {path}: expected CIFAR python batches, PNG "
                           "sheets with JSON labels, idx files or an npz of arrays")
    return found
