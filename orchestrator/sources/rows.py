"""From what a source holds of a row to arrays of one type and shape; a row that does not fit says why.

`N` rows of a chunk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cluster.errors import excerpt
from cluster.shards.schema import Column
from orchestrator.sources.formats import PictureConfig
from orchestrator.sources.pictures import decode_picture
from orchestrator.sources.unfit import Unfit

Row = Mapping[str, object]
"""What a source holds of one row, by its names."""
Chunk = Sequence["Row | Unfit"]
"""Consecutive rows; in the place of one that cannot be read stands why."""

_KEPT = {"uint8", "uint16", "int32", "float16", "float32"}


@dataclass(frozen=True)
class Made:
    """A column of the data set, and what it is made of."""

    column: Column
    of: tuple[str, ...]
    """Names in the source."""
    picture: PictureConfig | None = None


@dataclass(frozen=True)
class Layout:
    """How every row of a source becomes one of the data set."""

    made: tuple[Made, ...]
    label: str
    classes: tuple[str, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the columns, without the label."""
        return tuple(made.column for made in self.made)

    @cached_property
    def class_indices(self) -> dict[str, int]:
        """Return the index of each class by its name."""
        return {name: index for index, name in enumerate(self.classes)}


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a partition: what is stored of those that fit, and why the others do not."""

    columns: dict[str, np.ndarray]
    labels_N: np.ndarray
    places_N: np.ndarray
    """Where among all rows of the block each of these stands, int64."""
    num_rows: int
    """All, those that do not fit included."""
    bad: tuple[tuple[int, str], ...] = ()
    """Place and reason of the others."""


def block_of(chunk: Chunk, layout: Layout) -> Block:
    """Return the rows of a chunk as arrays."""
    fitting: list[tuple[int, list[np.ndarray], int]] = []
    bad = []
    for place, row in enumerate(chunk):
        try:
            if isinstance(row, Unfit):
                raise row
            fitting.append((place, [array_of(row, made) for made in layout.made], label_of(row, layout)))
        except Unfit as error:
            bad.append((place, str(error)))
    columns = {
        column.name: np.array([arrays[number] for _, arrays, _ in fitting], column.dtype).reshape(-1, *column.shape)
        for number, column in enumerate(layout.columns)
    }
    labels, places = ([row[part] for row in fitting] for part in (2, 0))
    return Block(columns, np.array(labels, np.int32), np.array(places, np.int64), len(chunk), tuple(bad))


def label_of(row: Row, layout: Layout) -> int:
    """Return the index of a row's class; raises `Unfit`."""
    value = _value(row, layout.label)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        text = value.strip()
        if text in layout.class_indices:
            return layout.class_indices[text]
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
    elif getattr(value, "shape", None) == ():
        value = np.asarray(value).item()
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(layout.classes):
        raise Unfit(f"its label {excerpt(repr(value))} is none of the {len(layout.classes)} classes")
    return value


def array_of(row: Row, made: Made) -> np.ndarray:
    """Return one column of one row; raises `Unfit`."""
    values = [_value(row, name) for name in made.of]
    if made.picture is not None:
        return decode_picture(values[0], made.picture, name=made.of[0])
    array = numbers_in(values[0] if len(values) == 1 else values, made.of[0])
    if array.shape != made.column.shape and (array.ndim > 1 or array.size != made.column.row_values):
        raise Unfit(f"{made.of[0]} has the shape {list(array.shape)}, expected {list(made.column.shape)}")
    return cast(array, made.column.dtype, name=made.of[0]).reshape(made.column.shape)


def numbers_in(value: object, name: str) -> np.ndarray:
    """Return a number, nested lists of numbers, numbers as text, or whatever numpy takes for an array of numbers."""
    try:
        array = np.asarray(value)
        array = array.astype(np.float64) if array.dtype.kind in "SU" else array
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise Unfit(f"{name} is not an array of numbers ({excerpt(str(error))})") from error
    if array.dtype.kind not in "biuf":
        raise Unfit(f"{name} is not an array of numbers ({excerpt(repr(value))[:80]})")
    return array


def cast(array: np.ndarray, dtype: str, *, name: str) -> np.ndarray:
    """Return numbers of any type as `dtype`; raises `Unfit` for those that it cannot hold, and for NaN and infinity."""
    target = np.dtype(dtype)
    if array.dtype == target and target.kind != "f":
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(target)
        if not np.isfinite(converted).all():
            raise Unfit(f"{name} has values that are not finite as {dtype}")
        if target.kind in "iu" and not (converted == array).all():
            raise Unfit(f"{name} has values that are no {dtype}")
    return converted


def stored_dtype(dtype: np.dtype) -> str:
    """Return the type in which numbers of any type are stored unless the spec says otherwise."""
    if dtype.name in _KEPT:
        return dtype.name
    if dtype.kind == "b":
        return "uint8"
    return "int32" if dtype.kind in "iu" else "float32"


def _value(row: Row, name: str) -> object:
    value = row.get(name)
    if value is None:
        raise Unfit(f"it has no {name}")
    return value
