"""The page in a real browser: what it shows, that it runs and loads nothing, and that it fits and can be read."""

import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from orchestrator.report.page import render_page
from tests.orchestrator.report.chromium import Chromium, chromium
from tests.orchestrator.report.hostile import ALL, CORPUS
from tests.orchestrator.report.records import FASHION, SPEC, WARNING, make_report, with_text_in_every_string

pytestmark = pytest.mark.browser

REPORT = make_report(warnings=(WARNING,))
FASHION_REPORT = make_report(warnings=(WARNING,), classes=FASHION, side=28)
LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitaensmuetze"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
COUNT_TAGS = """
    [...document.querySelectorAll('*')].reduce((counts, e) => {
      counts[e.tagName] = (counts[e.tagName] || 0) + 1; return counts }, {})
"""
LOW_CONTRAST = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const words = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const texts = [...document.body.querySelectorAll('*')].filter(words);
  const bad = texts.filter(e => {
    const ink = parts(e.namespaceURI.includes('svg') ? getComputedStyle(e).fill : getComputedStyle(e).color);
    const [high, low] = [light(ink), light(ground(e))].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05) < 4.5;
  });
  return [texts.length, bad.map(e => e.outerHTML.slice(0, 120))];
})()
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        missing = pytest.fail if "CI" in os.environ else pytest.skip
        missing("needs Chromium: apt-get install chromium")
    with chromium(executable, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return saved(folder, "page", render_page(REPORT))


@cache
def page_with(text: str) -> str:
    """Return the page of a record in which every string begins with `text`."""
    return render_page(with_text_in_every_string(FASHION_REPORT, text))


def saved(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.html"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_browser_shows_the_figures_of_the_record(tab: Chromium, page: Path) -> None:
    tab.open(page)
    cells = "row => [...row.cells].map(cell => cell.innerText.split(/\\s+/).join(' ').trim())"
    rows = tab.evaluate(f"[...document.querySelectorAll('.models tbody tr')].map({cells})")
    singles = [row for row in rows if not row[0].endswith("seeds")]
    assert [float(row[1]) for row in singles] == [round(100 * model.accuracy, 2) for model in REPORT.models]
    assert [float(row[3]) for row in singles] == [round(model.nll, 3) for model in REPORT.models]
    assert tab.evaluate("document.querySelector('h1').innerText") == REPORT.name
    assert tab.evaluate("document.querySelector('section:last-of-type pre').innerText") == REPORT.command
    assert tab.evaluate("[...document.images].map(i => [i.naturalWidth, i.naturalHeight])") == [[8, 8]] * 12


def test_charts_are_drawn_and_their_text_is_in_the_font_of_the_page(tab: Chromium, page: Path) -> None:
    tab.open(page)
    sizes = tab.evaluate(
        "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    assert len(sizes) == 5 + 3 + 12 * 6
    assert all(width > 50 and height > 15 for width, height in sizes)
    fonts = tab.evaluate("[...document.querySelectorAll('body, svg text')].map(e => getComputedStyle(e).fontFamily)")
    assert len(fonts) > 50
    assert len(set(fonts)) == 1


def test_nothing_is_requested_but_the_page_itself(tab: Chromium, folder: Path, page: Path) -> None:
    for path in (page, saved(folder, "hostile", page_with(ALL))):
        tab.open(path)
        addresses = [event["request"]["url"] for event in tab.seen("Network.requestWillBeSent")]
        assert [address for address in addresses if not address.startswith("data:")] == [path.as_uri()]
        assert tab.seen("Log.entryAdded") == tab.seen("Runtime.exceptionThrown") == []


@pytest.mark.parametrize("protected", [True, False], ids=["with its policy", "without its policy"])
def test_hostile_strings_run_nothing_add_nothing_and_stay_visible(tab: Chromium, folder: Path, protected: bool) -> None:
    tab.open(saved(folder, "harmless", page_with("harmless ")))
    expected_tags = tab.evaluate(COUNT_TAGS)

    text = page_with(ALL) if protected else POLICY.sub("<meta>", page_with(ALL))
    assert bool(POLICY.search(text)) == protected
    tab.open(saved(folder, "hostile", text))
    assert tab.evaluate("typeof window.caught") == "undefined"
    assert tab.seen("Page.javascriptDialogOpening") == []
    assert tab.evaluate(COUNT_TAGS) == expected_tags
    assert tab.evaluate("document.title").startswith(CORPUS[0])
    assert tab.evaluate("document.querySelector('h1').textContent") == ALL + "digits-ensemble"
    assert tab.evaluate("document.querySelector('.warnings li').textContent") == ALL + WARNING
    codes = tab.evaluate("[...document.querySelectorAll('code')].map(e => e.textContent)")
    assert codes == [ALL + SPEC, ALL + REPORT.command]
    names = tab.evaluate("[...document.querySelectorAll('.steps tbody th')].map(e => e.textContent)")
    assert names == [ALL + step.name for step in REPORT.steps]


def test_the_trap_works_an_unescaped_string_is_caught_and_the_policy_stops_it(tab: Chromium, folder: Path) -> None:
    trap = "<h1><script>window.caught=1</script>"
    text = render_page(REPORT).replace("<h1>", trap)
    tab.open(saved(folder, "stopped", text))
    assert tab.evaluate("typeof window.caught") == "undefined"
    tab.open(saved(folder, "caught", POLICY.sub("", text)))
    assert tab.evaluate("window.caught") == 1


@pytest.mark.parametrize("width", [360, 700, 1000, 1400])
@pytest.mark.parametrize("text", ["", LONG_WORD], ids=["usual", "long words"])
def test_the_page_never_scrolls_sideways(tab: Chromium, folder: Path, width: int, text: str) -> None:
    tab.open(saved(folder, "narrow", page_with(text)), width=width)
    shown, there = tab.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert there <= shown


def test_on_a_wide_screen_no_table_needs_scrolling(tab: Chromium, page: Path) -> None:
    tab.open(page, width=1400)
    assert (
        tab.evaluate("[...document.querySelectorAll('.scrolling')].filter(e => e.scrollWidth > e.clientWidth).length")
        == 0
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground_as_wcag_aa_asks(tab: Chromium, page: Path, scheme: str) -> None:
    tab.open(page, scheme=scheme)
    number_of_texts, low = tab.evaluate(LOW_CONTRAST)
    assert number_of_texts > 300
    assert low == []


def test_the_page_follows_the_scheme_of_the_reader_and_prints_on_white(tab: Chromium, page: Path) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    tab.open(page, scheme="light")
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"
    tab.open(page, scheme="dark")
    assert tab.evaluate(ground) != "rgb(255, 255, 255)"
    tab.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert tab.evaluate(ground) == "rgb(255, 255, 255)"
    tab.call("Emulation.setEmulatedMedia", media="")
