"""The register, the logic from numbers to verdicts, and the calls of a trial outside a kernel."""

import itertools
import json
import math
import re

import pytest

from difftools import book, claims, provenance, register
from difftools.claims import CheckFailed, Trial
from notebooks import toy

IDS = """R-PAD R-INV R-INV-ID R-INV-SKETCH R-INV-SPEED R-DIM R-UNIV R-HOLE R-L1 R-L1.1 R-L2.1 R-L2.2
R-CURSE R-A1 R-GRAD R-PAR R-GLOBAL R-LINEAR R-GANPATH R-MLP R-SPHREG R-FEW R-DIVERSE Z-RECON Z-GAUSS
Z-SEP Z-GEO Z-REJECT Z-MIX Z-BAND Z-FID Z-ARCH Z-GAP Z-SCI B-LOCAL B-DIVERSE B-PLUG B-PRIVACY B-AUG
B-SR B-OOD O-PSNR""".split()
SYSTEMS = {"DAE", "D2C", "LDM", "DDPM", "Stable Diffusion", "StyleGAN2", "SPHInX", "StyleGAN-XL",
           "BigGAN", "PULSE", "BRGM", "Latent Learner", "Ojha et al.", "FS-DAE", "FS-D2C",
           "DiscoveryDiff", "Boomerang", "FastDPM-style strided Boomerang"}
DECIDED = {claim["id"]: claim for claim in register.register().values() if claim["decision"]}
WORDS = ("supports", "refutes", "inconclusive")


# the register

def test_register_lists_every_claim_and_every_system():
    assert sorted(register.register()) == sorted(IDS)
    assert {system["name"] for system in register.tables()["system"]} == SYSTEMS
    assert len(register.tables()["chapter"]) == 12


def test_written_chapters_have_decision_rules():
    written = book.chapters()
    theirs = {c["id"] for c in register.register().values() if c["chapter"] in written}
    assert len(theirs) >= 9 and theirs <= set(DECIDED)


@pytest.mark.parametrize("claim", sorted(DECIDED))
def test_every_decision_can_be_reached_and_every_verdict_is_one(claim):
    claim = DECIDED[claim]
    for world in claim["worlds"]:
        pieces = [name for name, piece in claim["pieces"].items() if world in piece["worlds"]]
        reached = {register.decide(claim, dict(zip(pieces, words)), world)
                   for words in itertools.product(WORDS, repeat=len(pieces))}
        assert {verdict for verdict, _ in reached} <= set(register.VERDICTS)
        for step in claim["decision"]:
            assert world not in step["worlds"] or (step["verdict"], step["says"]) in reached, step


@pytest.mark.parametrize(("claim", "refuted", "verdict"), [
    ("Z-RECON", (), "holds, corrected"),
    ("R-DIM", (), "fails"),
    ("R-HOLE", (), "depends"),
    ("R-L1", ("kl-below-gamma",), "holds, corrected"),
    ("R-L1.1", ("inversion-ood",), "fails"),
    ("R-L2.1", (), "depends"),
    ("R-L2.2", ("order",), "fails"),
    ("R-CURSE", (), "fails"),
])
def test_theory_of_the_solvable_world_leads_to_the_verdict_that_it_implies(claim, refuted, verdict):
    words = dict.fromkeys(DECIDED[claim]["pieces"], "supports") | dict.fromkeys(refuted, "refutes")
    assert register.decide(DECIDED[claim], words, "S")[0] == verdict


@pytest.mark.parametrize(("old", "new", "message"), [
    ('id = "T-LATER"', 'id = "T-MEAN"', "is there twice"),
    ('verdict = "holds"', 'verdict = "wins"', "is no verdict"),
    ('when = "mean"', 'when = "median"', "no piece 'median'"),
    ('when = "mean"', 'when = "spread"', "no piece 'spread' in world S"),
    ('rule = "in [0.4, 0.6]"', 'rule = "near 0.5"', "cannot read the rule"),
    ('why = "Theory: 1/2."', 'why = ""', "why is missing"),
    ('source = "R"', 'source = "Z"', "nothing printed"),
    ('chapter = "later"', 'chapter = "never"', "no chapter 'never'"),
    ('worlds = ["E"]\nrule', 'worlds = ["P"]\nrule', "no world P"),
])
def test_a_wrong_register_is_refused(tmp_path, old, new, message):
    (tmp_path / "data").mkdir()
    assert old in toy.REGISTER
    (tmp_path / "data" / "claims.toml").write_text(toy.REGISTER.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message)):
        register.register(tmp_path)


