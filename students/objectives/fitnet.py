"""Hints: a layer of the student learns to predict one of the teacher (Romero et al. 2015, 1412.6550).

    L = 1/(C H W) Σ (r(f_s) - f_t)²

r is a linear map of the channels at each position (a 1x1 convolution), learned with the student. Where heights and
widths differ, the larger map is pooled to the smaller by means. A vector is a map of one position, and tokens are a
column of them. Weights of 100 are common for images of 32 pixels.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.maps import as_maps, mapped_by, misfit_of, num_channels, pointwise, pooled_alike, shapes_of
from students.objectives.pair import Pair
from students.objectives.term import RowTerm, Shapes, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn


class FitNetTerm(Pair, RowTerm):
    """Squared distance of a learned linear map of the student's features to the teacher's (1412.6550)."""

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["fitnet"] = "fitnet"

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs of two kinds."""
        return misfit_of(*shapes_of(self, shapes))

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return r."""
        student, teacher = shapes_of(self, shapes)
        return pointwise(num_channels(student), num_channels(teacher))

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the mean squared distance, `[N]`."""
        student, teacher = pooled_alike(*map(as_maps, self.outputs(seen)))
        return (mapped_by(seen.state, student) - teacher).square().mean(dim=(1, 2, 3))
