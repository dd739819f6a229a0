"""Protocols with one line wrong, each as somebody might write it. A simulation that lets one pass is worth nothing."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from cluster.shards.commits import Commit, Manifest
from cluster.shards.encoding import decode_shard
from cluster.shards.garbage import collect_garbage
from cluster.shards.labelset import LabelSet, LabelSetRecord, manifest_key
from cluster.shards.records import publish_record
from cluster.storage.protocol import ObjectStat, ObjectStore, StoreUnreachableError
from tests.simulation.jobs import Code


class _Passing:
    """Hands everything on."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.uri = store, store.uri

    def get(self, key: str) -> memoryview:
        return self.store.get(key)

    def put(self, key: str, body: bytes | memoryview) -> None:
        self.store.put(key, body)

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        return self.store.put_if_absent(key, body)

    def exists(self, key: str) -> bool:
        return self.store.exists(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)


class _Replacing(_Passing):
    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        self.store.put(key, body)
        return True


class _SelfAssured(_Passing):
    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        self.store.put_if_absent(key, body)
        return True


class _RecordFirst(_Passing):
    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._waiting: list[tuple[str, bytes | memoryview]] = []

    def put(self, key: str, body: bytes | memoryview) -> None:
        self._waiting.append((key, body))

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        is_ours = self.store.put_if_absent(key, body)
        while self._waiting:
            self.store.put(*self._waiting.pop())
        return is_ours


class CommitsByReplacing(LabelSet):
    """Commits by a plain put."""

    def __init__(self, store: ObjectStore, record: LabelSetRecord) -> None:
        super().__init__(_Replacing(store), record)


class TakesDefeatForVictory(LabelSet):
    """Does not read the winner's record."""

    def __init__(self, store: ObjectStore, record: LabelSetRecord) -> None:
        super().__init__(_SelfAssured(store), record)


class CommitsBeforeData(LabelSet):
    """Writes the record first."""

    def __init__(self, store: ObjectStore, record: LabelSetRecord) -> None:
        super().__init__(_RecordFirst(store), record)


class TakesUnknownForFailed(LabelSet):
    """Cleans up behind a commit whose answer it did not get."""

    def commit(self, number: int, body: bytes, *, rows: int, statistics: Mapping[str, float]) -> Commit:
        try:
            return super().commit(number, body, rows=rows, statistics=statistics)
        except StoreUnreachableError:
            self.store.delete(self._data_key(_digest(body)))
            raise


class CleansUpAfterDefeat(LabelSet):
    """Deletes its own data when another writer was first, who may have written the same bytes."""

    def commit(self, number: int, body: bytes, *, rows: int, statistics: Mapping[str, float]) -> Commit:
        commit = super().commit(number, body, rows=rows, statistics=statistics)
        if commit.statistics != dict(statistics):
            self.store.delete(self._data_key(_digest(body)))
        return commit


class SealsWhatThereIs(LabelSet):
    """Seals without looking whether every shard is committed."""

    def committed_numbers(self) -> set[int]:
        found = super().committed_numbers()
        if found:
            self.seal(max(found) + 1)
        return found

    def seal(self, num_shards: int) -> Manifest:
        commits = tuple(commit for number in range(num_shards) if (commit := self.committed(number)))
        manifest = Manifest(labelset=self.identity, commits=commits)
        return publish_record(self.store, manifest_key(self.record), manifest)


class SealsByReplacing(LabelSet):
    """Seals from what it believes, over whatever is there."""

    def seal(self, num_shards: int) -> Manifest:
        commits = tuple(self._commits[number] for number in sorted(self._commits))
        manifest = Manifest(labelset=self.identity, commits=commits)
        return publish_record(_Replacing(self.store), manifest_key(self.record), manifest)


class ReadsUnverified(LabelSet):
    """Parses a shard without comparing its digest."""

    def read(self, number: int) -> dict[str, np.ndarray]:
        commit = self._commit_of(number)
        body = self.store.get(self._data_key(commit.digest))
        return decode_shard(body, self.record.columns, rows=commit.rows, where="unverified")


def _digest(body: bytes) -> str:
    from cluster.identity import digest_of

    return digest_of(body)


MUTANTS: dict[str, Code] = {
    mutant.__name__: Code(label_set=mutant)
    for mutant in (
        CommitsByReplacing,
        TakesDefeatForVictory,
        CommitsBeforeData,
        TakesUnknownForFailed,
        CleansUpAfterDefeat,
        SealsWhatThereIs,
        SealsByReplacing,
        ReadsUnverified,
    )
} | {"CollectsFromGrowingSets": Code(collect_garbage=partial(collect_garbage, even_incomplete=True))}
