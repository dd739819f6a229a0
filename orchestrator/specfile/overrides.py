"""`--set a.b=c`: one value of a spec, put there from the command line."""

import json
import re
from collections.abc import Sequence

from orchestrator.specfile.errors import Problem, SpecUnreadableError
from orchestrator.specfile.paths import name_of
from orchestrator.specfile.tree import Entries, Entry, Items, Node, Place, Scalar, plain, read_tree

_WORD = re.compile(r"/?[A-Za-z][A-Za-z0-9_./-]*")


def apply_overrides(tree: Node, overrides: Sequence[str]) -> tuple[Node, tuple[Problem, ...]]:
    """Return `tree` with `overrides` applied in their order, and what is wrong with those that cannot be.

    An override is a dotted key, `=`, and YAML. Items of a list are meant by their index or by their `name`. Mappings
    that the file leaves out come into being; whether the spec knows the key is for validation to say.
    """
    problems = []
    for override in overrides:
        try:
            tree = _applied(tree, override)
        except _RefusedError as error:
            problems.append(error.problem)
    return tree, tuple(problems)


def written(key: str, text: str) -> str:
    """Return the override that sets `key` to exactly `text`, quoted where YAML would read it as something else."""
    is_plain = _WORD.fullmatch(text) and plain(read_tree(text, lambda line: Place("", line))) == text
    return f"{key}={text if is_plain else json.dumps(text, ensure_ascii=False)}"


class _RefusedError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def _applied(tree: Node, override: str) -> Node:
    key, equals, text = override.partition("=")
    place = Place(f"--set {override}")
    if not equals or not all(key.split(".")):
        raise _RefusedError(Problem(where=str(place), key="", message="expected key=value, such as train.epochs=20"))
    try:
        value = read_tree(text, lambda _: place)
    except SpecUnreadableError as error:
        raise _RefusedError(Problem(where=str(place), key=key, message=error.reason)) from error
    return _with(tree, key.split("."), value, done=())


def _with(node: Node, steps: Sequence[str], value: Node, *, done: tuple[str, ...]) -> Node:
    """Return `node` with `value` at `steps` below it; `done` are the steps above it."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    here = (*done, step)
    if isinstance(node, Items):
        index = _index(node, step, value.place, done)
        item = _with(node.items[index], rest, value, done=here)
        return Items(node.place, (*node.items[:index], item, *node.items[index + 1 :]))
    if isinstance(node, Scalar) and node.value is not None:
        raise _refusal(value.place, done, f"is {node.value!r} and has no parts; set it whole")
    entries = node.entries if isinstance(node, Entries) else {}
    old = entries.get(step, Entry(value.place, Scalar(value.place, None)))
    # What the file says on the way keeps its line; what the override adds is its own.
    new = Entry(old.place if rest else value.place, _with(old.node, rest, value, done=here))
    return Entries(node.place if isinstance(node, Entries) else value.place, {**entries, step: new})


def _index(node: Items, step: str, place: Place, done: tuple[str, ...]) -> int:
    names = [name_of(item) for item in node.items]
    if step in names:
        return names.index(step)
    if step.isdecimal() and int(step) < len(names):
        return int(step)
    known = ", ".join(name or str(index) for index, name in enumerate(names))
    advice = f"expected one of {known}" if names else "it is empty, set it whole"
    raise _refusal(place, done, f"has no item {step}; {advice}")


def _refusal(place: Place, done: tuple[str, ...], message: str) -> _RefusedError:
    return _RefusedError(Problem(where=str(place), key=".".join(done), message=message))
