"""Faults planted in repairs through latents: each must turn a test red."""

import shutil
from dataclasses import replace

import pytest

from difftools import results
from difftools import traversal as tr
from faults import each_turns_red
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
    "the_curve_starts": ('"angle": angle(out, held[1])', '"angle": angle(out, held[0])'),
    "epochs_to": ("(before - level) / (before - now)", "(level - now) / (before - now)"),
    "the_linear_code": ("mean + (v.double() - mean) @ V.T @ V", "mean + v.double() @ V.T @ V"),
    "the_bracket_is": ("inside / (1 - Q", "inside * (1 - Q"),
    "the_best_estimate": ("(v @ self.M) @ self.gain)", "0.9 * (v @ self.M) @ self.gain)"),
    "every_choice": ("z @ U @ U.T", "0.9 * z @ U @ U.T"),
    "what_is_judged": ("images.fill_box(x, found,", "images.fill_box(found, x,"),
    "an_untrained_step": ("frame.codes(f(source[rows])", "frame.codes(f(target[rows])"),
    "pairs_start": ("range(i, min(i + batch, len(x))))", "range(0, min(batch, len(x) - i)))"),
    "what_pixels_give": ('if self.task == "inpaint":', 'if self.task == "colour":'),
    "a_key_changes": ('"images": p.x, "split"', '"split"'),
}


def test_a_fault_in_the_module_turns_its_test_red(tmp_path):
    mutants = {name: ("traversal", *m) for name, m in MUTANTS.items()}
    each_turns_red(mutants, ("unit/test_traversal.py", "tiny.py"), tmp_path)


@pytest.fixture()
def recorded(tmp_path):
    """A copy of the recorded tables, to change."""
    return shutil.copytree(results.FOLDER, tmp_path / "results")


def test_an_altered_number_turns_the_spot_check_red(recorded):
    part = next(p for p in spot.PARTS if isinstance(p, tr.GANPart))
    table = results.shipped(spot.NAME, spot.PARTS, recorded)
    few = replace(part, steps=2)  # what two steps give is not what is recorded
    assert results.same(few, table, spot.compared(part), spot.keys(part)) != []


@pytest.mark.parametrize("what", ["recipe", "pictures", "weights", "code", "missing"])
def test_a_table_that_rests_on_something_else_is_refused(recorded, what, monkeypatch):
    todo = list(spot.PARTS)
    k = next(i for i, p in enumerate(todo) if isinstance(p, tr.MapPart))
    p = todo[k].pictures
    changes = {"recipe": {"recipe": tr.Recipe(epochs=9)},
               "pictures": {"pictures": replace(p, x=p.x.flip(0))}}
    todo[k] = replace(todo[k], **changes.get(what, {}))
    if what == "weights":
        monkeypatch.setattr(tr, "_model", lambda name: "other")
    if what == "code":
        monkeypatch.setattr(results, "code_version", lambda *what: "other")
    if what == "missing":
        (recorded / f"{spot.NAME}.csv").unlink()
    with pytest.raises(results.Stale, match="run its chapter at profile full|run the chapter at"):
        results.heavy(spot.NAME, todo, folder=recorded)
