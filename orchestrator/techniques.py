"""Which techniques there are, told by their own code: what `coffey techniques` and docs/techniques.md show."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from cluster.config import Config
from students.cohorts.catalogue import COHORTS
from students.cohorts.method import CohortMethod
from students.objectives.catalogue import TERMS
from students.objectives.term import BatchTerm, Family, Term
from students.weightings.catalogue import WEIGHTINGS
from students.weightings.weighting import Weighting


class Option(Config):
    """One option of a technique."""

    name: str
    default: str
    meaning: str


class Technique(Config):
    """One term that an objective may have, one weighting of a fusion, or one method of a cohort."""

    kind: Literal["term", "weighting", "cohort"]
    name: str
    family: Family | Literal["multi-teacher", "online"]
    summary: str
    source: str
    """Paper, formula and shapes: the text at the head of its file."""
    reads: tuple[str, ...]
    needs_whole_batches: bool
    """Whether it compares rows, and so sees the global batch of all workers."""
    options: tuple[Option, ...]


def techniques() -> tuple[Technique, ...]:
    """Return all of them: cohorts, terms by family and name, then weightings."""
    found = [_method(cohort) for cohort in COHORTS]
    found += [_term(term) for term in TERMS] + [_method(weighting) for weighting in WEIGHTINGS]
    return tuple(sorted(found, key=lambda it: (it.kind, it.family, it.name)))


def as_markdown(found: Sequence[Technique]) -> str:
    """Return the page of docs/techniques.md."""
    return "\n".join(_page(found)) + "\n"


def _term(term: type[Term]) -> Technique:
    return Technique(
        kind="term",
        name=term.model_fields["term"].default,
        family=term.family,
        summary=_summary(term),
        source=_source(term),
        reads=tuple(sorted(term.reads)),
        needs_whole_batches=issubclass(term, BatchTerm),
        options=_options(term, hidden={"term"} if "target" in term.reads else {"term", "of"}),
    )


def _method(method: type[Weighting] | type[CohortMethod]) -> Technique:
    is_weighting = issubclass(method, Weighting)
    return Technique(
        kind="weighting" if is_weighting else "cohort",
        name=method.model_fields["method"].default,
        family="multi-teacher" if is_weighting else "online",
        summary=_summary(method),
        source=_source(method),
        reads=tuple(sorted(method.reads)),
        needs_whole_batches=issubclass(method, Weighting) and method.needs_whole_batches,
        options=_options(method, hidden={"method"}),
    )


def _summary(technique: type[Config]) -> str:
    return inspect.cleandoc(technique.__doc__ or "").splitlines()[0]


def _source(technique: type[Config]) -> str:
    return (sys.modules[technique.__module__].__doc__ or "").strip()


def _options(technique: type[Config], *, hidden: set[str]) -> tuple[Option, ...]:
    return tuple(
        Option(
            name=name,
            default="required" if field.is_required() else str(field.default),
            meaning=" ".join((field.description or "").split()),
        )
        for name, field in technique.model_fields.items()
        if name not in hidden
    )


def _page(found: Sequence[Technique]) -> Iterator[str]:
    yield "# Techniques"
    yield ""
    yield "Terms of an `objective`, each with a `weight`; weightings of several teachers, one for `fusion.weighting`;"
    yield "and methods by which a [`cohort`](online.md) of students learns. Ways to combine teachers, and specialists,"
    yield "are in [ensembles](ensembles.md); what is no part of an objective in [generations](generations.md) and"
    yield "[views](views.md). This page is printed by `coffey techniques --markdown`."
    for kind, column in (("term", "term"), ("weighting", "method"), ("cohort", "method")):
        yield from ("", f"| {column} | family | what it does |", "|---|---|---|")
        yield from (f"| [`{it.name}`](#{it.name}) | {it.family} | {it.summary} |" for it in found if it.kind == kind)
    for it in found:
        yield from _section(it)


def _section(it: Technique) -> Iterator[str]:
    yield from ("", f"## {it.name}", "", it.source, "")
    scope = "the global batch of all workers" if it.needs_whole_batches else "each row by itself"
    yield f"Reads {', '.join(f'`{name}`' for name in it.reads)}; judges {scope}."
    if it.options:
        yield from ("", "| option | default | meaning |", "|---|---|---|")
        yield from (f"| `{option.name}` | {option.default} | {option.meaning} |" for option in it.options)
