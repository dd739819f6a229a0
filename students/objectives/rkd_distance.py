"""Distances of rows: distance-wise RKD (Park et al. 2019, 1904.05068).

    L = 1/N² Σ_ij h(d_s(i, j) - d_t(i, j)),   d(i, j) = |x_i - x_j| / mean_{k≠l} |x_k - x_l|,   h = Huber's loss

h(a) is a²/2 up to 1 and |a| - 1/2 beyond. x: the output, one vector a row. Each side is measured in its own mean
distance, so widths and scales may differ. N² D operations, N² numbers of memory. Published weights: 25, beside 50 for
`rkd_angle`.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.relations import RelationTerm, vectors
from students.objectives.term import TermInputs

if TYPE_CHECKING:
    import torch

_EPSILON = 1e-12


class RKDDistanceTerm(RelationTerm):
    """Distance of every two rows of the batch, in units of the mean distance (1904.05068)."""

    term: Literal["rkd_distance"] = "rkd_distance"

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return the mean over ordered pairs, of which those of a row and itself are 0."""
        import torch.nn.functional as F

        student, teacher = (_distances(vectors(output)) for output in self.outputs(seen))
        num_rows = len(seen.student_logits_NC)
        return 2 * F.huber_loss(student, teacher, reduction="sum") / num_rows**2


def _distances(vectors_ND: "torch.Tensor") -> "torch.Tensor":
    """Return the distance of every two rows over their mean, `[N (N - 1) / 2]`."""
    import torch.nn.functional as F

    distances = F.pdist(vectors_ND)
    return distances / (distances.sum() / max(1, len(distances))).clamp(min=_EPSILON)
