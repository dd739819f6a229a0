"""Coffey's reader, and the limit that it is held against: the same batches gathered from memory."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from benchmarks.reader.data import BATCH_SIZE, Data, Epoch
from cluster.shards.ahead import ShardsAhead
from cluster.shards.cache import fetch_for, readings_until_cheap
from cluster.shards.dataset import Dataset, write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.order import EpochOrder
from cluster.shards.reader import ReadShard, read_batches
from cluster.shards.schema import columns_of
from cluster.shards.verified import Fetch
from cluster.storage.protocol import ObjectStore
from students.batches import default_window_rows

LANES = range(8)
IDENTITIES = {"small": "0" * 16, "sequences": "1" * 16}


def write(store: ObjectStore, data: Data) -> None:
    """Write the inputs as a data set, and each column of logits as a sealed label set."""
    inputs = {name: array for name, array in data.arrays.items() if not name.startswith("logits")}
    classes = tuple(str(number) for number in range(10))
    identity = IDENTITIES[data.name]
    record = write_dataset(
        store, inputs, identity=identity, classes=classes, shard_rows=data.shard_rows, compression="none"
    )
    for label_record, logits in _label_records(data):
        labels = LabelSet.create(store, label_record)
        for number, shard in enumerate(record.shards):
            rows = logits[number * data.shard_rows :][: data.shard_rows]
            labels.commit(number, labels.encode({"logits": rows}), rows=shard.rows, statistics={})
        labels.seal(len(record.shards))


def reader(store: ObjectStore, data: Data) -> Epoch:
    """Return epochs from the store, one after another, read as training reads them: the next one is begun early."""
    fetch = fetch_for(store)
    dataset, read = _opened(store, data, fetch)
    numbers = (number for epoch in itertools.count() for number in order_of(dataset, epoch).openings(LANES))
    shards = ShardsAhead(
        read, numbers, is_ready=lambda _: True, readings_until_cheap=lambda: readings_until_cheap(fetch)
    )
    return lambda epoch: read_batches(shards, order_of(dataset, epoch), lanes=LANES)


def in_memory(data: Data, store: ObjectStore) -> Epoch:
    """Return epochs of the same batches by `torch.index_select`; the rows of each are known beforehand."""
    tensors = {name: torch.from_numpy(array) for name, array in data.arrays.items()}
    dataset, _ = _opened(store, data, fetch_for(store))
    starts = range(0, data.rows, data.shard_rows)
    numbers = [{"row": np.arange(start, min(start + data.shard_rows, data.rows))} for start in starts]

    def epoch(number: int) -> Iterator[Mapping[str, torch.Tensor]]:
        batches = read_batches(numbers.__getitem__, order_of(dataset, number), lanes=LANES)
        rows = [torch.from_numpy(batch["row"].copy()) for batch in batches]
        return ({name: torch.index_select(tensor, 0, batch) for name, tensor in tensors.items()} for batch in rows)

    return epoch


def order_of(dataset: Dataset, epoch: int) -> EpochOrder:
    """Return the order that training has by default."""
    return EpochOrder(
        [shard.rows for shard in dataset.record.shards],
        lanes=len(LANES),
        window_rows=default_window_rows(dataset.record.columns, lanes=len(LANES)),
        batch_size=BATCH_SIZE,
        seed=0,
        epoch=epoch,
    )


def _opened(store: ObjectStore, data: Data, fetch: Fetch) -> tuple[Dataset, ReadShard]:
    dataset = Dataset.open(store, IDENTITIES[data.name], fetch=fetch)
    label_sets = [LabelSet(store, record, fetch=fetch) for record, _ in _label_records(data)]
    for labels in label_sets:
        labels.load_manifest()

    def read(number: int) -> dict[str, np.ndarray]:
        logits = {f"logits_{place}": labels.read(number)["logits"] for place, labels in enumerate(label_sets)}
        return dataset.read(number) | logits

    return dataset, read


def _label_records(data: Data) -> list[tuple[LabelSetRecord, np.ndarray]]:
    names = [name for name in data.arrays if name.startswith("logits")]
    return [
        (
            LabelSetRecord(
                teacher=name,
                teacher_identity=f"{place:016x}",
                dataset=IDENTITIES[data.name],
                columns=columns_of({"logits": data.arrays[name]}),
            ),
            data.arrays[name],
        )
        for place, name in enumerate(names)
    ]
