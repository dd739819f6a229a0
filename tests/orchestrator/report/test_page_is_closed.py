"""The page loads nothing, runs nothing, names all its parts, and takes every string of the record for text."""

import re
from collections import Counter
from functools import cache

from orchestrator.report.page import render_page
from tests.orchestrator.report.hostile import ALL
from tests.orchestrator.report.markup import Element, parse
from tests.orchestrator.report.records import WARNING, make_report, with_text_in_every_string

REPORT = make_report(warnings=(WARNING,))


@cache
def page() -> Element:
    return parse(render_page(REPORT))


def test_the_page_names_no_address_and_carries_no_code() -> None:
    tree = page()
    assert not tree.tags().keys() & {"script", "iframe", "object", "embed", "form", "base", "audio", "video"}
    for element in tree.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on")
            assert name not in {"href", "src"} or value.startswith(("data:", "#"))
            assert "//" not in value or name == "src", f"{name}={value}"
    assert "//" not in tree.all("style")[0].text
    assert "@import" not in tree.all("style")[0].text
    (policy,) = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


def test_ids_are_unique_and_every_reference_finds_one() -> None:
    elements = page().all()
    ids = Counter(element.attributes["id"] for element in elements if "id" in element.attributes)
    assert set(ids.values()) == {1}
    references = set()
    for element in elements:
        references |= set(re.findall(r"url\(#([^)]+)\)", " ".join(element.attributes.values())))
        references |= {
            element.attributes[name].lstrip("#") for name in ("href", "aria-labelledby") if name in element.attributes
        }
    assert references - {"data:,"} <= ids.keys()
    assert any(reference.startswith("curves-") for reference in references)


def test_tables_images_and_drawings_have_names_and_headers_have_a_scope() -> None:
    tree = page()
    assert all(part.all("caption") and part.all("caption")[0].text for part in tree.all("table"))
    assert all(header.attributes["scope"] in {"col", "row"} for header in tree.all("th"))
    assert all(image.attributes["alt"] for image in tree.all("img"))
    assert all(drawing.attributes["role"] == "img" for drawing in tree.all("svg"))
    assert all(drawing.attributes["aria-label"] for drawing in tree.all("svg"))
    assert tree.all("html")[0].attributes["lang"] == "en"


def test_drawings_take_colours_and_font_from_the_page() -> None:
    for drawing in page().all("svg", **{"class": "chart"}):
        styles = " ".join(element.attributes.get("style", "") for element in drawing.all())
        assert "font-family" not in styles
        assert "#" not in re.sub(r"url\(#[^)]+\)", "", styles)
        assert "var(--ink)" in styles or "var(--accent)" in styles
        assert drawing.all("style") == drawing.all("metadata") == []


def test_hostile_strings_add_no_element_and_stay_text() -> None:
    hostile = parse(render_page(with_text_in_every_string(REPORT, ALL)))
    harmless = parse(render_page(with_text_in_every_string(REPORT, "harmless ")))
    assert hostile.tags() == harmless.tags()
    assert [sorted(element.attributes) for element in hostile.all()] == [sorted(e.attributes) for e in harmless.all()]
    seen = " ".join(ALL.split())
    assert hostile.all("h1")[0].text == seen + "digits-ensemble"
    assert hostile.all("aside")[0].all("li")[0].text == seen + WARNING
    assert hostile.all("code")[1].text.startswith(seen)
    assert any(
        drawing.attributes["aria-label"].startswith("Learning curves of " + ALL) for drawing in hostile.all("svg")
    )
