"""Bytes are compared with their record before anyone looks into them."""

import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cluster.identity import digest_of
from cluster.shards.encoding import encode_shard
from cluster.shards.verified import CheckedFiles, ShardCorruptError, fetch_verified
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import FileStamp, ObjectMissingError

KEY = "labels/x/data/y.arrow"
BODY = encode_shard({"logits": np.random.default_rng(0).standard_normal((64, 10)).astype(np.float16)})


def fetch(store: DirectoryStore) -> memoryview:
    return fetch_verified(store, KEY, digest=digest_of(BODY), num_bytes=len(BODY))


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore(tmp_path)
    store.put(KEY, BODY)
    return store


def test_undamaged_bytes_are_returned(store: DirectoryStore) -> None:
    assert fetch(store) == BODY


def test_every_flipped_bit_is_noticed(store: DirectoryStore, tmp_path: Path) -> None:
    bits = np.random.default_rng(1).choice(len(BODY) * 8, size=500, replace=False)

    for bit in bits:
        damaged = bytearray(BODY)
        damaged[bit // 8] ^= 1 << (bit % 8)
        (tmp_path / KEY).write_bytes(damaged)
        with pytest.raises(ShardCorruptError):
            fetch(store)


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"\0", b"", BODY[::-1], bytes(len(BODY))])
def test_other_bytes_are_refused_with_what_was_found_and_expected(
    store: DirectoryStore, tmp_path: Path, body: bytes
) -> None:
    (tmp_path / KEY).write_bytes(body)

    with pytest.raises(ShardCorruptError) as refusal:
        fetch(store)

    same_length = len(body) == len(BODY)
    assert str(refusal.value).startswith(f"{tmp_path}/{KEY}")
    assert (digest_of(body) if same_length else f"{len(body)} bytes") in str(refusal.value)
    assert (digest_of(BODY) if same_length else f"{len(BODY)} bytes") in str(refusal.value)
    assert refusal.value.exit_code == 7
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


def test_a_missing_object_is_named(store: DirectoryStore) -> None:
    store.delete(KEY)

    with pytest.raises(ObjectMissingError, match=KEY):
        fetch(store)


class StampedStore(DirectoryStore):
    """A store that says of its one object whatever the test wants it to say."""

    def __init__(self, body: bytes, stamp: FileStamp) -> None:
        super().__init__(Path("/nowhere"))
        self.body, self.stamp = body, stamp

    def get_stamped(self, key: str) -> tuple[memoryview, FileStamp]:
        return memoryview(self.body), self.stamp


STAMP = FileStamp(device=1, inode=2, num_bytes=len(BODY), modified_ns=3, changed_ns=4)
OTHER = bytes(len(BODY))


def is_hashed(store: DirectoryStore, checked: CheckedFiles) -> bool:
    """Return whether the digest is compared: of `OTHER` bytes only that can tell."""
    try:
        fetch_verified(store, KEY, digest=digest_of(BODY), num_bytes=len(BODY), checked=checked)
    except ShardCorruptError:
        return True
    return False


def test_a_file_is_hashed_once() -> None:
    store, checked = StampedStore(BODY, STAMP), CheckedFiles()
    assert not is_hashed(store, checked)

    store.body = OTHER

    assert not is_hashed(store, checked)
    assert is_hashed(store, CheckedFiles())


@pytest.mark.parametrize("field", FileStamp._fields)
def test_any_change_of_the_stamp_has_the_file_hashed_again(field: str) -> None:
    store, checked = StampedStore(BODY, STAMP), CheckedFiles()
    assert not is_hashed(store, checked)

    store.body, store.stamp = OTHER, STAMP._replace(**{field: 9})

    assert is_hashed(store, checked)


def test_a_file_that_was_young_when_it_was_hashed_is_hashed_again() -> None:
    in_a_century_ns = 4_900_000_000 * 10**9
    store, checked = StampedStore(BODY, STAMP._replace(changed_ns=in_a_century_ns)), CheckedFiles()
    assert not is_hashed(store, checked)

    store.body = OTHER

    assert is_hashed(store, checked)


def test_a_digest_of_other_bytes_is_not_taken_for_checked() -> None:
    store, checked = StampedStore(BODY, STAMP), CheckedFiles()
    assert not is_hashed(store, checked)

    with pytest.raises(ShardCorruptError):
        fetch_verified(store, KEY, digest=digest_of(OTHER), num_bytes=len(BODY), checked=checked)
    with pytest.raises(ShardCorruptError):
        fetch_verified(store, KEY, digest=digest_of(BODY), num_bytes=len(BODY) - 1, checked=checked)


def test_what_was_damaged_is_not_remembered_as_checked() -> None:
    store, checked = StampedStore(OTHER, STAMP), CheckedFiles()

    assert [is_hashed(store, checked) for _ in range(2)] == [True, True]


def test_of_more_files_than_are_remembered_the_first_is_hashed_again() -> None:
    stores = [StampedStore(BODY, STAMP._replace(inode=inode)) for inode in range(4)]
    checked = CheckedFiles(limit=3)
    assert not any(is_hashed(store, checked) for store in stores)

    for store in stores:
        store.body = OTHER

    assert [is_hashed(store, checked) for store in stores] == [True, False, False, False]


def test_threads_share_what_was_checked() -> None:
    stores = [StampedStore(BODY, STAMP._replace(inode=inode)) for inode in range(64)]
    checked = CheckedFiles(limit=48)
    with ThreadPoolExecutor(8) as threads:
        assert not any(threads.map(lambda store: is_hashed(store, checked), stores * 20))

    for store in stores:
        store.body = OTHER

    assert sum(is_hashed(store, checked) for store in stores) == 16


def overwrite(path: Path) -> None:
    before = path.stat()
    path.write_bytes(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a careless copy would


def exchange(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(OTHER)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, len(BODY) - 1)


@pytest.mark.parametrize("damage", [overwrite, exchange, truncate])
def test_a_file_that_is_damaged_after_it_was_checked_is_refused(
    store: DirectoryStore, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path, checked = tmp_path / KEY, CheckedFiles(settled_s=0)
    assert not is_hashed(store, checked)
    wait_for_the_next_tick(tmp_path, path.stat().st_ctime_ns)

    damage(path)

    assert is_hashed(store, checked)


def wait_for_the_next_tick(folder: Path, since_ns: int) -> None:
    """Return when a write is given a later time than `since_ns`: file systems count in ticks of milliseconds."""
    clock = folder / "clock"
    clock.touch()
    while clock.stat().st_ctime_ns <= since_ns:
        clock.touch()
