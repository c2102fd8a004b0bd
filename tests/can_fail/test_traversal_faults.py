"""Faults planted in repairs through latents: each must turn a test red."""

from dataclasses import replace

import pytest

from difftools import results
from difftools import traversal as tr
from faults import each_turns_red, is_refused
from oracle import test_recorded_traversal as spot

# the test that must turn red -> what is written in the module, and the fault in its place
MUTANTS = {
    "the_box_has": ("x.shape[-1] // 8)\n\n\ndef around", "x.shape[-1] // 4)\n\n\ndef around"),
    "vectors_and_codes": ("parts[k] * self.std[k] + self.mean[k]", "parts[k] * self.std[k]"),
    "flat_parts": ("/ self.std[k] for k in self.mean", "for k in self.mean"),
    "the_sphere_sets": ("math.sqrt(b - a)", "math.sqrt(vectors.shape[1])"),
    "the_network_has": ("(d, hidden, width, width, hidden, d)", "(d, hidden, hidden, width, d)"),
    "the_convolutional_map_starts": ("return x + self.last(y)", "return self.last(y)"),
    "a_seed_decides": ("torch.manual_seed(seed)", "pass"),
    "the_two_readings": ("(lambda s: s + net(s)) if", "(lambda s: s - net(s)) if"),
    "training_descends": (".abs().mean().backward()", ".mean().backward()"),
    "the_curve_starts": ('"loss": float(loss)', '"loss": 2 * float(loss)'),
    "epochs_to": ("(before - level) / (before - now)", "(level - now) / (before - now)"),
    "a_convolutional_step": ("(self.conv(whole) - whole)", "self.conv(whole)"),
    "a_look_sees": ("angle(out, held[1])} | look(epoch))", "angle(out, held[1])} | look(0))"),
    "a_curve_holds": ('"lpips"]].mean())', '"lpips"]].max())'),
    "the_linear_code": ("mean + (v.double() - mean) @ V.T @ V", "mean + v.double() @ V.T @ V"),
    "the_bracket_is": ("inside / (1 - Q", "inside * (1 - Q"),
    "the_best_estimate": ("(v @ self.M) @ self.gain)", "0.9 * (v @ self.M) @ self.gain)"),
    "every_choice": ("z @ U @ U.T", "0.9 * z @ U @ U.T"),
    "what_is_judged": ("images.fill_box(x, found,", "images.fill_box(found, x,"),
    "a_side_row": ('found["epoch"] == self.recipe.epochs', 'found["epoch"] == 0'),
    "a_walk_of_a_gan": ("m.decode(m.code(state.parts, rows))", "state.images"),
    "an_untrained_step": ("frame.codes(f(source[rows])", "frame.codes(f(target[rows])"),
    "what_the_latents": ("target[:n].mean(0).expand", "target[:n].amax(0).expand"),
    "pairs_start": ("range(i, min(i + batch, len(x))))", "range(0, min(batch, len(x) - i)))"),
    "what_pixels_give": ('if self.task == "inpaint":', 'if self.task == "colour":'),
    "a_key_changes": ('"images": p.x, "split"', '"split"'),
}


def test_a_fault_in_the_module_turns_its_test_red(tmp_path):
    mutants = {name: ("traversal", *m) for name, m in MUTANTS.items()}
    each_turns_red(mutants, ("unit/test_traversal.py", "tiny.py"), tmp_path)


def test_an_altered_number_turns_the_spot_check_red(recorded):
    part = next(p for p in spot.PARTS if isinstance(p, tr.PixelPart))
    table = results.shipped(spot.NAME, spot.PARTS, recorded)
    assert results.same(part, table, spot.compared(part), spot.KEYS) == []
    table["psnr"] += 2 * spot.TOLERANCE["psnr"]
    assert "psnr" in results.same(part, table, spot.compared(part), spot.KEYS)[0]


@pytest.mark.parametrize("what", ["recipe", "pictures", "weights", "code", "missing"])
def test_a_table_that_rests_on_something_else_is_refused(recorded, what, monkeypatch):
    todo = list(spot.PARTS)
    k = next(i for i, p in enumerate(todo) if isinstance(p, tr.MapPart))
    p = todo[k].pictures
    is_refused(spot.NAME, todo, what, (tr, "_model"), monkeypatch, recorded, k,
               recipe={"recipe": tr.Recipe(epochs=9)},
               pictures={"pictures": replace(p, x=p.x.flip(0))})
