"""Forward KL to the teachers (Hinton, Vinyals, Dean 2015, 1503.02531).

    L = T² Σ_c p_T(c) (log p_T(c) - log q_T(c)),   p_T = softmax(z_t / T),  q_T = softmax(z_s / T)

T² keeps the size of the gradient when T changes.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.divergences import kl, log_probs
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class KLTerm(RowTerm):
    """Forward KL to the fused teachers, times T² (1503.02531)."""

    term: Literal["kl"] = "kl"
    temperature: Temperature = 1.0

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        return kl_rows(seen.student_logits_NC, seen.target_NC, temperature=at(self.temperature, seen.progress))


def kl_rows(
    student_logits_NC: "torch.Tensor", target_logits_NC: "torch.Tensor", *, temperature: float
) -> "torch.Tensor":
    """Return the loss of each row, nats times T², `[N]`."""
    student, target = (log_probs(logits, temperature) for logits in (student_logits_NC, target_logits_NC))
    return temperature**2 * kl(target, student)
