"""What has been read of the partitions of a source, put together: rows with their numbers, and those left out."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.sources.arrays import Rows, SourceRows
from orchestrator.sources.errors import NoRowsError, SourceFormatError
from orchestrator.sources.formats import PartitionedSource
from orchestrator.sources.partitions import PARTS, Part, Partition, partitions_of, read_blocks
from orchestrator.sources.quarantine import BadRow, check_bad
from orchestrator.sources.rows import Block, Layout

_MOST_ROWS = 2**31 - 1  # the column `row` is an int32
_NUM_REASONS = 3


def all_partitions(config: PartitionedSource) -> tuple[Partition, ...]:
    """Return the partitions of both parts in their order; raises as listing them does."""
    return tuple(partition for part in PARTS for partition in partitions_of(config, part))


def read_partition(config: PartitionedSource, partition: Partition, layout: Layout, *, with_columns: bool) -> Block:
    """Read a partition to its end, and keep what is stored of its rows or only their labels.

    Raises:
        SourceMissingError, SourceFormatError, DatasetReferenceError: it cannot be read.
    """
    return _joined(
        [block if with_columns else replace(block, columns={}) for block in read_blocks(config, partition, layout)]
    )


def read_partitioned(config: PartitionedSource, layout: Layout, *, max_bad_fraction: float) -> SourceRows:
    """Read all rows of a source; raises as `read_partition` and `source_rows` do."""
    partitions = all_partitions(config)
    blocks = [read_partition(config, partition, layout, with_columns=True) for partition in partitions]
    return source_rows(partitions, blocks, layout.classes, max_bad_fraction=max_bad_fraction)


def rows_in_turns(config: PartitionedSource, layout: Layout) -> Iterator[Rows]:
    """Yield all rows that can be used, some at a time; raises as `read_partition` does."""
    for partition in all_partitions(config):
        for block in read_blocks(config, partition, layout):
            yield Rows(block.columns, block.labels_N)


def source_rows(
    partitions: Sequence[Partition], blocks: Sequence[Block], classes: tuple[str, ...], *, max_bad_fraction: float
) -> SourceRows:
    """Return the rows of all partitions, of each of which `blocks` has one.

    Raises:
        TooManyBadRowsError: more rows than that share cannot be used.
        NoRowsError: a part has no row that can.
        SourceFormatError: there are more rows than can be numbered.
    """
    read = list(zip(partitions, blocks, strict=True))
    bad = tuple(row for part in PARTS for row in _bad_rows(part, read))
    check_bad(bad, rows=sum(block.num_rows for block in blocks), allowed=max_bad_fraction)
    train, test = (_rows_of(part, [block for partition, block in read if partition.part == part]) for part in PARTS)
    for part, rows in zip(PARTS, (train, test), strict=True):
        if not len(rows):
            raise NoRowsError(part, tuple(str(row) for row in bad if row.part == part)[:_NUM_REASONS])
    return SourceRows(train, test, classes, bad)


def first_rows(blocks: Iterable[Block]) -> list[int]:
    """Return the number of the first row of each of some blocks that follow each other."""
    *firsts, _ = itertools.accumulate((block.num_rows for block in blocks), initial=0)
    return firsts


def _rows_of(part: Part, blocks: Sequence[Block]) -> Rows:
    if (count := sum(block.num_rows for block in blocks)) > _MOST_ROWS:
        raise SourceFormatError(f"data.read.{part}", f"{count:,} rows", f"at most {_MOST_ROWS:,}")
    whole = _joined(blocks)
    return Rows(whole.columns, whole.labels_N, whole.places_N)


def _bad_rows(part: Part, read: Sequence[tuple[Partition, Block]]) -> Iterator[BadRow]:
    mine = ((partition, block) for partition, block in read if partition.part == part)
    for number, (partition, block) in enumerate(mine):
        for place, reason in block.bad:
            yield BadRow(part, number, place, partition.where(place), reason)


def _joined(blocks: Sequence[Block]) -> Block:
    """Return blocks that follow each other as one; of a part of them its places count from the first."""
    names = blocks[0].columns if blocks else {}
    firsts = first_rows(blocks)
    return Block(
        columns={name: np.concatenate([block.columns[name] for block in blocks]) for name in names},
        labels_N=np.concatenate([np.zeros(0, np.int32), *(block.labels_N for block in blocks)]),
        places_N=np.concatenate(
            [np.zeros(0, np.int64), *(block.places_N + first for block, first in zip(blocks, firsts, strict=True))]
        ),
        num_rows=sum(block.num_rows for block in blocks),
        bad=tuple(
            (first + place, reason) for block, first in zip(blocks, firsts, strict=True) for place, reason in block.bad
        ),
    )
