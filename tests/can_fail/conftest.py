"""What the tests that plant faults share."""

from __future__ import annotations

import shutil

import pytest

from difftools import results


@pytest.fixture()
def recorded(tmp_path):
    """A copy of the recorded tables, to change."""
    return shutil.copytree(results.FOLDER, tmp_path / "results")
