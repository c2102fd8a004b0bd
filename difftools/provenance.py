"""What a result rests on: hashes of code that has run and of files that were opened.

A comment, a docstring or a line break changes no result, so it changes no hash.
Built in: every chapter.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A change in these makes no result stale: faces only show results, the bare package holds its
# version, and the structure tests rebuild words, verdicts and lines from the raw numbers.
FREE = tuple(f"difftools{room}" for room in (
    "", ".book", ".claims", ".cli", ".plots", ".provenance", ".register"))


@lru_cache(maxsize=None)
def code_hash(source: str) -> str:
    """Hash of what code does, without comments, layout and docstrings; of text if no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:                                   # a cell with a %magic
        return hashlib.sha256(source.encode()).hexdigest()
    return hashlib.sha256(repr(_shape(tree)).encode()).hexdigest()


def _shape(node: object) -> object:
    # Our own dump: that of `ast` changes with the version of Python.
    if isinstance(node, list):
        return [_shape(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Constant):
        return ("Constant", repr(node.value))
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if ast.get_docstring(node, clean=False) is not None:
            fields["body"] = node.body[1:]
    return type(node).__name__, [(k, _shape(v)) for k, v in fields.items() if v not in (None, [])]


def provenance(root: Path = ROOT) -> dict[str, dict[str, str]]:
    """Hashes of the `difftools` modules that are loaded and the bundled files that were opened."""
    files = getattr(sys.modules.get("difftools.data"), "USED", {})
    loaded = {name: Path(module.__file__) for name, module in sorted(sys.modules.items())
              if name.split(".")[0] == "difftools" and getattr(module, "__file__", None)}
    modules = {name: code_hash(path.read_text(encoding="utf-8")) for name, path in loaded.items()
               if name not in FREE and path.is_relative_to(root)}
    return {"modules": modules, "files": dict(sorted(files.items()))}
