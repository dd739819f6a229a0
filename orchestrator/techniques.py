"""Which techniques there are, told by their own code: what `coffey techniques` and docs/techniques.md show."""

import inspect
import sys
from collections.abc import Iterator, Sequence

from pydantic.fields import FieldInfo

from cluster.config import Config
from students.objectives.catalogue import TERMS
from students.objectives.term import BatchTerm, Family, Input, Term


class Option(Config):
    """One option of a technique."""

    name: str
    default: str
    meaning: str


class Technique(Config):
    """One term that an objective may have."""

    name: str
    family: Family
    summary: str
    source: str
    """Paper, formula and shapes: the text at the head of its file."""
    reads: tuple[Input, ...]
    needs_whole_batches: bool
    """Whether it compares rows, and so sees the global batch of all workers."""
    options: tuple[Option, ...]


def techniques() -> tuple[Technique, ...]:
    """Return all of them, by family and name."""
    found = (_technique(term) for term in TERMS)
    return tuple(sorted(found, key=lambda it: (it.family, it.name)))


def as_markdown(found: Sequence[Technique]) -> str:
    """Return the page of docs/techniques.md."""
    return "\n".join(_page(found)) + "\n"


def _technique(term: type[Term]) -> Technique:
    return Technique(
        name=term.model_fields["term"].default,
        family=term.family,
        summary=inspect.cleandoc(term.__doc__ or "").splitlines()[0],
        source=(sys.modules[term.__module__].__doc__ or "").strip(),
        reads=tuple(sorted(term.reads)),
        needs_whole_batches=issubclass(term, BatchTerm),
        options=tuple(
            Option(name=name, default=_default(field), meaning=" ".join((field.description or "").split()))
            for name, field in term.model_fields.items()
            if name != "term"
        ),
    )


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else str(field.default)


def _page(found: Sequence[Technique]) -> Iterator[str]:
    yield "# Techniques"
    yield ""
    yield "Terms of an `objective`, each with a `weight`. This page is printed by `coffey techniques --markdown`."
    yield ""
    yield "| term | family | what it does |"
    yield "|---|---|---|"
    for it in found:
        yield f"| [`{it.name}`](#{it.name}) | {it.family} | {it.summary} |"
    for it in found:
        yield from ("", f"## {it.name}", "", it.source, "")
        scope = "the global batch of all workers" if it.needs_whole_batches else "each row by itself"
        yield f"Reads {', '.join(f'`{name}`' for name in it.reads)}; judges {scope}."
        yield from ("", "| option | default | meaning |", "|---|---|---|")
        yield from (f"| `{option.name}` | {option.default} | {option.meaning} |" for option in it.options)
