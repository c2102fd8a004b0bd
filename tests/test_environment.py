"""The environment is one thing, said in several files: they must agree, and name no machine."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rattler import MatchSpec
from rattler.exceptions import InvalidMatchSpecError

import difftools

ROOT = Path(__file__).parents[1]
LOCKS = ["requirements.lock", "requirements-book.lock"]
FILES = [*LOCKS, "requirements.in", "requirements-book.in", "environment.yml", "pyproject.toml",
         "Makefile", "_config.yml", "_toc.yml", "CITATION.cff", ".ci/run", ".gitignore"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirements(name: str) -> dict[str, Requirement]:
    """Canonical name -> requirement, of a requirements file without what it includes."""
    lines = (line.split("#")[0].strip() for line in text(name).splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    assert len({canonicalize_name(r.name) for r in found}) == len(found), f"{name} repeats itself"
    return {canonicalize_name(r.name): r for r in found}


def pins(lock: str) -> dict[str, str]:
    """Canonical name -> exact version."""
    out = {}
    for name, requirement in requirements(lock).items():
        exact = [s.version for s in requirement.specifier if s.operator == "=="]
        assert len(requirement.specifier) == len(exact) == 1, f"{lock} does not pin {requirement}"
        out[name] = exact[0]
    return out


def declared() -> dict[str, Requirement]:
    """What pyproject.toml asks for, extras included."""
    project = tomllib.loads(text("pyproject.toml"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return {canonicalize_name(r.name): r for group in groups for r in map(Requirement, group)}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_plain_versions_only(lock):
    versions = pins(lock)
    assert len(versions) > 50
    local = [name for name, version in versions.items() if "+" in version]
    assert local == [], "a local version (+cpu) exists on one index only"
    markers = [str(r) for r in requirements(lock).values() if r.url or r.marker]
    assert markers == []


def test_torchvision_stays_out():
    """Its common build does not import beside a CPU build of torch, and others fail with it."""
    names = {*pins("requirements.lock"), *pins("requirements-book.lock"), *declared()}
    assert "torchvision" not in names
    assert find_spec("torchvision") is None, "torchvision is installed: remove it"


def test_the_lock_holds_no_cuda_libraries():
    """Gigabytes that no test needs; a lock resolved against a CUDA build of torch drags them in."""
    heavy = ("cuda-", "nvidia-", "triton")
    assert [name for name in pins("requirements.lock") if name.startswith(heavy)] == []


def test_the_book_needs_no_torch_and_agrees_with_the_full_lock():
    full, book = pins("requirements.lock"), pins("requirements-book.lock")
    assert "torch" not in book
    assert {name: (v, full.get(name)) for name, v in book.items() if full.get(name) != v} == {}


def test_every_declared_dependency_is_pinned_within_its_bounds():
    full = pins("requirements.lock")
    outside = [str(r) for name, r in declared().items() if full.get(name, "") not in r.specifier]
    assert outside == []


def test_pyproject_declares_what_is_locked_on_purpose():
    wanted = {*requirements("requirements.in"), *requirements("requirements-book.in")}
    assert wanted == set(declared())


def test_pyproject_has_lower_bounds_only():
    upper = {name: str(r.specifier) for name, r in declared().items()
             if any(s.operator != ">=" for s in r.specifier)}
    assert upper == {"jupyter-book": "<2,>=1.0.4"}, "2.x cannot build without a network"


def test_the_environment_is_the_locked_one():
    """A result belongs to its versions; `make setup` brings them back."""
    full = pins("requirements.lock")
    here = {}
    for d in metadata.distributions():  # the first one found is imported; setuptools vendors others
        here.setdefault(canonicalize_name(d.name), d.version.split("+")[0])
    assert {n: (v, here.get(n)) for n, v in full.items() if here.get(n) != v} == {}


OPTIONAL = {"transformers"}  # reads prompts of Stable Diffusion; without it a clear error says so


def test_the_package_imports_only_what_it_declares():
    distributions = metadata.packages_distributions()
    undeclared = set()
    for file in (ROOT / "difftools").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for module in imported(node):
                owners = {canonicalize_name(d) for d in distributions.get(module, [module])}
                if not owners & {*declared(), *OPTIONAL, "difftools"}:
                    undeclared.add(f"{file.relative_to(ROOT)}: {module}")
    assert sorted(undeclared) == []


def imported(node: ast.AST) -> set[str]:
    """Top-level names of the third-party modules that a statement imports."""
    if isinstance(node, ast.Import):
        names = {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        names = {node.module.split(".")[0]}
    else:
        names = set()
    return names - sys.stdlib_module_names


def test_environment_yml_parses_as_conda_reads_it():
    environment = yaml.safe_load(text("environment.yml"))
    assert set(environment) == {"name", "channels", "dependencies"}
    *conda, pip = environment["dependencies"]
    specs = {spec.name.normalized: spec for spec in map(MatchSpec, conda)}
    assert set(specs) == {"python", "pip", "make"}
    assert str(specs["python"].version) == "3.11.*"
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_a_wrong_conda_spec_is_noticed():
    with pytest.raises(InvalidMatchSpecError):
        MatchSpec("python=>3.11=<")


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_a_host_or_a_machine(name):
    host = r"\w+://\S+|\b[\w.-]+\.(?:com|io|net|org)\b"
    folder = r"(?<![\w.])/(?:home|mnt|opt|root|srv|tmp|Users|work)/\S*"
    assert re.findall(f"{host}|{folder}", text(name)) == []


def test_make_help_lists_every_target():
    targets = re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.M)[1].split()
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout
    assert re.findall(r"^ +make (\w+)", shown, re.M) == targets


def test_ci_runs_what_a_developer_runs():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "not executable"
    subprocess.run(["bash", "-n", script], check=True)
    assert text(".ci/run").splitlines()[-2:] == ["make setup", "make test"]


def test_the_citation_is_current():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert citation["version"] == difftools.__version__
