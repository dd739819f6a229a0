"""A label set: one teacher's outputs for one data set, shard by shard, in the numbering of the input shards.

Commit protocol. The whole shard is encoded in memory, written under its own digest (repeating that is harmless), and
then committed by a record that is put only if absent. Whoever loses that race reads the winner's record and is content:
both describe the same rows of the same teacher. So a retry, a zombie, a second job and a lost response all end the same
way, with every row exactly once, and nothing needs a lease or a lock. When every number is committed, anyone may seal.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
from pydantic import FailFast, Field, model_validator

from cluster.config import Config
from cluster.daemons import for_each
from cluster.errors import DataError
from cluster.identity import digest_of, identity_of
from cluster.shards.codecs.spec import AnyCodecConfig, DenseConfig, ModulePath, TapConfig
from cluster.shards.commits import Commit, ForeignLabelsError, Manifest
from cluster.shards.compression import Compression
from cluster.shards.encoding import decode_shard, encode_shard
from cluster.shards.records import BadRecordError, overwrite_record, publish_record, read_record
from cluster.shards.schema import Column, Identity, columns_of
from cluster.shards.verified import Fetch, fetch_verified
from cluster.shards.views.spec import View
from cluster.storage.protocol import ObjectMissingError, ObjectStore

RECIPE = 1

_READERS = 16
_COMMIT_KEY = re.compile(r"commits/([0-9]{8})\.json")


def _last_axis(fields: dict[str, Any]) -> int:
    columns: tuple[Column, ...] = fields.get("columns", ())  # absent if they are not valid, which is said elsewhere
    return columns[0].shape[-1] if columns and columns[0].shape else 1


class LabelSetRecord(Config):
    """`labelset.json`: everything that determines the labels. Its hash is the set's identity."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    teacher: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    teacher_identity: Identity
    dataset: Identity
    columns: Annotated[tuple[Column, ...], FailFast(), Field(min_length=1)]
    codec: AnyCodecConfig = DenseConfig()
    """How the columns hold the teacher's distributions."""
    num_classes: Annotated[int, Field(ge=1)] = Field(default_factory=_last_axis)
    """Length of a distribution; by default that of the first column's last axis."""
    classes: tuple[str, ...] = Field(default=(), exclude_if=lambda classes: not classes)
    """Names of the classes of its distributions, in their order, where these are some of the data set's and not all."""
    taps: dict[ModulePath, TapConfig] = Field(default={}, exclude_if=lambda taps: not taps)
    """Modules of the teacher whose outputs are stored too. Sets without any have the identity they always had."""
    compression: Compression = "none"
    view: View | None = Field(default=None, exclude_if=lambda view: view is None)
    """How the rows were seen; None: as they are."""

    @model_validator(mode="after")
    def _each_class_has_one_name(self) -> "LabelSetRecord":
        if self.classes and len(set(self.classes)) != self.num_classes:
            raise ValueError(f"classes names {len(set(self.classes))} classes; expected {self.num_classes}, or none")
        return self

    def __hash__(self) -> int:
        # A mapping has no hash; records that are equal agree in these.
        return hash((self.teacher, self.teacher_identity, self.dataset))

    def seen(self, view: View | None) -> "LabelSetRecord":
        """Return the record of what the same teacher says of the same rows in another view."""
        return self.model_copy(update={"view": view})

    @property
    def positions(self) -> tuple[int, ...]:
        """Axes of a row before its distribution, such as its tokens; empty for a classifier."""
        return self.columns[0].shape[:-1]

    @property
    def identity(self) -> str:
        """Identity of the set; the teacher's name is for people."""
        return identity_of("labelset", RECIPE, self.model_dump(mode="json", exclude={"version", "teacher"}))

    @property
    def prefix(self) -> str:
        """Where the set lies in the store."""
        return f"labels/{self.dataset}/{self.teacher}-{self.identity}"


