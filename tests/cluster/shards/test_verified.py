"""Bytes are compared with their record before anyone looks into them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from cluster.identity import digest_of
from cluster.shards.encoding import encode_shard
from cluster.shards.verified import ShardCorruptError, fetch_verified
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError

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
