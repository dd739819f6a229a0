"""Reverse KL: the student is to be wrong nowhere, rather than right everywhere (Gu et al. 2023, 2306.08543).

    L = T² Σ_c q_T(c) (log q_T(c) - log p_T(c))

It seeks a mode: the student leaves out what it cannot hold. Forward KL covers all of the teacher's mass.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.divergences import kl, log_probs
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class ReverseKLTerm(RowTerm):
    """KL of the student to the fused teachers, times T² (2306.08543)."""

    needs_every_class = True

    term: Literal["reverse_kl"] = "reverse_kl"
    temperature: Temperature = 1.0

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        temperature = at(self.temperature, seen.progress)
        student, target = (log_probs(logits, temperature) for logits in (seen.student_logits_NC, seen.target_NC))
        return temperature**2 * kl(student, target)