# from numbers to verdicts

@pytest.mark.parametrize(("rule", "value", "interval", "word"), [
    ("< 1", 0.5, None, "supports"), ("< 1", 1, None, "refutes"), ("<= 1", 1, None, "supports"),
    ("> 1", 1, None, "refutes"), (">= 1", 1, None, "supports"), ("> 1", 2, (1, 3), "inconclusive"),
    ("> 1", 2, (1.1, 3), "supports"), ("> 1", 0, (-1, 1), "refutes"),
    (">= -1e-9", 0, None, "supports"),
    ("in [0, 1]", 0.5, (0, 1), "supports"), ("in [0, 1]", 0.5, (0, 1.1), "inconclusive"),
    ("in [0, 1]", 2, (1.1, 3), "refutes"), ("in [0, 1]", -1, (-2, 2), "inconclusive"),
    ("> 1", 0.5, (2, 3), "inconclusive"),            # a value outside its own interval counts too
    ("> 1", math.nan, None, "inconclusive"), ("> 1", 2, (math.nan, 3), "inconclusive"),
    ("> 1", math.inf, None, "supports"),
])
def test_judge(rule, value, interval, word):
    assert register.judge(rule, value, interval) == word


def test_a_rule_may_differ_between_worlds():
    piece = {"rule": {"S": "< 1", "E": "< 2"}}
    assert [register.rule_of(piece, world) for world in "SEP"] == ["< 1", "< 2", "< 2"]


@pytest.mark.parametrize("when", [
    "a and b", "a or not b", "not (a and b) or c-d", "a and (b or not c-d)"])
def test_three_valued_logic_knows_only_what_every_completion_agrees_on(when):
    pieces = ["a", "b", "c-d"]
    for values in itertools.product([True, False, None], repeat=3):
        known = dict(zip(pieces, values))
        ways = [[v] if v is not None else [True, False] for v in values]
        outcomes = {eval(when.replace("-", "_"), dict(zip(("a", "b", "c_d"), way)))
                    for way in itertools.product(*ways)}
        if register.kleene(when, known) is not None:
            assert outcomes == {register.kleene(when, known)}
        if None not in values:
            assert register.kleene(when, known) is not None


@pytest.mark.parametrize("when", ["a < b", "f(a)", "a + b", "a if b else c"])
def test_conditions_hold_nothing_but_logic(when):
    with pytest.raises(ValueError, match="only names"):
        register.kleene(when, {})


def test_an_unknown_condition_before_a_true_one_is_inconclusive():
    claim = DECIDED["Z-RECON"]
    words = dict.fromkeys(claim["pieces"], "supports") | {"zero-psnr": "inconclusive"}
    assert register.decide(claim, words, "E") == ("inconclusive", "Undecided: zero-psnr.")


def test_a_claim_waits_for_the_evidence_of_another_chapter():
    claim = DECIDED["R-INV"]
    words = {name: "supports" for name in claim["pieces"] if name != "zero-psnr"}
    waits = "Waits for zero-psnr (chapter inversion)."
    assert register.decide(claim, words, "E") == ("pending", waits)
    assert register.decide(claim, words | {"zero-psnr": "supports"}, "E")[0] != "pending"
    assert register.decide(register.register()["R-L1"], {}, "E")[0] == "not applicable"
    assert register.decide(claim | {"decision": []}, words, "E")[0] == "pending"


# a trial

PARAMETERS = {"profile": "reference", "world": "embedded", "n": 3}


