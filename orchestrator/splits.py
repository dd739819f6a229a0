"""Which rows are trained on, with and without their labels, and which are held out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.identity import identity_of
from cluster.shards.order import permutation
from cluster.shards.schema import LABEL, NO_LABEL, ROW, Column, columns_of
from orchestrator.sources.arrays import Rows, SourceRows
from orchestrator.sources.errors import TooFewLabelsError
from orchestrator.sources.read import read_source
from orchestrator.sources.spec import DataConfig, DigitsSource

RECIPE = 1


@dataclass(frozen=True)
class OwnRows:
    """The data sets that a specialist is fitted on: rows of its classes, with these as their classes."""

    classes: tuple[str, ...]
    labelled: str
    held_out: str


@dataclass(frozen=True)
class DatasetIds:
    """Identities of the data sets that one source is divided into."""

    train: str
    """All training rows; those that nobody labelled have no label."""
    labelled: str
    """The training rows with a label. The same data set as `train` where every row has one."""
    held_out: str
    """Labelled rows that no model trains on."""
    test: str
    of_specialists: tuple[OwnRows, ...] = ()

    def distinct(self) -> tuple[str, ...]:
        """Return every identity once."""
        own = [identity for rows in self.of_specialists for identity in (rows.labelled, rows.held_out)]
        return tuple(dict.fromkeys((self.train, self.labelled, self.held_out, self.test, *own)))

    def rows_of(self, classes: tuple[str, ...] | None) -> tuple[str, str]:
        """Return the labelled and the held-out rows of a teacher with these classes; None for all of them."""
        own = next((rows for rows in self.of_specialists if rows.classes == classes), self)
        return own.labelled, own.held_out

    def for_specialists(self, each: Iterable[tuple[str, ...]]) -> "DatasetIds":
        """Return these, and what teachers of such classes are fitted on."""
        own = [
            OwnRows(classes, _own_rows_id(self.labelled, classes), _own_rows_id(self.held_out, classes))
            for classes in dict.fromkeys(each)
        ]
        return replace(self, of_specialists=tuple(own))


def dataset_ids(config: DataConfig, *, classes: tuple[str, ...], digests: tuple[str, ...]) -> DatasetIds:
    """Return the identities that follow from the contents of the source files and the division."""
    facts = {
        "source": config.read.source,
        "files": list(digests),
        "test": config.read.test if isinstance(config.read, DigitsSource) else None,
        "classes": list(classes),
        "labelled": config.labelled,
        "validation": config.validation,
        "shard_rows": config.shard_rows,
        "compression": config.compression,
        "seed": config.seed,
    }
    train, labelled, held_out, test = (
        identity_of("dataset", RECIPE, facts | {"part": part}) for part in ("train", "labelled", "held_out", "test")
    )
    return DatasetIds(train, train if config.labelled is None else labelled, held_out, test)


def divide(source: SourceRows, config: DataConfig) -> dict[str, dict[str, np.ndarray]]:
    """Return the columns of `train`, `labelled`, `held_out` and `test`, globally shuffled.

    Raises:
        TooFewLabelsError: more rows are asked for than there are.
    """
    rows = len(source.train)
    labelled = rows if config.labelled is None else config.labelled
    if labelled > rows:
        raise TooFewLabelsError("data.labelled", labelled, rows)
    validation = config.validation
    held_out = validation if isinstance(validation, int) else max(1, round(validation * labelled))
    if held_out >= labelled:
        raise TooFewLabelsError("data.validation", held_out, labelled - 1)
    order = permutation(rows, config.seed, 1)
    kept = np.zeros(rows, dtype=bool)
    kept[order[:labelled]] = True
    training = order[held_out:][permutation(rows - held_out, config.seed, 2)]
    return {
        "train": _columns(source.train, training, kept),
        "labelled": _columns(source.train, training[kept[training]], kept),
        "held_out": _columns(source.train, order[:held_out], kept),
        "test": _columns(source.test, np.arange(len(source.test)), np.ones(len(source.test), dtype=bool)),
    }


def columns_of_rows(config: DataConfig) -> tuple[Column, ...]:
    """Return the columns that every data set will have; reads the source, and raises as `read_source` does."""
    no_rows = np.arange(0)
    return columns_of(_columns(read_source(config).train, no_rows, no_rows))


def entries_of(config: DataConfig, column: str) -> frozenset[int]:
    """Return the numbers that a column of any data set will hold; raises as `read_source` and `divide` do."""
    parts = divide(read_source(config), config).values()
    return frozenset(entry for columns in parts for entry in np.unique(columns[column]).tolist())


def _own_rows_id(dataset: str, classes: tuple[str, ...]) -> str:
    return identity_of("dataset", RECIPE, {"rows_of": dataset, "classes": list(classes)})


def rows_of_classes(columns: Mapping[str, np.ndarray], places: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the rows whose label is one of `places`, labelled with where it stands among them."""
    labels_N = columns[LABEL]
    own_N = np.isin(labels_N, places)
    renumbered = np.array([places.index(label) for label in labels_N[own_N].tolist()], labels_N.dtype)
    return {name: array[own_N] for name, array in columns.items()} | {LABEL: renumbered}


def _columns(rows: Rows, picked: np.ndarray, has_label: np.ndarray) -> dict[str, np.ndarray]:
    labels = np.where(has_label[picked], rows.labels_N[picked], NO_LABEL).astype(np.int32)
    columns = {name: array[picked] for name, array in rows.columns.items()}
    return {ROW: picked.astype(np.int32), **columns, LABEL: labels}
