"""Outputs of modules in one form, channels of positions, and what makes two of them comparable.

A vector has one position, a sequence of tokens a column of them, a map rows and columns. Legend: N rows, C channels,
D features, L tokens, H and W height and width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from students.objectives.pair import Pair, tap_of
from students.objectives.term import Shapes

if TYPE_CHECKING:
    import torch
    from torch import nn

Shape = tuple[int, ...]
Kind = Literal["a vector", "tokens", "a map"]

EVERY_KIND: tuple[Kind, ...] = ("a vector", "tokens", "a map")
WITH_POSITIONS: tuple[Kind, ...] = ("tokens", "a map")
_AXES: dict[int, Kind] = {1: "a vector", 2: "tokens", 3: "a map"}
_WRITTEN: dict[Kind, str] = {"a vector": "a vector [D]", "tokens": "tokens [L, D]", "a map": "a map [C, H, W]"}


def as_maps(output: "torch.Tensor") -> "torch.Tensor":
    """Return `[N, D]`, `[N, L, D]` or `[N, C, H, W]` as `[N, C, H, W]`, in float32 or wider."""
    import torch

    # Squares of half-precision numbers overflow.
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    match output.ndim:
        case 2:
            return output[:, :, None, None]
        case 3:
            return output.transpose(1, 2)[:, :, :, None]
        case _:
            return output


def pooled_alike(left_NCHW: "torch.Tensor", right_NCHW: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return both with the height and width of the smaller one: means over areas of the larger."""
    size = min(left_NCHW.shape[2], right_NCHW.shape[2]), min(left_NCHW.shape[3], right_NCHW.shape[3])
    return pooled(left_NCHW, size), pooled(right_NCHW, size)


def pooled(maps_NCHW: "torch.Tensor", size: tuple[int, int]) -> "torch.Tensor":
    """Return means over areas, so many in height and width."""
    from torch.nn import functional as F

    return maps_NCHW if maps_NCHW.shape[2:] == size else F.adaptive_avg_pool2d(maps_NCHW, size)


def num_channels(shape: Shape) -> int:
    """Return the channels of one row's output: its features if it is a vector or a sequence of tokens."""
    return shape[0] if len(shape) == 3 else shape[-1]


def pointwise(inputs: int, outputs: int) -> "nn.Module":
    """Return a linear map of the channels of each position; of a vector, the linear layer."""
    from torch import nn

    return nn.Conv2d(inputs, outputs, kernel_size=1)


def mapped_by(module: "nn.Module | None", maps_NCHW: "torch.Tensor") -> "torch.Tensor":
    """Return what a module that a term has built makes of maps."""
    assert module is not None, "the term builds one"  # noqa: S101
    mapped: torch.Tensor = module(maps_NCHW)
    return mapped


def shapes_of(pair: Pair, shapes: Shapes) -> tuple[Shape, Shape]:
    """Return the shapes of one row of the student's output and of the teacher's."""
    return shapes.student_taps[pair.student], shapes.teacher_taps[tap_of(pair.teacher)]


def misfit_of(
    left: Shape,
    right: Shape,
    kinds: Sequence[Kind] = EVERY_KIND,
    *,
    names: tuple[str, str] = ("the student's output", "the teacher's"),
) -> str | None:
    """Return why no term over outputs of these kinds can join the two, if none can."""
    for name, shape in zip(names, (left, right), strict=True):
        if _AXES.get(len(shape)) not in kinds:
            expected = " or ".join(_WRITTEN[kind] for kind in kinds)
            return f"{name} is {list(shape)} for each row; expected {expected}"
    if len(left) != len(right):
        return (
            f"{names[0]} is {_AXES[len(left)]} {list(left)} and {names[1]} {_AXES[len(right)]} {list(right)}; expected "
            "two of one kind: name modules before or after both are pooled"
        )
    if len(left) == 2 and left[0] != right[0]:
        return f"{names[0]} has {left[0]} tokens in each row and {names[1]} {right[0]}; expected as many"
    return None
