"""Faults planted in the sampler of unseen domains, in its tables and in their rules."""

import pytest

from difftools import results, unseen_tables
from faults import each_turns_red, is_refused, verdicts_turn
from oracle import test_recorded_unseen as spot

MUTANTS = {
    "the_last_rung": ("unseen", "up[0].sigma * start).to(d.device)", "start).to(d.device)"),
    "plain_ddim_comes": ("unseen", "iterations=exact_ddim", "iterations=0"),
    "a_rung_is": ("unseen", "return 1 + int(np.argmin", "return int(np.argmin"),
    "noise_on_the_way": ("unseen", "down, eta or 0, seeds)", "down, eta or 0)"),
    "linear_walk": ("unseen", "k**2 * var + c**2", "k**2 * var + c"),
    "a_stationary_draw": ("unseen", '"bihw,bjhw->hwij", f, f.conj()', '"bihw,bjhw->hwij", f, f'),
    "a_low_rank_fit": ("unseen", "/ (x.shape[1] - k)", "/ x.shape[1]"),
    "draws_keep": ("unseen", "white = noise(range(seed, seed + n), (shape.numel(),)",
                   "white = noise(range(n, 2 * n), (shape.numel(),)"),
    "properties_are": ("unseen", "- xy[:, :-1] - xy[:, 1:] + xx", "- xy[:, :-1] - xy[:, 1:]"),
    "sixty_degrees": ("unseen", "(k + 1) % 3], t[:, (k + 2) % 3]", "(k + 1) % 3], t[:, (k + 1) % 3]"),
    "white_noise_of": ("unseen", "return _spread(G) / null", "return _spread(G)"),
    "the_hot_pixel": ("unseen", "sign * math.sqrt(size)", "sign * size"),
    "windows_hold": ("unseen", "(1 - share) / 2, (1 + share) / 2", "(1 - share), (1 + share) / 2"),
    "auc_of_scales": ("unseen", "stats.f.sf(1 / v, d, d)) if v >= 1", "stats.f.sf(1 / v, 2 * d, d)) if v >= 1"),
    "auc_of_means": ("unseen", "16 * d + 8 * delta**2", "8 * d + 8 * delta**2"),
    "bandwidth_inter": ("unseen", "u = a / (a - b)", "u = 0.5"),
    "kid_gain_is": ("unseen", "(n * (n - 1)) - 2 * cross.sum() / (n * m)", "n**2 - 2 * cross.sum() / (n * m)"),
    "target_share": ("unseen", "near(target) > near(other)", "near(target) < near(other)"),
    "no_latent_meets": ("unseen_tables", "unseen.fit(half, kind)", "unseen.fit(z, kind)"),
    "decoding_the_inverted": ("unseen_tables", 'if self.kind != "inverted":', "if True:"),
    "half_of_the_real": ("unseen_tables", "code.select(pick[::20])", "code.select(pick[20:])"),
    "a_field_varies_least": ("unseen_tables", "turn, stretch = rng.random(), 1 + rng.random()",
                         "stretch, turn = 1 + rng.random(), rng.random()"),
    "estimates_add": ("unseen_tables", "return 1 - ratio, 1", "return ratio, 1"),
}
FILES = ("unit/test_unseen.py", "unit/test_unseen_tables.py")


def test_a_fault_in_the_sampler_turns_its_test_red(tmp_path):
    each_turns_red(MUTANTS, FILES, tmp_path)


def test_an_altered_number_turns_the_spot_check_red(recorded):
    parts, columns, on = spot.TABLES["unseen_latents"]
    todo = parts()
    part = next(p for p in todo if p.name == "zero network" and p.domain == "emoji")
    table = results.shipped("unseen_latents", todo, recorded)
    assert results.same(part, table, columns, on) == []
    table.loc[table.row.str.startswith(part.name), "value"] += 0.1
    assert "value" in results.same(part, table, columns, on)[0]


@pytest.mark.parametrize("what", ["weights", "images", "code", "missing"])
def test_a_table_that_rests_on_something_else_is_refused(recorded, what, monkeypatch):
    todo = unseen_tables.reject_parts()
    is_refused("unseen_candidates", todo, what, (unseen_tables.inversion_table, "weights_of"),
               monkeypatch, recorded, images={"x": -todo[-1].x})


WORDS = {  # pieces that support, and the verdict that follows
    "Z-GAUSS": {"E": {("floor", "null", "power", "told", "told-some"): "holds",
                      ("floor", "null", "power", "told-some"): "depends",
                      ("floor", "null", "power"): "fails",
                      ("floor", "null"): "inconclusive", ("null", "power"): "inconclusive"},
                "S": {("null", "power", "told", "told-some"): "holds"}},
    "Z-SEP": {"E": {("null", "unseen"): "holds", ("null",): "fails", ("unseen",): "inconclusive",
                    ("null", "unseen", "invisible"): "holds, corrected"}},
    "Z-GEO": {"E": {("distance", "pair-angle", "origin-angle", "identity", "automatic"):
                    "holds, corrected",
                    ("distance", "pair-angle", "origin-angle", "identity"): "holds",
                    ("distance", "identity"): "depends", ("identity", "automatic"): "fails"}},
    "Z-REJECT": {"E": {("draws-gain", "slerp-gain"): "holds", ("draws-gain",): "depends",
                       ("adversary-accept",): "fails"}},
    "Z-MIX": {"S": {("kid-image", "kid-noise", "target-image", "target-noise", "gaussian-image"):
                    "holds", ("kid-image",): "depends", ("gaussian-image",): "fails"}},
    "Z-BAND": {"E": {("grows-psnr", "grows-lpips", "grows-target", "gap-psnr", "gap-lpips",
                      "gap-target"): "holds",
                     ("grows-psnr", "grows-lpips", "grows-target"): "depends", (): "fails"}},
    "Z-FID": {"E": {("closes", "over-pixels", "trivial"): "ill-posed", ("closes",): "fails",
                    ("closes", "over-pixels"): "holds"}},
    "Z-ARCH": {"E": {("separates", "closes"): "holds", ("separates",): "depends", (): "fails",
                     ("separates", "closes", "null-closes"): "holds, corrected"}},
    "Z-SCI": {"E": {("room", "gain", "over-cheap"): "holds", ("room", "gain"): "depends",
                    ("room",): "fails", ("gain", "over-cheap"): "inconclusive"}},
}


@pytest.mark.parametrize("claim", WORDS)
def test_a_verdict_turns_with_its_pieces(claim):
    verdicts_turn(claim, WORDS[claim])
