"""Ingest of sources that outgrow one process: two passes over their partitions, whoever carries them out.

The first looks at every row and keeps its label, from which follows where each row goes; the second moves the rows. A
process holds a partition's rows of one moment, or one shard; this one holds some 50 bytes for each row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cluster.shards.dataset import DatasetRecord, ShardEntry, dataset_key, find_shard, publish_dataset, shard_key
from cluster.shards.schema import LABEL, NO_LABEL, ROW, Column
from cluster.storage.patience import open_patiently
from cluster.storage.protocol import ObjectStore
from orchestrator.context import RunContext, StepAccount
from orchestrator.resolution.splits import DividedRows, divided
from orchestrator.sources.formats import PartitionedSource
from orchestrator.sources.gather import all_partitions, first_rows, read_partition, source_rows
from orchestrator.sources.partitions import PARTS, Partition, find_layout
from orchestrator.sources.read import partitioned
from orchestrator.sources.rows import Block, Layout
from orchestrator.steps.quarantine import leave_out
from orchestrator.steps.shuffling import Engine, Gathering, ShardName, scatter, scatterings


@dataclass(frozen=True)
class _Source:
    """What is known of the source after the first pass."""

    config: PartitionedSource
    layout: Layout
    partitions: tuple[Partition, ...]
    blocks: tuple[Block, ...]
    """Labels and reasons of each partition."""


def ingest_partitions(context: RunContext, account: StepAccount, engine: Engine) -> None:
    """Write the data sets that are not there; of those that are begun the shards that are missing.

    Raises:
        SourceChangedError: rows were not there any more when they were to be moved.
        CoffeyError: what `ingest` and the engine raise.
    """
    job, store, data = context.job, context.store, context.job.spec.data
    source = _survey(context, account, engine)
    rows = source_rows(source.partitions, source.blocks, job.classes, max_bad_fraction=data.max_bad_fraction)
    leave_out(context, rows.bad)
    targets = [rows for rows in divided(rows, data, job.datasets) if not store.exists(dataset_key(rows.identity))]
    columns = source.layout.columns
    entries = dict(_found(store, targets, columns, shard_rows=data.shard_rows))
    account.rows = sum(entry.rows for entry in entries.values())
    for shard, entry in _written(context, source, targets, entries, engine):
        entries[shard] = entry
        account.rows += entry.rows
        context.advanced(account.name, account.rows)
    for place, target in enumerate(targets):
        numbers = range(_num_shards(target, data.shard_rows))
        publish_dataset(store, _record(target, columns, [entries[ShardName(place, number)] for number in numbers]))


def _survey(context: RunContext, account: StepAccount, engine: Engine) -> _Source:
    """Read every partition for the labels and the bad rows."""
    config = partitioned(context.job.spec.data)
    assert config is not None, "other sources are read at once"  # noqa: S101
    layout, partitions = find_layout(config, context.job.classes), all_partitions(config)
    look = partial(read_partition, config, layout=layout, with_columns=False)
    found: dict[int, Block] = {}
    for number, block in engine.map(look, partitions):
        found[number] = block
        context.advanced(account.name, None, f"{len(found)} of {len(partitions)} partitions looked at")
    return _Source(config, layout, partitions, tuple(found[number] for number in range(len(partitions))))


def _written(
    context: RunContext,
    source: _Source,
    targets: Sequence[DividedRows],
    found: Mapping[ShardName, ShardEntry],
    engine: Engine,
) -> Iterator[tuple[ShardName, ShardEntry]]:
    """Shuffle the rows into those shards that are not there, and yield each when it is written."""
    data = context.job.spec.data
    gathering = Gathering(
        columns=source.layout.columns,
        identities=tuple(target.identity for target in targets),
        rows=tuple(len(target.arrays[ROW]) for target in targets),
        shard_rows=data.shard_rows,
        compression=data.compression,
    )
    missing = {
        place: frozenset(
            number for number in range(_num_shards(target, data.shard_rows)) if ShardName(place, number) not in found
        )
        for place, target in enumerate(targets)
    }
    tasks = scatterings(source.config, source.layout, _numbered(source), targets, missing, shard_rows=data.shard_rows)
    put = partial(_put, gathering, context.store.uri)
    return engine.shuffle(scatter, put, list(tasks))


def _put(gathering: Gathering, uri: str, shard: ShardName, pieces: Sequence[bytes]) -> ShardEntry:
    return gathering.publish(open_patiently(uri), shard, pieces)


def _found(
    store: ObjectStore, targets: Sequence[DividedRows], columns: Sequence[Column], *, shard_rows: int
) -> Iterator[tuple[ShardName, ShardEntry]]:
    """Yield the shards that an earlier attempt left, after a look at the rows and labels in them."""
    whole = (Column(name=ROW, dtype="int32"), *columns, Column(name=LABEL, dtype="int32"))
    for place, target in enumerate(targets):
        keys = {stat.key for stat in store.list(f"datasets/{target.identity}/")}
        for number in range(_num_shards(target, shard_rows)):
            if (key := shard_key(target.identity, number)) in keys:
                own = slice(number * shard_rows, (number + 1) * shard_rows)
                known = {name: target.arrays[name][own] for name in (ROW, LABEL)}
                yield ShardName(place, number), find_shard(store, key, whole, known)


def _record(target: DividedRows, columns: Sequence[Column], entries: Sequence[ShardEntry]) -> DatasetRecord:
    return DatasetRecord(
        identity=target.identity,
        columns=(Column(name=ROW, dtype="int32"), *columns, Column(name=LABEL, dtype="int32")),
        classes=target.classes,
        labelled_rows=int(np.count_nonzero(target.arrays[LABEL] != NO_LABEL)),
        shards=tuple(entries),
    )


def _numbered(source: _Source) -> list[tuple[Partition, int, int]]:
    """Return each partition with the number of its first row, and how many it has."""
    numbered = []
    for part in PARTS:
        own = [
            (partition, block)
            for partition, block in zip(source.partitions, source.blocks, strict=True)
            if partition.part == part
        ]
        firsts = first_rows(block for _, block in own)
        numbered += [(partition, first, block.num_rows) for (partition, block), first in zip(own, firsts, strict=True)]
    return numbered


def _num_shards(target: DividedRows, shard_rows: int) -> int:
    return -(-len(target.arrays[ROW]) // shard_rows)
