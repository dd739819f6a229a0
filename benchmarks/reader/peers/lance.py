"""Lance: fragments in shuffled order, the rows of each in the order of the file (its own loader does no more)."""

from pathlib import Path

import lance
import numpy as np

from benchmarks.reader.data import BATCH_SIZE, Data, Epoch, arrays_of, table_of


def build(data: Data, folder: Path) -> Epoch:
    lance.write_dataset(table_of(data), str(folder), max_rows_per_file=data.shard_rows)
    fragments = lance.dataset(str(folder)).get_fragments()
    return lambda epoch: (
        arrays_of(batch)
        for place in np.random.default_rng(epoch).permutation(len(fragments))
        for batch in fragments[place].to_batches(batch_size=BATCH_SIZE)
    )
