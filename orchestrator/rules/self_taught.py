"""Whether the terms by which a student teaches itself can stand beside each other."""

from collections.abc import Iterator, Sequence

from students.cohorts.catalogue import CohortConfig
from students.cohorts.method import OnlineMethod
from students.objectives.catalogue import TermConfig
from students.objectives.mean_teacher import MeanTeacherTerm
from students.objectives.own_teacher import OwnTeacherTerm


def at_odds(objective: Sequence[TermConfig], cohort: CohortConfig | None, *, field: str) -> Iterator[str]:
    """Yield what such terms in `field` ask for that cannot be had together."""
    averages = [term for term in objective if isinstance(term, MeanTeacherTerm)]
    own = [term.term for term in objective if isinstance(term, MeanTeacherTerm | OwnTeacherTerm)]
    if own and isinstance(cohort, OnlineMethod):
        yield (
            f"{field}: by the term `{own[0]}` a student teaches itself, and members of the cohort `{cohort.method}` "
            "teach each other; expected one of the two"
        )
    exits = [path for term in objective if isinstance(term, OwnTeacherTerm) for path in term.exits]
    for option in ("decay", "export"):
        found = [getattr(term, option) for term in averages]
        if len(set(found)) > 1:
            yield (
                f"{field}: the terms `mean_teacher` share one average, and their {option} is "
                f"{' and '.join(map(str, found))}; expected one for all"
            )
    if exits and any(term.export == "average" for term in averages):
        yield (
            f"{field}: the term `mean_teacher` has export: average, and the exits of `own_teacher` are learned with "
            "the student, not with its average; expected export: student"
        )
    if twice := [path for path in dict.fromkeys(exits) if exits.count(path) > 1]:
        yield f"{field}: two terms `own_teacher` have an exit at {twice[0]}; expected each module once"
