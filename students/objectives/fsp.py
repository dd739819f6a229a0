"""The flow of solution procedure: how one layer is made of another (Yim et al., doi 10.1109/CVPR.2017.754).

    L = 1/(C¹ C²) Σ (G_s - G_t)²,   G = 1/(H W) Σ_p f¹(p) f²(p)ᵀ   [C¹, C²]

p runs over positions; of the two maps of a side, the larger is pooled to the smaller by means. The two sides may have
maps of any size, since G has no positions, but need the same channels: a map of the student with other channels goes
through a linear map of them (a 1x1 convolution), learned with the student. A weight of 50 is common for images of 32
pixels.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from students.objectives.maps import (
    WITH_POSITIONS,
    as_maps,
    mapped_by,
    misfit_of,
    num_channels,
    pointwise,
    pooled_alike,
)
from students.objectives.pair import Pair, TapReference, tap_of
from students.objectives.term import ModulePath, RowTerm, Shapes, TeacherTap, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn


class FSPTerm(Pair, RowTerm):
    """Distance of the products of two layers' channels, summed over positions (doi 10.1109/CVPR.2017.754)."""

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["fsp"] = "fsp"
    student_end: ModulePath
    """Module of the student where the flow that starts at `student` ends."""
    teacher_end: TapReference
    """Module of the same teacher where the flow that starts at `teacher` ends."""

    @model_validator(mode="after")
    def _flows_within_one_teacher(self) -> "FSPTerm":
        start, end = self.teacher_modules
        if start.teacher != end.teacher:
            raise ValueError(f"teacher is {self.teacher} and teacher_end {self.teacher_end}; expected one teacher")
        return self

    @property
    def student_modules(self) -> tuple[str, ...]:
        """Start and end in the student."""
        return (self.student, self.student_end)

    @property
    def teacher_modules(self) -> tuple[TeacherTap, ...]:
        """Start and end in the teacher."""
        return (tap_of(self.teacher), tap_of(self.teacher_end))

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs without positions, and two of one side that cannot be multiplied."""
        sides = (
            [shapes.student_taps[module] for module in self.student_modules],
            [shapes.teacher_taps[tap] for tap in self.teacher_modules],
        )
        for name, (start, end) in zip(("student", "teacher"), sides, strict=True):
            if reason := misfit_of(start, end, WITH_POSITIONS, names=(f"the {name}'s start", f"the {name}'s end")):
                return reason
        return None

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return a linear map for each of the student's outputs, or nothing to do where the channels agree."""
        from torch import nn

        widths = zip(
            (num_channels(shapes.student_taps[module]) for module in self.student_modules),
            (num_channels(shapes.teacher_taps[tap]) for tap in self.teacher_modules),
            strict=True,
        )
        return nn.ModuleList([nn.Identity() if ours == theirs else pointwise(ours, theirs) for ours, theirs in widths])

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the mean squared difference of the products, `[N]`."""
        from torch import nn

        assert isinstance(seen.state, nn.ModuleList)  # noqa: S101 - `build` returns one
        student = [
            mapped_by(adapt, as_maps(seen.student_taps[module]))
            for adapt, module in zip(seen.state, self.student_modules, strict=True)
        ]
        teacher = [as_maps(seen.teacher_taps[tap]) for tap in self.teacher_modules]
        return (_flow(*student) - _flow(*teacher)).square().mean(dim=(1, 2))


def _flow(start_NCHW: "torch.Tensor", end_NCHW: "torch.Tensor") -> "torch.Tensor":
    """Return the mean over positions of the products of two layers' channels, `[N, C¹, C²]`."""
    start_NCP, end_NCP = (maps.flatten(2) for maps in pooled_alike(start_NCHW, end_NCHW))
    return start_NCP @ end_NCP.transpose(1, 2) / start_NCP.shape[2]
