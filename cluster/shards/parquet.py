"""Label shards as Parquet files, for everything that reads Parquet: pandas, DuckDB, Spark, Hugging Face datasets.

float16 becomes float32, which holds the same numbers: not every reader knows the type, and with the bytes of each
number apart and zstd the files are 3 % larger (measured on logits). A column is a list of fixed size, its shape in the
field's metadata; the schema's metadata names the label set, its codec, the shard and its digest, and the classes of a
teacher that knows but some of the data set's.
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import EnvironmentFailure
from cluster.identity import canonical_json
from cluster.shards.commits import Commit
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.schema import LABEL, ROW
from cluster.shards.shared import read_shared

_TYPES = {
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "int32": pa.int32(),
    "float16": pa.float32(),
    "float32": pa.float32(),
}
_SPLIT = ("float16", "float32")


class OutputError(EnvironmentFailure):
    """A file cannot be written where the user wants it."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return (
            f"{self.where}: cannot be written ({self.reason}). Name a directory with room and the right to write by "
            "--output, and run the same command again: files that are complete are kept."
        )


def export_shard(labels: LabelSet, commit: Commit, folder: Path, *, inputs: Dataset | None = None) -> Path:
    """Write one label shard, with the columns `label` and `row` of `inputs` if given, and return where it is.

    The file appears whole, after it has been read back and compared. One that is there already is kept.

    Raises:
        ShardCorruptError, ShardFormatError, ObjectMissingError: the shard is damaged, and nothing is written.
        OutputError: the file cannot be written.
    """
    arrays = dict(labels.read(commit.number))
    if inputs is not None:
        ours = inputs.read(commit.number)
        arrays |= {name: ours[name] for name in (LABEL, ROW) if name in ours}
    facts = {"coffey.shard": str(commit.number), "coffey.digest": commit.digest}
    return _export(labels, folder / f"{commit.number:08d}.parquet", arrays, facts)


def export_shared(labels: LabelSet, path: Path) -> Path | None:
    """Write what all shards were packed with, such as a teacher's head, as one row; None if there is nothing.

    Raises: as `export_shard`.
    """
    arrays = read_shared(labels)
    return _export(labels, path, arrays, {}) if arrays else None


def _export(labels: LabelSet, path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, str]) -> Path:
    codec = canonical_json(labels.record.codec).decode()
    names = {"coffey.classes": canonical_json(labels.record.classes).decode()} if labels.record.classes else {}
    table = _table(arrays, {"coffey.labelset": labels.identity, "coffey.codec": codec, **names, **facts})
    if not _is_there(path, table):
        try:
            _publish(path, table, arrays)
        except OSError as error:
            raise OutputError(str(path), error.strerror or str(error)) from error
    return path


def _table(arrays: Mapping[str, np.ndarray], identity: dict[str, str]) -> pa.Table:
    columns = [_column(array) for array in arrays.values()]
    fields = [
        pa.field(name, column.type, nullable=False, metadata={"shape": canonical_json(array.shape[1:])})
        for (name, array), column in zip(arrays.items(), columns, strict=True)
    ]
    return pa.table(columns, schema=pa.schema(fields, metadata=identity))


def _column(array: np.ndarray) -> pa.Array:
    value_type = _TYPES[str(array.dtype)]
    values = pa.array(np.ascontiguousarray(array).reshape(-1).astype(value_type.to_pandas_dtype()), type=value_type)
    if array.ndim == 1:
        return values
    item = pa.field("element", value_type, nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(item, array.size // len(array)))


def _is_there(path: Path, table: pa.Table) -> bool:
    """Return whether a complete file of the same shard, with the same columns, is at `path`."""
    try:
        return bool(pq.read_schema(path).equals(table.schema, check_metadata=True))
    except (OSError, pa.ArrowException):
        return False


def _publish(path: Path, table: pa.Table, arrays: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{uuid.uuid4().hex}")
    split = [
        name if array.ndim == 1 else f"{name}.list.element"
        for name, array in arrays.items()
        if str(array.dtype) in _SPLIT
    ]
    try:
        pq.write_table(table, partial, compression="zstd", use_dictionary=False, use_byte_stream_split=split)
        if not pq.read_table(partial).equals(table):
            raise OutputError(str(path), "what was written is not read back")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
