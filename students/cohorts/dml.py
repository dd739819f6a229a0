"""Deep mutual learning (Zhang, Xiang, Hospedales, Lu 2018, 1706.00384).

    L = w Σ_k 1/(K-1) Σ_{l≠k} T² KL(p_l || p_k),   p = softmax(z / T),   p_l without gradient in the loss of k

Every member learns of every other, all K(K-1) pairs at once, from the same forward pass.
"""

from typing import TYPE_CHECKING, Literal

from students.cohorts.method import Discussion, OnlineMethod
from students.objectives.divergences import kl, log_probs
from students.objectives.schedules import Temperature, at

if TYPE_CHECKING:
    import torch


class DMLCohort(OnlineMethod):
    """Each member learns the mean of the KLs to the others, which are constants to it (1706.00384)."""

    method: Literal["dml"] = "dml"
    temperature: Temperature = 1.0

    def rows(self, discussion: Discussion) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        temperature, weight = at(self.temperature, discussion.progress), at(self.weight, discussion.progress)
        log_p_KNC = log_probs(discussion.logits_KNC, temperature)
        # Every pair; that of a member with itself is 0, and so is its gradient.
        of_pairs_KKN = kl(log_p_KNC.detach()[:, None], log_p_KNC[None])
        return weight * temperature**2 * of_pairs_KKN.sum(dim=(0, 1)) / (len(log_p_KNC) - 1)
