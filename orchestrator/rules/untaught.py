"""What a job without teachers has to do without: whether anything else teaches its student, and what asks for them."""

from collections.abc import Iterator, Sequence

from students.objectives.catalogue import TermConfig
from students.spec import FusionConfig


def untaught(fusion: FusionConfig, objective: Sequence[TermConfig], *, is_taught_otherwise: bool) -> Iterator[str]:
    """Yield what is wrong with a job that names no teachers.

    `is_taught_otherwise` says that something beside the terms teaches the student.
    """
    if not is_taught_otherwise and not any(_makes_up_a_teacher(term) for term in objective):
        yield (
            "teachers: there are none, and nothing else teaches the student; expected a teacher, a `cohort`, "
            "`generations`, or in objective a term that makes a teacher up, such as `teacher_free`"
        )
    for term in objective:
        if term.needs_teachers:
            yield (
                f"objective: the term `{term.term}` reads teachers, and there are none; expected terms that read "
                "labels, such as `cross_entropy`"
            )
    for field in FusionConfig.model_fields:
        if getattr(fusion, field) != getattr(FusionConfig(), field):
            yield f"fusion.{field} says how teachers are fused, and there are none; leave it out"


def _makes_up_a_teacher(term: TermConfig) -> bool:
    """Whether a term teaches by itself, and does more than to hold the student to the labels."""
    return not term.needs_teachers and term.family != "supervised"
