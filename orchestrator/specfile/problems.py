"""From what validation refuses to what a person can mend: the line, the key, what was found and what is expected."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cluster.config import Config
from orchestrator.specfile.errors import Problem, SpecInvalidError
from orchestrator.specfile.paths import Key, dotted, node_at, place_at, respelled
from orchestrator.specfile.schema import Allowed, nearest
from orchestrator.specfile.tree import Entries, Items, Node, Place, Scalar, plain

ModelT = TypeVar("ModelT", bound=Config)

MAX_PROBLEMS = 100
_MAX_FOUND = 60


def validated(tree: Node, model: type[ModelT], *, where: str, known: Sequence[Problem] = ()) -> ModelT:
    """Return the spec that `tree` describes.

    Mistyped keys are found first and, for the rest of the search, spelled as they were probably meant: so one slip
    neither hides other mistakes nor is reported a second time as a missing key.

    Raises:
        SpecInvalidError: `tree` holds mistakes, or some are `known` already; all of them, up to `MAX_PROBLEMS`.
    """
    search = _Search(model)
    findings: list[_Finding] = []
    while True:
        try:
            value = model.model_validate(plain(tree))
            errors = []
        except ValidationError as error:
            errors = error.errors(include_url=False)
        slips = list(islice((slip for error in errors if (slip := search.slip(tree, error))), MAX_PROBLEMS))
        findings += [slip.finding for slip in slips]
        if not slips or len(findings) >= MAX_PROBLEMS:
            break
        for slip in slips:
            tree = respelled(tree, slip.path, slip.finding.problem.suggestion)
    findings += islice(search.others(tree, errors), max(0, MAX_PROBLEMS - len(findings)))
    if findings or known:
        ordered = sorted(findings, key=lambda finding: (finding.place.line == 0, finding.place.line))
        raise SpecInvalidError(where, (*(finding.problem for finding in ordered), *known))
    return value


@dataclass(frozen=True)
class _Finding:
    place: Place
    problem: Problem


@dataclass(frozen=True)
class _Slip:
    """A key that the spec does not know."""

    path: tuple[Key, ...]
    finding: _Finding


@dataclass(frozen=True)
class _Spot:
    """Where an error points to, once the names of union variants are taken out of its location."""

    path: tuple[Key, ...]
    allowed: Allowed
    """What governs the place."""
    parent: Allowed
    """What governs the mapping or list that it is part of."""
    is_other_variant: bool = False
    """Whether the error belongs to a variant of a union that the value does not try to be."""


@cache
def _allowed(model: type[Config]) -> Allowed:
    schema = model.model_json_schema()
    return Allowed(schema, schema.get("$defs", {}))


class _Search:
    def __init__(self, model: type[Config]) -> None:
        self._root = _allowed(model)

    def slip(self, tree: Node, error: ErrorDetails) -> _Slip | None:
        """Return the mistyped key that `error` is about, if it is about one."""
        spot = self._spot(tree, error["loc"])
        node = node_at(tree, spot.path)
        if error["type"] == "extra_forbidden":
            return _slip(tree, spot.path, spot.parent.keys)
        if error["type"] == "union_tag_not_found" and spot.allowed.tag and isinstance(node, Entries):
            keys = {key for part in spot.allowed.alternatives for key in part.keys}
            strange = [key for key in node.entries if key not in keys and nearest(key, [spot.allowed.tag])]
            return _slip(tree, (*spot.path, strange[0]), [spot.allowed.tag]) if strange else None
        return None

    def others(self, tree: Node, errors: Sequence[ErrorDetails]) -> Iterator[_Finding]:
        """Yield what is wrong besides keys, once for each place."""
        said = set()
        for error in errors:
            spot = self._spot(tree, error["loc"])
            if spot.is_other_variant or _is_echo(tree, spot, error) or spot.path in said:
                continue
            said.add(spot.path)
            yield _finding(tree, spot, error)

    def _spot(self, tree: Node, location: Sequence[Key]) -> _Spot:
        spot = _Spot((), self._root, self._root)
        for step in location:
            if len(spot.allowed.alternatives) == 1 or isinstance(step, int):
                spot = _Spot((*spot.path, step), spot.allowed.child(step), parent=spot.allowed.alternatives[0])
                continue
            variant = spot.allowed.variant(str(step))  # in a union validation first names the variant
            tries_mapping = isinstance(node_at(tree, spot.path), Entries)
            if variant is spot.allowed or not tries_mapping:
                # A plain variant: what is wrong inside it is said of the whole value.
                has_keys = any(part.keys for part in spot.allowed.alternatives)
                return replace(spot, is_other_variant=(variant is not spot.allowed) != tries_mapping and has_keys)
            spot = replace(spot, allowed=variant)
        return spot


def _is_echo(tree: Node, spot: _Spot, error: ErrorDetails) -> bool:
    """Tell a list that is called too short only because its items are wrong."""
    node = node_at(tree, spot.path)
    return error["type"] == "too_short" and isinstance(node, Items) and len(node.items) >= error["ctx"]["min_length"]


def _slip(tree: Node, path: tuple[Key, ...], keys: Sequence[str]) -> _Slip:
    mapping = node_at(tree, path[:-1])
    taken = mapping.entries if isinstance(mapping, Entries) else {}
    word = str(path[-1])
    suggestion = nearest(word, [key for key in keys if key not in taken]) or nearest(word, keys)
    advice = f"did you mean `{suggestion}`?" if suggestion else f"expected one of {', '.join(keys)}"
    place = place_at(tree, path)
    message = f"unknown key; {advice}"
    problem = Problem(where=str(place), key=dotted(tree, path), message=message, suggestion=suggestion)
    return _Slip(path, _Finding(place, problem))


def _finding(tree: Node, spot: _Spot, error: ErrorDetails) -> _Finding:
    path, node, suggestion = spot.path, node_at(tree, spot.path), None
    match error["type"]:
        case "value_error" | "assertion_error":
            message = str(error["ctx"]["error"])
            path = path or _mentioned(tree, message)
        case "missing":
            message = f"missing; expected {spot.allowed.in_words()}"
        case "union_tag_not_found":
            message = f"`{spot.allowed.tag}` is missing; expected {spot.allowed.in_words()}"
        case "union_tag_invalid":
            path, node = (*path, str(spot.allowed.tag)), node_at(tree, (*path, str(spot.allowed.tag)))
            message, suggestion = _unlike(node, f"one of {', '.join(spot.allowed.tags)}", spot.allowed.tags)
        case _:
            message, suggestion = _unlike(node, spot.allowed.in_words(), spot.allowed.choices)
    place = place_at(tree, path)
    return _Finding(place, Problem(where=str(place), key=dotted(tree, path), message=message, suggestion=suggestion))


def _unlike(node: Node | None, expected: str, choices: Sequence[str]) -> tuple[str, str | None]:
    suggestion = nearest(str(node.value), choices) if isinstance(node, Scalar) else None
    hint = f"; did you mean `{suggestion}`?" if suggestion else ""
    return f"found {_found(node)}, expected {expected}{hint}", suggestion


def _found(node: Node | None) -> str:
    match node:
        case None | Scalar(value=None):
            return "nothing"
        case Scalar(value=bool(value)):
            return str(value).lower()
        case Entries():
            return f"a mapping of {', '.join(node.entries)}" if node.entries else "an empty mapping"
        case Items(items=()):
            return "an empty list"
    text = repr(plain(node))
    return text if len(text) <= _MAX_FOUND else f"{text[:_MAX_FOUND]}…"


def _mentioned(tree: Node, message: str) -> tuple[Key, ...]:
    """Return the path with which the message of a check on the whole spec begins, such as `train.workers is 9 …`."""
    match = re.match(r"[a-z_]+(\.[a-z_]+)*", message)
    path: tuple[Key, ...] = tuple(match[0].split(".")) if match else ()
    return path if node_at(tree, path) is not None else ()
