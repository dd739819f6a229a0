"""KL of standardised logits (Sun et al. 2024, 2403.01427).

    L = T² KL(softmax(ẑ_t / T) || softmax(ẑ_s / T)),   ẑ = (z - mean_c z) / std_c z

The student is free in the mean and the spread of its logits, and matches their order and proportions alone. The
standard deviation is the unbiased one.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.kl import kl_rows
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch

_EPSILON = 1e-7


class StandardisedKLTerm(RowTerm):
    """KL of logits that have mean 0 and standard deviation 1 in each row, times T² (2403.01427)."""

    needs_every_class = True

    term: Literal["standardised_kl"] = "standardised_kl"
    temperature: Temperature = 2.0

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        student, target = _standardised(seen.student_logits_NC), _standardised(seen.target_NC)
        return kl_rows(student, target, temperature=at(self.temperature, seen.progress))


def _standardised(logits_NC: "torch.Tensor") -> "torch.Tensor":
    centred_NC = logits_NC - logits_NC.mean(dim=-1, keepdim=True)
    variance_N1 = centred_NC.square().sum(dim=-1, keepdim=True) / (logits_NC.shape[-1] - 1)
    # The square root has no gradient at 0, where all logits of a row are equal.
    return centred_NC / (variance_N1 + _EPSILON**2).sqrt()
