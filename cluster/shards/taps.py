"""Outputs of a teacher's modules as columns of its label set, beside its distributions.

The columns of the modules, in the order of their paths, are `tap_0`, `tap_1`, …: no codec has such names. With int8
there is a `tap_0_scale`, the largest value of each row divided by 127. Legend: N rows, R axes of a row.
"""

from collections.abc import Mapping

import numpy as np

from cluster.errors import SpecError
from cluster.shards.codecs.half import widened
from cluster.shards.codecs.spec import ModulePath, TapConfig
from cluster.shards.schema import Column

Taps = Mapping[ModulePath, TapConfig]

_ZERO = 128
"""What stands for 0 in a byte."""
STEPS = 127
"""Steps from there to the largest value of a row."""


class TapMisfitError(SpecError):
    """A module's output cannot be reduced as the spec says."""

    def __init__(self, field: str, shape: tuple[int, ...], found: str, expected: str) -> None:
        super().__init__(field, shape, found, expected)
        self.field, self.shape, self.found, self.expected = field, shape, found, expected

    def __str__(self) -> str:
        return f"{self.field}: {self.found}, and the output of a row has the shape {list(self.shape)}; {self.expected}."


def reduced_shape(config: TapConfig, shape: tuple[int, ...], *, field: str) -> tuple[int, ...]:
    """Return what `config` leaves of the shape of a row; `field` names it in the spec.

    Raises:
        TapMisfitError: the output has no axis of channels, or fewer of them than are to be left.
    """
    if not shape:
        raise TapMisfitError(field, shape, "a tap needs channels", "expected another module")
    axis = channel_axis(len(shape))
    channels, others = shape[axis], shape[:axis] + shape[axis + 1 :]
    if config.project is not None and config.project > channels:
        raise TapMisfitError(field, shape, f"project is {config.project}", f"expected at most its {channels} channels")
    if config.pool is not None:
        others = () if config.pool == 1 else (config.pool,) * len(others)
    left = (config.project or channels,)
    return left + others if axis == 0 else others + left


def channel_axis(num_axes: int) -> int:
    """Return the axis of a row that counts its channels: that of maps is the first, that of tokens the last."""
    return num_axes - 1 if num_axes < 3 else 0


def tap_columns(taps: Taps, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Column, ...]:
    """Return the columns for modules whose reduced outputs have these shapes."""
    columns = list[Column]()
    for place, module in enumerate(sorted(taps)):
        is_half = taps[module].values == "float16"
        columns.append(Column(name=_name(place), dtype="float16" if is_half else "uint8", shape=shapes[module]))
        if not is_half:
            columns.append(Column(name=_scale_name(place), dtype="float32"))
    return tuple(columns)


def tap_shapes(taps: Taps, columns: tuple[Column, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shape of a row of each stored module; the inverse of `tap_columns`."""
    shape_of = {column.name: column.shape for column in columns}
    return {module: shape_of[_name(place)] for place, module in enumerate(sorted(taps))}


def names_of_tap(taps: Taps, module: str) -> tuple[str, ...]:
    """Return the names of one module's columns."""
    place = sorted(taps).index(module)
    return (_name(place),) if taps[module].values == "float16" else (_name(place), _scale_name(place))


def pack_tap(taps: Taps, module: str, output: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of one module's reduced output, finite float32 `[N, *R]`."""
    name, *scale_name = names_of_tap(taps, module)
    if not scale_name:
        return {name: output.astype(np.float16)}
    largest = np.abs(output).reshape(len(output), -1).max(axis=1)
    scale = np.maximum(largest / STEPS, np.finfo(np.float32).smallest_normal).astype(np.float32)
    steps = np.rint(output / _beside(scale, output))
    return {name: (steps + _ZERO).astype(np.uint8), scale_name[0]: scale}


def unpack_tap(taps: Taps, module: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return one module's output from its columns, float32 `[N, *R]`."""
    name, *scale_name = names_of_tap(taps, module)
    if not scale_name:
        return widened(arrays[name])
    output: np.ndarray = (arrays[name].astype(np.float32) - _ZERO) * _beside(arrays[scale_name[0]], arrays[name])
    return output


def signs(num_channels: int, num_left: int) -> np.ndarray:
    """Return the matrix `[num_channels, num_left]` by which channels are projected: ±1 / sqrt(num_left), at random.

    Scalar products of rows keep their expectation. Philox counts, so its bits are the same everywhere.
    """
    bits = np.random.Philox(key=np.array([num_channels, num_left], np.uint64)).random_raw(num_channels * num_left)
    drawn: np.ndarray = np.where(bits >> np.uint64(63), np.float32(1), np.float32(-1)) / np.float32(np.sqrt(num_left))
    return drawn.reshape(num_channels, num_left)


def _beside(scale_N: np.ndarray, output: np.ndarray) -> np.ndarray:
    return scale_N.reshape(-1, *(1,) * (output.ndim - 1))


def _name(place: int) -> str:
    return f"tap_{place}"


def _scale_name(place: int) -> str:
    return f"tap_{place}_scale"
