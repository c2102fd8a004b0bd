"""The chapter on parallelism: recorded tables against what the code gives today, a part at a time.

Which, is picked by a seed that changes with the commit, as in `test_recorded_tables`.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from difftools import parallelism_tables as T
from difftools import results
from oracle.test_recorded_tables import seed

IMAGES = 2


def smaller(part, at: random.Random):
    """A part that costs seconds: one edit of the first four images, or the first two images; what
    it gives for them does not depend on the rest.
    """
    if isinstance(part, T.AnglePart):
        edit = at.choice(list(part.edits))
        edits = {edit: part.edits[edit][: T.FEW]}
        return T.AnglePart(part.name, part.system, part.x[: T.FEW], edits)
    if isinstance(part, T.GlobalPart):
        return replace(part, new=part.new[:IMAGES], true=part.true[:IMAGES])
    return replace(part, x=part.x[:IMAGES], other=part.other[:IMAGES])


# table -> columns that name a row; columns and how far the median of the part may move. On another
# machine hundreds of steps of an optimiser amplify rounding.
CHECKED = {
    "parallelism_angles": (["row", "edit", "definition"], {"few": 0.05}),
    "parallelism_global": (["row", "edit", "image"], {
        **{f"psnr, latents, mean, {k}": 0.1 for k in (0, *T.COUNTS)}, "lpips, latents": 5e-3}),
    "parallelism_paths": (["row", "kind", "image"], {"straightness": 0.05, "arc": 0.03,
                                                     "graded": 0.1}),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_recorded_table_rests_on_what_is_there(name):
    assert len(results.shipped(name, T.TABLES[name]()))


@pytest.mark.parametrize("name", CHECKED)
def test_a_part_picked_by_the_commit_comes_out_again(name):
    on, tolerance = CHECKED[name]
    todo, at = T.TABLES[name](), random.Random(seed())
    again = smaller(at.choice(todo), at)
    assert results.same(again, results.shipped(name, todo), tolerance, on) == []
