"""Recorded tables of Boomerang against what the code gives today; see `test_recorded_tables`.

Pictures do not see each other in three of the tables, so a few of a part are run again. A release
is searched again for its first pictures. Of trainings, those whose pictures cost little: a minute of
flights before one number would not be a spot check.
"""

from __future__ import annotations

import random

import pytest

from difftools import boomerang_tables as tables
from difftools import results
from oracle.test_recorded_tables import seed

PICTURES = 3
# table -> columns and how far the median of three may move; a stochastic walk contracts rounding
TOLERANCE = {
    "boomerang_closeness": {"first": 2e-3},
    "boomerang_survival": {"law": 2e-3, "own_coarse": 0.05, "said_fine": 0.05},
    "boomerang_enlarged": {"psnr": 0.3, "lpips": 0.03},
    "boomerang_trained": {"accuracy": 0.08},  # 256 test images; rounding grows over 200 steps
}


def candidates(name):
    """The parts of a table that a test can afford."""
    todo = tables.TABLES[name]()
    if name == "boomerang_closeness":
        return [p for p in todo if not isinstance(p, tables.SetPart)]
    if name == "boomerang_trained":
        cheap = [p for p in todo if not p.arm.model.startswith("ddpm")]
        return [p for p in cheap if p.arm.kind != "drawn" or p.arm.model in tables.GANS.values()]
    return todo


def differences(name, part, table):
    """What a part, run again for its first pictures, has other than the table."""
    if name == "boomerang_released":
        return searched_again(part, table)
    again = part if name == "boomerang_trained" else part.first(PICTURES)
    return results.same(again, table, TOLERANCE[name])


def searched_again(part, table):
    """Distances whose first pictures are found now and were not then, or the other way round."""
    rows = part.first(PICTURES).run()
    out = []
    for view, mask in zip(rows["image"], rows["mask"]):
        then = table[(table.row == rows.row[0]) & (table.domain == rows.domain[0])
                     & (table.image == view)]["mask"].item()
        if (tables.bits(mask) != tables.bits(then)[:PICTURES]).sum() > 1:
            out.append(f"{part.label}: {view} {mask}, recorded {then[:PICTURES + 1]}")
    return out


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_recorded_table_rests_on_what_is_there(name):
    assert len(results.shipped(name, tables.TABLES[name]()))


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_part_picked_by_the_commit_comes_out_again(name):
    part = random.Random(seed()).choice(candidates(name))
    table = results.shipped(name, tables.TABLES[name]())
    assert differences(name, part, table) == []
