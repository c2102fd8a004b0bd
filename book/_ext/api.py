"""The API page: `difftools-api` writes each public name with its signature and docstring.

The source is read with `ast` and never imported, so the book builds without torch.
Docstrings are plain text: nothing in them is parsed as markup, but `names` are set as code.
"""

import ast
import inspect
import re
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
CODE = re.compile(r"``(.+?)``|`(.+?)`")
CHAPTER = re.compile(r"(?<=Built in: )[a-z_]+")


def modules(package: str = "difftools") -> dict[str, ast.Module]:
    """Dotted name -> parsed source of every public module, in alphabetical order."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in files}
    return {name.removesuffix(".__init__"): ast.parse(f.read_text(encoding="utf-8"))
            for name, f in names.items() if not re.search(r"\._(?!_init__)", name)}


def public(body: list[ast.stmt]) -> list[ast.stmt]:
    """The functions and classes of a body whose names do not start with an underscore."""
    defs = [node for node in body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    return [node for node in defs if not node.name.startswith("_")]


def signature(node: ast.stmt) -> str:
    """How a function or class is called, as one line of source."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}({class_arguments(node)})"
    args = ast.unparse(node.args)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    decorators = {ast.unparse(d) for d in node.decorator_list}
    if decorators & {"property", "cached_property", "functools.cached_property"}:
        return f"{node.name}{returns}"
    return f"{node.name}({re.sub(r'^(self|cls)(, |$)', '', args)}){returns}"


def class_arguments(node: ast.ClassDef) -> str:
    """Arguments of `__init__`; for a dataclass, its fields; for any other class, its bases."""
    for item in node.body:
        if isinstance(item, FUNCTIONS) and item.name == "__init__":
            return re.sub(r"^self(, |$)", "", ast.unparse(item.args))
    if any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        return ", ".join(ast.unparse(i) for i in node.body if isinstance(i, ast.AnnAssign))
    return ", ".join(ast.unparse(base) for base in node.bases)


class Api(SphinxDirective):
    """One section per module, in it one section per public function or class.

    Chapters point at them with {mod}`difftools.sphere` and {func}`difftools.sphere.slerp`.
    """

    def run(self) -> list[nodes.Node]:
        sections = []
        for name, tree in modules().items():
            members = [self.entry(f"{name}.{node.name}", node) for node in public(tree.body)]
            if members:
                sections.append(section(name, name, self.text(tree), *members))
                self.python.note_module(name, nodes.make_id(name), "", "", False)
                self.python.note_object(name, "module", nodes.make_id(name))
        for file in (ROOT / "difftools").rglob("*.py"):
            self.env.note_dependency(str(file))
        return sections

    @property
    def python(self):
        """The index of Python names that roles look into."""
        return self.env.get_domain("py")

    def entry(self, path: str, node: ast.stmt) -> nodes.section:
        """The section of one function or class; methods follow the text of their class."""
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        self.python.note_object(path, kind, nodes.make_id(path))
        out = section(path, node.name, [code(signature(node))], *self.text(node))
        for method in public(node.body) if isinstance(node, ast.ClassDef) else []:
            out += nodes.container("", code(signature(method)), *self.text(method),
                                   classes=["api-members"])
        return out

    def text(self, node: ast.AST) -> list[nodes.Node]:
        """A docstring as paragraphs; a block with indented lines or a list keeps its lines."""
        blocks = re.split(r"\n\s*\n", inspect.cleandoc(ast.get_docstring(node) or ""))
        return [self.block(block) for block in blocks if block.strip()]

    def block(self, block: str) -> nodes.Node:
        if re.search(r"^(\s|[-*] )", block, re.M):
            return nodes.literal_block(block, block, language="none")
        out, done = nodes.paragraph(), 0
        line = " ".join(block.split("\n"))
        matches = [*CODE.finditer(line), *CHAPTER.finditer(line)]
        for match in sorted(matches, key=lambda m: m.start()):
            if match.start() >= done:
                out += [nodes.Text(line[done:match.start()]), self.inline(match)]
                done = match.end()
        out += nodes.Text(line[done:])
        return out

    def inline(self, match: re.Match) -> nodes.Node:
        """A name set as code, or a link to the chapter that builds the function."""
        if match.re is CODE:
            name = match[1] or match[2]
            return nodes.literal(name, name)
        target = f"notebooks/{match[0]}"
        if target not in self.env.found_docs:
            return nodes.Text(match[0])
        uri = self.env.app.builder.get_relative_uri(self.env.docname, target)
        return nodes.reference(match[0], match[0], refuri=uri, internal=True)


def section(path: str, title: str, *content) -> nodes.section:
    """A section whose anchor is made of the dotted path."""
    out = nodes.section("", nodes.title(title, title), ids=[nodes.make_id(path)], names=[path])
    for item in content:
        out += item
    return out


def code(source: str) -> nodes.container:
    """A signature, highlighted as Python."""
    block = nodes.literal_block(source, source, language="python")
    return nodes.container("", block, classes=["api-signature"])


def setup(app):
    app.add_directive("difftools-api", Api)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
