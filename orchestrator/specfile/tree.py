"""YAML as a tree in which every node knows where it was written.

Built from the parser's events, so that limits hold while the text is read: a hostile file is refused before it costs
memory. Only plain values exist: no tags, no timestamps, and a key is always text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode

from orchestrator.specfile.errors import SpecUnreadableError

MAX_ALIASES = 100
MAX_DEPTH = 32
MAX_NODES = 50_000

Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Place:
    """Where something was written: a line of a file, or an override, which has no line."""

    where: str
    line: int = 0
    """From 1; 0 for an override."""

    def __str__(self) -> str:
        return f"{self.where}:{self.line}" if self.line else self.where


@dataclass(frozen=True)
class Scalar:
    """A single value."""

    place: Place
    value: Value
    num_nodes: int = 1


@dataclass(frozen=True)
class Items:
    """A list."""

    place: Place
    items: tuple["Node", ...]
    num_nodes: int = field(init=False)
    """Nodes after aliases are expanded."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_nodes", 1 + sum(node.num_nodes for node in self.items))


@dataclass(frozen=True)
class Entry:
    """One key of a mapping: where the key stands, and its value."""

    place: Place
    node: "Node"


@dataclass(frozen=True)
class Entries:
    """A mapping."""

    place: Place
    entries: dict[str, Entry]
    num_nodes: int = field(init=False)
    """Nodes after aliases are expanded."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_nodes", 1 + sum(entry.node.num_nodes for entry in self.entries.values()))


Node: TypeAlias = Scalar | Items | Entries


def read_tree(text: str, place_of: Callable[[int], Place]) -> Node:
    """Return the only document of `text`; an empty text is null. `place_of` names a line (from 1).

    Raises:
        SpecUnreadableError: the text is not YAML, uses a feature that specs have not, or exceeds a limit.
    """
    try:
        return _Builder(place_of).build(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = place_of(mark.line + 1) if mark else place_of(1)
        raise SpecUnreadableError(str(place), _in_words(error)) from error
    except YAMLError as error:
        raise SpecUnreadableError(str(place_of(1)), " ".join(str(error).split())) from error


def plain(node: Node) -> Any:
    """Return the tree as lists, mappings and values."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [plain(item) for item in node.items]
        case Entries():
            return {key: plain(entry.node) for key, entry in node.entries.items()}


def _in_words(error: MarkedYAMLError) -> str:
    """Return the parser's own words, which come as a remark and where it stood when it had it."""
    parts = [str(part) for part in (error.context, error.problem) if part]
    return f"not valid YAML: {' '.join(' '.join(parts).split())}" if parts else "not valid YAML"


class _Builder:
    """Builds nodes from events, bottom up. An anchor is known once its node is complete, so no tree contains itself."""

    def __init__(self, place_of: Callable[[int], Place]) -> None:
        self._place_of = place_of
        self._yaml = YAML(typ="safe", pure=True)
        self._anchors: dict[str, Node] = {}
        self._num_aliases = self._num_events = self._num_documents = self._depth = 0

    def build(self, text: str) -> Node:
        events = self._checked(self._yaml.parse(text))
        documents = [self._node(next(events), events) for event in events if isinstance(event, DocumentStartEvent)]
        return documents[0] if documents else Scalar(self._place_of(1), None)

    def _checked(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            self._num_events += 1
            if self._num_events > MAX_NODES:
                raise self._refusal(event, f"the spec has more than {MAX_NODES} values")
            if isinstance(event, DocumentStartEvent):
                self._check_document(event)
            if (tag := getattr(event, "tag", None)) is not None:
                raise self._refusal(event, f"found the tag {tag}; a spec holds plain values only")
            yield event

    def _check_document(self, event: DocumentStartEvent) -> None:
        self._num_documents += 1
        if self._num_documents > 1:
            raise self._refusal(event, "a second document starts here; expected one")
        if event.version not in (None, (1, 2)):
            raise self._refusal(event, "found a %YAML directive of another version; expected 1.2, or none")

    def _node(self, event: Event, events: Iterator[Event]) -> Node:
        if isinstance(event, AliasEvent):
            return self._aliased(event)
        node = self._built(event, events)
        if node.num_nodes > MAX_NODES:
            raise self._refusal(event, f"its aliases expand to more than {MAX_NODES} values")
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _built(self, event: Event, events: Iterator[Event]) -> Node:
        if isinstance(event, ScalarEvent):
            return Scalar(self._place(event), self._value(event))
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._refusal(event, f"nested deeper than {MAX_DEPTH} levels")
        node = self._items(event, events) if isinstance(event, SequenceStartEvent) else self._entries(event, events)
        self._depth -= 1
        return node

    def _items(self, start: Event, events: Iterator[Event]) -> Items:
        nodes = (self._node(event, events) for event in _until_end(events))
        return Items(self._place(start), tuple(nodes))

    def _entries(self, start: Event, events: Iterator[Event]) -> Entries:
        written: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for event in _until_end(events):
            if not isinstance(event, ScalarEvent):
                raise self._refusal(event, "a key has to be text")
            key, node = str(event.value), self._node(next(events), events)
            if key == "<<" and event.implicit[0]:
                merged = self._merged(event, node) | merged
            elif key in written:
                raise self._refusal(event, f"the key {key} is here twice, first at {written[key].place}")
            else:
                written[key] = Entry(self._place(event), node)
        return Entries(self._place(start), merged | written)

    def _merged(self, event: Event, node: Node) -> dict[str, Entry]:
        merged: dict[str, Entry] = {}
        for source in node.items if isinstance(node, Items) else (node,):
            if not isinstance(source, Entries):
                raise self._refusal(event, "<< merges mappings, but found another value")
            merged = source.entries | merged
        return merged

    def _aliased(self, event: AliasEvent) -> Node:
        self._num_aliases += 1
        if self._num_aliases > MAX_ALIASES:
            raise self._refusal(event, f"more than {MAX_ALIASES} aliases")
        if event.anchor not in self._anchors:
            raise self._refusal(event, f"nothing before this alias is called &{event.anchor}")
        return self._anchors[event.anchor]

    def _value(self, event: ScalarEvent) -> Value:
        text = str(event.value)
        resolver, constructor = self._yaml.resolver, self._yaml.constructor
        tag = str(resolver.resolve(ScalarNode, text, event.implicit)).rpartition(":")[2]
        try:
            match tag:
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(constructor.construct_yaml_int(ScalarNode(None, text)))
                case "float":
                    return float(constructor.construct_yaml_float(ScalarNode(None, text)))
        except ValueError:
            return text  # it looks like a number and is none, such as `-_`
        return text

    def _place(self, event: Event) -> Place:
        return self._place_of(event.start_mark.line + 1)

    def _refusal(self, event: Event, reason: str) -> SpecUnreadableError:
        return SpecUnreadableError(str(self._place(event)), reason)


def _until_end(events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        if isinstance(event, CollectionEndEvent):
            return
        yield event
