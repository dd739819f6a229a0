"""Knowledge review: shallow layers of the teacher, taught with deep ones of the student (Chen et al. 2021, 2104.09044).

    L = Σ_l h(u_l(x_l), f_t,l),   x_l = v_l(f_s,l) a_l + x_l+1 b_l,   a_l, b_l = sigmoid(w_l([v_l(f_s,l), x_l+1]))
    h(s, t) = Σ_k ω_k mean (pool_k s - pool_k t)² / Σ_k ω_k,   k: no pooling, then 4x4, 2x2, 1x1;   ω = 1, 1/2, 1/4, 1/8

Levels count from the shallowest; the deepest has x = v(f_s). v are 1x1 convolutions, w 1x1 to the two attention maps,
u 3x3; x of a deeper level is enlarged to the map that it joins, and x_l to the teacher's, by nearest neighbours. h
leaves out what is not smaller than the map. All are learned with the student, without the batch normalisations of the
paper. Published weights: 1 to 10, rising from 0 over the first 20 epochs.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from students.objectives.maps import as_maps, mapped_by, misfit_of, num_channels, pointwise, pooled
from students.objectives.pair import TapReference, tap_of
from students.objectives.term import ModulePath, RowTerm, Shapes, TeacherTap, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn

_WIDEST = 512
_POOLS = (4, 2, 1)


class ReviewKDTerm(RowTerm):
    """Distance of levels of the student, each joined with all deeper ones, to levels of the teacher (2104.09044)."""

    family = "feature-based"
    reads = frozenset({"taps"})

    term: Literal["reviewkd"] = "reviewkd"
    student: Annotated[tuple[ModulePath, ...], Field(min_length=2)]
    """Modules of the student, the shallowest first."""
    teacher: Annotated[tuple[TapReference, ...], Field(min_length=2)]
    """For each of them, the teacher and the module of it whose output it learns."""

    @model_validator(mode="after")
    def _levels_are_paired(self) -> "ReviewKDTerm":
        if len(self.student) != len(self.teacher):
            raise ValueError(
                f"{len(self.student)} modules of the student, {len(self.teacher)} of teachers; expected as many"
            )
        return self

    @property
    def student_modules(self) -> tuple[str, ...]:
        """One of each level."""
        return self.student

    @property
    def teacher_modules(self) -> tuple[TeacherTap, ...]:
        """One of each level."""
        return tuple(map(tap_of, self.teacher))

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse tokens, and outputs of two kinds in one level."""
        for module, tap in zip(self.student_modules, self.teacher_modules, strict=True):
            names = (f"the student's output of {module}", f"the teacher's of {tap.module}")
            sides = shapes.student_taps[module], shapes.teacher_taps[tap]
            if reason := misfit_of(*sides, ("a vector", "a map"), names=names):
                return reason
        return None

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return u, v and w of each level, the shallowest first."""
        from torch import nn

        inputs = [num_channels(shapes.student_taps[module]) for module in self.student_modules]
        outputs = [num_channels(shapes.teacher_taps[tap]) for tap in self.teacher_modules]
        width = min(_WIDEST, inputs[-1])
        levels = nn.ModuleList()
        for ours, theirs in zip(inputs, outputs, strict=True):
            level = nn.Module()
            level.enter = pointwise(ours, width)
            level.leave = nn.Conv2d(width, theirs, kernel_size=3, padding=1)
            # The deepest level joins none: workers would wait for gradients of parameters that it does not use.
            if len(levels) < len(inputs) - 1:
                level.attend = pointwise(2 * width, 2)
            levels.append(level)
        return levels

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the sum over levels of h, `[N]`."""
        import torch
        from torch import nn
        from torch.nn import functional as F

        assert isinstance(seen.state, nn.ModuleList)  # noqa: S101 - `build` returns one
        levels = list(zip(seen.state, self.student_modules, self.teacher_modules, strict=True))
        losses, deeper = [], None
        for level, module, tap in reversed(levels):
            teacher = as_maps(seen.teacher_taps[tap])
            joined = _joined(level, as_maps(seen.student_taps[module]), deeper)
            deeper = F.interpolate(joined, teacher.shape[2:], mode="nearest")
            losses.append(hierarchical_distance(mapped_by(level.get_submodule("leave"), deeper), teacher))
        return torch.stack(losses).sum(dim=0)


def hierarchical_distance(student_NCHW: "torch.Tensor", teacher_NCHW: "torch.Tensor") -> "torch.Tensor":
    """Return h, the mean squared distance at several sizes, `[N]`."""
    import torch

    height, width = teacher_NCHW.shape[2:]
    sizes = [(height, width), *((size, size) for size in _POOLS if size < min(height, width))]
    weights = [0.5**halvings for halvings in range(len(sizes))]
    distances = [
        weight * (pooled(student_NCHW, size) - pooled(teacher_NCHW, size)).square().mean(dim=(1, 2, 3))
        for weight, size in zip(weights, sizes, strict=True)
    ]
    return torch.stack(distances).sum(dim=0) / sum(weights)


def _joined(level: "nn.Module", student_NCHW: "torch.Tensor", deeper: "torch.Tensor | None") -> "torch.Tensor":
    """Return x of a level, given that of the next deeper one."""
    import torch
    from torch.nn import functional as F

    entered = mapped_by(level.get_submodule("enter"), student_NCHW)
    if deeper is None:
        return entered
    deeper = F.interpolate(deeper, entered.shape[2:], mode="nearest")
    shares = mapped_by(level.get_submodule("attend"), torch.cat([entered, deeper], dim=1)).sigmoid()
    return entered * shares[:, :1] + deeper * shares[:, 1:]
