"""Archives are recognised by content; damage and code are refused before anything happens."""

import gzip
import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from difftools import importers

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
TEST = RNG.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
TRAIN_LABELS, TEST_LABELS = np.arange(50) % 10, np.arange(10)


def add(tar, name, raw):
    info = tarfile.TarInfo(name)
    info.size = len(raw)
    tar.addfile(info, io.BytesIO(raw))


def batch(images, labels, data=None):
    """A batch as the official archive pickles it: bytes keys, planes R, G, B."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    return pickle.dumps({b"data": rows if data is None else data, b"labels": labels.tolist()}, 2)


def cifar_files():
    files = {f"data_batch_{i + 1}": batch(TRAIN[10 * i : 10 * i + 10], TRAIN_LABELS[:10])
             for i in range(5)}
    return files | {"test_batch": batch(TEST, TEST_LABELS)}


def archive(path, files, folder="some/where/"):
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in files.items():
            add(tar, folder + name, raw)
    return path


def sheet(images):
    out = io.BytesIO()
    Image.fromarray(images.reshape(len(images), 1024, 3)).save(out, "PNG")
    return out.getvalue()


def idx_bytes(array):
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def check(found):
    assert np.array_equal(found["train-images"], TRAIN)
    assert np.array_equal(found["test-images"], TEST)
    assert np.array_equal(found["train-labels"], TRAIN_LABELS)
    assert np.array_equal(found["test-labels"], TEST_LABELS)
    assert all(a.dtype == np.uint8 for a in found.values())


@pytest.mark.filterwarnings("error")
def test_cifar_pickles(tmp_path):
    check(importers.read(archive(tmp_path / "no-name-at-all", cifar_files())))


def test_loose_pieces_in_a_folder(tmp_path):
    for name, raw in cifar_files().items():
        (tmp_path / name).write_bytes(raw)
    check(importers.read(tmp_path))


def test_png_sheets(tmp_path):
    files = {f"data_batch_{i + 1}.png": sheet(TRAIN[10 * i : 10 * i + 10]) for i in range(5)}
    files |= {"test_batch.png": sheet(TEST),
              "test_labels.json": json.dumps(TEST_LABELS.tolist()).encode(),
              "train_labels.json": json.dumps(TRAIN_LABELS.tolist()).encode()}
    check(importers.read(archive(tmp_path / "x.tgz", files)))


def test_png_sheets_of_another_layout(tmp_path):
    wide = io.BytesIO()
    Image.new("RGB", (320, 32)).save(wide, "PNG")
    files = {"test_batch.png": wide.getvalue(), "test_labels.json": b"[0]"}
    with pytest.raises(importers.ArchiveError, match="given PNG sheets .*320.* expected 1024"):
        importers.read(archive(tmp_path / "x.tgz", files))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx(tmp_path, pack):
    grey, labels = TRAIN[..., 0], TRAIN_LABELS.astype(np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(pack(idx_bytes(grey)))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(pack(idx_bytes(labels)))
    found = importers.read(tmp_path)
    assert np.array_equal(found["t10k-images-idx3-ubyte"], grey)
    assert np.array_equal(found["t10k-labels-idx1-ubyte"], TRAIN_LABELS)


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", images=TEST, labels=TEST_LABELS)
    assert np.array_equal(importers.read(tmp_path / "a.npz")["images"], TEST)


def test_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([{}, []], dtype=object))
    with pytest.raises(importers.ArchiveError, match="a.npz is damaged"):
        importers.read(tmp_path / "a.npz")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("where", ["data", "whole"])
def test_malicious_pickle_is_refused_and_inert(tmp_path, where):
    bomb = Bomb(tmp_path / "gotcha")
    raw = pickle.dumps(bomb, 2) if where == "whole" else batch(TEST, TEST_LABELS, bomb)
    with pytest.raises(importers.ArchiveError, match="open: refused, only arrays"):
        importers.read(archive(tmp_path / "x.tgz", {"test_batch": raw}))
    assert not (tmp_path / "gotcha").exists()


def test_pickle_that_is_no_batch(tmp_path):
    files = {"test_batch": pickle.dumps([1, 2, 3], 2)}
    with pytest.raises(importers.ArchiveError, match="damaged"):
        importers.read(archive(tmp_path / "x.tgz", files))


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_archive(tmp_path, damage):
    path = archive(tmp_path / "x.tgz", cifar_files())
    raw = bytearray(path.read_bytes())
    if damage == "truncated":
        raw = raw[: len(raw) // 2]
    else:
        raw[len(raw) // 2] ^= 16
    path.write_bytes(raw)
    try:
        found = importers.read(path)
    except importers.ArchiveError as err:
        assert "x.tgz" in str(err)
    else:                                # a flip may pass the container, not the content hash
        assert not np.array_equal(found["train-images"], TRAIN)


@pytest.mark.parametrize("raw", [b"", b"hello", b"\x1f\x8b broken", b"\0\0\x08\x03\0\0\0\x09"])
def test_anything_else(tmp_path, raw):
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(importers.ArchiveError, match="nothing recognised|damaged"):
        importers.read(tmp_path / "x")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        importers.read(tmp_path / "nowhere")
