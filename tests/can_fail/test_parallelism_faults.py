"""Faults planted in the angles, the global direction and the descents, and in their tables."""

import random

import pytest

from difftools import parallelism_tables as T
from difftools import register, results
from faults import each_turns_red, is_refused
from oracle import test_recorded_parallelism as spot

MUTANTS = {
    "a_definition_from": ("parallelism", "self.tt - self.st - self.st.T + self.ss",
                          "self.tt - self.st + self.ss"),
    "any_points": ("parallelism", "- p.st[i, k] + p.ss[i, i]", "- p.st[i, k]"),
    "permuted_pairs": ("parallelism", "np.roll(order, 1)", "order"),
    "the_jackknife": ("parallelism", "(n - 1) / n * left.var() * n", "left.var() / n"),
    "energy_bounds": ("parallelism", "1 - 0.7246113537767084 * angle", "math.cos(angle)"),
    "moving_by": ("parallelism", "return z + (t - s).mean(0)", "return z + t.mean(0)"),
    "ways_of_moving": ("parallelism", "d - (v @ d.T) * v", "d"),
    "a_quadratic": ("descent", "g = g - wide((g * at)", "g = g + wide((g * at)"),
    "straightness_and": ("descent", "self.z[0], self.z[-1]) / self.length",
                         "self.z[0], self.z[-1]) / self.length * 2"),
    "a_path_ends": ("descent", "loss.argmin(0)", "loss.argmax(0)"),
    "each_kind": ("descent", "_mse(low(v), low(bank[-1]))", "_mse(low(v), low(bank[0]))"),
    "identity_sees": ("descent", "_features(v), whose)", "_features(v), _features(v))"),
    "half_of": ("descent", "seen, seen(x) / 2)", "seen, seen(x) / 4)"),
    "the_true_shift": ("descent", "both = x, shift(x, x.shape[-1] // 4)", "both = x, x"),
    "a_row_is_the_descent": ("parallelism_tables", "kind.reached(b)", "kind.reached(a)"),
    "the_steady_interval": ("parallelism_tables", "n * every - (n - 1) * left", "left"),
    "no_pairs_are": ("parallelism_tables", "m.decode(z)}", "m.decode(s)}"),
    "intervals_of_halves": ("parallelism_tables", "= steady(angles.pairs(source[part], target",
                            "= steady(angles.pairs(target[part], target"),
    "the_margin": ("descent", "logits[:, TARGET + 1 :]", "logits[:, TARGET:]"),
    "without_a_model": ("parallelism_tables", "s[p][:k], t[p][:k], way)",
                        "t[p][:k], s[p][:k], way)"),
    "new_pictures": ("parallelism_tables", "a[:n], b[:n], a[n:], b[n:]",
                     "a[:n], b[:n], a[:new], b[:new]"),
    "few_images": ("parallelism_tables", "p.select(range(min(FEW, len(p))))", "p"),
}
FILES = ("unit/test_parallelism.py", "unit/test_descent.py", "unit/test_parallelism_tables.py",
         "gan_files.py", "tiny.py")


def test_a_fault_in_the_experiments_turns_its_test_red(tmp_path):
    each_turns_red(MUTANTS, FILES, tmp_path)


def test_an_altered_number_turns_the_spot_check_red():
    on, tolerance = spot.CHECKED["parallelism_angles"]
    todo = T.angle_parts()
    part = spot.smaller(todo[0], random.Random(0))
    table = results.shipped("parallelism_angles", todo)
    assert results.same(part, table, tolerance, on) == []
    table.loc[table.row == part.name, "few"] += 0.1
    assert "few" in results.same(part, table, tolerance, on)[0]


@pytest.mark.parametrize("name", T.TABLES)
@pytest.mark.parametrize("what", ["weights", "code", "part"])
def test_a_table_that_rests_on_something_else_is_refused(name, what, monkeypatch):
    todo = T.TABLES[name]()
    is_refused(name, todo, what, (T, "weights_of"), monkeypatch, part={"x": -todo[-1].x})


def test_a_swapped_rule_turns_the_verdict():
    claim = register.register()["R-PAR"]
    words = {"as-printed": "refutes", "some-definition": "refutes", "blur-right-angle": "supports"}
    assert register.decide(claim, words, "S")[0] == "fails"
    assert register.decide(claim, words | {"some-definition": "supports"}, "S")[0] == "depends"
    assert register.decide(claim, words | {"as-printed": "supports"}, "S")[0] == "holds"
    assert register.decide(claim, words | {"floor": "refutes"}, "E")[0] == "inconclusive"
    line = register.register()["R-LINEAR"]
    same = {"floor": "supports", "reached": "supports", "graded": "supports", "graded-random": "supports",
            "path": "supports", "path-over-random": "refutes"}
    assert register.decide(line, same, "E")[0] == "ill-posed"
    assert register.decide(line, same | {"path-over-random": "supports"}, "E")[0] == "holds"
    assert register.decide(line, same | {"graded": "refutes"}, "E")[0] == "fails"
    for word in ("refutes", "inconclusive"):
        short = same | {"graded": "refutes", "reached": word}
        assert register.decide(line, short, "E")[0] == "inconclusive"
    move = register.register()["R-GLOBAL"]
    edit = {"floor": "supports", "fixed-box": "supports", "every-edit": "refutes",
            "over-pixels": "refutes"}
    assert register.decide(move, edit, "E")[0] == "depends"
    assert register.decide(move, edit | {"every-edit": "supports"}, "E")[0] == "holds, corrected"
    assert register.decide(move, edit | {"fixed-box": "refutes"}, "E")[0] == "fails"
