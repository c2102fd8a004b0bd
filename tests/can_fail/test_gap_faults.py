"""Faults planted in `difftools.gap`, one at a time: each turns red the test that has its name."""

import re
import shutil

from difftools.provenance import ROOT
from faults import alter, red

GAP_MUTANTS = {
    "pad_is": ("return 2 * (1 - 2 * e)", "return 2 * (1 - e)"),
    "best_pad_of_shifted": ("stats.norm.cdf(delta / 2)", "stats.norm.cdf(delta)"),
    "best_pad_of_scaled": ("law.cdf(cut / v)", "law.cdf(cut * v)"),
    "separable_is": ("gammaln(n) - gammaln(k + 1)", "gammaln(n + 1) - gammaln(k + 1)"),
    "errors_are": ("halves.split(X, y)", "[(np.arange(len(y)),) * 2] * count"),
    "identical_laws": ("for i in (train, test)]", "for i in (test, test)]"),
    "permuted_labels": ("default_rng(seed).permutation(y)", "default_rng(seed).choice([y])"),
    "unequal_sets": ("1 - balanced_accuracy_score(*v)", "(v[0] != v[1]).mean()"),
    "interval_covers": ("min(low, mean - half, mean)", "mean - half"),
    "corrected_is": ("np.sqrt(1 / len(v) + ratio)", "np.sqrt(1 / len(v))"),
    "told_apart_is_the_auc": ("_log_odds(X, y, 1 - held)", "_log_odds(X, y, 1 + 0 * held)"),
    "told_apart_is_the_logistic": ("+ ridge * w[..., 0]\n", "\n"),
    "support_vector_machines": ("b.shape[1] * (b.var()", "a.shape[0] * (b.var()"),
    "byte_statistics": ("(levels % 2)", "(levels // 2 % 2)"),
    "a_dropped_bit": ('"bytes": byte_statistics', '"bytes": lambda x: byte_statistics(x)[:, 1:]'),
    "small_cnn_learns": ("torch.randperm(len(x), generator=gen)", "torch.randperm(len(x))"),
    "cross_fade": ("requantise((1 - t) * x + t * other)", "requantise(x + t * other)"),
    "neighbour_gap": ("fill_diagonal_(torch.inf)", "fill_diagonal_(0.0)"),
    "path_statistics_recover": ("(1 - tau) * slope", "tau * slope"),
    "path_statistics_see": ("zip(eps, eps[1:], lam, lam[1:])", "zip(eps, eps, lam, lam[1:])"),
    "pictures_reads": ("if name in DOWNLOADS:", "if not name:"),
}
EACH = '''import importlib

import pytest


@pytest.fixture(autouse=True)
def planted(request, monkeypatch):
    name = next(n for n in {names} if request.node.name.startswith("test_" + n))
    monkeypatch.setattr(request.module, "gap", importlib.import_module("difftools.gap_" + name))
'''


def test_a_fault_in_the_gaps_turns_its_test_red(tmp_path):
    shutil.copytree(ROOT / "difftools", tmp_path / "difftools",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "unit" / "test_gap.py", tmp_path / "tests")
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "tests" / "conftest.py").write_text(EACH.format(names=list(GAP_MUTANTS)))
    for name, (old, new) in GAP_MUTANTS.items():
        mutant = tmp_path / "difftools" / f"gap_{name}.py"
        shutil.copy(ROOT / "difftools" / "gap.py", mutant)
        alter(mutant, old, new)
    said = red(["-k", " or ".join(f"test_{n}" for n in GAP_MUTANTS), "tests"], tmp_path)
    failed = re.findall(r"FAILED \S*::test_(\S*)", said)
    caught = {n for n in GAP_MUTANTS if any(test.startswith(n) for test in failed)}
    assert caught == set(GAP_MUTANTS), said
