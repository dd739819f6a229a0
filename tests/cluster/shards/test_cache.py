"""Shards of a remote store on the local disk: what is asked of the store, what is kept, and that nothing is trusted."""

import logging
import math
import mmap
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.identity import digest_of
from cluster.shards import cache as cache_module
from cluster.shards.cache import CacheSizeError, ShardCache, fetch_for, gives_files, readings_until_cheap
from cluster.shards.verified import ShardCorruptError, fetch_verified
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError
from cluster.storage.s3 import S3Store
from students.batches import TrainingData
from students.objectives.kl import KLTerm
from students.task import Execution
from tests.fixtures.memory_store import MemoryStore
from tests.fixtures.s3_servers import S3Bucket
from tests.fixtures.tiny import numbered, targets, task, write_labels, write_rows

HOUR_S = 3600
BODIES = [bytes([number]) * 1000 for number in range(6)]

FETCH_ALL = """
import sys
from pathlib import Path
from cluster.shards.cache import ShardCache
from cluster.storage.open import open_store

store, cache = open_store(sys.argv[1]), ShardCache(Path(sys.argv[2]), max_bytes=3000)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    for line in sys.argv[3:]:
        key, digest = line.split("=")
        assert len(cache(store, key, digest=digest, num_bytes=1000)) == 1000
"""


@dataclass(frozen=True)
class CountedStore(S3Store):
    """A bucket that notes which objects are read."""

    read: list[str] = field(default_factory=list)

    def get(self, key: str) -> memoryview:
        self.read.append(key)
        return super().get(key)


@pytest.fixture
def store(moto_bucket: S3Bucket) -> CountedStore:
    store = CountedStore(moto_bucket.name)
    for number, body in enumerate(BODIES):
        store.put(f"shards/{number}", body)
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "shards"


def fetch(cache: ShardCache, store: CountedStore, number: int) -> bytes:
    body = BODIES[number]
    return bytes(cache(store, f"shards/{number}", digest=digest_of(body), num_bytes=len(body)))


def kept(folder: Path) -> set[int]:
    return {number for number, body in enumerate(BODIES) if (folder / digest_of(body)).exists()}


def last_used(folder: Path, number: int, *, hours_ago: float) -> None:
    then = time.time() - hours_ago * HOUR_S
    os.utime(folder / digest_of(BODIES[number]), (then, then))


def test_what_was_fetched_once_is_not_asked_for_again(store: CountedStore, folder: Path) -> None:
    for _epoch in range(3):
        cache = ShardCache(folder, max_bytes=10**6)  # as of a process of its own
        assert [fetch(cache, store, number) for number in range(6)] == BODIES

    assert store.read == [f"shards/{number}" for number in range(6)]


