"""Garbage: what killed processes and lost races left in a store, and what nobody can ever read again.

Nothing is removed that somebody might yet need, however slow he is. The proof is one of order, not of time: whatever is
removed had lost for good before we looked. A label shard can only be named by a commit record, and a record is only
written where there is none. So once every number of a set is committed, data that no record names stays unnamed,
whoever wakes up and whatever request arrives late: its number is taken. The data is listed first and the records are
read afterwards, so data is never held against records that are older than it.

In a set that lacks a number, a writer that stood still for a week could still commit that number, and no clock of ours
says that it will not. Such data is kept, and counted; it becomes garbage when the set is complete. Whoever knows that
no job labels can have it removed (`even_incomplete`).

The grace is no part of the proof; it leaves time to look at what went wrong. Ages are by the store's own clock
(`store_time_s`), so a machine whose clock is wrong removes nothing young. What cannot be read is kept: no answer is not
the answer "no". Only a repair takes numbers back, so it must not work on a store at the same time.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

from cluster.config import Config
from cluster.errors import DataError
from cluster.shards.dataset import DatasetRecord, dataset_key
from cluster.shards.labelset import LabelSet
from cluster.shards.records import read_record
from cluster.shards.shared import SharedRecord
from cluster.storage.directory import DirectoryStore
from cluster.storage.probe import PROBES
from cluster.storage.protocol import ObjectMissingError, ObjectStat, ObjectStore

DAY_S = 24 * 3600.0

Kind = Literal["label data", "checkpoint", "round", "probe", "unfinished file"]

_DATA = re.compile(r"(labels/[0-9a-f]{16}/[a-z][a-z0-9_-]*)/data/([0-9a-f]{64})\.arrow")
_SHARED = re.compile(r"(labels/[0-9a-f]{16}/[a-z][a-z0-9_-]*)/shared/([0-9a-f]{64})\.arrow")
_RECORDS = {"labelset.json", "manifest.json", "shared.json"}
_ROUND = re.compile(r"students/[^/]+/rounds/([0-9a-f]{16})/[^/]+")
_TRAINED = re.compile(r"students/[^/]+-([0-9a-f]{16})/trained\.json")
_CHECKPOINT = re.compile(r"((?:teachers|students)/[^/]+)/checkpoints/[^/]+")


class Garbage(Config):
    """One object that nobody can need."""

    kind: Kind
    key: str
    num_bytes: int


class Kept(Config):
    """Label data that no record names and that is old enough, and why it stays."""

    labels: str
    """Directory of the label set."""
    objects: int
    num_bytes: int
    reason: str


class Collection(Config):
    """What a collection removed, or would have removed, and what it left alone."""

    removed: tuple[Garbage, ...]
    kept: tuple[Kept, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of everything that was removed."""
        return sum(garbage.num_bytes for garbage in self.removed)


def collect_garbage(
    store: ObjectStore, *, now_s: float, grace_s: float = DAY_S, even_incomplete: bool = False, is_dry_run: bool = False
) -> Collection:
    """Remove the garbage that is older than `grace_s`; `now_s` is the time by the store's clock (`store_time_s`).

    A collection that is killed has removed some of it; the next one removes the rest.

    Raises:
        StorageError, AccessDenied: as every use of the store would; what was removed until then was garbage.
    """
    removed: list[Garbage] = []
    kept: list[Kept] = []
    for prefix, data in _label_data(store).items():
        old = [stat for stat in data if now_s - stat.modified_s > grace_s]
        unnamed, reason = _unnamed(store, prefix, old, even_incomplete=even_incomplete)
        if reason and unnamed:
            kept.append(Kept(labels=prefix, objects=len(unnamed), num_bytes=_bytes_of(unnamed), reason=reason))
            continue
        removed += _remove(store, "label data", unnamed, is_dry_run=is_dry_run)
    leftovers: tuple[tuple[Kind, Iterator[ObjectStat]], ...] = (
        ("label data", _unnamed_shared(store)),
        ("checkpoint", _useless_checkpoints(store)),
        ("round", _useless_rounds(store)),
        ("probe", store.list(PROBES)),
        ("unfinished file", store.unfinished() if isinstance(store, DirectoryStore) else iter(())),
    )
    for kind, stats in leftovers:
        old = [stat for stat in stats if now_s - stat.modified_s > grace_s]
        removed += _remove(store, kind, old, is_dry_run=is_dry_run)
    return Collection(removed=tuple(removed), kept=tuple(kept))


