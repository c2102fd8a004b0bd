"""Faults planted in Boomerang, in what judges it, in its tables and in the rules."""

import pytest

from difftools import boomerang_tables as tables
from difftools import results
from faults import each_turns_red, is_refused, verdicts_turn
from oracle import test_recorded_boomerang as spot

MUTANTS = {
    "level_is": ("boomerang", "first + t * (last - first)", "first + t**2 * (last - first)"),
    "kernel_is_what": ("boomerang", "step**2 * variance + c**2", "step * variance + c**2"),
    "kernel_tends": ("boomerang", "** ((1 + eta**2) / 2)", "** ((1 + eta) / 2 + 0.3)"),
    "survival_is": ("boomerang", "return signal / (signal + at.sigma**2)",
                    "return signal / (signal + at.sigma)"),
    "slopes_and": ("boomerang", "back.double().mean(0).flatten(1) - m",
                   "back.double().mean(0).flatten(1)"),
    "the_same_seed": ("boomerang", "images.repeat(n, 1, 1, 1)",
                      "images.repeat_interleave(n, 0).roll(1, 0)"),
    "noised_has": ("boomerang", "torch.as_tensor(squared).double().sqrt()",
                   "torch.as_tensor(squared).double()"),
    "latents_are": ("boomerang", "yield model.diffusion, model.latents(images), model.images",
                    "yield model.diffusion, 0.5 * model.latents(images), model.images"),
    "halves_are": ("boomerang_tables", "(at[: len(at) // 2], at[len(at) // 2 :])",
                   "(at[: len(at) // 2], at[: len(at) // 2])"),
    "lpips_is": ("boomerang_tables", ".clamp_min(0).sqrt()", ".clamp_min(0)"),
    "auc_is": ("boomerang_tables", "(a[:, None] < b) + 0.5", "(a[:, None] < b) + 1.0"),
    "each_picture_is": ("boomerang_tables", "own.pop(parts - 1 - number % parts)", "own.pop(0)"),
    "the_spread_falls": ("boomerang_tables", "c.sum(axis) ** 2 - (c**2).sum(axis)",
                         "c.sum(axis) ** 2"),
    "the_numbers_that": ("boomerang_tables", "own / n + rest / j", "own + rest / j"),
    "tables_know_it": ("stable_diffusion", "own.update(", "bytes("),
    "a_training_depends": ("boomerang_tables", "nn.init.zeros_(layer.bias)", "pass"),
    "extra_pictures": ("boomerang_tables", "generator=gen) < 0.5\n            v =",
                       "generator=gen) < 0.9\n            v ="),
    "an_arm_trains": ("boomerang_tables", "x = flights(a.model, p, a.t).at(train)",
                      "x = flights(a.model, p, a.t).at(train.flip(0))"),
    "a_row_of_training": ("boomerang_tables", ".argmax(1) == p.y[test]", ".argmax(1) != p.y[test]"),
    "masks_survive": ("boomerang_tables", '"1" if b else "0"', '"0" if b else "1"'),
    "two_way": ("boomerang_tables", "((ws @ v) * wn).sum(1)", "(ws @ v).mean(1)"),
    "draws_come": ("boomerang_tables", "away = mean_square(back, x0)\n        pair",
                   "away = 2 * mean_square(back, x0)\n        pair"),
    "repetitions": ("boomerang_tables", "(files[a] == files[b]).flatten(1).all(1)",
                    "(files[a] == files[b] + 1).flatten(1).all(1)"),
    "guidance_leads": ("stable_diffusion", "free + guidance * (told - free)",
                       "told + guidance * (told - free)"),
}
FILES = ("unit/test_boomerang.py", "unit/test_boomerang_tables.py",
         "unit/test_stable_diffusion.py", "unit/conftest.py", "tiny.py")


def test_a_fault_in_boomerang_turns_its_test_red(tmp_path):
    each_turns_red(MUTANTS, FILES, tmp_path)


def test_an_altered_number_turns_the_spot_check_red(recorded):
    name = "boomerang_closeness"
    todo = tables.TABLES[name]()
    part = next(p for p in todo if p.label.startswith("exact Gaussian, t = 0.4"))
    table = results.shipped(name, todo, recorded)
    assert spot.differences(name, part, table) == []
    table.loc[table.row == part.row, "first"] += 0.02
    assert "first" in spot.differences(name, part, table)[0]


def test_an_altered_search_turns_the_spot_check_red(recorded):
    name = "boomerang_released"
    todo = tables.TABLES[name]()
    part = next(p for p in todo if p.label.startswith("exact Gaussian, released from t = 0.2"))
    table = results.shipped(name, todo, recorded)
    assert spot.differences(name, part, table) == []
    table["mask"] = table["mask"].str.translate(str.maketrans("01", "10"))
    assert spot.differences(name, part, table)


@pytest.mark.parametrize("what", ["weights", "level", "images", "code", "missing"])
def test_a_table_that_rests_on_something_else_is_refused(recorded, what, monkeypatch):
    todo = tables.survival_parts()
    is_refused("boomerang_survival", todo, what, (tables.inversion_table, "weights_of"),
               monkeypatch, recorded, level={"t": 0.5}, images={"x": -todo[-1].x})


WORDS = {  # pieces that support, and the verdict that follows
    "B-LOCAL": {"E": {("law", "monotone", "reverse"): "holds, corrected", ("monotone",): "holds",
                      ("monotone", "image"): "depends", ("law", "reverse"): "fails"}},
    "B-DIVERSE": {"E": {("repeats", "nudge"): "holds", ("repeats",): "holds, corrected",
                        ("nudge",): "fails"}},
    "B-PLUG": {"E": {
        ("works", "over-noise", "monotone", "cost", "memory", "agrees"): "holds",
        ("works", "over-noise", "monotone", "cost", "memory"): "holds, corrected",
        ("works", "over-noise", "monotone", "memory", "agrees"): "depends",
        ("works", "monotone", "cost", "memory"): "fails"}},
    "B-PRIVACY": {"E": {("better", "better-hidden", "found"): "holds, corrected",
                        ("better", "better-hidden"): "holds", ("better", "found"): "depends",
                        ("found", "member"): "fails"}},
    "B-AUG": {"E": {("full", "small", "over-noise"): "holds", ("full", "small"): "holds, corrected",
                    ("small",): "depends", ("bare",): "fails"}},
    "B-SR": {"E": {("lpips", "kid", "psnr"): "holds, corrected", ("lpips", "kid"): "holds",
                   ("kid", "psnr"): "depends", ("psnr",): "fails"}},
    "B-OOD": {"E": {("law", "fine-first", "rank"): "holds", ("fine-first", "rank"):
                    "holds, corrected", ("law", "fine-first"): "fails"}},
}


@pytest.mark.parametrize("claim", WORDS)
def test_a_verdict_turns_with_its_pieces(claim):
    verdicts_turn(claim, WORDS[claim])
