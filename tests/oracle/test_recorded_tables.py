"""Recorded heavy tables against what the code gives today: a few of their images are run again.

Which, is picked by a seed that changes with the commit, so that in time every part is looked at.
"""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace

import pytest

from difftools import hole_tables, results
from difftools.provenance import ROOT

IMAGES = 3  # of a part: images do not see their batch


def seed(root=ROOT) -> int:
    """A number from the commit; a fixed one where there is no repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return int(done.stdout.strip()[:12], 16) if done.returncode == 0 else 0


def first_images(part):
    """The part with its first images only."""
    given = {} if part.x is None else {"x": part.x[:IMAGES]}
    return replace(part, **given, **({"n": IMAGES} if hasattr(part, "n") else {}))


# table -> its parts; columns and how far the median of three images may move. On another machine
# 300 steps of an optimiser amplify rounding, hence decibels and not their digits
TABLES = {
    "prior_holes": (hole_tables.gan_parts, {"psnr": 0.5, "norm": 0.1, "first": 0.3, "last": 0.3}),
    "prior_holes_steppers": (
        hole_tables.stepper_parts, {"psnr": 0.2, "norm": 2e-3, "kurtosis": 0.02, "ks": 2e-3},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_recorded_table_rests_on_what_is_there(name):
    assert len(results.shipped(name, TABLES[name][0]()))


@pytest.mark.parametrize("name", TABLES)
def test_a_part_picked_by_the_commit_comes_out_again(name):
    todo, tolerance = TABLES[name][0](), TABLES[name][1]
    part = first_images(random.Random(seed()).choice(todo))
    assert results.same(part, results.shipped(name, todo), tolerance) == []


def test_without_a_repository_the_pick_is_fixed(tmp_path):
    assert seed(tmp_path) == 0 == seed(tmp_path)