class LabelSet:
    """Reads and writes one label set."""

    def __init__(self, store: ObjectStore, record: LabelSetRecord, *, fetch: Fetch = fetch_verified) -> None:
        self.store, self.record, self._fetch = store, record, fetch
        self.identity, self._prefix = record.identity, record.prefix
        self._commits: dict[int, Commit] = {}

    @classmethod
    def create(cls, store: ObjectStore, record: LabelSetRecord) -> "LabelSet":
        """Open the set for writing, and write its description if nobody has.

        Raises:
            ForeignLabelsError: the description that is there is of other labels.
        """
        labels = cls(store, record)
        publish_record(store, labels._description_key, record)
        labels.check_description()
        return labels

    @classmethod
    def open(cls, store: ObjectStore, prefix: str) -> "LabelSet":
        """Open the set that lies at `prefix` by its own description.

        Raises:
            ObjectMissingError, BadRecordError: there is no description, or none that can be read.
            ForeignLabelsError: it is that of other labels.
        """
        key = f"{prefix}/labelset.json"
        record = read_record(store, key, LabelSetRecord)
        if record.prefix != prefix:
            raise ForeignLabelsError(f"{store.uri}/{key}", record.prefix, prefix)
        return cls(store, record)

    def check_description(self) -> None:
        """Compare the description in the store, if there is one, with ours; labels may have been copied or moved there.

        Raises:
            ForeignLabelsError: the description that is there is of other labels.
        """
        if self.store.exists(self._description_key):
            found = read_record(self.store, self._description_key, LabelSetRecord)
            if found.identity != self.identity:
                where = f"{self.store.uri}/{self._description_key}"
                raise ForeignLabelsError(
                    where, f"{found.teacher}-{found.identity}", f"{self.record.teacher}-{self.identity}"
                )

    def restore_description(self) -> None:
        """Write the description over one that cannot be read, or is of other labels."""
        overwrite_record(self.store, self._description_key, self.record)

    def encode(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        """Return the bytes of a shard with exactly the set's columns."""
        assert columns_of(arrays) == self.record.columns, "outputs are checked before they are encoded"  # noqa: S101
        return encode_shard(arrays, compression=self.record.compression)

    def commit(self, number: int, body: bytes, *, rows: int, statistics: Mapping[str, float]) -> Commit:
        """Publish an encoded shard and return the record that counts: ours, or that of whoever was first."""
        key = self._commit_key(number)
        commit = self._written(number, body, rows=rows, statistics=statistics)
        return self._checked(publish_record(self.store, key, commit), number, key)

    def remember(self, commit: Commit) -> None:
        """Take a record that a writer has answered with, so that sealing need not read it again."""
        self._commits[commit.number] = self._checked(commit, commit.number, self._commit_key(commit.number))

    def committed(self, number: int) -> Commit | None:
        """Return the record of shard `number`, or None while it is not committed."""
        key = self._commit_key(number)
        if number not in self._commits:
            with suppress(ObjectMissingError):
                self._commits[number] = self._checked(read_record(self.store, key, Commit), number, key)
        return self._commits.get(number)

    def commits(self) -> tuple[Commit, ...]:
        """Return the records of all committed shards in the order of their numbers."""
        if self.is_sealed():
            return self.load_manifest().commits
        found = (self.committed(number) for number in sorted(self.committed_numbers()))
        return tuple(commit for commit in found if commit is not None)

    def committed_numbers(self) -> set[int]:
        """Return the numbers of all committed shards, from one listing."""
        keys = (stat.key.removeprefix(f"{self._prefix}/") for stat in self.store.list(f"{self._prefix}/commits/"))
        return {int(match[1]) for key in keys if (match := _COMMIT_KEY.fullmatch(key))}

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Return the columns of a committed shard, verified; `[rows, *shape]` each, read-only."""
        commit = self._commit_of(number)
        key = self._data_key(commit.digest)
        body = self._fetch(self.store, key, digest=commit.digest, num_bytes=commit.num_bytes)
        return decode_shard(body, self.record.columns, rows=commit.rows, where=f"{self.store.uri}/{key}")

    def put_back(self, body: bytes) -> None:
        """Write the data of a committed shard again, over whatever lies under its digest."""
        self.store.put(self._data_key(digest_of(body)), body)

    def replace(self, number: int, body: bytes, *, rows: int, statistics: Mapping[str, float]) -> None:
        """Commit a shard that cannot be read anew: its record changes, and its line of the seal, and nothing else.

        One of two exceptions to the rule that records last; the other is `withdraw`. While the seal is the old one
        the shard is as broken as it was, and whoever is killed there replaces it again.
        """
        commit = self._written(number, body, rows=rows, statistics=statistics)
        overwrite_record(self.store, self._commit_key(number), commit)
        if sealed := self.sealed_commits():
            commits = tuple(commit if it.number == number else it for it in sealed)
            manifest = Manifest(labelset=self.identity, commits=commits)
            overwrite_record(self.store, manifest_key(self.record), manifest)
        self._commits.clear()

    def withdraw(self, numbers: Collection[int]) -> None:
        """Take commits back, and the seal with them: the next run labels these shards, and all others stay."""
        for commit in self.sealed_commits():
            if commit.number not in numbers:  # the seal repeats the records, and may have outlived them
                overwrite_record(self.store, self._commit_key(commit.number), commit)
        for number in numbers:
            self.store.delete(self._commit_key(number))
        self.store.delete(manifest_key(self.record))
        self._commits.clear()

    def read_commits(self, numbers: Iterable[int]) -> None:
        """Read the records of committed shards side by side, before sealing: on S3 each takes a round trip."""
        for_each(self._commit_of, (number for number in numbers if number not in self._commits), num_threads=_READERS)

    def is_sealed(self) -> bool:
        """Return whether the manifest exists."""
        return self.store.exists(manifest_key(self.record))

    def sealed_commits(self) -> tuple[Commit, ...]:
        """Return the records that the seal repeats; none if there is no seal, or if it cannot be read."""
        try:
            return self.load_manifest().commits if self.is_sealed() else ()
        except DataError:
            return ()

    def seal(self, num_shards: int) -> Manifest:
        """Write the manifest of a set whose shards are all committed; anyone may, the first one counts.

        Raises:
            ObjectMissingError: a shard is not committed.
            ForeignLabelsError: there is a manifest, and it is of other labels.
        """
        commits = tuple(self._commit_of(number) for number in range(num_shards))
        manifest = Manifest(labelset=self.identity, commits=commits)
        return self._checked_manifest(publish_record(self.store, manifest_key(self.record), manifest))

    def load_manifest(self) -> Manifest:
        """Read the seal; afterwards no commit record has to be read one by one."""
        manifest = self._checked_manifest(read_record(self.store, manifest_key(self.record), Manifest))
        self._commits = dict(enumerate(manifest.commits))
        return manifest

    def _written(self, number: int, body: bytes, *, rows: int, statistics: Mapping[str, float]) -> Commit:
        """Put the data, and return the record that is to name it."""
        digest = digest_of(body)
        self.store.put(self._data_key(digest), body)
        return Commit(
            labelset=self.identity,
            number=number,
            rows=rows,
            num_bytes=len(body),
            digest=digest,
            columns=self.record.columns,
            statistics=dict(statistics),
        )

    def _commit_of(self, number: int) -> Commit:
        commit = self.committed(number)
        if commit is None:
            raise ObjectMissingError(self.store.uri, self._commit_key(number))
        return commit

    def _checked_manifest(self, manifest: Manifest) -> Manifest:
        key = manifest_key(self.record)
        if manifest.labelset != self.identity:
            raise ForeignLabelsError(f"{self.store.uri}/{key}", manifest.labelset, self.identity)
        for number, commit in enumerate(manifest.commits):
            self._checked(commit, number, key)
        return manifest

    def _checked(self, commit: Commit, number: int, key: str) -> Commit:
        where = f"{self.store.uri}/{key}"
        if commit.labelset != self.identity:
            raise ForeignLabelsError(where, commit.labelset, self.identity)
        if commit.number != number or commit.columns != self.record.columns:
            raise BadRecordError(where, f"it describes shard {commit.number} with {commit.columns}, not {number}")
        return commit

    @property
    def _description_key(self) -> str:
        return f"{self.record.prefix}/labelset.json"

    def _commit_key(self, number: int) -> str:
        return f"{self._prefix}/commits/{number:08d}.json"

    def _data_key(self, digest: str) -> str:
        return f"{self._prefix}/data/{digest}.arrow"


def manifest_key(record: LabelSetRecord) -> str:
    """Return the key of the seal."""
    return f"{record.prefix}/manifest.json"
