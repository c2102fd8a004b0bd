"""Recorded tables of roads against what the code gives today; see `test_recorded_tables`."""

from __future__ import annotations

import random

import pytest

from difftools import geodesic_tables as tables
from difftools import results
from oracle.test_recorded_tables import seed

PAIRS = 2  # of a part: pairs do not see each other

# table -> its parts; columns and how far the median may move: rounding, and for pictures what it
# does to features; 300 steps of an optimiser amplify it
TABLES = {
    "geodesics_pairs": (tables.pair_parts, {"q2": 0.03, "high": 0.03}),
    "geodesics_grades": (tables.grade_parts, {"g4": 5e-3, "detour": 0.01}),
}
OPTIMISED = {"q2": 0.15, "high": 0.3}


def tolerance(name, part):
    """Of a part of a table."""
    inverted = name == "geodesics_pairs" and "recipe" in part.system.settings
    return OPTIMISED if inverted and part.a is not None else TABLES[name][1]


@pytest.mark.parametrize("name", TABLES)
def test_a_recorded_table_rests_on_what_is_there(name):
    assert len(results.shipped(name, TABLES[name][0]()))


@pytest.mark.parametrize("name", TABLES)
def test_a_part_picked_by_the_commit_comes_out_again(name):
    todo = TABLES[name][0]()
    part = random.Random(seed()).choice(todo)
    table = results.shipped(name, todo)
    assert results.same(part.first(PAIRS), table, tolerance(name, part)) == []
