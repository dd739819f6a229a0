"""Which label sets a store holds, how far each has come, and whether its bytes are what they were."""

import re
from collections.abc import Iterator
from typing import Literal

from cluster.config import Config
from cluster.errors import DataError
from cluster.shards.commits import Commit
from cluster.shards.damage import Damage, dataset_of, find_damages
from cluster.shards.labelset import LabelSet
from cluster.shards.schema import Column
from cluster.shards.shared import read_shared
from cluster.storage.protocol import ObjectMissingError, ObjectStore

_DESCRIPTION = re.compile(r"(labels/[0-9a-f]{16}/([a-z][a-z0-9_-]{0,39}-[0-9a-f]{16}))/labelset\.json")


class LabelSetSummary(Config):
    """One label set, in a line."""

    name: str
    """`<teacher>-<identity>`: its directory."""
    teacher: str
    dataset: str
    state: Literal["sealed", "partial", "damaged"]
    shards: int
    """Committed."""
    shards_in_all: int | None
    """Of the data set; None if that is not in this store."""
    rows: int
    num_bytes: int
    columns: tuple[Column, ...]
    codec: str
    """How the columns hold the teacher's distributions: a codec and its settings."""
    classes: tuple[str, ...] = ()
    """Names of those that the teacher knows, in its order, where these are not all of the data set's."""
    view: int | None = None
    """Number of the view in which the teacher saw the rows; None: as they are."""
    problem: str = ""
    """What is wrong with a damaged set."""


class Verification(Config):
    """What reading every committed shard of one set found."""

    name: str
    shards: int
    rows: int
    damages: tuple[Damage, ...]


class UnknownLabelSetError(DataError):
    """There is no such label set, or there are several."""

    def __init__(self, uri: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(uri, name, known)
        self.uri, self.name, self.known = uri, name, known

    def __str__(self) -> str:
        there = f"There are {', '.join(self.known)}" if self.known else "No teacher has labelled there yet"
        return f"{self.uri}: found no single label set {self.name!r}. {there}."


def label_sets(store: ObjectStore) -> Iterator[LabelSetSummary]:
    """Yield every label set of the store; one that cannot be read is among them as damaged."""
    for prefix, name in _directories(store):
        try:
            yield _summary(store, LabelSet.open(store, prefix), name)
        except DataError as error:
            teacher, _, _ = name.rpartition("-")
            yield LabelSetSummary(
                name=name,
                teacher=teacher,
                dataset=prefix.split("/")[1],
                state="damaged",
                shards=0,
                shards_in_all=None,
                rows=0,
                num_bytes=0,
                columns=(),
                codec="",
                problem=str(error),
            )


def find_label_sets(store: ObjectStore, name: str | None) -> list[str]:
    """Return the directories of all label sets, or of those called `name`: a directory's name, its end, or a teacher.

    Raises:
        UnknownLabelSetError: none is called so.
    """
    return called(name, [prefix for prefix, _ in _directories(store)], uri=store.uri)


def called(name: str | None, prefixes: list[str], *, uri: str) -> list[str]:
    """Return those of some directories that are called `name`, or all; raises as `find_label_sets` does."""
    if name is None:
        return prefixes
    names = {prefix: prefix.rpartition("/")[2] for prefix in prefixes}
    chosen = [prefix for prefix, own in names.items() if name in (own, *own.rpartition("-")[::2])]
    if not chosen:
        raise UnknownLabelSetError(uri, name, tuple(names.values()))
    return chosen


def describe(store: ObjectStore, name: str) -> tuple[LabelSetSummary, tuple[Commit, ...]]:
    """Return the one label set called `name`, and its commits in the order of their numbers.

    Raises:
        UnknownLabelSetError: none is called so, or several are.
    """
    prefixes = find_label_sets(store, name)
    if len(prefixes) > 1:
        raise UnknownLabelSetError(store.uri, name, tuple(prefix.rpartition("/")[2] for prefix in prefixes))
    labels = LabelSet.open(store, prefixes[0])
    return _summary(store, labels, prefixes[0].rpartition("/")[2]), labels.commits()


def verify(store: ObjectStore, prefix: str) -> Verification:
    """Read every committed shard of the set at `prefix`: digest, schema, number of rows, and no NaN."""
    name = prefix.rpartition("/")[2]
    try:
        labels = LabelSet.open(store, prefix)
        if labels.committed_numbers():
            read_shared(labels)  # without it no shard can be decoded
    except (DataError, ObjectMissingError) as error:
        return Verification(name=name, shards=0, rows=0, damages=(Damage(shard=None, problem=str(error)),))
    dataset = dataset_of(store, labels.record)
    commits, damages = find_damages(labels, dataset)
    return Verification(name=name, shards=len(commits), rows=sum(commit.rows for commit in commits), damages=damages)


def _directories(store: ObjectStore) -> Iterator[tuple[str, str]]:
    for stat in store.list("labels/"):
        if match := _DESCRIPTION.fullmatch(stat.key):
            yield match[1], match[2]


def _summary(store: ObjectStore, labels: LabelSet, name: str) -> LabelSetSummary:
    commits, dataset = labels.commits(), dataset_of(store, labels.record)
    return LabelSetSummary(
        name=name,
        teacher=labels.record.teacher,
        dataset=labels.record.dataset,
        state="sealed" if labels.is_sealed() else "partial",
        shards=len(commits),
        shards_in_all=len(dataset.shards) if dataset else None,
        rows=sum(commit.rows for commit in commits),
        num_bytes=sum(commit.num_bytes for commit in commits),
        columns=labels.record.columns,
        codec=str(labels.record.codec),
        classes=labels.record.classes,
        view=labels.record.view.number if labels.record.view else None,
    )
