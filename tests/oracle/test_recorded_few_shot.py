"""The recorded table of few-shot samples against what the code gives; see `test_recorded_tables`."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from difftools import fewshot_tables as tables
from difftools import results
from oracle.test_recorded_tables import seed

TABLES = {"few_shot": tables.parts, "few_shot_more": tables.more_parts}
# How far one set may move: rounding, and for pictures what it does to features
TOLERANCE = {"kid": 0.02, "fd": 5.0, "recall": 0.05, "nearest": 0.01, "pixel": 0.005,
             "spread": 0.01}
# A hundred steps of two optimisers amplify it
TRAINED = {"kid": 0.3, "nearest": 0.1, "spread": 0.1}


def tolerance(part):
    return TRAINED if isinstance(part.method, tables.Rival) else TOLERANCE


@pytest.mark.parametrize("name", TABLES)
def test_a_recorded_table_rests_on_what_is_there(name):
    assert len(results.shipped(name, TABLES[name]()))


def test_a_set_picked_by_the_commit_comes_out_again():
    todo = tables.parts()
    part = random.Random(seed()).choice(todo)
    assert results.same(part, results.shipped("few_shot", todo), tolerance(part)) == []


def test_the_way_of_a_rival_begins_as_recorded():
    todo = tables.more_parts()
    first = tables.LOOKS[0]
    part = random.Random(seed()).choice([p for p in todo if getattr(p.method, "looks", ())])
    recipe = replace(part.method.recipe, steps=first)
    begun = replace(part, method=replace(part.method, recipe=recipe, looks=(first,)))
    assert results.same(begun, results.shipped("few_shot_more", todo), TRAINED) == []


def test_a_short_learner_comes_out_again():
    todo = tables.more_parts()
    short = [p for p in todo if p.name == tables.LEARNER]
    part = random.Random(seed()).choice(short)
    assert results.same(part, results.shipped("few_shot_more", todo), TRAINED) == []
