"""Lance: fragments in shuffled order, and the rows of each shuffled as they arrive.

Its own loader leaves the rows of a fragment in the order of the file: that is `lance_unshuffled`. Both decode in one
thread, as every contestant does.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.reader.data import BATCH_SIZE, Data, Epoch, arrays_of, table_of

os.environ.setdefault("LANCE_CPU_THREADS", "1")  # before the import, which reads it

import lance


def build(data: Data, folder: Path) -> Epoch:
    def shuffled(fragment: lance.LanceFragment, rng: np.random.Generator) -> Iterator[pa.RecordBatch]:
        rows = fragment.to_table()
        return iter(rows.take(rng.permutation(len(rows))).to_batches(BATCH_SIZE))

    return epochs(data, folder, shuffled)


def epochs(
    data: Data,
    folder: Path,
    batches_of: Callable[[lance.LanceFragment, np.random.Generator], Iterator[pa.RecordBatch]],
) -> Epoch:
    """Return epochs over the fragments in shuffled order; `batches_of` gives the batches of one."""
    lance.write_dataset(table_of(data), str(folder), max_rows_per_file=data.shard_rows)
    fragments = lance.dataset(str(folder)).get_fragments()

    def epoch(number: int) -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(number)
        for place in rng.permutation(len(fragments)):
            yield from map(arrays_of, batches_of(fragments[place], rng))

    return epoch
