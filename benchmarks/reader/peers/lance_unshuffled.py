"""Lance's own loader: fragments in shuffled order, the rows of each in the order of the file."""

from pathlib import Path

from benchmarks.reader.data import BATCH_SIZE, Data, Epoch
from benchmarks.reader.peers.lance import epochs


def build(data: Data, folder: Path) -> Epoch:
    return epochs(data, folder, lambda fragment, _: fragment.to_batches(batch_size=BATCH_SIZE))
