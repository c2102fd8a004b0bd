"""What a reader of world P has: a folder of their own, with a pipeline and a cache."""

from __future__ import annotations

import pytest

from difftools import zoo
from tiny import save_pipeline


@pytest.fixture()
def place(tmp_path, monkeypatch):
    """A folder with `pipeline`, of 32 px, and `cache`, where imports and results go."""
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    zoo.model.cache_clear()
    save_pipeline(tmp_path / "pipeline")
    yield tmp_path
    zoo.model.cache_clear()