@pytest.fixture
def root(tmp_path):
    """A register and a recorded run of the toy chapter."""
    (tmp_path / "data" / "expected").mkdir(parents=True)
    (tmp_path / "data" / "claims.toml").write_text(toy.REGISTER)
    mean = {"value": 0.5, "interval": [0.45, 0.55], "word": "supports"}
    now = {"value": "nan", "interval": None, "word": "inconclusive"}
    done = {"parameters": PARAMETERS, "checks": {"mean": {"value": 0.51, "tol": 0.01}},
            "evidence": {"T-MEAN/mean": {"E": mean}, "T-LATER/now": {"E": now}}}
    (tmp_path / "data" / "expected" / "toy.json").write_text(json.dumps(done))
    return tmp_path


def trial(root, **changes):
    return Trial("toy", root=root, **(PARAMETERS | changes))


def test_a_check_prints_the_recorded_number_while_the_fresh_one_agrees(root, capsys):
    assert trial(root).check("mean", 0.514, tol=0.0101, why="spread", expect=0.51) == 0.514
    said = "check    mean = 0.510 ± 0.01 (recorded, theory 0.510): agrees\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(("value", "expect"), [(0.53, None), (0.51, 0.6), (math.nan, None)])
def test_a_check_raises_when_a_number_leaves_its_record_or_its_theory(root, value, expect):
    with pytest.raises(CheckFailed, match="DISAGREES .* measured spread"):
        trial(root).check("mean", value, tol=0.01, why="measured spread", expect=expect)


@pytest.mark.parametrize("change", [{"n": 4}, {"profile": "smoke"}, {"world": "paper"}])
def test_a_check_only_reports_when_parameters_differ(root, capsys, change):
    assert trial(root, **change).check("mean", 99, tol=0.01, why="spread", expect=0) == 99
    assert "not compared (parameters differ from the recorded run)" in capsys.readouterr().out


def test_the_device_and_the_batch_size_are_no_excuse(root):
    with pytest.raises(CheckFailed):
        trial(root, device="cuda", batch_size=7).check("mean", 99, tol=0.01, why="spread")


def test_a_check_without_record_reports(root, capsys):
    trial(root).check("new", 1, tol=1, why="spread")
    (root / "data" / "expected" / "toy.json").unlink()
    trial(root).check("mean", 99, tol=1, why="spread")
    assert re.findall(r"not compared \((.*)\)", capsys.readouterr().out) == [
        "no such check in the recorded run", "no recorded run"]


def test_recording_ignores_the_record_but_not_the_theory(root, capsys, monkeypatch):
    monkeypatch.setenv("DIFFTOOLS_RECORD", "1")
    trial(root).check("mean", 99, tol=0.01, why="spread")
    assert "= 99.0 ± 0.01 (recorded): agrees" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="DISAGREES with the theory"):
        trial(root).check("mean", 99, tol=0.01, why="spread", expect=1)


@pytest.mark.parametrize(("tol", "why"), [
    (0, "x"), (-1, "x"), (math.nan, "x"), (math.inf, "x"), (1, " ")])
def test_a_check_needs_a_tolerance_and_a_reason(root, tol, why):
    with pytest.raises(ValueError, match="tolerance"):
        trial(root).check("mean", 1, tol=tol, why=why)


def test_evidence_gives_a_word_and_never_raises_for_a_number(root, capsys):
    court = trial(root)
    assert court.evidence("T-MEAN/mean", 0.52, (0.48, 0.56)) == "supports"
    assert court.evidence("T-MEAN/mean", 9, world="S") == "refutes"
    assert court.evidence("T-LATER/now", math.nan) == "inconclusive"
    assert capsys.readouterr().out.splitlines() == [
        "evidence T-MEAN/mean [E]  0.500 [0.450, 0.550]  rule in [0.4, 0.6]: supports",
        "evidence T-MEAN/mean [S]  9.00  rule in [0.4, 0.6]: refutes"
        " (differs from the recorded run)",
        "evidence T-LATER/now [E]  undefined  rule > 0: inconclusive",
    ]


@pytest.mark.parametrize(("value", "interval"), [(0.3, (0.2, 0.35)), (0.59, (0.58, 0.6))])
def test_evidence_says_when_it_differs_from_the_recorded_run(root, capsys, value, interval):
    trial(root).evidence("T-MEAN/mean", value, interval)
    assert capsys.readouterr().out.endswith("(differs from the recorded run)\n")