def _label_data(store: ObjectStore) -> dict[str, list[ObjectStat]]:
    data: defaultdict[str, list[ObjectStat]] = defaultdict(list)
    for stat in store.list("labels/"):
        if match := _DATA.fullmatch(stat.key):
            data[match[1]].append(stat)
    return data


def _unnamed(
    store: ObjectStore, prefix: str, data: list[ObjectStat], *, even_incomplete: bool
) -> tuple[list[ObjectStat], str]:
    """Return the data that no record names now, and why that must stay; without a reason it is garbage."""
    if not data:
        return [], ""
    try:
        labels = LabelSet.open(store, prefix)
        is_sealed = labels.is_sealed()  # before the commits are read: a seal may appear meanwhile, and so may commits
        commits = labels.commits()
        is_complete = is_sealed or _all_numbers(store, labels) <= {commit.number for commit in commits}
    except (DataError, ObjectMissingError) as error:
        return data, f"nobody can say what it names: {error}"
    named = {commit.digest for commit in commits}
    unnamed = [stat for stat in data if _digest(stat) not in named]
    if unnamed and (unknown := _unknown_record(store, prefix)):
        return unnamed, f"nobody can say what it names: {unknown} is a record that this version does not know"
    if is_complete or even_incomplete:
        return unnamed, ""
    return unnamed, "the set is not complete, and a writer may yet commit it"


def _unknown_record(store: ObjectStore, prefix: str) -> str | None:
    """Return the name of a record beside those we know, if there is one: it may name data."""
    names = (stat.key.removeprefix(f"{prefix}/") for stat in store.list(f"{prefix}/"))
    return next((name for name in names if "/" not in name and name not in _RECORDS), None)


def _all_numbers(store: ObjectStore, labels: LabelSet) -> set[int]:
    """Return the numbers that a complete set has committed; raises `ObjectMissingError` if nobody can say."""
    return set(range(len(read_record(store, dataset_key(labels.record.dataset), DatasetRecord).shards)))


def _unnamed_shared(store: ObjectStore) -> Iterator[ObjectStat]:
    """Yield what lost the race for `shared.json`: that is written once, and names one file for good."""
    named: dict[str, str | None] = {}
    for stat in store.list("labels/"):
        if match := _SHARED.fullmatch(stat.key):
            prefix = match[1]
            if prefix not in named:
                named[prefix] = _named_shared(store, prefix)
            if named[prefix] not in (None, match[2]):
                yield stat


def _named_shared(store: ObjectStore, prefix: str) -> str | None:
    try:
        return read_record(store, f"{prefix}/shared.json", SharedRecord).digest
    except (DataError, ObjectMissingError):
        return None


def _useless_checkpoints(store: ObjectStore) -> Iterator[ObjectStat]:
    """Yield those of trainings that are published: before it looks for a checkpoint, a training looks for its end."""
    is_trained: dict[str, bool] = {}
    for folder in ("teachers/", "students/"):
        for stat in store.list(folder):
            if match := _CHECKPOINT.fullmatch(stat.key):
                prefix = match[1]
                if prefix not in is_trained:
                    is_trained[prefix] = store.exists(f"{prefix}/trained.json")
                if is_trained[prefix]:
                    yield stat


def _useless_rounds(store: ObjectStore) -> Iterator[ObjectStat]:
    """Yield what members of cohorts have left each other whose own record, the last one, is written."""
    stats = list(store.list("students/"))
    trained = {match[1] for stat in stats if (match := _TRAINED.fullmatch(stat.key))}
    for stat in stats:
        if (match := _ROUND.fullmatch(stat.key)) and match[1] in trained:
            yield stat


def _remove(store: ObjectStore, kind: Kind, stats: list[ObjectStat], *, is_dry_run: bool) -> Iterator[Garbage]:
    # Records first, so that no record of a checkpoint ever names bytes that are gone.
    for stat in sorted(stats, key=lambda stat: not stat.key.endswith(".json")):
        if not is_dry_run:
            if isinstance(store, DirectoryStore) and kind == "unfinished file":
                store.discard(stat)
            else:
                store.delete(stat.key)
        yield Garbage(kind=kind, key=stat.key, num_bytes=stat.num_bytes)


def _digest(stat: ObjectStat) -> str:
    return stat.key.rpartition("/")[2].removesuffix(".arrow")


def _bytes_of(stats: list[ObjectStat]) -> int:
    return sum(stat.num_bytes for stat in stats)
