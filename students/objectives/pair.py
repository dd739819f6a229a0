"""One module of the student held against one module of a teacher."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cluster.config import Config
from students.objectives.term import ModulePath, TeacherTap, TermInputs

if TYPE_CHECKING:
    import torch

TapReference = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}:[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")]
"""`teacher:module`, such as `wide:features.6`."""


class Pair(Config):
    """What a term that compares two outputs names: to be inherited beside `RowTerm` or `BatchTerm`."""

    student: ModulePath
    """Module of the student whose output is compared."""
    teacher: TapReference
    """The teacher, and the module of it whose output the student's is compared with."""

    @property
    def student_modules(self) -> tuple[str, ...]:
        """The one module of the student."""
        return (self.student,)

    @property
    def teacher_modules(self) -> tuple[TeacherTap, ...]:
        """The one module of the teacher."""
        return (tap_of(self.teacher),)

    def outputs(self, seen: TermInputs) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the student's output and the teacher's, `[N, ...]` each."""
        return seen.student_taps[self.student], seen.teacher_taps[tap_of(self.teacher)]


def tap_of(reference: str) -> TeacherTap:
    """Return what a `teacher:module` refers to."""
    teacher, _, module = reference.partition(":")
    return TeacherTap(teacher, module)
