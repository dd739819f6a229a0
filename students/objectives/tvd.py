"""Total variation distance (Wen et al. 2023, 2307.15190).

    L = T² ½ Σ_c |p_T(c) - q_T(c)|

The share of the mass that lies with another class; its gradient does not grow where the student is very wrong.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class TVDTerm(RowTerm):
    """Half the sum of the differences of the probabilities, times T² (2307.15190)."""

    term: Literal["tvd"] = "tvd"
    temperature: Temperature = 1.0

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return a share of the mass times T², `[N]`."""
        temperature = at(self.temperature, seen.progress)
        p_NC, q_NC = ((logits / temperature).softmax(dim=-1) for logits in (seen.target_NC, seen.student_logits_NC))
        return temperature**2 * (p_NC - q_NC).abs().sum(dim=-1) / 2
