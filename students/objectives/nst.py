"""Neuron selectivity transfer: which positions excite channels, whichever channels (Huang, Wang 2017, 1707.01219).

    L = mean_cc' k(t_c, t_c') + mean_cc' k(s_c, s_c') - 2 mean_cc' k(s_c, t_c'),   k(a, b) = (aᵀ b)²

s_c and t_c are the maps of single channels, of norm 1 over their positions: samples of two distributions, of which L
is the squared maximum mean discrepancy. Widths may differ, and nothing is learned. Of maps of two sizes, the larger is
pooled to the smaller by means. A weight of 50 is common for images of 32 pixels.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.maps import WITH_POSITIONS, as_maps, misfit_of, pooled_alike, shapes_of
from students.objectives.pair import Pair
from students.objectives.term import RowTerm, Shapes, TermInputs

if TYPE_CHECKING:
    import torch


class NSTTerm(Pair, RowTerm):
    """Maximum mean discrepancy between the channels of student and teacher, as maps of positions (1707.01219)."""

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["nst"] = "nst"

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs without positions, and of two kinds."""
        return misfit_of(*shapes_of(self, shapes), WITH_POSITIONS)

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the discrepancy, `[N]`: at least 0."""
        from torch.nn import functional as F

        maps = pooled_alike(*map(as_maps, self.outputs(seen)))
        student, teacher = (F.normalize(side.flatten(2), dim=2) for side in maps)
        return _mean_kernel(teacher, teacher) + _mean_kernel(student, student) - 2 * _mean_kernel(student, teacher)


def _mean_kernel(left_NCP: "torch.Tensor", right_NCP: "torch.Tensor") -> "torch.Tensor":
    """Return the mean of k over all pairs of channels, `[N]`."""
    return (left_NCP @ right_NCP.transpose(1, 2)).square().mean(dim=(1, 2))
