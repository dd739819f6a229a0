"""From the spec's `data.read` to rows, to their columns, and to what tells the data from other data."""

from collections.abc import Iterator
from pathlib import Path

from cluster.identity import digest_of
from cluster.shards.schema import Column, columns_of
from orchestrator.sources.arrays import Rows, SourceRows
from orchestrator.sources.digits import CLASSES, digits_file, read_digits
from orchestrator.sources.errors import ClassesMissingError, SourceFormatError, SourceMissingError
from orchestrator.sources.folders import classes_of
from orchestrator.sources.formats import HuggingFaceSource, ImagesSource, PartitionedSource, TorchSource
from orchestrator.sources.gather import read_partitioned, rows_in_turns
from orchestrator.sources.idx import read_idx_labels, read_idx_rows
from orchestrator.sources.npz import read_npz_rows
from orchestrator.sources.partitions import PARTS, digest_of_part, files_of, find_layout
from orchestrator.sources.references import num_items
from orchestrator.sources.saved import saved_classes
from orchestrator.sources.spec import DataConfig, DigitsSource, IdxSource, NpzSource


def read_source(config: DataConfig) -> SourceRows:
    """Read all rows into this process.

    Raises:
        SourceMissingError: a file is not there.
        SourceFormatError: a file is not what it should be, a label names no class, or test rows have other columns.
        TooFewLabelsError: there are no training rows left beside the test rows.
        TooManyBadRowsError, NoRowsError: rows of a source in partitions cannot be used.
    """
    classes = class_names(config)
    match config.read:
        case DigitsSource() as source:
            train, test = read_digits(source.test, seed=config.seed)
        case IdxSource() as source:
            train, test = read_idx_rows(source.train), read_idx_rows(source.test)
        case NpzSource() as source:
            train, test = read_npz_rows(source.train), read_npz_rows(source.test)
        case source:
            layout = find_layout(source, classes)
            return read_partitioned(source, layout, max_bad_fraction=config.max_bad_fraction)
    where = f"data.read ({config.read.source})"
    for part, rows in (("training", train), ("test", test)):
        if (high := int(rows.labels_N.max())) >= len(classes):
            raise SourceFormatError(where, f"{part} labels up to {high}", f"at most {len(classes) - 1}, the last class")
    if (found := _described(test)) != (expected := _described(train)):
        raise SourceFormatError(where, f"test rows of {found}", f"{expected}, as in the training rows")
    return SourceRows(train, test, classes)


def read_in_turns(config: DataConfig) -> Iterator[Rows]:
    """Yield all rows of a source in partitions, some at a time; raises as `read_source` does."""
    source = partitioned(config)
    assert source is not None, "the rows of other sources are read at once"  # noqa: S101
    return rows_in_turns(source, find_layout(source, class_names(config)))


def source_columns(config: DataConfig) -> tuple[Column, ...]:
    """Return the columns of the rows, without the label; raises as `read_source` does."""
    source = partitioned(config)
    if source is not None:
        return find_layout(source, class_names(config)).columns
    return columns_of({name: array[:0] for name, array in read_source(config).train.columns.items()})


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes.

    Where the spec gives none: those that the source has, or as many numbers as the training labels need.

    Raises:
        ClassesMissingError: neither says.
    """
    if config.classes is not None:
        return config.classes
    match config.read:
        case DigitsSource():
            return CLASSES
        case IdxSource(train=files):
            labels = read_idx_labels(files.labels)
        case NpzSource(train=path):
            labels = read_npz_rows(path).labels_N
        case ImagesSource(train=directory):
            return classes_of(directory)
        case HuggingFaceSource(train=directory, label=label) if names := saved_classes(directory, label):
            return names
        case other:
            raise ClassesMissingError(other.source)
    return tuple(str(number) for number in range(int(labels.max()) + 1))


def partitioned(config: DataConfig) -> PartitionedSource | None:
    """Return the source if it is read in partitions."""
    return None if isinstance(config.read, DigitsSource | IdxSource | NpzSource) else config.read


def outgrows_memory(config: DataConfig) -> bool:
    """Whether a source is so large that its rows go through Ray; raises as `read_source` does."""
    source = partitioned(config)
    if source is None:
        return False
    if isinstance(source, TorchSource):
        row_bytes = sum(column.row_bytes for column in find_layout(source, class_names(config)).columns)
        num_bytes = row_bytes * sum(num_items(source, part) for part in PARTS)
    else:
        num_bytes = sum(file.num_bytes for part in PARTS for file in files_of(source, part))
    return num_bytes > config.in_memory_bytes


def source_files(config: DataConfig) -> tuple[Path, ...]:
    """Return the files that the rows come from."""
    match config.read:
        case DigitsSource():
            return (digits_file(),)
        case IdxSource(train=train, test=test):
            return tuple(Path(path) for path in (train.images, train.labels, test.images, test.labels))
        case NpzSource(train=train_path, test=test_path):
            return (Path(train_path), Path(test_path))
        case source:
            return tuple(Path(file.path) for part in PARTS for file in files_of(source, part))


def source_digests(config: DataConfig) -> tuple[str, ...]:
    """Return the digest of each source file, or of each part of a source in partitions.

    Raises:
        SourceMissingError: a file cannot be read.
        ModelSourceError: there is no module of the factory of a `Dataset`.
    """
    if (source := partitioned(config)) is not None:
        return tuple(digest_of_part(source, part) for part in PARTS)
    digests = []
    for path in source_files(config):
        try:
            digests.append(digest_of(path.read_bytes()))
        except OSError as error:
            raise SourceMissingError(str(path), config.read.source, error.strerror or str(error)) from error
    return tuple(digests)


def meaning_of(config: DataConfig) -> dict[str, object]:
    """Return what determines the rows beside the contents of files, their division and the names of the classes."""
    source = partitioned(config)
    facts: dict[str, object] = {"revision": config.revision} if config.revision else {}
    return facts if source is None else facts | {"read": source.model_dump(exclude={"train", "test"})}


def _described(rows: Rows) -> str:
    shown = (f"{name} {array.dtype} {list(array.shape[1:])}" for name, array in sorted(rows.columns.items()))
    return ", ".join(shown)
