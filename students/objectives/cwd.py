"""Channel-wise distillation: where each channel is most active (Shu et al. 2021, 2011.13256).

    L = τ²/C Σ_c KL(softmax_p(f_t,c / τ) || softmax_p(f_s,c / τ))

softmax_p runs over the positions of one channel, so that a constant added to a channel means nothing. A student with
other channels than the teacher's goes through a linear map of them (a 1x1 convolution), learned with it. Of maps of two
sizes, the larger is pooled to the smaller by means. Published weights, for segmentation: 3 on logits, 50 on features.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.divergences import kl, log_probs
from students.objectives.maps import (
    WITH_POSITIONS,
    as_maps,
    mapped_by,
    misfit_of,
    num_channels,
    pointwise,
    pooled_alike,
    shapes_of,
)
from students.objectives.pair import Pair
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, Shapes, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn


class CWDTerm(Pair, RowTerm):
    """KL between the distributions of each channel over the positions of a row, times τ² (2011.13256)."""

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["cwd"] = "cwd"
    temperature: Temperature = 1.0

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs without positions, and of two kinds."""
        return misfit_of(*shapes_of(self, shapes), WITH_POSITIONS)

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return the linear map, or nothing to do where the channels agree."""
        from torch import nn

        ours, theirs = map(num_channels, shapes_of(self, shapes))
        return nn.Identity() if ours == theirs else pointwise(ours, theirs)

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times τ², the mean over channels, `[N]`."""
        temperature = at(self.temperature, seen.progress)
        student, teacher = pooled_alike(*map(as_maps, self.outputs(seen)))
        log_q_NCP, log_p_NCP = (
            log_probs(maps.flatten(2), temperature) for maps in (mapped_by(seen.state, student), teacher)
        )
        return temperature**2 * kl(log_p_NCP, log_q_NCP).mean(dim=1)