def test_the_second_epoch_of_a_training_downloads_nothing(
    moto_bucket: S3Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COFFEY_CACHE_DIR", str(folder))
    monkeypatch.setenv("COFFEY_CACHE_BYTES", "1000000")
    store = CountedStore(moto_bucket.name)
    dataset = write_rows(store, numbered(100), "a")
    labels = write_labels(store, dataset, np.arange(300).reshape(100, 3))
    training = task(dataset, dataset, epochs=5, targets=targets(labels), objective=(KLTerm(),))
    data = TrainingData(store, training, Execution(), rank=0, world_size=1)
    store.read.clear()

    rows = [row for batch in data.batches(first_step=0, device=torch.device("cpu")) for row in batch.inputs[:, 0]]

    assert sorted(int(row) for row in rows) == sorted([*range(100)] * 5)
    shards = [key for key in store.read if key.endswith(".arrow")]
    assert len(shards) == len(set(shards)) == 2 * len(dataset.shards)


def test_the_least_recently_used_make_room(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder, max_bytes=3999)
    for number in range(3):
        fetch(cache, store, number)
        last_used(folder, number, hours_ago=9 - number)

    fetch(cache, store, 0)
    fetch(cache, store, 3)

    assert kept(folder) == {0, 2, 3}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3999


def test_the_folder_is_looked_at_seldom_and_never_too_large_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    looks, look = [], cache_module._files_by_use
    monkeypatch.setattr(cache_module, "_files_by_use", lambda folder: looks.append(0) or look(folder))
    shards = [number.to_bytes(2, "big") * 500 for number in range(800)]
    folder, max_bytes = tmp_path / "cache", 768_000  # a 256th of which is three shards
    caches = [ShardCache(folder, max_bytes=max_bytes) for _process in range(2)]
    folder.mkdir()
    for body in shards[:740]:
        (folder / digest_of(body)).write_bytes(body)

    for number, body in enumerate(shards[740:]):
        store.put("shards/any", body)
        caches[number % 2](store, "shards/any", digest=digest_of(body), num_bytes=1000)

    assert max_bytes - 6000 <= sum(path.stat().st_size for path in folder.iterdir()) <= max_bytes + 6000
    assert all((folder / digest_of(body)).exists() for body in shards[740:])
    assert len(looks) <= 60 / 3
    assert [cache.keeps_all for cache in caches] == [False, False]


def test_what_killed_processes_left_makes_room_and_files_of_others_do_not(store: CountedStore, folder: Path) -> None:
    folder.mkdir(parents=True)
    left, foreign = folder / f".partial-{'0' * 32}", folder / "thesis.tex"
    for path in (left, foreign):
        path.write_bytes(bytes(1500))
        os.utime(path, (0, 0))

    for number in range(3):
        fetch(ShardCache(folder, max_bytes=2000), store, number)

    assert kept(folder) == {1, 2}
    assert foreign.exists()
    assert not left.exists()


def test_what_is_larger_than_the_cache_is_not_kept_and_drives_nothing_out(store: CountedStore, folder: Path) -> None:
    fetch(ShardCache(folder, max_bytes=1000), store, 0)

    assert fetch(ShardCache(folder, max_bytes=999), store, 1) == BODIES[1]

    assert kept(folder) == {0}


@pytest.mark.parametrize("damage", [b"", BODIES[0][:-1], BODIES[1]], ids=["empty", "cut short", "exchanged"])
def test_a_damaged_file_is_fetched_anew(store: CountedStore, folder: Path, damage: bytes) -> None:
    cache = ShardCache(folder, max_bytes=10**6)
    fetch(cache, store, 0)
    (folder / digest_of(BODIES[0])).write_bytes(damage)

    assert fetch(cache, store, 0) == fetch(cache, store, 0) == BODIES[0]

    assert store.read == ["shards/0", "shards/0"]


def test_damage_in_the_store_is_refused_and_not_kept(store: CountedStore, folder: Path) -> None:
    store.put("shards/0", BODIES[1])
    cache = ShardCache(folder, max_bytes=10**6)

    with pytest.raises(ShardCorruptError, match=rf"{store.uri}/shards/0"):
        fetch(cache, store, 0)
    store.delete("shards/0")
    with pytest.raises(ObjectMissingError):
        fetch(cache, store, 0)

    assert kept(folder) == set()


@pytest.mark.parametrize("obstacle", ["a file in its way", "a file above it"])
def test_a_folder_that_cannot_be_used_costs_one_line_and_no_error(
    store: CountedStore, folder: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = folder if obstacle == "a file in its way" else folder.parent
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("here first")
    cache = ShardCache(folder, max_bytes=10**6)

    with caplog.at_level(logging.WARNING):
        assert [fetch(cache, store, number) for number in (0, 1, 0)] == [BODIES[0], BODIES[1], BODIES[0]]

    assert store.read == ["shards/0", "shards/1", "shards/0"]
    (line,) = (record.getMessage() for record in caplog.records if record.name == "cluster.shards.cache")
    assert str(folder) in line


def test_processes_share_a_folder_that_is_too_small_for_all(store: CountedStore, folder: Path) -> None:
    shards = [f"shards/{number}={digest_of(body)}" for number, body in enumerate(BODIES)]
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH_ALL, store.uri, str(folder), *order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for order in (shards, shards[::-1])
    ]
    for reader in readers:
        assert reader.stdout
        assert reader.stdout.readline() == "ready\n"
    for reader in readers:
        assert reader.stdin
        reader.stdin.write("\n")
        reader.stdin.flush()

    assert [reader.wait(120) for reader in readers] == [0, 0]
    assert not list(folder.glob(".partial-*"))


def test_a_directory_needs_no_cache(tmp_path: Path) -> None:
    assert fetch_for(DirectoryStore(tmp_path)) is fetch_verified
    assert readings_until_cheap(fetch_verified) == 1
    assert gives_files(fetch_verified)


def test_what_is_kept_is_a_mapped_file_from_the_first_time_on(store: CountedStore, folder: Path) -> None:
    cache, digest = ShardCache(folder, max_bytes=3000), digest_of(BODIES[0])
    assert gives_files(cache)
    for _ in range(2):
        assert isinstance(cache(store, "shards/0", digest=digest, num_bytes=1000).obj, mmap.mmap)


def test_a_cache_without_room_gives_no_files(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder, max_bytes=0)
    assert not gives_files(cache)
    assert readings_until_cheap(cache) == math.inf
    fetch(cache, store, 0)


def test_a_cache_that_had_to_let_something_go_promises_nothing(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder, max_bytes=2000)
    for number in range(2):
        fetch(cache, store, number)
    assert readings_until_cheap(cache) == 2

    fetch(cache, store, 2)

    assert readings_until_cheap(cache) == math.inf


@pytest.mark.parametrize("max_bytes", [0, 999])
def test_a_cache_too_small_for_a_shard_promises_nothing(store: CountedStore, folder: Path, max_bytes: int) -> None:
    cache = ShardCache(folder, max_bytes=max_bytes)

    fetch(cache, store, 0)

    assert readings_until_cheap(cache) == math.inf


def test_no_bytes_means_no_cache(
    store: CountedStore, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COFFEY_CACHE_DIR", str(folder))
    monkeypatch.setenv("COFFEY_CACHE_BYTES", "0")

    for _ in range(2):
        fetch_for(store)(store, "shards/0", digest=digest_of(BODIES[0]), num_bytes=1000)

    assert len(store.read) == 2
    assert not folder.exists()
    assert "cluster.shards.cache" not in {record.name for record in caplog.records}


def test_by_default_shards_lie_below_the_users_caches(
    store: CountedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COFFEY_CACHE_DIR", raising=False)
    monkeypatch.delenv("COFFEY_CACHE_BYTES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    fetch_for(store)(store, "shards/0", digest=digest_of(BODIES[0]), num_bytes=1000)

    assert kept(tmp_path / "coffey" / "shards") == {0}


@pytest.mark.parametrize("found", ["20GB", "-1", "1e9"])
def test_a_size_that_is_no_number_of_bytes_is_refused(
    store: CountedStore, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    monkeypatch.setenv("COFFEY_CACHE_BYTES", found)

    with pytest.raises(CacheSizeError, match=found) as refusal:
        fetch_for(store)

    assert refusal.value.exit_code == 3
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)
