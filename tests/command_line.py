"""The command line as a user meets it, shared by its tests."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from difftools import cli, data
from difftools.images import to_uint8


def call(capsys, *argv) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of `difftools ARGV`."""
    try:
        cli.main([str(a) for a in argv])
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    out, err = capsys.readouterr()
    return status, out, err


def photos_in(folder: Path, n: int) -> Path:
    """The folder, made, with n photographs that are neither square nor 32 px."""
    folder.mkdir()
    for i, x in enumerate(to_uint8(data.domain("animals", n))):
        Image.fromarray(x).resize((48, 40)).save(folder / f"animal{i}.png")
    return folder
