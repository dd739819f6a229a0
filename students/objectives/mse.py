"""Squared distance of the logits (Ba, Caruana 2014, 1312.6184; Kim et al. 2021, 2105.08919).

    L = 1/C Σ_c (z_s(c) - z_t(c))²

Logits mean something up to a constant only, and a fused target is a log-probability: with `centred`, both are freed of
their mean first.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class MSETerm(RowTerm):
    """Mean squared distance of the student's logits to the fused teachers' (1312.6184, 2105.08919)."""

    needs_every_class = True

    term: Literal["mse"] = "mse"
    centred: bool = True
    """Subtract each row's mean from its logits first, since constants added to a row mean nothing."""

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return squared logits, `[N]`."""
        distance_NC = seen.student_logits_NC - seen.target_NC
        if self.centred:
            distance_NC = distance_NC - distance_NC.mean(dim=-1, keepdim=True)
        return distance_NC.square().mean(dim=-1)
