"""Faults planted in the roads of the chapter on geodesics, in what judges them, in its tables."""

from dataclasses import replace

import pytest

from difftools import geodesic_tables, results
from faults import each_turns_red, is_refused, verdicts_turn
from oracle import test_recorded_geodesics as spot

MUTANTS = {
    "a_road_starts": ("paths", "return (1 - u) * a + u * b", "return (1 - u) * b + u * a"),
    "the_printed_formula": ("paths", "torch.sin(u * phi) * b", "torch.sin(u * phi) * a"),
    "the_share_of_pairs": ("paths", "stats.norm.cdf(1 / r)", "stats.norm.cdf(2 / r)"),
    "lol_keeps": ("paths", "/ math.hypot(1 - u, u)", ""),
    "w2_of_mid_points": ("paths", "(1 - 2**-0.5) * math.sqrt(d)", "0.5 * math.sqrt(d)"),
    "only_moves": ("paths", "a.tensors | {part: c[part]}", "b.tensors | {part: c[part]}"),
    "high_up": ("paths", "for n in m.nodes])) :]", "for n in m.nodes])) + 5 :]"),
    "bad_input": ("paths", "if not 0 <= u <= 1:", "if not 0 <= u <= 2:"),
    "cosine_distance": ("geodesic_tables", "F.normalize(b, dim=1).T", "b.T"),
    "the_judge_sees": ("geodesic_tables", "cosine_distance(features, real)",
                       "torch.cdist(features, real)"),
    "a_critic_sees": ("geodesic_tables", "np.r_[np.zeros(len(good)), np.ones(len(bad))]",
                      "np.r_[np.ones(len(good)), np.zeros(len(bad))]"),
    "euclidean": ("geodesic_tables", "[0]).amin(1).numpy()", "[0]).amax(1).numpy()"),
    "auc": ("geodesic_tables", "weight, wins, weight)", "weight, wins, weight[:1])"),
    "every_system_that_decides": ("geodesic_tables", "p.first(few[p.kind]) for", "p for"),
    "a_road_of_one_part": ("geodesic_tables", "codes[1 : 5 if moved else 4]", "codes[4:0:-1]"),
    "attributes": ("geodesic_tables", "(x - images.grayscale(x))", "(x - x.mean())"),
    "monotone": ("geodesic_tables", "np.diff(g, axis=1) >= -slack", "np.diff(g, axis=1) >= -1"),
    "a_detour": ("geodesic_tables", "/ (x[-1] - x[0]).norm(dim=1)", ""),
    "a_row_of_the_table": ("geodesic_tables", "paths.walk(paths.SLERP, a, b, FINE)",
                           "paths.walk(paths.LERP, b, a, FINE)"),
    "the_work": ("geodesic_tables", "x[2 * n : 2 * n + REFERENCE]", "x[n : 2 * n + REFERENCE]"),
}
FILES = ("unit/test_paths.py", "unit/test_geodesic_tables.py", "gan_files.py")


def test_a_fault_in_a_road_turns_its_test_red(tmp_path):
    each_turns_red(MUTANTS, FILES, tmp_path)


def test_an_altered_number_turns_the_spot_check_red(recorded):
    todo, tolerance = spot.TABLES["geodesics_grades"]
    todo = todo()
    part = next(p for p in todo if p.name == "exact Gaussian").first(2)
    table = results.shipped("geodesics_grades", todo, recorded)
    assert results.same(part, table, tolerance) == []
    table.loc[table.row == part.name, "g4"] += 0.05
    assert "g4" in results.same(part, table, tolerance)[0]


@pytest.mark.parametrize("what", ["weights", "roads", "images", "code", "missing"])
def test_a_table_that_rests_on_something_else_is_refused(recorded, what, monkeypatch):
    todo = geodesic_tables.pair_parts()
    system = replace(todo[-1].system, roads=("straight line",))
    is_refused("geodesics_pairs", todo, what, (geodesic_tables.inversion_table, "weights_of"),
               monkeypatch, recorded, roads={"system": system}, images={"a": -todo[-1].a})


WORDS = {  # pieces that support, and the verdict that follows
    "R-A1": {
        "S": {("undefined", "normalised", "spread", "lerp-spread"): "holds, corrected",
              ("undefined", "normalised", "lerp-spread"): "depends",
              ("normalised", "spread", "lerp-spread"): "holds",
              ("undefined", "spread", "lerp-spread"): "fails"},
        "E": {("undefined", "normalised", "over-lerp", "over-lerp-ood", "over-fade"):
              "holds, corrected",
              ("undefined", "normalised", "over-lerp", "over-fade"): "depends"},
    },
    "R-GRAD": {"E": {("monotone", "monotone-some", "even", "even-some", "fade-even",
                      "zero-monotone"): "holds, corrected",
                     ("monotone", "monotone-some", "even", "even-some", "over-fade"): "holds",
                     ("monotone-some", "even-some", "even"): "depends",
                     ("even", "even-some"): "fails"}},
    "R-GANPATH": {"E": {("w-loses", "difference", "fade-loses"): "holds",
                        ("w-loses", "difference", "fade-loses", "diffusion-loses"): "depends",
                        ("w-loses", "fade-loses"): "fails",
                        ("w-loses", "difference"): "inconclusive"}},
}


@pytest.mark.parametrize("claim", WORDS)
def test_a_verdict_turns_with_its_pieces(claim):
    verdicts_turn(claim, WORDS[claim])
