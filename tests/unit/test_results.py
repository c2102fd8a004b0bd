"""Recorded tables: served only while they rest on what is there, and checked by running again."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from difftools import results


@dataclass(frozen=True)
class Square:
    n: int
    version: str = "1"

    @property
    def label(self):
        return f"square of {self.n}"

    @property
    def key(self):
        return results.key(n=self.n, version=self.version)

    def run(self, device):
        return pd.DataFrame({"n": [self.n], "value": [float(self.n) ** 2]})


@pytest.fixture()
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_DATA", str(tmp_path / "cache"))
    return tmp_path / "results"


TODO = [Square(n) for n in range(4)]


def test_what_was_computed_is_served(home):
    made = results.heavy("squares", TODO, compute=True, folder=home, facts={"why": "a test"})
    pd.testing.assert_frame_equal(results.heavy("squares", TODO, folder=home), made)
    note = json.loads((home / "squares.json").read_text())
    assert note["why"] == "a test" and list(note["parts"].values())[0].startswith("square of")


def test_a_missing_table_says_what_to_run(home):
    with pytest.raises(results.Stale, match="run the chapter at profile full"):
        results.heavy("squares", TODO, folder=home)


@pytest.mark.parametrize(
    "now, says",
    [
        ([*TODO[:3], Square(3, "2")], "stale in square of 3:"),
        ([*TODO, Square(4)], "stale in square of 4:"),
        (TODO[:3], "has 4 parts, expected 3"),
    ],
)
def test_a_stale_table_is_never_served(home, now, says):
    results.heavy("squares", TODO, compute=True, folder=home)
    with pytest.raises(results.Stale, match=says):
        results.heavy("squares", now, folder=home)


def test_only_what_changed_is_computed_again(home, monkeypatch):
    results.heavy("squares", TODO, compute=True, folder=home)
    ran = []
    monkeypatch.setattr(Square, "run", lambda self, device: ran.append(self.n) or pd.DataFrame(
        {"n": [self.n], "value": [0.0]}))
    results.heavy("squares", [*TODO[:3], Square(3, "2")], compute=True, folder=home)
    assert ran == [3]


def test_a_part_run_again_agrees_or_says_where_not(home):
    table = results.heavy("squares", TODO, compute=True, folder=home).astype({"value": float})
    assert results.same(TODO[3], table, {"value": 1e-9}, ["n"]) == []
    table.loc[3, "value"] += 0.5
    assert "value 9, recorded 9.5" in results.same(TODO[3], table, {"value": 0.4}, ["n"])[0]
    assert results.same(TODO[3], table, {"value": 0.6}, ["n"]) == []
    assert "recorded nan" in results.same(TODO[3], table[:3], {"value": 1.0}, ["n"])[0]  # no row


def test_nan_never_passes_for_equal(home):
    table = results.heavy("squares", TODO, compute=True, folder=home)
    table.loc[3, "value"] = np.nan
    assert results.same(TODO[3], table, {"value": 1.0}, ["n"])


def test_a_key_counts_values_not_layout():
    x = torch.arange(12.0).reshape(3, 4)
    assert results.key(x=x) == results.key(x=x.T.contiguous().T)
    assert results.key(x=x) != results.key(x=x + 1e-6)
    assert results.key(a=1, b=2) == results.key(b=2, a=1) != results.key(a=2, b=1)


def test_a_version_moves_with_code_and_not_with_layout():
    def one(a):
        return a + 1

    def two(a):
        return a + 2

    plain = results.code_version(("code",))
    assert results.code_version(("code",)) == plain != results.code_version(("code", "sphere"))
    assert len({plain, results.code_version(("code",), (one,)),
                results.code_version(("code",), (two,))}) == 3
