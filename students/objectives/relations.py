"""What relation-based terms have in common: outputs as vectors, their directions, and how alike they are.

Legend: N rows, D features.
"""

from typing import TYPE_CHECKING

from students.objectives.pair import Pair
from students.objectives.term import BatchTerm, Shapes

if TYPE_CHECKING:
    import torch

LEAST_SQUARE = 1e-24
"""Square of a length below which a vector has no direction."""


class RelationTerm(Pair, BatchTerm):
    """A term that compares the relations among the rows of two outputs, whose widths may differ."""

    family = "relation-based"
    reads = frozenset({"taps"})

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs that are one number a row."""
        sides = {f"the student's output of {self.student}": shapes.student_taps[self.student]}
        sides |= {f"the teacher's of {tap.module}": shapes.teacher_taps[tap] for tap in self.teacher_modules}
        scalar = next((name for name, shape in sides.items() if not shape), None)
        return scalar and f"{scalar} is one number a row, and relations are those of vectors; expected [rows, features]"


def vectors(output: "torch.Tensor") -> "torch.Tensor":
    """Return an output `[N, ...]` as `[N, D]`, in float32 at least: relations are small differences of large sums."""
    import torch

    return output.flatten(start_dim=1).to(torch.promote_types(output.dtype, torch.float32))


def directions(values: "torch.Tensor") -> "torch.Tensor":
    """Return `values` divided by their length along the last axis; 0, without gradient, where there is no direction.

    What is shorter than 1e-12 has none: its gradient, one over its length, would be past all use.
    """
    squares = values.square().sum(dim=-1, keepdim=True)
    # The inverse root of infinity is 0 and flat: what has no length moves nothing, instead of by one over an epsilon.
    return values * squares.masked_fill(squares < LEAST_SQUARE, float("inf")).rsqrt()


def cosines(vectors_ND: "torch.Tensor") -> "torch.Tensor":
    """Return the cosine of every two rows, `[N, N]`."""
    directions_ND = directions(vectors_ND)
    return directions_ND @ directions_ND.T
