"""A book of one small chapter, built where a test wants it: good as made, and easily damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from difftools import book

CHAPTER = "toy"
REGISTER = '''
[[chapter]]
name = "toy"
question = "Is a toy enough?"
[[chapter]]
name = "later"
question = "What comes later?"
[[claim]]
id = "T-MEAN"
source = "R"
statement = "The mean of the toy is a half."
printed = "0.5"
controls = ["none"]
worlds = ["S", "E"]
chapter = "toy"
expect = "holds"
[claim.pieces.mean]
rule = "in [0.4, 0.6]"
says = "The mean is near a half."
why = "Theory: 1/2."
[claim.pieces.spread]
worlds = ["E"]
rule = {E = "> 0.2"}
says = "There is some spread."
why = "Theory: 0.289."
[[claim.decision]]
verdict = "holds"
when = "mean"
says = "It is."
[[claim.decision]]
verdict = "fails"
when = "not mean"
says = "It is not."
[[claim]]
id = "T-LATER"
source = "R"
statement = "Decided here, with a piece that comes later."
controls = ["none"]
worlds = ["E"]
chapter = "toy"
expect = "open"
[claim.pieces.now]
rule = "> 0"
says = "Yes."
why = "Theory."
[claim.pieces.then]
chapter = "later"
rule = "> 0"
says = "Yes."
why = "Theory."
[[claim.decision]]
verdict = "holds"
when = "now and then"
[[system]]
name = "Toy"
chapter = "toy"
status = "built"
'''

TOP = """# Is a toy enough?

## In one paragraph
Yes: 0.5.

## What you need
One second, one CPU.

## Predict before you run
Guess.

## Theory

$$
m = 1/2
$$ (eq-mean)

$$
s = 1/\\sqrt{12}
$$ (eq-spread)
"""

END = """## What breaks
Nothing.

## Recall
1. a
2. b
3. c
4. d
5. e

## Exercises
""" + "".join(f"""
```{{exercise}}
:label: toy-{i}
Do it.
```

```{{solution}} toy-{i}
:class: dropdown
Done.
```
""" for i in (1, 2, 3)) + """
## References
None.
"""

MODULE = '''"""Toy maths."""


def uniform(n, seed):
    """n points between 0 and 1."""
    # a linear congruential generator: no dependency, the same on every machine
    for _ in range(n):
        seed = (1103515245 * seed + 12345) % 2**31
        yield seed / 2**31
'''


def notebook() -> nbformat.NotebookNode:
    """The chapter, not yet run."""
    def checks(source: str) -> nbformat.NotebookNode:
        return new_code_cell(source, metadata={"tags": ["nbval-check-output"]})

    cells = [
        new_markdown_cell(TOP),
        new_code_cell('profile = "reference"\nworld = "embedded"\nn = 400\nseed = 1\nscale = 1.0',
                      metadata={"tags": ["parameters"]}),
        new_code_cell("from difftools.claims import Trial\n"
                      "from difftools.toymath import uniform\n\n"
                      'trial = Trial("toy", profile=profile, world=world, n=n, seed=seed, '
                      "scale=scale)"),
        new_code_cell("x = [scale * u for u in uniform(n, seed)]\nmean = sum(x) / n"),
        checks('_ = trial.check("mean", mean, tol=0.05, why="3 standard errors", expect=0.5)\n'
               '_ = trial.check("first", x[0], tol=1e-9, why="exact arithmetic")'),
        checks('_ = trial.evidence("T-MEAN/mean", mean, (mean - 0.03, mean + 0.03), world="S")\n'
               '_ = trial.evidence("T-MEAN/mean", mean, (mean - 0.03, mean + 0.03))\n'
               '_ = trial.evidence("T-MEAN/spread", max(x) - min(x), rule="> 0.2")\n'
               '_ = trial.evidence("T-LATER/now", float("nan"))'),
        checks('for letter in "SE":\n    trial.verdict("T-MEAN", world=letter)\n'
               '_ = trial.verdict("T-LATER")'),
        checks("trial.close()"),
        new_markdown_cell(END),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                "difftools": {"profiles": {"smoke": {"n": 20}}}}
    return new_notebook(cells=cells, metadata=metadata)


def build(root: Path) -> Path:
    """Write the toy book under ``root`` and record it: a book without a problem."""
    package = Path(book.__file__).parent
    (root / "difftools").mkdir(parents=True)
    for name in ("claims.py", "book.py", "provenance.py", "register.py"):
        shutil.copy(package / name, root / "difftools")
    (root / "difftools" / "__init__.py").write_text('"""A toy."""\n')
    (root / "difftools" / "toymath.py").write_text(MODULE)
    for folder in ("data", "notebooks", "book"):
        (root / folder).mkdir()
    (root / "data" / "claims.toml").write_text(REGISTER)
    nbformat.write(notebook(), root / "notebooks" / "toy.ipynb")
    book.record(CHAPTER, root)
    return root


def edit(root: Path, change) -> None:
    """Damage the notebook: ``change`` gets it and alters it."""
    nb = book.read(CHAPTER, root)
    change(nb)
    nbformat.write(nb, root / "notebooks" / "toy.ipynb")
