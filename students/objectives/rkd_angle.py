"""Angles of three rows: angle-wise RKD (Park et al. 2019, 1904.05068).

    L = 1/N³ Σ_ijk h(a_s(i, j, k) - a_t(i, j, k)),   a(i, j, k) = cos ∠ x_i x_j x_k,   h = Huber's loss

h(a) is a²/2 up to 1 and |a| - 1/2 beyond. x: the output, one vector a row. Angles have no scale. N³ operations after
N² D for the products of the rows, of which the angles are made:

    <x_i - x_j, x_k - x_j> = g_ik - g_ij - g_jk + g_jj,   g_ik = <x_i, x_k>

The anchors j are taken a few at a time, each part with its gradient, so that memory stays near N max(N, D) numbers
though there are N³ angles. Published weights: 50, beside 25 for `rkd_distance`.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.relations import LEAST_SQUARE, RelationTerm, vectors
from students.objectives.term import TermInputs

if TYPE_CHECKING:
    import torch

_PART_VALUES = 1 << 19
"""Numbers of each intermediate result."""
_SAME_ROW = 1e-13
"""Square of a distance, in those from the mean, below which only rounding is left of it in float64."""


class RKDAngleTerm(RelationTerm):
    """Angle at each row of the batch between every two others (1904.05068)."""

    term: Literal["rkd_angle"] = "rkd_angle"

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return the mean over ordered triplets; the angle of rows that are equal counts as a right one."""
        student_ND, teacher_ND = (vectors(output) for output in self.outputs(seen))
        student_NN, teacher_NN = _products(student_ND), _products(teacher_ND.detach())
        fixed_NN, num_rows, dtype = student_NN.detach(), len(student_NN), student_ND.dtype
        total, slope_NN = fixed_NN.new_zeros(()), fixed_NN.new_zeros(fixed_NN.shape)
        size = max(1, _PART_VALUES // num_rows**2)
        for start in range(0, num_rows, size):
            anchors = slice(start, min(start + size, num_rows))
            total += _add_angles(fixed_NN, teacher_NN, anchors, dtype, slope_NN)
        # What is added is 0, and its gradient the one that was found.
        return ((total + (slope_NN * (student_NN - fixed_NN)).sum()) / num_rows**3).to(dtype)


def _products(vectors_ND: "torch.Tensor") -> "torch.Tensor":
    """Return the inner products of rows about their mean."""
    # In float64: in float32 their rounding swallows the angle at rows that lie close together.
    wide_ND = vectors_ND.double()
    apart_ND = wide_ND - wide_ND.detach().mean(dim=0)
    return apart_ND @ apart_ND.T


def _cosines(products_NN: "torch.Tensor", anchors: slice, dtype: "torch.dtype") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the cosines at A anchors `[A, N, N]`, and one over the distances from these `[A, N]`, or 0 if there is
    none."""
    import torch

    at_AN, squares_N = products_NN[anchors], products_NN.diagonal()
    own_A1 = squares_N[anchors, None]
    distances_AN = squares_N - 2 * at_AN + own_A1
    is_same_AN = distances_AN < (_SAME_ROW * (squares_N + own_A1)).clamp(min=LEAST_SQUARE)
    inverse_AN = distances_AN.masked_fill(is_same_AN, float("inf")).rsqrt().to(dtype)
    cosines_ANN = torch.empty(*at_AN.shape, len(squares_N), dtype=dtype, device=at_AN.device)
    torch.sub(products_NN - at_AN[:, :, None], (at_AN - own_A1)[:, None, :], out=cosines_ANN)
    return cosines_ANN.mul_(inverse_AN[:, :, None]).mul_(inverse_AN[:, None, :]), inverse_AN


def _add_angles(
    student_NN: "torch.Tensor",
    teacher_NN: "torch.Tensor",
    anchors: slice,
    dtype: "torch.dtype",
    slope_NN: "torch.Tensor",
) -> "torch.Tensor":
    """Return the sum over the angles at some anchors, and add its gradient with respect to the student's products.

    Huber's loss is its own slope, c = a clipped to [-1, 1], times a - c/2.
    """
    import torch

    cosines_ANN, inverse_AN = _cosines(student_NN, anchors, dtype)
    off_ANN = cosines_ANN - _cosines(teacher_NN, anchors, dtype)[0]
    slope_ANN = off_ANN.clamp(-1, 1)
    loss = torch.dot(slope_ANN.flatten(), off_ANN.sub_(slope_ANN, alpha=0.5).flatten())
    # Of the distances, which are products of a ray with itself.
    of_distances_AN = (slope_ANN * cosines_ANN).sum(dim=-1) * inverse_AN.square()
    of_rays_ANN = slope_ANN.mul_(inverse_AN[:, :, None]).mul_(inverse_AN[:, None, :])
    row_sums_AN = of_rays_ANN.sum(dim=-1) - of_distances_AN
    slope_NN += of_rays_ANN.sum(dim=0)
    slope_NN[anchors] -= row_sums_AN
    slope_NN[:, anchors] -= row_sums_AN.T
    diagonal_N = slope_NN.diagonal()
    diagonal_N -= of_distances_AN.sum(dim=0)
    diagonal_N[anchors] += row_sums_AN.sum(dim=-1)
    return loss
