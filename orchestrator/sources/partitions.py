"""A source in partitions: which there are, in an order that is the same everywhere, and the rows of each in theirs.

A row's number is its place in this order: of its partition among the partitions, then in the partition. It depends on
the source alone, and not on who reads what.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from cluster.errors import excerpt
from cluster.identity import canonical_json, digest_of
from cluster.models import source_digest
from orchestrator.sources.archives import read_archive
from orchestrator.sources.errors import NoRowsError, SourceFormatError
from orchestrator.sources.files import SourceFile, digest_of_files, list_files
from orchestrator.sources.folders import IMAGE, LABEL, list_images, read_images
from orchestrator.sources.formats import (
    HuggingFaceSource,
    ImagesSource,
    InputColumn,
    PartitionedSource,
    TableSource,
    TorchSource,
    WebDatasetSource,
)
from orchestrator.sources.references import num_items, read_items
from orchestrator.sources.rows import Block, Chunk, Layout, block_of
from orchestrator.sources.saved import kind_of, list_saved
from orchestrator.sources.table_files import read_table
from orchestrator.sources.tables import as_rows, block_of_batch, layout_of, leaf_types
from orchestrator.sources.unfit import Unfit

Part = Literal["train", "test"]
PARTS: tuple[Part, Part] = ("train", "test")

_ROWS_OF_ONE = 1024
"""Images, or items of a `Dataset`, that are read by one process."""
_NUM_REASONS = 3


@dataclass(frozen=True)
class Partition:
    """Rows that one process reads: those of a file, of some images, or of a range of items."""

    part: Part
    paths: tuple[str, ...]
    items: tuple[int, int] = (0, 0)

    def where(self, row: int) -> str:
        """Return what tells a person which row is meant."""
        if len(self.paths) == 1:
            return f"{self.paths[0]}, row {row}"
        return self.paths[row] if self.paths else f"{self.part}, item {self.items[0] + row}"


def files_of(config: PartitionedSource, part: Part) -> tuple[SourceFile, ...]:
    """Return the files of a part; none of a `Dataset`. Raises `SourceMissingError` and `SourceFormatError`."""
    match config:
        case TableSource():
            return list_files(getattr(config, part), (f".{config.source}",), source=config.source)
        case WebDatasetSource():
            return list_files(getattr(config, part), (".tar", ".tar.gz", ".tgz"), source=config.source)
        case ImagesSource():
            return list_images(getattr(config, part))
        case HuggingFaceSource():
            return list_saved(getattr(config, part))
        case TorchSource():
            return ()


def digest_of_part(config: PartitionedSource, part: Part) -> str:
    """Return what tells the contents of a part from others, without reading more of them than has to be.

    Of a `Dataset` that is its arguments and the source file of its factory: nobody knows what it will read.
    """
    if isinstance(config, TorchSource):
        facts = [config.dataset, source_digest(config.dataset), getattr(config, part)]
        return digest_of(canonical_json(facts))
    files = files_of(config, part)
    folders = [file.parent for file in files] if isinstance(config, ImagesSource) else []
    return digest_of_files(files, source=config.source, names=folders)


def partitions_of(config: PartitionedSource, part: Part) -> tuple[Partition, ...]:
    """Return the partitions of a part in their order."""
    if isinstance(config, TorchSource):
        rows = num_items(config, part)
        bounds = [(start, min(start + _ROWS_OF_ONE, rows)) for start in range(0, rows, _ROWS_OF_ONE)]
        return tuple(Partition(part, (), items) for items in bounds)
    paths = [file.path for file in files_of(config, part)]
    together = _ROWS_OF_ONE if isinstance(config, ImagesSource) else 1
    return tuple(Partition(part, tuple(paths[at : at + together])) for at in range(0, len(paths), together))


def read_blocks(config: PartitionedSource, partition: Partition, layout: Layout) -> Iterator[Block]:
    """Yield the rows of a partition, some at a time.

    Raises:
        SourceMissingError, SourceFormatError: a file cannot be read, or not beyond some place.
        DatasetReferenceError: a `Dataset` cannot be built.
    """
    for chunk in _chunks(config, partition):
        yield block_of_batch(chunk, layout) if isinstance(chunk, pa.RecordBatch) else block_of(chunk, layout)


def find_layout(config: PartitionedSource, classes: Sequence[str]) -> Layout:
    """Return how rows are laid out, which the first training row that fits decides where the spec does not.

    Raises:
        NoRowsError: there is no such row.
        SourceFormatError: the source has no such columns.
    """
    inputs, label = _inputs(config)
    reasons: list[str] = []
    for partition in partitions_of(config, "train"):
        where = partition.paths[0] if partition.paths else f"data.read.{partition.part}"
        for chunk in _chunks(config, partition):
            rows, types = _rows_and_types(chunk, label, where)
            for row in rows:
                try:
                    if isinstance(row, Unfit):
                        raise row
                    return layout_of(inputs, label, classes, first=row, types=types, where=where)
                except Unfit as error:
                    reasons += [str(error)] if len(reasons) < _NUM_REASONS else []
    raise NoRowsError("train", tuple(reasons))


def _rows_and_types(chunk: pa.RecordBatch | Chunk, label: str, where: str) -> tuple[Chunk, Mapping[str, np.dtype]]:
    if not isinstance(chunk, pa.RecordBatch):
        return chunk, {}
    if label not in chunk.schema.names:
        raise SourceFormatError(where, f"the columns {excerpt(', '.join(chunk.schema.names))}", f"one called {label!r}")
    return as_rows(chunk), leaf_types(chunk.schema)


def _inputs(config: PartitionedSource) -> tuple[dict[str, InputColumn], str]:
    if isinstance(config, ImagesSource):
        return {IMAGE: InputColumn(picture=config.picture)}, LABEL
    if isinstance(config, WebDatasetSource):
        # A sample arrives under the names of its columns, from whichever extension it had.
        return {name: column.model_copy(update={"of": ()}) for name, column in config.inputs.items()}, config.label
    return config.inputs, config.label


def _chunks(config: PartitionedSource, partition: Partition) -> Iterator[pa.RecordBatch | Chunk]:
    match config:
        case TableSource():
            return read_table(partition.paths[0], kind=config.source)
        case WebDatasetSource():
            return read_archive(partition.paths[0], config)
        case ImagesSource():
            return read_images(partition.paths)
        case HuggingFaceSource():
            return read_table(partition.paths[0], kind=kind_of(partition.paths[0]))
        case TorchSource():
            return read_items(config, partition.part, range(*partition.items))
