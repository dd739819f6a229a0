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
            anchors = slice(start, start + size)
            with torch.enable_grad():
                student_rays_AND = _rays(apart_ND, anchors)
            part, slope_AND = _angle_loss(student_rays_AND.detach(), _rays(teacher_ND.detach(), anchors))
            slope_ND += torch.autograd.grad(student_rays_AND, apart_ND, slope_AND)[0]
            total += part
        # What is added is 0, and its gradient the one that was found.
        return (total + (slope_ND * (student_ND - student_ND.detach())).sum()) / num_rows**3


def _rays(vectors_ND: "torch.Tensor", anchors: slice) -> "torch.Tensor":
    """Return the directions from A anchors to every row, whose products are the cosines."""
    # Of differences, and not of the Gram matrix, whose rounding swallows the angle at rows that lie close together.
    return directions(vectors_ND[None] - vectors_ND[anchors, None])


def _angle_loss(student_AND: "torch.Tensor", teacher_AND: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the sum over the angles at A anchors, and its gradient with respect to the student's rays.

    Huber's loss is its own slope, c = a clipped to [-1, 1], times a - c/2. Cosines are symmetric, so each ray gets the
    slope of twice its row.
    """
    import torch

    with torch.no_grad():
        off_ANN = torch.bmm(student_AND, student_AND.mT).baddbmm_(teacher_AND, teacher_AND.mT, alpha=-1)
        slope_ANN = off_ANN.clamp(-1, 1)
        loss = torch.dot(slope_ANN.flatten(), off_ANN.sub_(slope_ANN, alpha=0.5).flatten())
        return loss, 2 * torch.bmm(slope_ANN, student_AND)
