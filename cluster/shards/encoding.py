"""A shard's bytes: one Arrow IPC file with one record batch of fixed-shape numeric columns.

Each column is a `FixedSizeList` (or a plain primitive for scalars) with its shape in the field's metadata, so it is one
buffer that numpy and torch view without a copy. See docs/shard-format.md.
"""

import functools
import itertools
import struct
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from cluster.errors import DataError, excerpt
from cluster.identity import canonical_json
from cluster.shards.buffers import decompressed_bytes
from cluster.shards.compression import Compression
from cluster.shards.schema import Column, columns_of

FORMAT_VERSION = 1

_VERSION_KEY = b"coffey.shard"
_SHAPE_KEY = b"shape"
_EXTENSION_KEY = b"ARROW:extension"
_LEADER_BYTES = 8  # "ARROW1" and two zeros
_TRAILER_BYTES = 10  # the length of the footer, then "ARROW1"
_ARROW_TYPES = {
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "int32": pa.int32(),
    "float16": pa.float16(),
    "float32": pa.float32(),
}


class ShardFormatError(DataError):
    """Bytes with the right digest that are not the shard their record describes."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return (
            f"{self.where}: found {self.found}, expected {self.expected}. The file was not written by this version of "
            "Coffey; remove the data set or label set it belongs to and run the job again."
        )


def encode_shard(arrays: Mapping[str, np.ndarray], *, compression: Compression = "none") -> bytes:
    """Return the file of `arrays` (each `[rows, *shape]`), whole and in memory.

    Nothing is streamed to the store: an exception in the middle of a stream would leave a shorter file that opens as
    valid.
    """
    columns = columns_of(arrays)
    schema = _schema_of(columns)
    batch = pa.RecordBatch.from_arrays([_to_arrow(column, arrays[column.name]) for column in columns], schema=schema)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def decode_shard(
    body: memoryview | bytes, columns: Sequence[Column], *, rows: int, where: str
) -> dict[str, np.ndarray]:
    """Return read-only arrays `[rows, *shape]` that view `body` where it is not compressed.

    The caller has checked the digest: most bit flips in an Arrow file open without an error.

    Raises:
        ShardFormatError: the file's version, columns, types, shapes or number of rows are not those expected.
    """
    _refuse_extension_types(body, where)
    try:
        reader = pa.ipc.open_file(pa.py_buffer(body))
        _check_schema(reader.schema, columns, where)
        message = _batch_message(body, where)
        _check_size(message, columns, rows, where)
        batch = pa.ipc.read_record_batch(message, reader.schema)
        batch.validate()  # a buffer shorter than its column would be read beyond its end
    except (pa.ArrowException, OSError, EOFError, ValueError, struct.error) as error:
        raise ShardFormatError(where, f"no Arrow IPC file ({excerpt(str(error))})", "a shard") from error
    if batch.num_rows != rows:
        raise ShardFormatError(where, f"{batch.num_rows} rows", f"{rows}")
    return {column.name: _to_numpy(batch.column(place), column, rows, where) for place, column in enumerate(columns)}


@functools.cache
def _schema_of(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([_field(column) for column in columns], metadata={_VERSION_KEY: str(FORMAT_VERSION)})


def _field(column: Column) -> pa.Field:
    shape = {_SHAPE_KEY: canonical_json(column.shape)}
    return pa.field(column.name, _arrow_type(column), nullable=False, metadata=shape)


def _arrow_type(column: Column) -> pa.DataType:
    value_type = _ARROW_TYPES[column.dtype]
    if not column.shape:
        return value_type
    return pa.list_(pa.field("item", value_type, nullable=False), column.row_values)


def _to_arrow(column: Column, array: np.ndarray) -> pa.Array:
    values = pa.array(np.ascontiguousarray(array).reshape(-1), type=_ARROW_TYPES[column.dtype])
    return pa.FixedSizeListArray.from_arrays(values, type=_arrow_type(column)) if column.shape else values


def _refuse_extension_types(body: memoryview | bytes, where: str) -> None:
    """Look for them before Arrow does: reading the schema of a registered type runs that type's code."""
    end = len(body) - _TRAILER_BYTES
    footer_bytes = int.from_bytes(body[end : end + 4], "little")
    if _EXTENSION_KEY in bytes(body[max(0, end - footer_bytes) : end]):
        raise ShardFormatError(where, "an extension type", "plain numbers")


def _check_schema(schema: pa.Schema, columns: Sequence[Column], where: str) -> None:
    version = (schema.metadata or {}).get(_VERSION_KEY, b"none").decode(errors="replace")
    if version != str(FORMAT_VERSION):
        raise ShardFormatError(where, f"format version {excerpt(version)}", str(FORMAT_VERSION))
    expected = _schema_of(tuple(columns))
    if not schema.equals(expected, check_metadata=True):
        raise ShardFormatError(where, _described(schema), _described(expected))


def _batch_message(body: memoryview | bytes, where: str) -> pa.Message:
    """Return the file's only batch as it stands behind the schema, neither parsed nor decompressed."""
    messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body).slice(_LEADER_BYTES))
    _schema, *batches = itertools.islice(messages, 3)  # a file may hold millions
    if len(batches) != 1:
        raise ShardFormatError(where, f"{'at least ' if batches else ''}{len(batches)} record batches", "1")
    return batches[0]


def _check_size(message: pa.Message, columns: Sequence[Column], rows: int, where: str) -> None:
    """Refuse a small file that decompresses into more than its record promises."""
    expected = rows * sum(column.row_bytes for column in columns)
    if (found := decompressed_bytes(message)) > expected:
        raise ShardFormatError(where, f"{found} bytes when decompressed", f"{expected}")


def _described(schema: pa.Schema) -> str:
    shapes = [(field.metadata or {}).get(_SHAPE_KEY, b"?").decode(errors="replace") for field in schema]
    return excerpt(
        ", ".join(f"{field.name}: {field.type} {shape}" for field, shape in zip(schema, shapes, strict=True))
    )


def _to_numpy(array: pa.Array, column: Column, rows: int, where: str) -> np.ndarray:
    values = array.flatten() if column.shape else array
    if array.null_count or values.null_count:
        raise ShardFormatError(where, f"missing values in {column.name}", "none")
    numbers: np.ndarray = values.to_numpy(zero_copy_only=True)
    return numbers.reshape(rows, *column.shape)
