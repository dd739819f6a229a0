"""Whether teachers can be weighed as a job says, and when they are fused: once before training, or as it goes on."""

from collections.abc import Iterator, Sequence
from typing import Literal

from students.objectives.catalogue import TermConfig
from students.spec import Combine, FusionConfig
from students.weightings.gradient import GradientWeighting
from students.weightings.routing import RoutingWeighting

_MEANS: tuple[Combine, ...] = ("mean_probability", "mean_logit")

FusedWhen = Literal["once before training", "while training reads", "at every step"]


def fused_when(fusion: FusionConfig, objective: Sequence[TermConfig]) -> tuple[FusedWhen, str]:
    """Return when the teachers become one target, and why not earlier."""
    method = fusion.weighting.method
    if fusion.weighting.changes_with_training:
        return "at every step", f"the shares of `{method}` change with training, so every teacher's labels are read"
    if fusion.when == "write":
        return "once before training", f"fusion.when is write, and the shares of `{method}` need no student"
    of = sorted({term.of for term in objective if term.of is not None})
    beside = f"; labels of {', '.join(of)} are given to terms by themselves too" if of else ""
    return "while training reads", f"fusion.when is read; the shares of `{method}` need no student{beside}"


def unweighable(teachers: Sequence[str], fusion: FusionConfig, objective: Sequence[TermConfig]) -> Iterator[str]:
    """Yield what is asked of the named teachers' shares that cannot be, with the fields that say so."""
    weighting, known = fusion.weighting, ", ".join(teachers)
    if fusion.when == "write" and weighting.changes_with_training:
        yield (
            f"fusion.when is write, and the shares of fusion.weighting `{weighting.method}` change with training: what "
            "is written before cannot follow them; expected `read`, or a weighting that needs no student"
        )
    if isinstance(weighting, GradientWeighting) and weighting.cap * len(teachers) < 1:
        yield (
            f"fusion.weighting.cap is {weighting.cap:g}, and the shares of {len(teachers)} teachers have to sum to 1; "
            f"expected at least {1 / len(teachers):.3g}"
        )
    if isinstance(weighting, RoutingWeighting) and (unknown := sorted(set(weighting.routes) - set(teachers))):
        yield f"fusion.weighting.routes: no teacher is called {unknown[0]!r}; there are {known}"
    if not any("target" in term.reads and term.of is None for term in objective):
        yield from _fused_for_nobody(fusion)
    yield from _combined_otherwise(fusion)
    for term in objective:
        if term.of is None:
            if term.takes_specialists:
                yield (
                    f"objective: the term `{term.term}` reads one teacher, and all of them fused know every class; "
                    "expected `of` and the name of a teacher, or the term `kl`"
                )
            continue
        if "target" not in term.reads:
            yield f"objective: the term `{term.term}` is `of` a teacher and reads none; leave `of` out"
        elif term.of not in teachers:
            yield f"objective: the term `{term.term}` is of {term.of!r}, and no teacher is called so; there are {known}"
        elif fusion.when == "write":
            yield (
                f"fusion.when is write, and the term `{term.term}` is of {term.of} alone, which labels that are fused "
                "no longer tell; expected `read`, or a term of all teachers"
            )
        elif fusion.select == "greedy":
            yield (
                f"fusion.select is greedy, which may leave out {term.of}, and the term `{term.term}` is of {term.of} "
                "alone; expected `all`, or a term of all teachers"
            )


def _fused_for_nobody(fusion: FusionConfig) -> Iterator[str]:
    """Yield what is asked of the fusion of teachers where no term reads what is fused."""
    method = fusion.weighting.method
    if method != "static":
        yield (
            f"fusion.weighting is `{method}`, and no term reads the teachers as one; expected a term that does, such "
            "as `kl`, or the weighting `static`"
        )
    # A table is what the report calls the ensemble, the only one that specialists have, whatever terms read of them.
    for field in ("weights", "select", "when") if fusion.has_tables else ("combine", "weights", "select", "when"):
        if getattr(fusion, field) != getattr(FusionConfig(), field):
            yield (
                f"fusion.{field} says how teachers are fused, and no term reads them as one; expected a term that "
                "does, such as `kl`, or leave it out"
            )


def _combined_otherwise(fusion: FusionConfig) -> Iterator[str]:
    """Yield what leaves shares that differ from row to row without effect, or without a meaning."""
    method = fusion.weighting.method
    if method == "static":
        return
    if fusion.combine not in _MEANS:
        yield (
            f"fusion.weighting is `{method}`, whose shares are those of a mean, and fusion.combine is "
            f"{fusion.combine}; expected {' or '.join(_MEANS)}, or the weighting `static`"
        )
    if fusion.select != "all":
        yield (
            f"fusion.weighting is `{method}`, and fusion.select is {fusion.select}, which finds shares too; expected "
            "`all`, or the weighting `static`"
        )
