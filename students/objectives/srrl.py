"""Softmax regression representation learning: features that the teacher's classifier can read (Yang et al. 2021).

    L = mean (r(f_s) - f_t)² + mean_c (W_t r(f_s) + b_t - z_t)²,   z_t = W_t f_t + b_t

From openreview.net/forum?id=ZzwDy_wiWv. W_t and b_t are the teacher's classifier, a linear layer, frozen; r is a linear
map of the channels at each position (a 1x1 convolution), learned with the student, without the batch normalisation of
the article. f_t is what the classifier reads, or a map whose means over positions it reads. Since z_t is made of
f_t, b_t cancels. Of maps of two sizes, the larger is pooled to the smaller by means.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from students.objectives.maps import as_maps, mapped_by, misfit_of, num_channels, pointwise, pooled_alike, shapes_of
from students.objectives.pair import Pair, TapReference, tap_of
from students.objectives.term import RowTerm, Shapes, TeacherTap, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn


class SRRLTerm(Pair, RowTerm):
    """Distance to the teacher's last features, and of what its classifier makes of both (openreview ZzwDy_wiWv)."""

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["srrl"] = "srrl"
    head: TapReference
    """The linear layer of the same teacher that makes logits of these features, such as `wide:fc`."""

    @model_validator(mode="after")
    def _head_is_of_the_teacher(self) -> "SRRLTerm":
        if tap_of(self.head).teacher != tap_of(self.teacher).teacher:
            raise ValueError(f"teacher is {self.teacher} and head {self.head}; expected one teacher")
        return self

    @property
    def teacher_heads(self) -> tuple[TeacherTap, ...]:
        """The classifier."""
        return (tap_of(self.head),)

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse tokens, of which no classifier reads the means, outputs of two kinds, and heads of other features."""
        student, teacher = shapes_of(self, shapes)
        head = shapes.heads.get(tap_of(self.head))
        if head is not None and head[1] != num_channels(teacher):
            return f"{self.head} reads {head[1]} features and {self.teacher} has {num_channels(teacher)} channels"
        return misfit_of(student, teacher, ("a vector", "a map"))

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return r."""
        student, teacher = shapes_of(self, shapes)
        return pointwise(num_channels(student), num_channels(teacher))

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the sum of both mean squared distances, `[N]`."""
        student, teacher = pooled_alike(*map(as_maps, self.outputs(seen)))
        gap_NDHW = mapped_by(seen.state, student) - teacher
        weight_CD, _ = seen.heads[tap_of(self.head)]
        gap_NC = gap_NDHW.mean(dim=(2, 3)) @ weight_CD.to(gap_NDHW.dtype).T
        return gap_NDHW.square().mean(dim=(1, 2, 3)) + gap_NC.square().mean(dim=1)
