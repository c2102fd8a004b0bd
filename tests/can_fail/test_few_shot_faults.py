"""Faults planted in what is made of ten images, in its measures, in its table, in its rules."""

import pytest

from difftools import fewshot_tables as tables
from difftools import results
from faults import each_turns_red, is_refused, verdicts_turn
from oracle import test_recorded_few_shot as spot

M = "fewshot_tables"
MUTANTS = {
    "draws_take": (M, "for j in range(i + 1, n)]", "for j in range(n)]"),
    "between_is": (M, "found |= {k: c.select([row])", "found |= {row: c.select([row])"),
    "copies_are": (M, "mode=\"replicate\"", "mode=\"constant\""),
    "weights_are": (M, ".clamp_min(1e-12).log()", ""),
    "convex_combinations_of_two": (M, "step * (size.sin()", "step * (size.cos()"),
    "frechet_is": (M, "cb.trace() - 2 * cross", "cb.trace() - cross"),
    "frechet_extrapolated": (M, "np.polyfit(1 / np.array(sizes), found, 1)[1]",
                             "np.polyfit(1 / np.array(sizes), found, 1)[0]"),
    "precision_and_recall": (M, "kthvalue(k + 1, dim=1)", "kthvalue(k, dim=1)"),
    "spread_of_copies": (M, "(d.sum() - d.trace())", "d.sum() / 2"),
    "kid_of_copies": (M, "(k.sum() - k.trace()) / (m * (m - 1))) / n", "0 * m) / n"),
    "pool_and_reference": (M, "x[half : half + REFERENCE]", "x[half - 1 : half + REFERENCE]"),
    "controls_are": (M, "if i not in at]", "if i in at or True]"),
    "a_rival_is": (M, "groupby(level=[0, 1]).idxmin()", "groupby(level=[0, 1]).idxmax()"),
    "a_rival_has_fallen": (M, "(wide.iloc[:, -2] - wide", "(wide.iloc[:, 0] - wide"),
    "noise_is": (M, "for q in (0.975, 0.025)", "for q in (0.75, 0.25)"),
    "the_key": (M, "\"recipe\": self.recipe, ", ""),
}


def test_a_fault_in_samples_or_measures_turns_its_test_red(tmp_path):
    each_turns_red(MUTANTS, ("unit/test_fewshot_tables.py",), tmp_path)


def test_an_altered_number_turns_the_spot_check_red(recorded):
    todo = tables.parts()
    part = next(p for p in todo if p.name == tables.D2C and p.target.name == "sunglasses")
    table = results.shipped("few_shot", todo, recorded)
    assert results.same(part, table, spot.tolerance(part)) == []
    table.loc[table.row.str.startswith(tables.D2C), "kid"] += 0.1
    assert "kid" in results.same(part, table, spot.tolerance(part))[0]


@pytest.mark.parametrize("what", ["weights", "recipe", "images", "code", "missing"])
def test_a_table_that_rests_on_something_else_is_refused(recorded, what, monkeypatch):
    todo = tables.parts()
    at = next(i for i, p in enumerate(todo) if p.name == tables.SOURCE)
    target = todo[at].target
    other = tables.Target(target.name, target.pool.flip(0), target.reference)
    is_refused("few_shot", todo, what, (tables.inversion_table, "weights_of"), monkeypatch,
               recorded, at, recipe={"method": tables.ojha(61)}, images={"target": other})


WORDS = {  # pieces that support, and the verdict that follows; the others refute
    "R-FEW": {
        ("floor", "valid", "valid-some", "new", "new-some", "near", "near-some", "above",
         "over-copies", "over-fade", "over-lerp"): "holds",
        ("floor", "valid", "valid-some", "new", "new-some", "near", "near-some", "above",
         "over-copies", "over-fade", "over-lerp", "gap-noise"): "holds, corrected",
        ("floor", "valid", "valid-some", "new", "new-some", "near", "near-some", "over-fade",
         "over-lerp"): "holds, corrected",
        ("floor", "valid", "valid-some", "new-some", "near", "near-some"): "depends",
        ("floor", "valid", "valid-some", "new", "new-some", "over-copies"): "fails",
        ("valid", "new", "near"): "inconclusive",
    },
    "R-DIVERSE": {
        ("floor", "diverse", "diverse-some", "quality", "quality-some"): "holds",
        ("floor", "diverse", "diverse-some", "quality", "quality-some", "fade-diverse",
         "fade-quality"): "holds, corrected",
        ("floor", "diverse-some", "quality", "quality-some"): "depends",
        ("floor", "quality", "quality-some"): "fails",
        ("diverse", "quality"): "inconclusive",
    },
}


@pytest.mark.parametrize("claim", WORDS)
def test_a_verdict_turns_with_its_pieces(claim):
    verdicts_turn(claim, dict.fromkeys("EP", WORDS[claim]))
