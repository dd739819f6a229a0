"""Similarity-preserving distillation (Tung, Mori 2019, 1907.09682).

    L = 1/N² |G_s - G_t|²_F,   G(i, ·) = x_i Xᵀ / |x_i Xᵀ|₂

x: the output, one vector a row. Which rows excite the same features, as the teacher has it. N² D operations, N² numbers
of memory. Published weight: 3000, since the entries of G are about 1/√N.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.relations import RelationTerm, directions, vectors
from students.objectives.term import TermInputs

if TYPE_CHECKING:
    import torch


class SPTerm(RelationTerm):
    """Inner products of every two rows of the batch, normalised row by row (1907.09682)."""

    term: Literal["sp"] = "sp"

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return the mean squared difference, between 0 and 4 / N."""
        student_NN, teacher_NN = (_similarities(vectors(output)) for output in self.outputs(seen))
        return (student_NN - teacher_NN).square().mean()


def _similarities(vectors_ND: "torch.Tensor") -> "torch.Tensor":
    # A common factor changes nothing, and without it squares of squares of large outputs would overflow.
    scaled_ND = vectors_ND / vectors_ND.detach().abs().amax().clamp(min=1e-30)
    return directions(scaled_ND @ scaled_ND.T)
