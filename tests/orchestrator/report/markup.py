"""What a page consists of, read with the standard library's parser."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br", "hr", "input"}


@dataclass
class Element:
    """One element; its text is that of everything inside it, white space made single."""

    tag: str
    attributes: dict[str, str]
    children: list["Element"] = field(default_factory=list)
    parts: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self._texts()).split())

    def all(self, tag: str | None = None, **attributes: str) -> list["Element"]:
        """Return the elements inside this one with that tag and these attributes, in order."""
        return [
            element
            for element in self._descendants()
            if tag in {None, element.tag} and attributes.items() <= element.attributes.items()
        ]

    def rows(self) -> list[list[str]]:
        """Return the texts of the cells of each row of this table."""
        return [[cell.text for cell in row.children] for row in self.all("tr")]

    def tags(self) -> Counter[str]:
        """Return how often each tag occurs inside this element."""
        return Counter(element.tag for element in self._descendants())

    def _descendants(self) -> Iterator["Element"]:
        for child in self.children:
            yield child
            yield from child._descendants()

    def _texts(self) -> Iterator[str]:
        for part in self.parts:
            if isinstance(part, str):
                yield part
            else:
                yield from part._texts()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(self.open[-1].children[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        self.open[-1].parts.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"<{self.open[-1].tag}> is closed by </{tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def parse(page: str) -> Element:
    """Return the page as a tree; a page whose tags do not nest fails the test."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is never closed"
    return reader.open[0]
