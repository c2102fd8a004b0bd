"""The built HTML stands on its own: links and anchors resolve, nothing comes from elsewhere."""

import ast
import json
import re
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
LOADS = {"script": ["src"], "img": ["src", "srcset"], "link": ["href"], "iframe": ["src"],
         "source": ["src", "srcset"], "video": ["src", "poster"], "audio": ["src"],
         "embed": ["src"], "object": ["data"], "input": ["src"]}
INERT = ("data", "mailto", "javascript", "blob")
REMOTE_CSS = re.compile(r"""(?:url\(|@import)\s*["']?\s*(?:https?:)?//[^\s"')]+""")


@cache
def soup(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_bytes(), "html.parser")


@cache
def anchors(file: Path) -> set[str]:
    """What a fragment may point at in a page."""
    tags = soup(file).find_all(lambda tag: tag.has_attr("id") or tag.has_attr("name"))
    return {tag.get("id") or tag["name"] for tag in tags} | {"", "top"}


def is_remote(address: str) -> bool:
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or (bool(parts.scheme) and parts.scheme not in INERT)


def problem(file: Path, address: str) -> str | None:
    """Why a local address leads nowhere, or None."""
    parts = urlsplit(address)
    if parts.scheme in INERT or is_remote(address):
        return None
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if not target.is_file():
        return f"{address}: no such file"
    if target.suffix == ".html" and unquote(parts.fragment) not in anchors(target):
        return f"{address}: no such anchor"
    return None


def test_links_and_anchors_resolve(html, page):
    file = html / page
    links = [tag["href"] for tag in soup(file).find_all(href=True)]
    links += [tag["src"] for tag in soup(file).find_all(src=True)]
    assert [p for p in (problem(file, link) for link in links) if p] == []


def test_nothing_is_loaded_from_elsewhere(html, page):
    document = soup(html / page)
    loaded = [tag[name] for kind, names in LOADS.items() for tag in document.find_all(kind)
              for name in names if tag.has_attr(name) and "canonical" not in tag.get("rel", [])]
    styles = "".join(tag.get_text() for tag in document.find_all("style"))
    assert [a for a in loaded if is_remote(a)] + REMOTE_CSS.findall(styles) == []


def test_style_sheets_load_nothing_from_elsewhere(html):
    sheets = sorted((html / "_static").rglob("*.css"))
    assert sheets
    found = {sheet.name: REMOTE_CSS.findall(sheet.read_text(encoding="utf-8")) for sheet in sheets}
    assert {name: urls for name, urls in found.items() if urls} == {}


def test_no_page_shows_broken_markup(html, page):
    broken = soup(html / page).select(".problematic, .system-message")
    assert [tag.get_text()[:80] for tag in broken] == []


def test_every_page_has_a_title_a_language_and_alternatives_for_its_images(html, page):
    document = soup(html / page)
    if page == "index.html":                           # a redirect, without content of its own
        assert (html / document.meta["content"].split("url=")[1]).is_file()
        return
    assert document.html.get("lang")
    assert document.title and document.title.get_text().strip()
    assert [str(tag)[:80] for tag in document.find_all("img") if not tag.has_attr("alt")] == []


def test_every_page_of_the_table_of_contents_is_built(html):
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    assert [page for page in pages if not (html / f"{page}.html").is_file()] == []


def test_every_card_and_every_image_set_has_its_place(html):
    cards = {file.stem for file in (ROOT / "data" / "weights").glob("*.json")} - {"manifest"}
    assert cards <= anchors(html / "book" / "models.html")
    sets = tomllib.loads((ROOT / "data" / "datasets.toml").read_text(encoding="utf-8"))
    shown = {code.get_text() for code in soup(html / "book" / "data.html").select("td code")}
    assert set(sets) <= shown


def test_the_api_page_names_everything_public(html):
    """Read from the source by other means than the page: no function may be lost."""
    shown = anchors(html / "book" / "api.html")
    lost = []
    for file in sorted((ROOT / "difftools").rglob("[!_]*.py")):
        module = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", "-")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            name = getattr(node, "name", "_")
            anchor = f"{module}-{name}".lower().replace("_", "-")
            if not name.startswith("_") and anchor not in shown:
                lost.append(anchor)
    assert lost == []


def test_folded_or_open_every_check_of_a_chapter_is_on_its_page(html, chapters):
    for page in chapters:
        notebook = json.loads((ROOT / page).with_suffix(".ipynb").read_text(encoding="utf-8"))
        outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
        kept = ["".join(o["data"]["text/plain"]).strip() for o in outputs
                if "difftools" in o.get("metadata", {})]
        blocks = soup(html / page).select(".cell_output pre")
        shown = [line.strip() for block in blocks for line in block.get_text().splitlines()]
        assert [line for line in shown if line in kept] == kept
        for fold in soup(html / page).select("details.checks"):
            lines = fold.find("pre").get_text().strip().splitlines()
            assert fold.summary.get_text() == f"{len(lines)} checks agree with their records"
            assert all(line.startswith("check ") and line.endswith(": agrees") for line in lines)
