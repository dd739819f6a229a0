"""Correlation congruence (Peng et al. 2019, 1904.01802).

    L = 1/N² |K_s - K_t|²_F,   K(i, j) = exp(-2γ) Σ_p≤P (2γ)^p / p! cos(x_i, x_j)^p

x: the output, one vector a row. K is the Gaussian kernel of directions, exp(-γ |x_i - x_j|²) with |x| = 1, as a Taylor
series of the order P. This is the paper's loss. Two others go by the same name: one takes the root of the sum of the
squares, and one multiplies the distances of successive rows to their teacher's and so has no kernel at all. N² D
operations, N² numbers of memory.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.relations import RelationTerm, cosines, vectors
from students.objectives.term import TermInputs

if TYPE_CHECKING:
    import torch


class CCTerm(RelationTerm):
    """Gaussian kernel of every two rows of the batch (1904.01802)."""

    term: Literal["cc"] = "cc"
    gamma: Annotated[float, Field(gt=0)] = 0.4
    """Width of the kernel: the larger, the more only close rows count."""
    order: Annotated[int, Field(ge=1, le=20)] = 2
    """Highest power of the series."""

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return the mean squared difference of the kernels."""
        student_NN, teacher_NN = (self._kernel(vectors(output)) for output in self.outputs(seen))
        return (student_NN - teacher_NN).square().mean()

    def _kernel(self, vectors_ND: "torch.Tensor") -> "torch.Tensor":
        import torch

        cosines_NN = cosines(vectors_ND)
        kernel_NN = torch.zeros_like(cosines_NN)
        for power in range(self.order, -1, -1):  # Horner's scheme
            kernel_NN = kernel_NN * cosines_NN + (2 * self.gamma) ** power / math.factorial(power)
        return math.exp(-2 * self.gamma) * kernel_NN
