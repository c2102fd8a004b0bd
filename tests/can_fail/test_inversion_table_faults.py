"""Faults planted in the inversion tables, tables that are refused, and verdicts that turn."""

import pytest

from difftools import inversion_table as tables
from faults import each_turns_red, is_refused, verdicts_turn
from oracle.test_recorded_inversions import SHIPPED

MUTANTS = {
    "every_image_has": ("inversion_table", "list(seeds)}", "[seeds[0]] * len(seeds)}"),
    "a_row_is": ("inversion_table", 'back = r["images"].to(x)', 'back = 0.99 * r["images"].to(x)'),
    "two_processes": ("results", "todo[rank::processes]",
                      "todo[rank : None if processes == 1 else 1]"),
    "a_killed_run": ("results", "if target.is_file():", "if not target:"),
    "a_part_that_rests": ("inversion_table", "images=self.x", "images=len(self.x)"),
    "a_table_knows": ("results", "if part.key not in note", "if not part.key or not note"),
    "the_summary_is": ("inversion_table", "group[value].median()", "group[value].mean()"),
    "latents_alone": ("inversion_table", "m.diffusion.decode(code) - m.latents(x)",
                      "code.tensors['noise'] - m.latents(x)"),
    "a_picture_survives": ("inversion_table", "seeds[0] == 0", "seeds[0] >= 0"),
    "multiplications_are": ("inversion_table", "/ 2e9", "/ 1e9"),
    "a_race_bills": ("inversion_table", "m.calls - start - looks", "m.calls - start"),
}
FAR = ("separable-far", "recon", "graded")
NOISED = ("forward-noising", "inversion-id", "inversion-ood")
IN = dict.fromkeys  # worlds that share their rules
WORDS = {
    "R-PAD": IN("EP", {
        (): "fails", ("unseen", "same-set", "invisible"): "depends",
        ("unseen", "same-set", "printed-error"): "holds, corrected"}),
    "Z-GAP": {
        "S": {(): "inconclusive", ("graded",): "fails", FAR: "depends",
              (*FAR, "separable"): "holds"},
        "E": {FAR: "inconclusive", ("floor", "graded"): "fails", ("floor", *FAR): "depends",
              ("floor", *FAR, "separable"): "holds"}},
    "R-INV": IN("EP", {
        (): "fails", ("small-gans", "zero-psnr"): "depends",
        ("small-gans", "zero-psnr", "unseen-psnr", "unseen-ssim"): "holds, corrected"}),
    "R-INV-ID": IN("EP", {
        (): "fails", ("biggan-own", "xl-own", "linear-own"): "holds, corrected",
        ("biggan-own", "xl-own"): "holds"}),
    "R-INV-SKETCH": IN("EP", {
        ("linear-sketch", "spectrum"): "fails", ("gan-sketch", "linear-sketch"): "holds, corrected",
        ("gan-sketch",): "holds"}),
    "R-INV-SPEED": IN("EP", {
        (): "fails", ("slower",): "depends", ("slower", "much-slower"): "holds"}),
    "R-UNIV": IN("EP", {
        ("agreement", "latent-agreement"): "inconclusive", ("floor", "ceiling"): "fails",
        ("floor", "agreement"): "holds, corrected",
        ("floor", "agreement", "latent-agreement"): "holds"}),
    "R-HOLE": IN("EP", {
        ("gan-certificate",): "inconclusive", ("floor", "certificate-ood"): "fails",
        ("floor", "gan-certificate", "certificate-ood"): "depends",
        ("floor", "gan-certificate"): "holds"}) | {
        "S": {(): "fails", ("certificate-ood",): "holds",
              ("certificate-ood", "trivial-hole"): "depends"}},
    "R-L1.1": IN("EP", {
        NOISED: "inconclusive", ("floor",): "fails", ("floor", *NOISED): "holds",
        ("floor", *NOISED[1:]): "depends"}) | {
        "S": {("identity",): "fails", NOISED: "holds", NOISED[1:]: "depends"}},
    "R-DIM": IN("SE", {
        (): "holds", ("full-dim",): "depends",
        ("full-dim", "low-dim-bottleneck", "equal-dim"): "fails"}),
}


def test_a_fault_in_the_tables_turns_its_test_red(tmp_path):
    each_turns_red(MUTANTS, ("unit/test_inversion_table.py",), tmp_path)


@pytest.mark.parametrize("what", ["weights", "settings", "images", "code", "missing"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_table_that_rests_on_something_else_is_refused(recorded, name, what, monkeypatch):
    todo = SHIPPED[name][0]()
    is_refused(name, todo, what, (tables, "weights_of"), monkeypatch, recorded,
               settings={"row": tables.Row(todo[-1].row.model)}, images={"x": -todo[-1].x})


@pytest.mark.parametrize("claim", WORDS)
def test_a_verdict_turns_with_its_pieces(claim):
    verdicts_turn(claim, WORDS[claim])
