"""A drawing as a part of an HTML page: its text in the page's font, its colours those of the page's scheme.

matplotlib writes whole documents: a prolog, metadata, a global style sheet, and ids that repeat from one drawing to
the next. Inlined as they are, several of them would restyle the page and point into each other.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping

from markupsafe import Markup

_REFERENCE = re.compile(r"#([\w.-]+)")
_LONG_DECIMAL = re.compile(r"-?\d+\.\d{3,}")
_UNTURNED = re.compile(r"^rotate\(-?0(\.0+)? ")


def inline_svg(document: str, *, chart_id: str, label: str, colours: Mapping[str, str]) -> Markup:
    """Return matplotlib's SVG `document` as an `<svg role="img">` element that may stand beside others on a page.

    `chart_id` is unique on the page, `label` says in words what the drawing shows, `colours` maps the
    colours of the document (`#rrggbb`) to those of the page.
    """
    root = ET.fromstring(document)  # noqa: S314, matplotlib wrote it just now, without an entity in it
    _drop_document_parts(root)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
    kept_ids = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        _restyle(element, chart_id, kept_ids, colours)
        _tighten(element)
    root.attrib = {"class": "chart", "role": "img", "aria-label": label, "viewBox": root.attrib["viewBox"]}
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704, serialised: text and attributes are escaped


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _drop_document_parts(root: ET.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)


def _references(element: ET.Element) -> Iterator[str]:
    for name, value in element.attrib.items():
        if name == "href" or "url(" in value:
            yield from _REFERENCE.findall(value)


def _restyle(element: ET.Element, chart_id: str, kept_ids: set[str], colours: Mapping[str, str]) -> None:
    attributes = element.attrib
    if (name := attributes.pop("id", None)) in kept_ids:
        attributes["id"] = f"{chart_id}-{name}"
    for key in [key for key, value in attributes.items() if key == "href" or "url(" in value]:
        attributes[key] = _REFERENCE.sub(rf"#{chart_id}-\1", attributes[key])
    if "style" in attributes:
        style = _text_style(attributes["style"]) if element.tag == "text" else attributes["style"]
        for theirs, ours in colours.items():
            style = style.replace(theirs, ours)
        attributes["style"] = style


def _text_style(style: str) -> str:
    """Keep size, anchor and colour; the family is inherited from the page."""
    rules = [rule.strip() for rule in style.split(";")]
    kept = [rule for rule in rules if rule.startswith(("text-anchor", "fill", "opacity"))]
    if points := re.search(r"([\d.]+)px", style):
        kept.append(f"font-size: {points[1]}px")
    return "; ".join(kept)


def _tighten(element: ET.Element) -> None:
    """Drop white space, turns by nothing and digits below a hundredth of a pixel: half of the bytes."""
    if element.tag != "text":
        element.text = None
    element.tail = None
    if _UNTURNED.match(element.get("transform", "")):
        del element.attrib["transform"]
    for key in ("d", "x", "y"):
        if key in element.attrib:
            digits = _LONG_DECIMAL.sub(lambda found: f"{float(found[0]):.2f}", element.attrib[key])
            element.attrib[key] = " ".join(digits.split())
