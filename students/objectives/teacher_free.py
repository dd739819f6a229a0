"""A teacher made up from the label alone (Yuan et al. 2020, 1909.11723).

    L = T² KL(softmax(p_v / T) || softmax(z_s / T)),   p_v(c) = a if c = y else (1 - a) / (C - 1)

The virtual teacher is right on every row, and at a high temperature says little more than that: label smoothing with a
soft touch. Like the reference, p_v itself is divided by T, as if it were logits.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.kl import kl_rows
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class TeacherFreeTerm(RowTerm):
    """KL to a virtual teacher that knows the labels, on the rows that have one, times T² (1909.11723)."""

    family = "self"
    reads = frozenset({"labels"})

    term: Literal["teacher_free"] = "teacher_free"
    temperature: Temperature = 20.0
    correct: Annotated[float, Field(gt=0, le=1)] = 0.99
    """What the virtual teacher gives the row's own class."""

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`; 0 where the label is `NO_LABEL`."""
        import torch

        num_classes = seen.student_logits_NC.shape[-1]
        others = (1 - self.correct) / (num_classes - 1)
        virtual_NC = torch.full_like(seen.student_logits_NC, others)
        virtual_NC.scatter_(1, seen.labels_N.clamp(min=0)[:, None], self.correct)
        loss = kl_rows(seen.student_logits_NC, virtual_NC, temperature=at(self.temperature, seen.progress))
        return torch.where(seen.labels_N >= 0, loss, torch.zeros_like(loss))
