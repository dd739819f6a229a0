"""Attention transfer: where the student looks, not what it sees there (Zagoruyko, Komodakis 2017, 1612.03928).

    paper   L = ‖n(Σ_c f_s²) - n(Σ_c f_t²)‖₂,          n(a) = a / ‖a‖₂ over the positions of a row
    code    L = 1/(H W) ‖n(mean_c f_s²) - n(mean_c f_t²)‖₂²

The article prints the first and its authors' program computes the second; they differ in size and in gradient. Widths
may differ, and nothing is learned: an attention map has one channel. Of maps of two sizes, the larger is pooled to the
smaller by means. A weight of 1000 is common with `code`, whose maps of norm 1 have small squares.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.maps import WITH_POSITIONS, as_maps, misfit_of, pooled_alike, shapes_of
from students.objectives.pair import Pair
from students.objectives.term import RowTerm, Shapes, TermInputs

if TYPE_CHECKING:
    import torch


class AttentionTerm(Pair, RowTerm):
    """Distance of the maps of where student and teacher have the largest features (1612.03928)."""

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["attention"] = "attention"
    variant: Literal["paper", "code"] = "paper"
    """The formula as printed, or as its authors compute it."""

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs without positions, and of two kinds."""
        return misfit_of(*shapes_of(self, shapes), WITH_POSITIONS)

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the distance, `[N]`: 0 to √2 in the paper's variant."""
        import torch

        student, teacher = pooled_alike(*map(as_maps, self.outputs(seen)))
        distance_NP = _attention(student) - _attention(teacher)
        if self.variant == "code":
            return distance_NP.square().mean(dim=1)
        norm_N: torch.Tensor = torch.linalg.vector_norm(distance_NP, dim=1)
        return norm_N


def _attention(maps_NCHW: "torch.Tensor") -> "torch.Tensor":
    """Return how large the features of each position are, of norm 1 over the positions, `[N, P]`."""
    from torch.nn import functional as F

    # The mean has the direction of the sum, and does not overflow where there are many channels.
    return F.normalize(maps_NCHW.square().mean(dim=1).flatten(1), dim=1)
