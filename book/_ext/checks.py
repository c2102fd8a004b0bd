"""Long runs of check lines are folded: one line says how many agree, a click shows them."""

from itertools import groupby

from docutils import nodes

FEW = 4                                   # as many stay open


def agrees(node: nodes.Node) -> bool:
    """Is this output the line of a check that agrees with its record?"""
    text = node.astext() if isinstance(node, nodes.literal_block) else ""
    return text.startswith("check ") and text.rstrip().endswith(": agrees")


def fold(app, doctree, docname):
    """In every cell's output, put more than FEW such lines in a row into a <details>."""
    for cell in doctree.findall(nodes.container):
        if "cell_output" in cell["classes"]:
            runs = [(ok, list(run)) for ok, run in groupby(cell.children, agrees)]
            cell.children = []
            for ok, run in runs:
                cell += folded(run) if ok and len(run) > FEW else run


def folded(run: list[nodes.literal_block]) -> list[nodes.Node]:
    """The lines as one block that is closed at first."""
    lines = run[0].deepcopy()
    lines.children = [nodes.Text("\n".join(line.astext().rstrip() for line in run))]
    lines.rawsource = lines.astext()      # what the highlighter compares
    summary = f"<summary>{len(run)} checks agree with their records</summary>"
    return [nodes.raw("", f'<details class="checks">{summary}', format="html"), lines,
            nodes.raw("", "</details>", format="html")]


def setup(app):
    app.connect("doctree-resolved", fold)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
