"""Generalised Jensen-Shannon divergence (Agarwal et al. 2023, 2306.13649).

    L = T² (β KL(p || m) + (1 - β) KL(q || m)),   m = β p + (1 - β) q

β = 0 is forward KL and β = 1 reverse KL: by definition there, not as the limits, which are 0. β = 1/2 is the symmetric
divergence, at most log 2 nats.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.divergences import kl, log_mix, log_probs
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class JSDTerm(RowTerm):
    """Jensen-Shannon divergence of student and fused teachers, times T² (2306.13649)."""

    term: Literal["jsd"] = "jsd"
    temperature: Temperature = 1.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the teachers in the mixture; 0 is forward KL, 1 reverse KL."""

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        temperature = at(self.temperature, seen.progress)
        log_q, log_p = (log_probs(logits, temperature) for logits in (seen.student_logits_NC, seen.target_NC))
        if self.beta in (0.0, 1.0):
            return temperature**2 * (kl(log_q, log_p) if self.beta else kl(log_p, log_q))
        mixture = log_mix(log_p, log_q, self.beta)
        return temperature**2 * (self.beta * kl(log_p, mixture) + (1 - self.beta) * kl(log_q, mixture))
