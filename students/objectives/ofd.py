"""Overhaul of feature distillation: features before their activation (Heo et al. 2019, 1904.01866).

    L = Σ_chw d(max(f_t, m_c), r(f_s)),   d(t, s) = 0 if s ≤ t ≤ 0 else (t - s)²,   m_c = E[f_t,c | f_t,c < 0]

What a ReLU would cut off need not be met: the student has only to stay below. So both modules have to be ones before an
activation, such as a batch normalisation; after a ReLU nothing is negative and L is a plain squared distance. r is a
linear map of the channels at each position (a 1x1 convolution), learned with the student, without the batch
normalisation of the paper. Of maps of two sizes, the larger is pooled to the smaller by means.

The paper takes the margins m from the teacher's batch normalisation, as if its outputs were Gaussian. A tap need not be
one: here m is the mean of the negative values that training has seen so far, from all workers, and is saved with the
student. After an epoch it is exact.

L is a sum over features, hence the small weight. For L layers the paper gives layer l the weight 0.001 / 2^(L - l).
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.maps import as_maps, mapped_by, misfit_of, num_channels, pointwise, pooled_alike, shapes_of
from students.objectives.pair import Pair
from students.objectives.schedules import Weight
from students.objectives.term import BatchTerm, Shapes, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn


class OFDTerm(Pair, BatchTerm):
    """Squared distance of features before an activation, as far as it lets them through (1904.01866).

    It judges rows one by one, but its margins are of the global batch, so that any number of workers has the same.
    """

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["ofd"] = "ofd"
    weight: Weight = 1e-3
    """Share of the term in the sum: a number, or a schedule of numbers."""

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs of two kinds."""
        return misfit_of(*shapes_of(self, shapes))

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return r, and the sum and the number of the teacher's negative values, as buffers."""
        import torch
        from torch import nn

        ours, theirs = map(num_channels, shapes_of(self, shapes))
        state = nn.Module()
        state.adapter = pointwise(ours, theirs)
        state.register_buffer("negative_sum_C", torch.zeros(theirs, dtype=torch.float64))
        state.register_buffer("num_negative_C", torch.zeros(theirs, dtype=torch.float64))
        return state

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return the sum over features, the mean over rows; in training mode, margins take in the batch first."""
        import torch

        assert seen.state is not None  # noqa: S101 - `build` returns one
        student, teacher = pooled_alike(*map(as_maps, self.outputs(seen)))
        if seen.state.training:
            _take_in(seen.state, teacher)
        source = mapped_by(seen.state.get_submodule("adapter"), student)
        target = torch.maximum(teacher, _margins(seen.state).to(teacher.dtype))
        counts = (source > target) | (target > 0)
        distance = torch.where(counts, (source - target).square(), 0.0)
        return distance.sum(dim=(1, 2, 3)).mean()


def _take_in(state: "nn.Module", teacher_NCHW: "torch.Tensor") -> None:
    negative = teacher_NCHW.detach().double().clamp(max=0)
    state.get_buffer("negative_sum_C").add_(negative.sum(dim=(0, 2, 3)))
    state.get_buffer("num_negative_C").add_((negative < 0).sum(dim=(0, 2, 3)))


def _margins(state: "nn.Module") -> "torch.Tensor":
    """Return m, float64 `[C, 1, 1]`; 0 for a channel that was never negative."""
    margins_C = state.get_buffer("negative_sum_C") / state.get_buffer("num_negative_C").clamp(min=1)
    return margins_C[:, None, None]
