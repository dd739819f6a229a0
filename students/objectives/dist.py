"""Correlations instead of probabilities: DIST (Huang et al. 2022, 2205.10536).

    L = τ² (β (1 - mean_i ρ(q_i, p_i)) + γ (1 - mean_c ρ(q_·c, p_·c))),   p, q = softmax(z / τ)

ρ is Pearson's correlation: over the classes of each row (what the teacher thinks of a row), and over the rows of the
batch for each class (which rows it takes to be most like the class). It leaves the student its own scale.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.schedules import Temperature, at
from students.objectives.term import BatchTerm, TermInputs

if TYPE_CHECKING:
    import torch

_EPSILON = 1e-8


class DISTTerm(BatchTerm):
    """Correlation of student and teachers within each row and within each class of the batch (2205.10536)."""

    term: Literal["dist"] = "dist"
    temperature: Temperature = 1.0
    beta: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the relations among the classes of a row."""
    gamma: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the relations among the rows of a class."""

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return a number between 0 and 2 τ² (β + γ)."""
        temperature = at(self.temperature, seen.progress)
        q_NC = (seen.student_logits_NC / temperature).softmax(dim=-1)
        p_NC = (seen.target_NC / temperature).softmax(dim=-1)
        between_classes = 1 - _correlation(q_NC, p_NC).mean()
        between_rows = 1 - _correlation(q_NC.T, p_NC.T).mean()
        return temperature**2 * (self.beta * between_classes + self.gamma * between_rows)


def _correlation(left: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
    """Return Pearson's correlation along the last axis; 0 where one side does not vary."""
    left, right = (values - values.mean(dim=-1, keepdim=True) for values in (left, right))
    # Roots of sums, not norms: the gradient of a norm is undefined at 0.
    sizes = ((left.square().sum(dim=-1) + _EPSILON**2) * (right.square().sum(dim=-1) + _EPSILON**2)).sqrt()
    return (left * right).sum(dim=-1) / sizes
