"""Whether a cohort can learn as a job says."""

from collections.abc import Iterator, Sequence

from students.cohorts.catalogue import CohortConfig
from students.cohorts.codistillation import CodistillationCohort
from students.cohorts.method import OnlineMethod
from students.objectives.catalogue import TermConfig
from students.spec import TrainConfig


def unteachable(
    cohort: CohortConfig | None, objective: Sequence[TermConfig], train: TrainConfig, taken: Sequence[str]
) -> Iterator[str]:
    """Yield what keeps a cohort from learning; `taken` are names that others have."""
    if cohort is None:
        return
    for member in cohort.members:
        if member.name in taken:
            yield f"cohort.members: the name {member.name!r} is taken; every member needs its own"
    others = [member.name for member in cohort.members if member.model is not None]
    tapping = [term.term for term in objective if term.student_modules]
    if others and tapping:
        yield (
            f"objective: the term `{tapping[0]}` reads modules of the student, and member {others[0]} of the cohort is "
            "another model; expected members like the student, or terms that read outputs alone"
        )
    if isinstance(cohort, CodistillationCohort) and not cohort.is_heard(epochs=train.epochs):
        yield (
            f"cohort: members first learn from each other after {cohort.burn_in} round(s) of {cohort.exchange_every} "
            f"epoch(s), and train.epochs is {train.epochs}; expected more epochs, or shorter rounds"
        )
    if isinstance(cohort, OnlineMethod) and cohort.shared_modules and train.compile:
        yield (
            f"train.compile is true, and members of the cohort `{cohort.method}` share modules, which is found out "
            "while they run; expected false"
        )
