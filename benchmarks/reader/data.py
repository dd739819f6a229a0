"""The two data sets: small rows with the logits of three teachers, and sequences with the top 32 of a vocabulary."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

BATCH_SIZE = 256

Epoch = Callable[[int], Iterator[Mapping[str, Any]]]
"""From an epoch's number to its batches: columns of up to `BATCH_SIZE` rows each."""


@dataclass(frozen=True)
class Data:
    """Columns `[rows, *shape]` and how many rows go to one file."""

    name: str
    arrays: dict[str, np.ndarray]
    shard_rows: int

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self.arrays["row"])

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one row in memory."""
        return sum(array.nbytes for array in self.arrays.values()) // self.rows

    def first(self, rows: int) -> "Data":
        """Return the data set of the first rows."""
        return Data(self.name, {name: array[:rows] for name, array in self.arrays.items()}, self.shard_rows)

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Return one row."""
        return {name: array[number] for name, array in self.arrays.items()}


def small(rows: int) -> Data:
    """Rows of 852 bytes: an image, its label and number, and the logits of three teachers."""
    rng = np.random.default_rng(0)
    logits = {f"logits_{n}": rng.standard_normal((rows, 10)).astype(np.float16) for n in range(3)}
    image = rng.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
    return Data("small", {"image": image, **_numbers(rows), **logits}, shard_rows=16_384)


def sequences(rows: int) -> Data:
    """Rows of 16 KiB: 128 tokens, of each 32 ids of two bytes and 32 log-probabilities."""
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 256, (rows, 128, 32, 2), dtype=np.uint8)
    log_probs = np.resize(rng.standard_normal((64, 128, 32)).astype(np.float16), (rows, 128, 32))
    return Data("sequences", {"ids": ids, "log_probs": log_probs, **_numbers(rows)}, shard_rows=1_024)


def _numbers(rows: int) -> dict[str, np.ndarray]:
    return {"label": np.arange(rows, dtype=np.int32) % 10, "row": np.arange(rows, dtype=np.int32)}


def table_of(data: Data) -> pa.Table:
    """Return the columns as Arrow has them: lists of a fixed size, flat within a row."""

    def column(array: np.ndarray) -> pa.Array:
        values = pa.array(array.reshape(-1))
        return values if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, array[0].size)

    return pa.table({name: column(array) for name, array in data.arrays.items()})


def arrays_of(table: pa.Table | pa.RecordBatch) -> dict[str, np.ndarray]:
    """Return the columns of a table as numpy arrays, flat within a row."""
    arrays = {}
    for name in table.schema.names:
        column = table.column(name)
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        is_list = pa.types.is_fixed_size_list(whole.type)
        values = whole.flatten().to_numpy(zero_copy_only=False) if is_list else whole.to_numpy(zero_copy_only=False)
        arrays[name] = values.reshape(len(whole), -1)
    return arrays
