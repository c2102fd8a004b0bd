"""Keep the HTML free of remote addresses: Jupyter Book adds Thebe, which lives on another host."""


def drop_thebe(app, pagename, templatename, context, doctree):
    """Remove every script and style sheet of sphinx-thebe from one page."""
    for kind in ("script_files", "css_files"):
        context[kind] = [item for item in context.get(kind, []) if not is_thebe(item)]


def is_thebe(item) -> bool:
    """Does a script or style entry (a string, or a Sphinx asset) belong to Thebe?"""
    text = f"{getattr(item, 'filename', item)} {getattr(item, 'attributes', '')}"
    return "thebe" in text.lower()


def setup(app):
    # after sphinx-thebe's own handler, which runs at the default priority of 500
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
