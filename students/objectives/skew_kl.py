"""Skew KL, forward and reverse (Ko et al. 2024, 2402.03898).

    forward   L = T² KL(p || α p + (1 - α) q)
    reverse   L = T² KL(q || (1 - α) p + α q)

Mixing a little of the first argument into the second bounds the loss, by -log α nats, and its gradient.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.divergences import kl, log_mix, log_probs
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class SkewKLTerm(RowTerm):
    """KL to a mixture of both sides, times T² (2402.03898)."""

    term: Literal["skew_kl"] = "skew_kl"
    temperature: Temperature = 1.0
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the first argument in the mixture."""
    reverse: bool = False
    """Measure from the student in place of from the teachers."""

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        temperature = at(self.temperature, seen.progress)
        student, target = (log_probs(logits, temperature) for logits in (seen.student_logits_NC, seen.target_NC))
        first, second = (student, target) if self.reverse else (target, student)
        return temperature**2 * kl(first, log_mix(first, second, self.alpha))
