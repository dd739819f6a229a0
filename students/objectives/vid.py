"""Variational information distillation: a bound on what the student knows of the teacher (Ahn et al. 2019, 1904.05835).

    L = 1/(C H W) Σ ½ ((μ(f_s) - f_t)² / σ_c² + log σ_c²),   σ_c² = log(1 + exp a_c) + 1e-5

Up to constants, the negative log-likelihood of the teacher's features if they are Gaussian around what is made of the
student's. μ is three linear maps of the channels at each position (1x1 convolutions) with ReLUs between, as wide as the
teacher; it and a are learned with the student. A channel that the student cannot know gets a large σ and counts little.
L may be below 0. Of maps of two sizes, the larger is pooled to the smaller by means.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.maps import as_maps, mapped_by, misfit_of, num_channels, pointwise, pooled_alike, shapes_of
from students.objectives.pair import Pair
from students.objectives.term import RowTerm, Shapes, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn

_LEAST_VARIANCE = 1e-5


class VIDTerm(Pair, RowTerm):
    """Likelihood of the teacher's features around what is learned to be made of the student's (1904.05835)."""

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["vid"] = "vid"
    first_variance: Annotated[float, Field(gt=_LEAST_VARIANCE)] = 5.0
    """σ² of each channel at the first step, in squared units of the teacher's features."""

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs of two kinds."""
        return misfit_of(*shapes_of(self, shapes))

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return μ and a."""
        import torch
        from torch import nn

        inputs, outputs = map(num_channels, shapes_of(self, shapes))
        state = nn.Module()
        state.mean = nn.Sequential(
            pointwise(inputs, outputs), nn.ReLU(), pointwise(outputs, outputs), nn.ReLU(), pointwise(outputs, outputs)
        )
        start = self.first_variance - _LEAST_VARIANCE
        # The inverse of log(1 + exp a), without the overflow of exp.
        state.a_C = nn.Parameter(torch.full((outputs,), start + math.log(-math.expm1(-start))))
        return state

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats for each of the teacher's features, less ½ log 2π, `[N]`."""
        from torch.nn import functional as F

        assert seen.state is not None  # noqa: S101 - `build` returns one
        student, teacher = pooled_alike(*map(as_maps, self.outputs(seen)))
        variance_C11 = F.softplus(seen.state.get_parameter("a_C"))[:, None, None] + _LEAST_VARIANCE
        distance = (mapped_by(seen.state.get_submodule("mean"), student) - teacher).square()
        nats: torch.Tensor = distance / variance_C11 + variance_C11.log()
        return nats.mean(dim=(1, 2, 3)) / 2
