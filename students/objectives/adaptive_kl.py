"""Forward and reverse KL, weighed by where the student is wrong (Wu et al. 2024, 2404.02657).

    L = T² (g_h KL(p || q) + g_t KL(q || p)) / (g_h + g_t),   g = Σ |p - q| over the head, over the tail

The head is the fewest most probable classes of the teacher that hold more than 1 - μ of its mass. The weights carry no
gradient.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.divergences import kl, log_probs
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class AdaptiveKLTerm(RowTerm):
    """Forward KL where the student misses the teachers' head, reverse KL where it misses their tail (2404.02657)."""

    needs_every_class = True

    term: Literal["adaptive_kl"] = "adaptive_kl"
    temperature: Temperature = 1.0
    mu: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Mass of the tail: the least probable classes that together hold at most so much."""

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        temperature = at(self.temperature, seen.progress)
        log_q, log_p = (log_probs(logits, temperature) for logits in (seen.student_logits_NC, seen.target_NC))
        head_N = self._share_of_head(log_p.detach().exp(), log_q.detach().exp())
        return temperature**2 * (head_N * kl(log_p, log_q) + (1 - head_N) * kl(log_q, log_p))

    def _share_of_head(self, p_NC: "torch.Tensor", q_NC: "torch.Tensor") -> "torch.Tensor":
        """Return g_h / (g_h + g_t), `[N]`; 1/2 where both are equal everywhere."""
        import torch

        ascending_NC, places_NC = p_NC.sort(dim=-1)
        gaps_NC = (p_NC - q_NC).abs()
        tail_N = torch.where(ascending_NC.cumsum(dim=-1) <= self.mu, gaps_NC.gather(1, places_NC), 0.0).sum(dim=-1)
        total_N = gaps_NC.sum(dim=-1)
        return torch.where(total_N > 0, 1 - tail_N / total_N.clamp(min=torch.finfo(total_N.dtype).tiny), 0.5)
