"""A data set: whole or absent, the same rows in the same order, and never another one under its name."""

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.shards.compression import Compression
from cluster.shards.dataset import Dataset, DatasetRecord, dataset_key, shard_key, write_dataset
from cluster.shards.encoding import ShardFormatError, encode_shard
from cluster.shards.records import BadRecordError
from cluster.shards.verified import ShardCorruptError
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError, ObjectStore
from tests.fixtures.crashing_store import CrashingStore, Killed

IDENTITY = "0123456789abcdef"
CLASSES = ("cat", "dog", "emu")
ROWS = 23
ARRAYS = {
    "image": np.random.default_rng(0).integers(0, 256, (ROWS, 4, 3), dtype=np.uint8),
    "label": np.arange(ROWS, dtype=np.int32) % 4 - 1,
    "row": np.arange(ROWS, dtype=np.int32)[::-1].copy(),
}


def write(store: ObjectStore, *, identity: str = IDENTITY, compression: Compression = "none") -> DatasetRecord:
    return write_dataset(store, ARRAYS, identity=identity, classes=CLASSES, shard_rows=5, compression=compression)


def read_back(store: ObjectStore) -> dict[str, np.ndarray]:
    shards = list(Dataset.open(store, IDENTITY))
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def assert_is_complete(store: ObjectStore) -> None:
    found = read_back(store)
    assert list(found) == list(ARRAYS)
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_rows_come_back_in_their_order(store: DirectoryStore, compression: Compression) -> None:
    write(store, compression=compression)

    assert_is_complete(store)


def test_the_record_tells_what_the_shards_hold(store: DirectoryStore) -> None:
    record = write(store)

    assert record == Dataset.open(store, IDENTITY).record
    assert [shard.rows for shard in record.shards] == [5, 5, 5, 5, 3]
    assert record.rows == ROWS
    assert record.labelled_rows == np.sum(ARRAYS["label"] >= 0)
    assert record.classes == CLASSES
    assert [(column.name, column.dtype, column.shape) for column in record.columns] == [
        ("image", "uint8", (4, 3)),
        ("label", "int32", ()),
        ("row", "int32", ()),
    ]
    sizes = [stat.num_bytes for stat in store.list(f"datasets/{IDENTITY}/") if stat.key.endswith(".arrow")]
    assert sizes == [shard.num_bytes for shard in record.shards]


@pytest.mark.parametrize("after_it", [False, True])
def test_a_writer_killed_anywhere_leaves_no_data_set_and_the_next_one_completes_it(
    tmp_path: Path, after_it: bool
) -> None:
    undisturbed = CrashingStore(DirectoryStore(tmp_path / "undisturbed"))
    write(undisturbed)

    for fatal in range(undisturbed.num_operations):
        store = DirectoryStore(tmp_path / str(fatal))
        with pytest.raises(Killed):
            write(CrashingStore(store, fatal=fatal, after_it=after_it))
        if not store.exists(dataset_key(IDENTITY)):
            with pytest.raises(ObjectMissingError, match=IDENTITY):
                Dataset.open(store, IDENTITY)
            write(store)
        assert_is_complete(store)


def test_shards_of_an_earlier_attempt_stay_even_if_ours_would_have_other_bytes(tmp_path: Path) -> None:
    # Compression stands for anything that changes bytes but not rows, such as another version of Arrow.
    undisturbed = CrashingStore(DirectoryStore(tmp_path / "undisturbed"))
    write(undisturbed, compression="zstd")

    for fatal in range(undisturbed.num_operations):
        store = DirectoryStore(tmp_path / str(fatal))
        with pytest.raises(Killed):
            write(CrashingStore(store, fatal=fatal, after_it=True), compression="zstd")
        before = {stat.key: bytes(store.get(stat.key)) for stat in store.list("datasets/")}

        write(store)

        assert before
        assert before.items() <= {stat.key: bytes(store.get(stat.key)) for stat in store.list("datasets/")}.items()
        assert_is_complete(store)


def test_a_second_writer_gets_the_record_of_the_first(store: DirectoryStore) -> None:
    first = write(store, compression="lz4")

    assert write(store) == first
    assert_is_complete(store)


def test_a_shard_left_by_something_else_is_not_adopted(store: DirectoryStore) -> None:
    others = {name: array[:5][::-1] for name, array in ARRAYS.items()}
    store.put(shard_key(IDENTITY, 0), encode_shard(others))

    with pytest.raises(ShardCorruptError, match=r"00000000\.arrow: found other values in image"):
        write(store)

    assert not store.exists(dataset_key(IDENTITY))


