"""Which rows are trained on, with and without their labels, and which are held out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.identity import identity_of
from cluster.shards.order import permutation
from cluster.shards.schema import LABEL, NO_LABEL, ROW, Column
from orchestrator.sources.arrays import Rows, SourceRows
from orchestrator.sources.errors import NoOwnRowsError, TooFewLabelsError
from orchestrator.sources.partitions import Part
from orchestrator.sources.read import meaning_of, partitioned, read_in_turns, read_source, source_columns
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


@dataclass(frozen=True)
class DividedRows:
    """What one data set holds of the source, in its order."""

    identity: str
    classes: tuple[str, ...]
    part: Part
    """Of the source."""
    arrays: dict[str, np.ndarray]


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
        **meaning_of(config),
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


def divided(source: SourceRows, config: DataConfig, ids: DatasetIds) -> Iterator[DividedRows]:
    """Yield every data set once, with its rows.

    Raises:
        TooFewLabelsError: more rows are asked for than there are.
        NoOwnRowsError: none is of the classes of a specialist.
    """
    parts = divide(source, config)
    identities = {"train": ids.train, "labelled": ids.labelled, "held_out": ids.held_out, "test": ids.test}
    for part, arrays in parts.items():
        if part != "labelled" or ids.labelled != ids.train:
            yield DividedRows(identities[part], source.classes, "test" if part == "test" else "train", arrays)
    for own in ids.of_specialists:
        for part, identity, field in (
            ("labelled", own.labelled, "data.labelled"),
            ("held_out", own.held_out, "data.validation"),
        ):
            arrays = rows_of_classes(parts[part], [source.classes.index(name) for name in own.classes])
            if len(arrays[LABEL]) == 0:
                raise NoOwnRowsError(field, own.classes, len(parts[part][LABEL]))
            yield DividedRows(identity, own.classes, "train", arrays)


def columns_of_rows(config: DataConfig) -> tuple[Column, ...]:
    """Return the columns that every data set will have; raises as `source_columns` does."""
    return Column(name=ROW, dtype="int32"), *source_columns(config), Column(name=LABEL, dtype="int32")


def entries_of(config: DataConfig, column: str) -> frozenset[int]:
    """Return the numbers that a column of any data set will hold; raises as `read_source` and `divide` do."""
    parts: Iterable[Mapping[str, np.ndarray]]
    if column in (ROW, LABEL) or partitioned(config) is None:
        parts = divide(read_source(config), config).values()
    else:
        parts = (rows.columns for rows in read_in_turns(config))
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
    numbers = picked if rows.numbers_N is None else rows.numbers_N[picked]
    return {ROW: numbers.astype(np.int32), **columns, LABEL: labels}
