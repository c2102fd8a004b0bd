"""Every page in headless Chromium, from disk, with the network cut."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
LOCAL = ("file:", "data:", "blob:", "about:")
DESKTOP, PHONE = {"width": 1300, "height": 900}, {"width": 390, "height": 844}

SETTLED = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await document.fonts.ready;
}"""
UNTYPESET = """() => [...document.querySelectorAll('.bd-article .math')]
    .filter(e => !e.querySelector('mjx-container') || e.querySelector('mjx-merror'))
    .map(e => e.textContent.slice(0, 80))"""
WIDER_THAN_THE_SCREEN = """() => {
    const screen = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= screen) return [];
    return [...document.querySelectorAll('main *')]
        .filter(e => e.getBoundingClientRect().right > screen + 1)
        .map(e => `${e.tagName}.${e.className}: ${e.getBoundingClientRect().right}`)
        .concat(`page: ${document.documentElement.scrollWidth} > ${screen}`);
}"""
VISIBLE_FRAMES = """slider => [...slider.closest('.cell_output').querySelectorAll('img')]
    .filter(e => e.getClientRects().length)
    .map(e => `${e.src.length} ${e.src.substr(e.src.length / 2, 40)}`)"""


@pytest.fixture(scope="session")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.fail("the browser tests need Chromium: install it (Debian: apt-get install "
                    "chromium) or set CHROMIUM to the path of its executable", pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """A tab without network; `tab.problems` collects what goes wrong in it."""
    context = browser.new_context(viewport=DESKTOP)
    context.set_offline(True)
    context.set_default_timeout(120_000)               # against a hang: a busy machine is slow
    tab = context.new_page()
    problems = tab.problems = []

    def only_local(route):
        if route.request.url.startswith(LOCAL):
            return route.continue_()
        problems.append(f"asks for {route.request.url}")
        return route.abort()

    context.route("**/*", only_local)
    tab.on("console", lambda m: m.type == "error" and problems.append(f"console: {m.text}"))
    tab.on("pageerror", lambda error: problems.append(f"error: {error}"))
    tab.on("requestfailed", lambda r: problems.append(f"failed: {r.url[:200]} ({r.failure})"))
    yield tab
    context.close()


def visit(tab, html, page: str, query: str = "") -> None:
    """Open a page and wait until its mathematics and its fonts are there."""
    tab.goto((html / page).as_uri() + query, wait_until="load")
    tab.wait_for_function("document.querySelector('main, article, .bd-main') !== null")
    tab.evaluate(SETTLED)


def test_page_opens_offline_without_an_error_and_fits_a_phone(tab, html, page):
    visit(tab, html, page)
    assert tab.problems == []
    assert tab.evaluate(UNTYPESET) == []
    if page.startswith("notebooks/"):
        assert tab.locator("mjx-container").count() > 0, "a chapter without a formula"
    tab.set_viewport_size(PHONE)
    assert tab.evaluate(WIDER_THAN_THE_SCREEN) == []


def test_a_slider_changes_its_frame(tab, html, chapters):
    moved = 0
    for page in chapters:
        visit(tab, html, page)
        for slider in tab.locator(".cell_output input[type=range]").all()[:1]:
            before = slider.evaluate(VISIBLE_FRAMES)
            slider.press("End")
            after = slider.evaluate(VISIBLE_FRAMES)
            assert before and after and before != after, f"the slider of {page} moves nothing"
            moved += 1
    assert moved, "no chapter has a slider"
    assert tab.problems == []


def test_search_works_from_disk(tab, html):
    visit(tab, html, "search.html", "?q=sphere")
    tab.wait_for_selector("#search-results li a")
    assert tab.problems == []
