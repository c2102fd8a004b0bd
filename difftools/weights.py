"""Tensors of the weights files that ship: read once, verified at every load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from . import data


SCALE = ":scale"  # behind the name of an int8 tensor: its float32 scales, one a row


class ModelError(ValueError):
    """A model that is unknown or missing, or whose weights are not the registered ones."""


def shipped(file: str) -> dict[str, Tensor]:
    """Tensors, float32, of a file in ``data/weights``; its sha256 must be the manifest's.

    Raises ModelError if it is missing, truncated or altered (safetensors alone loads a flipped
    bit silently).
    """
    path = data.ROOT / "weights" / file
    if not path.is_file():
        raise ModelError(
            f"{file} is missing: restore it with git, or train it with `difftools train`"
        )
    known = json.loads((path.parent / "manifest.json").read_text())
    state, sha = verified(path, known.get(file), "restore it with git")
    data.USED[path.relative_to(data.ROOT.parent).as_posix()] = sha
    return state


def verified(path: Path, expected: str | None, remedy: str) -> tuple[dict[str, Tensor], str]:
    """(float32 tensors, sha256) of a safetensors file that must have the expected hash.

    Raises ModelError otherwise, with the remedy.
    """
    raw = path.read_bytes()
    sha = hashlib.sha256(raw).hexdigest()
    if sha != expected:
        raise ModelError(
            f"{path.name} is not the registered file (sha256 {sha[:12]}…, expected "
            f"{str(expected)[:12]}…): it is damaged or was changed; {remedy}"
        )
    try:
        state = load(raw)
    except SafetensorError as err:
        raise ModelError(f"{path.name} is no safetensors file: {err}") from err
    return unpacked(state), sha


def unpacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as float32; int8 ones times the scale of each row, which lies beside them."""
    return {
        k: v.float() * state[k + SCALE] if v.dtype == torch.int8 else v.float()
        for k, v in state.items()
        if not k.endswith(SCALE)
    }
