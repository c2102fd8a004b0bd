"""The cards: `model-cards` and `data-sets` write what data/ knows; no page can lag behind it."""

import json
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

DATA = Path(__file__).parents[2] / "data"
SHOWN = {"error_ratio", "error_ratio_low", "error_ratio_high", "floor", "kid", "lam", "loss",
         "reconstruction", "curve"}


class DataSets(SphinxDirective):
    """One table row for every image set in data/datasets.toml."""

    def run(self) -> list[nodes.Node]:
        file = DATA / "datasets.toml"
        self.env.note_dependency(str(file))
        sets = tomllib.loads(file.read_text(encoding="utf-8"))
        rows = [[nodes.literal(name, name), link(entry), size(entry), entry["licence"],
                 "fetched" if "archive" in entry else "in the repository"]
                for name, entry in sets.items()]
        return [table(["name", "what", "images", "licence", "where"], rows)]


class ModelCards(SphinxDirective):
    """One section for every card data/weights/NAME.json, with its sample sheet NAME.png."""

    def run(self) -> list[nodes.Node]:
        files = [f for f in (DATA / "weights").glob("*.json") if f.stem != "manifest"]
        cards = {f.stem: json.loads(f.read_text(encoding="utf-8")) for f in files}
        failed = lambda f: not cards[f.stem]["floor"]["passed"]  # noqa: E731
        # controls, which fail the floor on purpose, come last
        sections = [self.section(f) for f in sorted(files, key=lambda f: (failed(f), f.stem))]
        return [samples(cards), *sections]

    def section(self, file: Path) -> nodes.section:
        self.env.note_dependency(str(file))
        card = json.loads(file.read_text(encoding="utf-8"))
        out = nodes.section("", nodes.title(file.stem, file.stem),
                            ids=[nodes.make_id(file.stem)], names=[file.stem])
        if file.with_suffix(".png").exists():
            alt = f"Samples of {file.stem}"
            out += nodes.image(uri=f"../data/weights/{file.stem}.png", alt=alt)
            out += nodes.paragraph("", f"{alt}, not picked.")
        parts = [floor(card), quality(card), distances(card), curve(card), reconstruction(card),
                 facts(card)]
        out += [part for part in parts if part]
        return out


def floor(card: dict) -> nodes.Node | None:
    """The conditions of the quality floor, and whether the weights meet them."""
    conditions = [[key.replace("_", " "), "yes" if met else "no"]
                  for key, met in card.get("floor", {}).items()]
    return table(["quality floor, as shipped", "met"], conditions) if conditions else None


def quality(card: dict) -> nodes.Node | None:
    """Error of the denoiser over that of the best linear one, at each noise level."""
    keys = ("lam", "error_ratio", "error_ratio_low", "error_ratio_high")
    if not all(key in card for key in keys):
        return None
    rows = [[f"{lam:+.1f}", f"{ratio:.3f}", f"{low:.3f} … {high:.3f}"]
            for lam, ratio, low, high in zip(*(card[key] for key in keys), strict=True)
            if lam == round(lam)]
    return table(["log-SNR λ", "error ÷ linear-MMSE error", "interval"], rows)


def distances(card: dict) -> nodes.Node | None:
    """KID to held-out images, of the samples and of what they are compared with."""
    rows = [[name, f"{kid['value']:.4f}", f"{kid['low']:.4f} … {kid['high']:.4f}"]
            for name, kid in card.get("kid", {}).items()]
    return table(["KID to held-out images", "value", "interval"], rows) if rows else None


def curve(card: dict) -> nodes.Node | None:
    """KID and FD of a GAN's samples while it was trained."""
    rows = [[f"{p['images']:,}", f"{p['kid']['value']:.3f}",
             f"{p['kid']['low']:.3f} … {p['kid']['high']:.3f}", f"{p['fd64']:.2f}"]
            for p in card.get("curve", [])]
    return table(["images shown", "KID", "interval", "FD, 64 components"], rows) if rows else None


def samples(cards: dict[str, dict]) -> nodes.Node:
    """All generators beside each other, on the same held-out images; nearest first."""
    ends = sorted((c["kid"]["samples"]["value"], name) for name, c in cards.items())
    rows = [[name, f"{value:.3f}", "{low:.3f} … {high:.3f}".format(**cards[name]["kid"]["samples"]),
             f"{cards[name]['fd64']['samples']:.2f}"] for value, name in ends]
    return table(["samples of", "KID to held-out images", "interval", "FD, 64 components"], rows)


def reconstruction(card: dict) -> nodes.Node | None:
    """Round trips by image domain, beside the autoencoder alone where there is one."""
    found = card.get("reconstruction", {})
    kinds = ["round trip", "autoencoder alone"]
    cell = lambda row, kind: ("–" if kind not in row else  # noqa: E731
                              f"{row[kind]['psnr']:.1f} dB, {row[kind]['ssim']:.3f}")
    rows = [[name, *(cell(row, kind) for kind in kinds)] for name, row in found.items()]
    return table(["reconstruction, median PSNR and SSIM", *kinds], rows) if rows else None


def facts(card: dict) -> nodes.Node | None:
    """Everything else, one row for each number: the recipe, the seed, the time."""
    rows = flatten({k: v for k, v in card.items() if k not in SHOWN})
    return table(["fact", "value"], rows) if rows else None


def flatten(value, path: str = "") -> list[list[str]]:
    """Nested dictionaries as rows `outer inner -> value`; curves (lists of lists) are left out."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return []
    if not isinstance(value, dict):
        return [[path.replace("_", " "), str(value)]]
    return [row for key, inner in value.items() for row in flatten(inner, f"{path} {key}".strip())]


def link(entry: dict) -> nodes.Node:
    """The title of an image set, linked to its home."""
    if "homepage" not in entry:
        return nodes.Text(entry["title"])
    return nodes.reference(entry["title"], entry["title"], refuri=entry["homepage"])


def size(entry: dict) -> str:
    """How many images a set has, and of which size."""
    count, height, width, *channels = entry["arrays"]["images"]["shape"]
    return f"{count:,} of {height} × {width}, {'colour' if channels else 'grey'}"


def table(head: list[str], rows: list[list]) -> nodes.table:
    """A docutils table; a cell is a string or an inline node."""
    body = nodes.tbody("", *[row(cells) for cells in rows])
    columns = [nodes.colspec(colwidth=1) for _ in head]
    return nodes.table("", nodes.tgroup("", *columns, nodes.thead("", row(head)), body,
                                        cols=len(head)), classes=["colwidths-auto"])


def row(cells: list) -> nodes.row:
    """One row; strings become text."""
    inline = [nodes.Text(cell) if isinstance(cell, str) else cell for cell in cells]
    return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", cell)) for cell in inline])


def setup(app):
    app.add_directive("data-sets", DataSets)
    app.add_directive("model-cards", ModelCards)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