def test_evidence_of_a_world_that_a_piece_lacks_is_not_applicable(root, capsys):
    court = trial(root, world="paper")
    assert court.evidence("T-MEAN/mean", 0.5) == "not applicable"
    assert court.verdict("T-MEAN") == "not applicable"


@pytest.mark.parametrize(("error", "call", "message"), [
    (KeyError, lambda t: t.evidence("T-MEAN/typo", 1),
     "toy has T-MEAN/mean, T-MEAN/spread, T-LATER/now"),
    (ValueError, lambda t: t.evidence("T-LATER/then", 1), "belongs to chapter later"),
    (ValueError, lambda t: t.evidence("T-MEAN/spread", 1, world="S"), "has no world 'S'; it has E"),
    (ValueError, lambda t: t.evidence("T-MEAN/mean", 1, rule="> 0"), "register's rule is 'in [0"),
    (ValueError, lambda t: t.evidence("T-MEAN/mean", 1, (2, 1)), "an interval is (low, high)"),
    (KeyError, lambda t: t.verdict("R-L1"), "toy decides T-MEAN, T-LATER"),
    (ValueError, lambda t: [t.check("a", 1, tol=1, why="x") for _ in range(2)], "given before"),
    (ValueError, lambda t: [t.evidence("T-MEAN/mean", 1) for _ in range(2)], "given before"),
])
def test_misuse_is_an_error_that_helps(root, error, call, message):
    with pytest.raises(error, match=re.escape(message)):
        call(trial(root))


@pytest.mark.parametrize(("changes", "message"), [
    ({"world": "E"}, "no world 'E'"), ({}, "no chapter 'typo'")])
def test_a_trial_needs_a_known_chapter_and_world(root, changes, message):
    with pytest.raises(ValueError, match=message):
        Trial("toy" if changes else "typo", root=root, **(PARAMETERS | changes))


def test_a_verdict_follows_from_fresh_words_and_from_recorded_ones_of_other_chapters(root, capsys):
    court = trial(root)
    assert court.verdict("T-LATER") == "pending"
    then = {"value": 1, "interval": None, "word": "supports"}
    later = {"evidence": {"T-LATER/then": {"E": then}}}
    (root / "data" / "expected" / "later.json").write_text(json.dumps(later))
    court = trial(root)
    court.evidence("T-LATER/now", 1)
    court.evidence("T-MEAN/mean", 0.9)
    assert (court.verdict("T-LATER"), court.verdict("T-MEAN")) == ("holds", "fails")
    assert capsys.readouterr().out.endswith("verdict  T-MEAN [E]  FAILS. It is not.\n")


def test_without_evidence_a_verdict_is_inconclusive_even_if_the_record_has_some(root):
    assert trial(root).verdict("T-MEAN") == "inconclusive"


# provenance

def test_comments_and_docstrings_do_not_make_a_result_stale():
    plain = 'def f(x):\n    return x + 1\n'
    noted = '"""A module."""\n\n\ndef f(x):\n    """Adds one."""\n    return (x + 1)   # one\n'
    assert provenance.code_hash(plain) == provenance.code_hash(noted)


@pytest.mark.parametrize("other", [
    "def f(x):\n    return x + 2\n", "def f(x):\n    return x + 1.0\n",
    "def f(x):\n    return x - 1\n", "def f(y):\n    return y + 1\n",
    "def f(x):\n    return x + 1\nf(1)\n", "def f(x):\n    return None\n",
    "def f(x, *, y=None):\n    return x + 1\n", "%magic"])
def test_any_change_of_what_code_does_makes_it_stale(other):
    assert provenance.code_hash("def f(x):\n    return x + 1\n") != provenance.code_hash(other)


def test_provenance_holds_no_face(monkeypatch):
    found = provenance.provenance()
    assert not set(found["modules"]) & set(provenance.FREE)
    assert claims.LIBRARIES and set(found) == {"modules", "files"}
