"""Centred kernel alignment (Kornblith et al. 2019, 1905.00414), with the unbiased estimate of a batch (2010.15327).

    L = 1 - HSIC(K_s, K_t) / √(HSIC(K_s, K_s) HSIC(K_t, K_t)),   K = X Xᵀ

    HSIC(K, L) = 1/(N (N-3)) (tr K̃L̃ + 1ᵀK̃1 1ᵀL̃1 / ((N-1)(N-2)) - 2/(N-2) 1ᵀK̃L̃1),   K̃: K with 0 on its diagonal

x: the output, one vector a row. Invariant to rotation, shift and isotropic scale of either side. N² D operations, N²
numbers of memory.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.relations import RelationTerm, directions, vectors
from students.objectives.term import TermInputs

if TYPE_CHECKING:
    import torch

_LEAST_ROWS = 4


class CKATerm(RelationTerm):
    """Alignment of the inner products of the rows of the batch, estimated without bias (1905.00414, 2010.15327)."""

    term: Literal["cka"] = "cka"

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return a number between 0 and 2; 0 for a batch of fewer than 4 rows, of which nothing can be estimated."""
        student, teacher = (vectors(output) for output in self.outputs(seen))
        if len(student) < _LEAST_ROWS:
            return 0 * student.sum()
        aligned = _centred_kernel(student).flatten(), _centred_kernel(teacher).flatten()
        return 1 - (directions(aligned[0]) * directions(aligned[1])).sum()


def _centred_kernel(vectors_ND: "torch.Tensor") -> "torch.Tensor":
    """Return the kernel without diagonal and made to sum to 0 along each row, `[N, N]`, up to a factor.

    The estimate above is the inner product of two of these (1310.2926), so that none is a small difference of sums.
    """
    # The shift leaves the result as it is, and less to be rounded; so does the scale, and nothing overflows.
    centred_ND = vectors_ND - vectors_ND.mean(dim=0)
    centred_ND = centred_ND / centred_ND.detach().abs().amax().clamp(min=1e-30)
    num_rows = len(centred_ND)
    kernel_NN = (centred_ND @ centred_ND.T).fill_diagonal_(0)
    sums_N = kernel_NN.sum(dim=0) / (num_rows - 2)
    spread_NN = kernel_NN - sums_N[:, None] - sums_N[None, :] + sums_N.sum() / (num_rows - 1)
    return spread_NN.fill_diagonal_(0)
