"""Angles of three rows: angle-wise RKD (Park et al. 2019, 1904.05068).

    L = 1/N³ Σ_ijk h(a_s(i, j, k) - a_t(i, j, k)),   a(i, j, k) = cos ∠ x_i x_j x_k,   h = Huber's loss

h(a) is a²/2 up to 1 and |a| - 1/2 beyond. x: the output, one vector a row. Angles have no scale. N³ D operations; the
anchors j are taken a few at a time, each part with its gradient, so that memory stays near N max(N, D) numbers though
there are N³ angles. Published weights: 50, beside 25 for `rkd_distance`.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.relations import RelationTerm, directions, vectors
from students.objectives.term import TermInputs

if TYPE_CHECKING:
    import torch

_PART_VALUES = 1 << 20
"""Numbers of each intermediate result."""


class RKDAngleTerm(RelationTerm):
    """Angle at each row of the batch between every two others (1904.05068)."""

    term: Literal["rkd_angle"] = "rkd_angle"

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return the mean over ordered triplets; the angle of rows that are equal counts as a right one."""
        import torch

        student_ND, teacher_ND = (vectors(output) for output in self.outputs(seen))
        num_rows, apart_ND = len(student_ND), student_ND.detach().requires_grad_()
        total, slope_ND = student_ND.new_zeros(()), torch.zeros_like(apart_ND)
        size = max(1, _PART_VALUES // (num_rows * max(num_rows, student_ND.shape[1], teacher_ND.shape[1])))
        for start in range(0, num_rows, size):
            with torch.enable_grad():
                part = _angle_loss(apart_ND, teacher_ND.detach(), slice(start, start + size))
            slope_ND += torch.autograd.grad(part, apart_ND)[0]
            total += part.detach()
        # What is added is 0, and its gradient the one that was found.
        return (total + (slope_ND * (student_ND - student_ND.detach())).sum()) / num_rows**3


def _angle_loss(student_ND: "torch.Tensor", teacher_ND: "torch.Tensor", anchors: slice) -> "torch.Tensor":
    """Return the sum over the angles at some rows."""
    import torch.nn.functional as F

    return F.huber_loss(_angles(student_ND, anchors), _angles(teacher_ND, anchors), reduction="sum")


def _angles(vectors_ND: "torch.Tensor", anchors: slice) -> "torch.Tensor":
    """Return the cosines of the angles at A anchors, `[A, N, N]`."""
    # Of differences, and not of the Gram matrix, whose rounding swallows the angle at rows that lie close together.
    rays_AND = directions(vectors_ND[None] - vectors_ND[anchors, None])
    return rays_AND @ rays_AND.mT
