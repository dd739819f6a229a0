"""Rows per second of a shuffled epoch from the store, against gathering the same rows from arrays in memory.

The data has the shape of Fashion-MNIST with the logits of three teachers, 852 bytes a row, in a directory whose pages
are in memory. Every contestant returns the same batches of the same rows in fresh arrays, in one thread. The reader
checks the digest of every shard in every epoch; `reader_open_shards` is what it does without.

Contestants take turns within each round. The ratio is the median over the rounds of reader / index_select, so a machine
that changes its speed between rounds does not change it. The last line is the result as JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from cluster.shards.codecs.dense import LOGITS
from cluster.shards.dataset import Dataset, write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.order import EpochOrder
from cluster.shards.reader import Arrays, ReadShard, read_batches
from cluster.shards.schema import Column
from cluster.storage.directory import DirectoryStore

NUM_CLASSES = 10
NUM_TEACHERS = 3
SHARD_ROWS = 16_384
LANES, WINDOW_ROWS, BATCH_SIZE = 8, 8_192, 256
DATASET = "0" * 16

READER, OPEN_SHARDS, TAKE, INDEX_SELECT = "reader", "reader_open_shards", "numpy_take", "torch_index_select"

Epoch = Callable[[int], Iterator[Mapping[str, np.ndarray | torch.Tensor]]]
"""From an epoch's number to its batches."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows in the data set (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one warm-up (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        arrays = synthetic(arguments.rows)
        contestants = build_contestants(arrays, stored(DirectoryStore(Path(folder)), arrays))
        assert_same_batches(contestants)
        seconds = race(contestants, rounds=arguments.rounds)
    report(seconds, rows=arguments.rows, row_bytes=sum(array.nbytes for array in arrays.values()) // arguments.rows)


def synthetic(rows: int) -> dict[str, np.ndarray]:
    """Return the columns as they are read: images, labels, row numbers, and the logits of each teacher."""
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, (rows, 28, 28), dtype=np.uint8),
        "label": rng.integers(0, NUM_CLASSES, rows, dtype=np.int32),
        "row": np.arange(rows, dtype=np.int32),
    }
    logits = {name: rng.standard_normal((rows, NUM_CLASSES)).astype(np.float16) for name in logits_names()}
    return columns | logits


def logits_names() -> list[str]:
    return [f"{LOGITS}_{number}" for number in range(NUM_TEACHERS)]


def stored(store: DirectoryStore, arrays: dict[str, np.ndarray]) -> ReadShard:
    """Write a data set and three sealed label sets; return what zips their shards, verified."""
    classes = tuple(str(number) for number in range(NUM_CLASSES))
    inputs = {name: array for name, array in arrays.items() if name not in logits_names()}
    write_dataset(store, inputs, identity=DATASET, classes=classes, shard_rows=SHARD_ROWS, compression="none")
    dataset = Dataset.open(store, DATASET)
    label_sets = {name: label_set(store, dataset, name, arrays[name]) for name in logits_names()}

    def read(number: int) -> Arrays:
        return dataset.read(number) | {name: labels.read(number)[LOGITS] for name, labels in label_sets.items()}

    return read


def label_set(store: DirectoryStore, dataset: Dataset, name: str, logits: np.ndarray) -> LabelSet:
    column = Column(name=LOGITS, dtype="float16", shape=(NUM_CLASSES,))
    identity = f"{logits_names().index(name):016x}"
    labels = LabelSet.create(
        store, LabelSetRecord(teacher=name, teacher_identity=identity, dataset=DATASET, columns=(column,))
    )
    for number, shard in enumerate(dataset.record.shards):
        rows = logits[number * SHARD_ROWS : (number + 1) * SHARD_ROWS]
        labels.commit(number, labels.encode({LOGITS: rows}), rows=shard.rows, statistics={})
    labels.seal(len(dataset.record.shards))
    labels.load_manifest()
    return labels


def build_contestants(arrays: dict[str, np.ndarray], read_shard: ReadShard) -> dict[str, Epoch]:
    """Return the contestants; the ones in memory are told the rows of each batch before the clock starts."""
    rows = len(arrays["row"])
    shard_rows = [min(SHARD_ROWS, rows - start) for start in range(0, rows, SHARD_ROWS)]
    open_shards = [read_shard(number) for number in range(len(shard_rows))]
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def read(source: ReadShard, epoch: int) -> Iterator[Arrays]:
        order = EpochOrder(shard_rows, lanes=LANES, window_rows=WINDOW_ROWS, batch_size=BATCH_SIZE, seed=0, epoch=epoch)
        return read_batches(source, order, lanes=range(LANES))

    def indices(epoch: int) -> list[np.ndarray]:
        row_numbers = [{"row": shard["row"].astype(np.int64)} for shard in open_shards]
        return [batch["row"] for batch in read(row_numbers.__getitem__, epoch)]

    def take(epoch: int) -> Iterator[Arrays]:
        batches = indices(epoch)
        return ({name: np.take(array, batch, axis=0) for name, array in arrays.items()} for batch in batches)

    def index_select(epoch: int) -> Iterator[dict[str, torch.Tensor]]:
        batches = [torch.from_numpy(batch) for batch in indices(epoch)]
        return ({name: torch.index_select(tensor, 0, batch) for name, tensor in tensors.items()} for batch in batches)

    return {
        READER: lambda epoch: read(read_shard, epoch),
        OPEN_SHARDS: lambda epoch: read(open_shards.__getitem__, epoch),
        TAKE: take,
        INDEX_SELECT: index_select,
    }


def assert_same_batches(contestants: dict[str, Epoch]) -> None:
    """Compare the batches of one epoch; this also is the warm-up round."""
    for batches in zip(*(epoch(0) for epoch in contestants.values()), strict=True):
        for batch in batches[1:]:
            assert all(np.array_equal(np.asarray(batch[name]), array) for name, array in batches[0].items())


def race(contestants: dict[str, Epoch], *, rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each contestant took in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, epoch in contestants.items():
            batches = epoch(number)
            started_s = time.perf_counter()
            for _batch in batches:
                pass
            seconds[name].append(time.perf_counter() - started_s)
    return seconds


def report(seconds: dict[str, list[float]], *, rows: int, row_bytes: int) -> None:
    ratios = {
        name: statistics.median(anchor / own for own, anchor in zip(taken, seconds[INDEX_SELECT], strict=True))
        for name, taken in seconds.items()
    }
    rates = {name: rows / statistics.median(taken) for name, taken in seconds.items()}
    print(f"{'contestant':<22}{'rows/s':>12}{'GB/s':>8}{'x index_select':>16}")
    for name, rate in rates.items():
        print(f"{name:<22}{rate:>12,.0f}{rate * row_bytes / 1e9:>8.2f}{ratios[name]:>16.2f}")
    result = {
        "benchmark": "reader",
        "rows": rows,
        "row_bytes": row_bytes,
        "rounds": len(seconds[READER]),
        "batch_size": BATCH_SIZE,
        "lanes": LANES,
        "window_rows": WINDOW_ROWS,
        "rows_per_s": {name: round(rate) for name, rate in rates.items()},
        "ratio": round(ratios[READER], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
