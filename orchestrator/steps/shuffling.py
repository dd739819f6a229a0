"""The global shuffle of rows that no process holds together: each partition sends its rows to their shards.

Pass one reads every partition for its labels, which say how rows are divided and where each one goes. In pass two
`scatter` cuts a partition into pieces by shard, and `Gathering` puts the pieces of a shard into their order. Every row
carries its place, so a shard has the same bytes whoever read what, and in whatever order pieces arrive.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from cluster.shards.compression import Compression
from cluster.shards.dataset import ShardEntry, publish_shard, shard_key
from cluster.shards.schema import LABEL, NO_LABEL, ROW, Column
from cluster.storage.protocol import ObjectStore
from orchestrator.resolution.splits import DividedRows
from orchestrator.sources.errors import SourceChangedError
from orchestrator.sources.formats import PartitionedSource
from orchestrator.sources.partitions import Partition, read_blocks
from orchestrator.sources.rows import Layout

_PLACE = ".place"  # no column has a point in its name
_NOWHERE = -1

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class ShardName(NamedTuple):
    """A shard of one of the data sets that are written."""

    target: int
    number: int


@dataclass(frozen=True)
class Goal:
    """Where the rows of one partition go in one target."""

    target: int
    places_N: np.ndarray
    """Of each row of the partition in the target; `_NOWHERE` for those that do not go there, or are there. int32."""
    labels_N: np.ndarray


@dataclass(frozen=True)
class Scattering:
    """What one process does: read a partition and cut it."""

    source: PartitionedSource
    layout: Layout
    partition: Partition
    first: int
    """Number of the partition's first row in the source."""
    goals: tuple[Goal, ...]
    shard_rows: int


class Engine(Protocol):
    """Carries out functions on the items of a list, in any order and in any processes."""

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[tuple[int, ResultT]]:
        """Yield each item's place and what the function makes of it, as it comes."""

    def shuffle(
        self,
        cut: Callable[[ItemT], Iterator[tuple[ShardName, bytes]]],
        put: Callable[[ShardName, Sequence[bytes]], ResultT],
        items: Sequence[ItemT],
    ) -> Iterator[tuple[ShardName, ResultT]]:
        """Cut every item, and yield each shard with what `put` makes of all of its pieces, in whatever order."""


def scatter(task: Scattering) -> Iterator[tuple[ShardName, bytes]]:
    """Read a partition once, and yield its rows in pieces by the shard that they belong to.

    Raises:
        SourceMissingError, SourceFormatError, DatasetReferenceError: it cannot be read.
        SourceChangedError: it holds more rows than when they were counted.
    """
    dtype, start = _record_type(task.layout.columns), 0
    for block in read_blocks(task.source, task.partition, task.layout):
        rows_N = block.places_N + start
        for goal in task.goals:
            if len(rows_N) and (last := int(rows_N.max())) >= len(goal.places_N):
                raise SourceChangedError(task.partition.where(last), last + 1, len(goal.places_N))
            places_N = goal.places_N[rows_N]
            wanted = np.flatnonzero(places_N != _NOWHERE)
            wanted = wanted[np.argsort(places_N[wanted], kind="stable")]
            records = np.empty(len(wanted), dtype)
            records[_PLACE], records[ROW] = places_N[wanted], rows_N[wanted] + task.first
            records[LABEL] = goal.labels_N[rows_N[wanted]]
            for name, array in block.columns.items():
                records[name] = array[wanted]
            shards = places_N[wanted] // task.shard_rows
            for piece in np.split(records, np.flatnonzero(np.diff(shards)) + 1) if len(records) else ():
                yield ShardName(goal.target, int(piece[_PLACE][0]) // task.shard_rows), piece.tobytes()
        start += block.num_rows


@dataclass(frozen=True)
class Gathering:
    """How the pieces of a shard become one."""

    columns: tuple[Column, ...]
    identities: tuple[str, ...]
    """Of each target."""
    rows: tuple[int, ...]
    """Of each target."""
    shard_rows: int
    compression: Compression

    def publish(self, store: ObjectStore, shard: ShardName, pieces: Iterable[bytes]) -> ShardEntry:
        """Put the rows of a shard into their order and write it, unless it is there.

        Raises:
            SourceChangedError: not all of its rows have come.
            ShardCorruptError: an earlier attempt left a shard that holds something else.
        """
        records = np.frombuffer(b"".join(pieces), _record_type(self.columns))
        records = records[np.argsort(records[_PLACE])]
        identity, start = self.identities[shard.target], shard.number * self.shard_rows
        key, stop = shard_key(identity, shard.number), min(start + self.shard_rows, self.rows[shard.target])
        if not np.array_equal(records[_PLACE], np.arange(start, stop)):
            raise SourceChangedError(f"{store.uri}/{key}", len(records), stop - start)
        names = (ROW, *(column.name for column in self.columns), LABEL)
        return publish_shard(store, key, {name: records[name] for name in names}, compression=self.compression)


def scatterings(
    source: PartitionedSource,
    layout: Layout,
    partitions: Sequence[tuple[Partition, int, int]],
    targets: Sequence[DividedRows],
    missing: Mapping[int, frozenset[int]],
    *,
    shard_rows: int,
) -> Iterator[Scattering]:
    """Yield what there is to do for each partition (with its first row and how many it has) that has missing rows.

    `missing` names the shards of each target.
    """
    goals = {
        number: _goal(number, target, partitions, missing[number], shard_rows) for number, target in enumerate(targets)
    }
    for partition, first, rows in partitions:
        own = slice(first, first + rows)
        mine = [
            Goal(number, goal.places_N[own], goal.labels_N[own])
            for number, goal in goals.items()
            if targets[number].part == partition.part and (goal.places_N[own] != _NOWHERE).any()
        ]
        if mine:
            yield Scattering(source, layout, partition, first, tuple(mine), shard_rows)


def _goal(
    number: int,
    target: DividedRows,
    partitions: Sequence[tuple[Partition, int, int]],
    missing: frozenset[int],
    shard_rows: int,
) -> Goal:
    """Turn "which row stands here" into "where does this row go", for all rows of a part."""
    total = sum(rows for partition, _, rows in partitions if partition.part == target.part)
    places_N, labels_N = np.full(total, _NOWHERE, np.int32), np.full(total, NO_LABEL, np.int32)
    there = np.arange(len(target.arrays[ROW]), dtype=np.int32)
    there[~np.isin(there // shard_rows, list(missing))] = _NOWHERE
    places_N[target.arrays[ROW]], labels_N[target.arrays[ROW]] = there, target.arrays[LABEL]
    return Goal(number, places_N, labels_N)


def _record_type(columns: Sequence[Column]) -> np.dtype:
    fields = [(column.name, f"<{np.dtype(column.dtype).str[1:]}", column.shape) for column in columns]
    return np.dtype([(_PLACE, "<i4", ()), (ROW, "<i4", ()), *fields, (LABEL, "<i4", ())])
