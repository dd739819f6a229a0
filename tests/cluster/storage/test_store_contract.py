"""What every store promises: the same claims about a directory, moto and Ceph's RADOS gateway."""

import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from cluster.storage.open import open_store
from cluster.storage.probe import check_writable
from cluster.storage.protocol import ObjectMissingError, ObjectStore
from tests.fixtures.ceph import PAGE_LENGTH

NUM_RACERS = 16


def keys_in(store: ObjectStore, prefix: str = "") -> list[str]:
    return [stat.key for stat in store.list(prefix)]


@pytest.mark.parametrize("body", [b"", b"one", random.Random(0).randbytes(8 << 20)], ids=["empty", "small", "8 MiB"])
def test_what_was_put_is_what_is_read(store: ObjectStore, body: bytes) -> None:
    store.put("a/b.bin", body)

    assert store.get("a/b.bin") == body
    assert store.exists("a/b.bin")
    assert [(stat.key, stat.num_bytes) for stat in store.list("")] == [("a/b.bin", len(body))]


@pytest.mark.parametrize("body", [b"", b"one", random.Random(0).randbytes(8 << 20)], ids=["empty", "small", "8 MiB"])
def test_what_was_put_if_absent_is_what_is_read(store: ObjectStore, body: bytes) -> None:
    assert store.put_if_absent("a", body)

    assert store.get("a") == body


def test_a_memoryview_is_written_like_bytes(store: ObjectStore) -> None:
    body = memoryview(b"0123456789")[2:5]
    store.put("put", body)
    store.put_if_absent("put_if_absent", body)

    assert store.get("put") == store.get("put_if_absent") == b"234"


def test_put_replaces_what_was_there(store: ObjectStore) -> None:
    store.put("a", b"a longer body")
    store.put("a", b"short")

    assert store.get("a") == b"short"


def test_bytes_read_before_an_overwrite_stay_as_they_were(store: ObjectStore) -> None:
    store.put("a", b"before")
    read = store.get("a")
    store.put("a", b"after")
    store.delete("a")

    assert read == b"before"


def test_bytes_read_cannot_be_changed(store: ObjectStore) -> None:
    store.put("a", b"before")

    assert store.get("a").readonly


def test_the_second_conditional_write_is_refused_and_changes_nothing(store: ObjectStore) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")

    assert store.get("a") == b"first"


def test_a_conditional_write_respects_an_unconditional_one(store: ObjectStore) -> None:
    store.put("a", b"")

    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b""


def test_a_deleted_key_can_be_written_conditionally_again(store: ObjectStore) -> None:
    store.put_if_absent("a", b"first")
    store.delete("a")

    assert store.put_if_absent("a", b"second")
    assert store.get("a") == b"second"


# Without moto, which checks before it writes: it would let two racers win, by no fault of the store.
@pytest.mark.parametrize("store", ["directory", "ceph"], indirect=True)
def test_of_racing_threads_exactly_one_writes(store: ObjectStore) -> None:
    start = threading.Barrier(NUM_RACERS)

    def race(key: str, racer: int) -> bool:
        start.wait()
        return store.put_if_absent(key, str(racer).encode())

    with ThreadPoolExecutor(NUM_RACERS) as pool:
        for key in ("race/0", "race/1", "race/2", "race/3", "race/4"):
            wins = list(pool.map(race, [key] * NUM_RACERS, range(NUM_RACERS)))
            assert sum(wins) == 1
            assert store.get(key) == str(wins.index(True)).encode()


def test_a_missing_object_is_an_error_that_names_it(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissingError) as caught:
        store.get("labels/missing.json")

    assert store.uri in str(caught.value)
    assert "labels/missing.json" in str(caught.value)


def test_a_missing_object_does_not_exist(store: ObjectStore) -> None:
    store.put("a/b", b"")

    assert not store.exists("c")
    assert not store.exists("a")
    assert not store.exists("a/b/c")


def test_deleting_is_final_and_can_be_repeated(store: ObjectStore) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    store.delete("a/b/c")

    assert not store.exists("a/b")
    assert keys_in(store) == []


def test_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    assert keys_in(store) == []
    assert keys_in(store, "no/such/prefix/") == []


def test_a_listing_is_sorted_by_key(store: ObjectStore) -> None:
    keys = ["b", "a/b", "a.b", "a-b/c", "a/B", "a_b", "a/b0/c", "a/b-0", "a0", "B"]
    for key in keys:
        store.put(key, b"")

    assert keys_in(store) == sorted(keys)


def test_a_prefix_selects_what_is_below_it_and_no_namesakes(store: ObjectStore) -> None:
    for key in ("a/b", "a/c/d", "ab/c", "a-b", "b/a/b"):
        store.put(key, b"")

    assert keys_in(store, "a/") == ["a/b", "a/c/d"]
    assert keys_in(store, "a/c/") == ["a/c/d"]
    assert keys_in(store, "a/b/") == []


def test_a_listing_says_when_an_object_was_written(store: ObjectStore) -> None:
    store.put("a", b"")
    (stat,) = store.list("")

    assert abs(datetime.fromtimestamp(stat.modified_s, UTC) - datetime.now(UTC)) < timedelta(hours=1)


@pytest.mark.parametrize(
    ("store", "num_keys"),
    [("directory", 1_001), ("moto", 1_001), ("ceph", 2 * PAGE_LENGTH + 1)],
    indirect=["store"],
)
def test_a_listing_longer_than_a_page_is_whole(store: ObjectStore, num_keys: int) -> None:
    keys = [f"commits/{number:08}.json" for number in range(num_keys)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"{}"), keys))

    assert keys_in(store, "commits/") == keys


def test_a_used_store_can_be_sent_to_another_process(store: ObjectStore) -> None:
    store.put("a", b"x")
    sent = pickle.loads(pickle.dumps(store))

    assert sent.uri == store.uri
    assert sent.get("a") == b"x"


def test_the_address_of_a_store_opens_it_again(store: ObjectStore) -> None:
    store.put("a", b"x")
    again = open_store(store.uri)

    assert again.uri == store.uri
    assert again.get("a") == b"x"


def test_every_implementation_is_an_object_store(store: ObjectStore) -> None:
    assert isinstance(store, ObjectStore)


def test_the_probe_accepts_the_store_and_leaves_nothing(store: ObjectStore) -> None:
    check_writable(store)

    assert keys_in(store) == []