def test_a_shard_left_damaged_is_not_adopted(store: DirectoryStore) -> None:
    store.put(shard_key(IDENTITY, 2), b"half a sha")

    with pytest.raises(ShardFormatError, match=r"00000002\.arrow"):
        write(store)

    assert not store.exists(dataset_key(IDENTITY))


def test_a_shard_of_an_earlier_attempt_that_is_damaged_while_it_is_read_is_not_described(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    write(store)
    store.delete(dataset_key(IDENTITY))
    key = shard_key(IDENTITY, 0)
    damaged = bytearray(store.get(key))
    damaged[6] ^= 1  # between the magic bytes and the schema, where nobody looks
    assert encode_shard(Dataset(store, write(store)).read(0)) != damaged
    store.delete(dataset_key(IDENTITY))

    class DamagedOnce(CrashingStore):
        def get(self, key: str) -> memoryview:
            body = super().get(key)
            return memoryview(bytes(damaged)) if self.num_operations == 2 else body

    with pytest.raises(ShardCorruptError, match=r"00000000\.arrow: found other bytes at a second reading"):
        write(DamagedOnce(store))

    assert not store.exists(dataset_key(IDENTITY))
    write(store)
    assert_is_complete(store)


def test_a_record_copied_from_another_data_set_is_refused(store: DirectoryStore) -> None:
    write(store, identity="f" * 16)
    store.put(dataset_key(IDENTITY), store.get(dataset_key("f" * 16)))

    with pytest.raises(BadRecordError, match="describes the data set ffffffffffffffff, not 0123456789abcdef"):
        Dataset.open(store, IDENTITY)
    with pytest.raises(BadRecordError):
        write(store)


def test_exchanged_shards_are_refused(store: DirectoryStore) -> None:
    write(store)
    first, second = (bytes(store.get(shard_key(IDENTITY, number))) for number in (0, 1))
    store.put(shard_key(IDENTITY, 0), second)
    store.put(shard_key(IDENTITY, 1), first)

    for number in (0, 1):
        with pytest.raises(ShardCorruptError, match=rf"0000000{number}\.arrow"):
            Dataset.open(store, IDENTITY).read(number)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
        ({"identity": "../../etc"}, "identity"),
        ({"rows": 23}, "rows"),
        ({"columns": []}, "columns"),
        ({"columns": [{"name": "../x", "dtype": "uint8", "shape": []}]}, "columns.0.name"),
        ({"columns": [{"name": "x", "dtype": "float64", "shape": []}]}, "columns.0.dtype"),
        ({"columns": [{"name": "x", "dtype": "uint8", "shape": [0]}]}, "columns.0.shape.0"),
        ({"shards": [{"rows": 0, "num_bytes": 1, "digest": "a" * 64}]}, "shards.0.rows"),
        ({"shards": [{"rows": 1, "num_bytes": 1, "digest": "../" + "a" * 61}]}, "shards.0.digest"),
        ({"shards": [{"rows": 1, "num_bytes": 1, "digest": "A" * 64}]}, "shards.0.digest"),
        ({"shards": None}, "shards"),
    ],
)
def test_a_record_with_a_wrong_field_is_refused_and_the_field_named(
    store: DirectoryStore, change: dict[str, object], reason: str
) -> None:
    write(store)
    record = json.loads(bytes(store.get(dataset_key(IDENTITY))))
    del record["blake3"]
    store.put(dataset_key(IDENTITY), json.dumps(record | change).encode())

    with pytest.raises(BadRecordError) as refusal:
        Dataset.open(store, IDENTITY)

    assert str(refusal.value).startswith(f"{store.uri}/{dataset_key(IDENTITY)}: {reason}: ")
    assert refusal.value.exit_code == 7


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"{}", b"[" * 100_000])
def test_a_record_that_is_no_record_is_refused(store: DirectoryStore, body: bytes) -> None:
    store.put(dataset_key(IDENTITY), body)

    with pytest.raises(BadRecordError, match=r"dataset\.json"):
        Dataset.open(store, IDENTITY)


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0"])
def test_a_record_of_more_values_than_memory_should_hold_is_refused_unparsed(
    store: DirectoryStore, value: bytes
) -> None:
    store.put(dataset_key(IDENTITY), b'{"shards":[' + b",".join([value] * 4_000_000) + b"]}")

    with pytest.raises(BadRecordError, match=r"dataset\.json: it has up to \d+ values, and a record may have 4000000"):
        Dataset.open(store, IDENTITY)


def test_a_record_too_large_to_be_one_is_refused_unread(store: DirectoryStore, tmp_path: Path) -> None:
    write(store)
    with (tmp_path / dataset_key(IDENTITY)).open("r+b") as file:
        file.truncate(65 << 20)

    with pytest.raises(BadRecordError, match="bytes are more than a record may have"):
        Dataset.open(store, IDENTITY)
