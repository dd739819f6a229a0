"""Record batches of Arrow as blocks of rows: whole columns at once where all rows fit, else row by row."""

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from cluster.errors import excerpt
from cluster.shards.schema import LABEL, ROW, Column
from orchestrator.sources.errors import SourceFormatError
from orchestrator.sources.formats import InputColumn
from orchestrator.sources.rows import (
    Block,
    Chunk,
    Layout,
    Made,
    Row,
    array_of,
    block_of,
    cast,
    numbers_in,
    stored_dtype,
)
from orchestrator.sources.unfit import Unfit

BATCH_ROWS = 1024
"""Rows that are in memory at once, besides what a file's own format needs."""


def block_of_batch(batch: pa.RecordBatch, layout: Layout) -> Block:
    """Return the rows of a batch as arrays, the same as `block_of` makes of them one by one."""
    try:
        return _whole(batch, layout)
    except (Unfit, KeyError, pa.ArrowException):
        return block_of(rows_of(batch, layout), layout)


def rows_of(batch: pa.RecordBatch, layout: Layout) -> Chunk:
    """Return those columns of a batch that a layout reads, as rows."""
    names = {layout.label, *(name for made in layout.made for name in made.of)}
    return as_rows(batch.select([name for name in batch.schema.names if name in names]))


def as_rows(batch: pa.RecordBatch) -> list[Row]:
    """Return a batch as rows; text that is not UTF-8 comes as bytes."""
    columns = [
        array.cast(pa.binary()) if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) else array
        for array in batch.columns
    ]
    rows: list[Row] = pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
    return rows


def layout_of(
    inputs: Mapping[str, InputColumn],
    label: str,
    classes: Sequence[str],
    *,
    first: Row,
    types: Mapping[str, np.dtype],
    where: str,
) -> Layout:
    """Return how rows such as the first one become those of a data set; `types` of what is typed in the source.

    Raises:
        Unfit: this row does not fit.
        SourceFormatError: there are no such columns.
    """
    given = inputs or {name: InputColumn() for name in first if name != label}
    made = tuple(_made(name, config, first, types, where) for name, config in given.items())
    if not made:
        raise SourceFormatError(where, f"the columns {excerpt(', '.join(first))}", f"at least one beside {label!r}")
    return Layout(made, label, tuple(classes))


def leaf_types(schema: pa.Schema) -> dict[str, np.dtype]:
    """Return the types of numbers in each column that holds any."""
    found = {}
    for field in schema:
        kind = field.type
        while pa.types.is_nested(kind) and hasattr(kind, "value_type"):
            kind = kind.value_type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            found[field.name] = np.dtype(kind.to_pandas_dtype())
    return found


def _made(name: str, config: InputColumn, first: Row, types: Mapping[str, np.dtype], where: str) -> Made:
    of = _matching(config.of or (name,), list(first), where)
    if name in (LABEL, ROW):
        raise SourceFormatError(where, f"an input called {name!r}", "another name in data.read.inputs")
    if config.picture is not None:
        column = Column(name=name, dtype="uint8", shape=config.picture.shape)
        return Made(column, of[:1], config.picture)
    values = [first.get(part) for part in of]
    array = numbers_in(values[0] if len(of) == 1 else values, of[0])
    dtype = config.dtype or stored_dtype(np.result_type(*(types.get(part, array.dtype) for part in of)))
    try:
        column = Column.model_validate({"name": name, "dtype": dtype, "shape": config.shape or array.shape})
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise SourceFormatError(f"{where}: {excerpt(name)}", reason, "a column as data.read.inputs can name") from error
    made = Made(column, of)
    array_of(first, made)
    return made


def _matching(patterns: Sequence[str], names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the names that patterns mean, each pattern's in the order of the source."""
    found: list[str] = []
    for pattern in patterns:
        matching = [pattern] if pattern in names else [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise SourceFormatError(where, f"the columns {excerpt(', '.join(names))}", f"one called {pattern!r}")
        found += [name for name in matching if name not in found]
    return tuple(found)


def _whole(batch: pa.RecordBatch, layout: Layout) -> Block:
    rows = batch.num_rows
    if not rows:
        raise Unfit("nothing to look at")
    columns = {made.column.name: _column(batch, made) for made in layout.made}
    places = np.arange(rows, dtype=np.int64)
    return Block(columns, _labels(batch, layout), places, rows)


def _labels(batch: pa.RecordBatch, layout: Layout) -> np.ndarray:
    array = batch.column(layout.label)
    if not pa.types.is_integer(array.type) or array.null_count:
        raise Unfit("labels that are not plain integers are read one by one")
    labels: np.ndarray = array.to_numpy(zero_copy_only=False)
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < len(layout.classes)):
        raise Unfit("a label that is no class")
    return labels.astype(np.int32)


def _column(batch: pa.RecordBatch, made: Made) -> np.ndarray:
    if made.picture is not None:
        raise Unfit("images are decoded one by one")
    parts = [_numbers(batch.column(name), name) for name in made.of]
    array = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
    column = made.column
    if array.shape[1:] != column.shape and (array.ndim > 2 or array[0].size != column.row_values):
        raise Unfit("another shape")
    return cast(array, column.dtype, name=made.of[0]).reshape(len(array), *column.shape)


def _numbers(array: pa.Array, name: str) -> np.ndarray:
    """Return a column of numbers, or of lists of equal length of them, as one array; raises `Unfit` for any other."""
    shape = [len(array)]
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        flat = array.flatten()
        length = len(flat) // max(1, len(array))
        if array.null_count or not length or pc.any(pc.not_equal(pc.list_value_length(array), length)).as_py():
            raise Unfit(f"{name} has lists of several lengths")
        shape.append(length)
        array = flat
    if pa.types.is_binary(array.type):
        array = array.cast(pa.string()).cast(pa.float64())
    if array.null_count or not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        raise Unfit(f"{name} has missing values, or others than numbers")
    numbers: np.ndarray = array.to_numpy(zero_copy_only=False)
    return numbers.reshape(shape)
