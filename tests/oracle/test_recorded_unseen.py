"""Recorded tables of unseen domains against what the code gives today; see
`test_recorded_tables`.
"""

from __future__ import annotations

import random

import pytest

from difftools import results
from difftools import unseen_tables as tables
from oracle.test_recorded_tables import seed

# table -> its parts; columns and how far the median of a part may move: rounding of the network,
# and what it does to features and to the ranks in an AUC; by which columns rows are found
ON = ("row", "domain", "measure")
TABLES = {
    "unseen_latents": (tables.latent_parts, {"value": 0.03, "low": 0.05}, ON),
    "unseen_more": (tables.more_parts, {"value": 0.02, "low": 0.03}, ON),
    "unseen_samples": (tables.sample_parts, {"value": 0.03, "low": 0.03}, ON),
    "unseen_candidates": (tables.reject_parts, {"value": 0.03, "low": 0.03}, ON),
    "unseen_bandwidth": (tables.band_parts, {"psnr": 0.02, "lpips": 0.02, "back": 0.5},
                         ("row", "domain", "image")),
    # one small training: rounding moves a test picture or two of a hundred
    "unseen_science": (tables.science_parts, {"accuracy": 0.06}, ("row", "domain", "image")),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_recorded_table_rests_on_what_is_there(name):
    assert len(results.shipped(name, TABLES[name][0]()))


@pytest.mark.parametrize("name", TABLES)
def test_a_part_picked_by_the_commit_comes_out_again(name):
    parts, columns, on = TABLES[name]
    todo = parts()
    part = random.Random(seed()).choice(todo)
    assert results.same(part, results.shipped(name, todo), columns, on) == []
