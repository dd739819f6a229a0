"""From the spec's `data.read` to rows, and to the digest of the files behind them."""

from pathlib import Path

from cluster.identity import digest_of
from orchestrator.sources.arrays import Rows, SourceRows
from orchestrator.sources.digits import CLASSES, digits_file, read_digits
from orchestrator.sources.errors import SourceFormatError, SourceMissingError
from orchestrator.sources.idx import read_idx_labels, read_idx_rows
from orchestrator.sources.npz import read_npz_rows
from orchestrator.sources.spec import DataConfig, DigitsSource, IdxSource, NpzSource


def read_source(config: DataConfig) -> SourceRows:
    """Read all rows.

    Raises:
        SourceMissingError: a file is not there.
        SourceFormatError: a file is not what it should be, a label names no class, or test rows have other columns.
        TooFewLabelsError: there are no training rows left beside the test rows.
    """
    classes = class_names(config)
    match config.read:
        case DigitsSource() as source:
            train, test = read_digits(source.test, seed=config.seed)
        case IdxSource() as source:
            train, test = read_idx_rows(source.train), read_idx_rows(source.test)
        case NpzSource() as source:
            train, test = read_npz_rows(source.train), read_npz_rows(source.test)
    where = f"data.read ({config.read.source})"
    for part, rows in (("training", train), ("test", test)):
        if (high := int(rows.labels_N.max())) >= len(classes):
            raise SourceFormatError(where, f"{part} labels up to {high}", f"at most {len(classes) - 1}, the last class")
    if (found := _described(test)) != (expected := _described(train)):
        raise SourceFormatError(where, f"test rows of {found}", f"{expected}, as in the training rows")
    return SourceRows(train, test, classes)


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes; where the spec gives none, as many numbers as the training labels need."""
    if config.classes is not None:
        return config.classes
    match config.read:
        case DigitsSource():
            return CLASSES
        case IdxSource(train=files):
            labels = read_idx_labels(files.labels)
        case NpzSource(train=path):
            labels = read_npz_rows(path).labels_N
    return tuple(str(number) for number in range(int(labels.max()) + 1))


def source_files(config: DataConfig) -> tuple[Path, ...]:
    """Return the files that the rows come from."""
    match config.read:
        case DigitsSource():
            return (digits_file(),)
        case IdxSource(train=train, test=test):
            return tuple(Path(path) for path in (train.images, train.labels, test.images, test.labels))
        case NpzSource(train=train_path, test=test_path):
            return (Path(train_path), Path(test_path))


def source_digests(config: DataConfig) -> tuple[str, ...]:
    """Return the digest of each source file; raises `SourceMissingError`."""
    digests = []
    for path in source_files(config):
        try:
            digests.append(digest_of(path.read_bytes()))
        except OSError as error:
            raise SourceMissingError(str(path), config.read.source, error.strerror or str(error)) from error
    return tuple(digests)


def _described(rows: Rows) -> str:
    shown = (f"{name} {array.dtype} {list(array.shape[1:])}" for name, array in sorted(rows.columns.items()))
    return ", ".join(shown)
