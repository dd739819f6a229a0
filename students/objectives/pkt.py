"""Probabilistic knowledge transfer (Passalis, Tefas 2018, 1803.10837).

    L = 1/N² Σ_ij p_t(j|i) log (p_t(j|i) / p_s(j|i)),   p(j|i) = k(i, j) / Σ_l k(i, l),   k = (1 + cos(x_i, x_j)) / 2

x: the output, one vector a row. As in the authors' code, j = i counts too and the mean is over pairs; the paper leaves
j = i out and sums. k is at least 1e-7, so that opposite rows have a logarithm. N² D operations, N² numbers of memory.
Published weight: 30000, since L is a mean over N² pairs of which each row has a probability of 1 to share.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.divergences import kl
from students.objectives.relations import RelationTerm, cosines, vectors
from students.objectives.term import TermInputs

if TYPE_CHECKING:
    import torch

_LEAST = 1e-7


class PKTTerm(RelationTerm):
    """KL of how probably each row of the batch has every row for its neighbour (1803.10837)."""

    term: Literal["pkt"] = "pkt"

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats over N."""
        student_NN, teacher_NN = (_log_neighbours(vectors(output)) for output in self.outputs(seen))
        return kl(teacher_NN, student_NN).mean() / len(student_NN)


def _log_neighbours(vectors_ND: "torch.Tensor") -> "torch.Tensor":
    """Return log p(j|i), `[N, N]`."""
    kernel_NN = ((1 + cosines(vectors_ND)) / 2).clamp(min=_LEAST)
    return kernel_NN.log() - kernel_NN.sum(dim=1, keepdim=True).log()
