"""Collecting garbage: what can never be named again goes, and whatever a slow writer might still name stays."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.identity import digest_of
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import HiddenConfig
from cluster.shards.dataset import write_dataset
from cluster.shards.garbage import DAY_S, Collection, collect_garbage
from cluster.shards.labelset import LabelSet, LabelSetRecord, manifest_key
from cluster.shards.schema import LABEL, Column
from cluster.shards.shared import publish_shared, read_shared
from cluster.storage.directory import DirectoryStore
from cluster.storage.open import open_store
from cluster.storage.probe import store_time_s
from cluster.storage.protocol import ObjectStat, ObjectStore, StoreUnreachableError
from tests.fixtures.crashing_store import CrashingStore, Killed
from tests.fixtures.s3_servers import S3Bucket

NUM_SHARDS, ROWS = 3, 4
DATASET = "d" * 16
RECORD = LabelSetRecord(
    teacher="wide",
    teacher_identity="1" * 16,
    dataset=DATASET,
    columns=(Column(name="logits", dtype="float16", shape=(3,)),),
)
LATER_S = 2 * DAY_S


def body_of(number: int, *, attempt: int = 0) -> bytes:
    logits = np.full((ROWS, 3), number + attempt / 16, np.float16)
    return LabelSet(DirectoryStore(Path("/none")), RECORD).encode({"logits": logits})


def data_key(body: bytes) -> str:
    return f"{RECORD.prefix}/data/{digest_of(body)}.arrow"


def label(store: ObjectStore, numbers: range) -> LabelSet:
    """Commit some shards of a data set of three, each after an attempt that lost the race and left its data."""
    arrays = {"image": np.zeros((NUM_SHARDS * ROWS, 2), np.uint8), LABEL: np.zeros(NUM_SHARDS * ROWS, np.int32)}
    write_dataset(store, arrays, identity=DATASET, classes=("a", "b"), shard_rows=ROWS, compression="none")
    labels = LabelSet.create(store, RECORD)
    for number in numbers:
        labels.commit(number, body_of(number), rows=ROWS, statistics={})
        store.put(data_key(lost := body_of(number, attempt=1)), lost)
    return labels


def collect(store: ObjectStore, *, later_s: float = LATER_S, **options: bool) -> Collection:
    """Collect as somebody would who comes back after two days."""
    return collect_garbage(store, now_s=store_time_s(store) + later_s, **options)


def keys(store: ObjectStore, prefix: str = "") -> set[str]:
    return {stat.key for stat in store.list(prefix)}


LOST = {data_key(body_of(number, attempt=1)) for number in range(NUM_SHARDS)}


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_from_a_complete_set_exactly_the_data_that_no_record_names_is_removed(
    store: DirectoryStore, is_sealed: bool
) -> None:
    labels = label(store, range(NUM_SHARDS))
    if is_sealed:
        labels.seal(NUM_SHARDS)
    before = keys(store)

    collection = collect(store)

    assert {garbage.key for garbage in collection.removed} == LOST
    assert collection.num_bytes == sum(len(body_of(number, attempt=1)) for number in range(NUM_SHARDS))
    assert keys(store) == before - LOST
    assert collection.kept == ()
    assert np.array_equal(LabelSet(store, RECORD).read(2)["logits"], np.full((ROWS, 3), 2, np.float16))
    assert collect(store) == Collection(removed=(), kept=())


def test_a_bucket_is_collected_by_its_own_clock_too(moto_bucket: S3Bucket) -> None:
    bucket = open_store(f"{moto_bucket.uri}/some/prefix")
    label(bucket, range(NUM_SHARDS)).seal(NUM_SHARDS)

    assert {garbage.key for garbage in collect(bucket).removed} == LOST
    assert keys(bucket, "probes/") == set()


def test_nothing_younger_than_the_grace_is_removed(store: DirectoryStore) -> None:
    label(store, range(NUM_SHARDS)).seal(NUM_SHARDS)
    before = keys(store)

    assert collect(store, later_s=DAY_S - 60).removed == ()
    assert collect(store, later_s=-DAY_S).removed == ()  # a store that a wrong clock wrote from the future
    assert keys(store) == before


def test_the_age_is_reckoned_by_the_clock_of_the_store(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    label(store, range(NUM_SHARDS)).seal(NUM_SHARDS)
    monkeypatch.setattr(time, "time", lambda: 4e9)

    assert collect_garbage(store, now_s=store_time_s(store)).removed == ()
    assert keys(store, "probes/") == set()


def test_a_dry_run_says_what_would_go_and_removes_nothing(store: DirectoryStore) -> None:
    label(store, range(NUM_SHARDS))
    before = keys(store)

    planned = collect(store, is_dry_run=True)

    assert keys(store) == before
    assert planned == collect(store)


def test_from_a_set_that_lacks_a_number_nothing_is_removed_unless_told(store: DirectoryStore) -> None:
    label(store, range(2))
    before = keys(store)

    (kept,) = collect(store).kept

    assert keys(store) == before
    assert (kept.labels, kept.objects) == (RECORD.prefix, 2)
    assert "may yet commit" in kept.reason
    assert len(collect(store, even_incomplete=True).removed) == 2


class Intruder:
    """A store to which something happens right before one of the operations that go through it."""

    def __init__(self, store: ObjectStore, moment: int, happen: Callable[[], None]) -> None:
        self._store, self._moment, self._happen = store, moment, happen
        self.uri, self.num_operations = store.uri, 0

    def __getattr__(self, name: str) -> Callable[..., object]:
        operation: Callable[..., object] = getattr(self._store, name)

        def counted(*arguments: object) -> object:
            if self.num_operations == self._moment:
                self._happen()
            self.num_operations += 1
            answer = operation(*arguments)
            return iter(list(answer)) if name == "list" else answer  # type: ignore[call-overload]

        return counted


@pytest.mark.parametrize("committed", range(NUM_SHARDS + 1))
def test_a_writer_that_wakes_up_at_any_moment_of_a_collection_keeps_the_data_that_it_commits(
    tmp_path: Path, committed: int
) -> None:
    slow, moment, num_moments = body_of(2, attempt=2), 0, 1
    while moment < num_moments:
        store = DirectoryStore(tmp_path / str(moment))
        label(store, range(committed))
        store.put(data_key(slow), slow)
        intruder = Intruder(store, moment, lambda store=store: commit_and_seal(store, slow))

        collect_garbage(intruder, now_s=store_time_s(store) + LATER_S)

        reader = LabelSet(store, RECORD)
        assert all(reader.read(commit.number) for commit in reader.commits())
        moment, num_moments = moment + 1, intruder.num_operations
    assert num_moments > 5


def commit_and_seal(store: ObjectStore, slow: bytes) -> None:
    """Do what is left to a zombie that put its data of number 2 long ago, and seal if that was the last number."""
    labels = LabelSet(PutLongAgo(store), RECORD)
    labels.commit(2, slow, rows=ROWS, statistics={})
    if labels.committed_numbers() == set(range(NUM_SHARDS)):
        labels.seal(NUM_SHARDS)


class PutLongAgo:
    """A store to which all unconditional writes were made long ago."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def put(self, key: str, body: bytes) -> None:
        assert key.startswith("labels/")

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.mark.parametrize("after_it", [False, True])
def test_a_collection_that_is_killed_anywhere_leaves_a_sound_store(tmp_path: Path, after_it: bool) -> None:
    undisturbed = DirectoryStore(tmp_path / "undisturbed")
    label(undisturbed, range(NUM_SHARDS)).seal(NUM_SHARDS)
    counting = CrashingStore(undisturbed)
    now_s = store_time_s(undisturbed) + LATER_S
    collect_garbage(counting, now_s=now_s)
    assert counting.num_operations > NUM_SHARDS

    for fatal in range(counting.num_operations):
        store = DirectoryStore(tmp_path / str(fatal))
        label(store, range(NUM_SHARDS)).seal(NUM_SHARDS)
        with pytest.raises(Killed):
            collect_garbage(CrashingStore(store, fatal=fatal, after_it=after_it), now_s=now_s + 600)

        collect_garbage(store, now_s=now_s + 600)

        assert keys(store) == keys(undisturbed)


DAMAGE: dict[str, Callable[[DirectoryStore], None]] = {
    "a record of a later version": lambda store: store.put(f"{RECORD.prefix}/heads.json", b"{}"),
    "no description": lambda store: store.delete(f"{RECORD.prefix}/labelset.json"),
    "a description of others": lambda store: store.put(
        f"{RECORD.prefix}/labelset.json", bytes(store.get(f"{RECORD.prefix}/labelset.json")).replace(b"1111", b"2222")
    ),
    "a seal that cannot be read": lambda store: store.put(manifest_key(RECORD), b"{"),
    "no seal, and a commit that cannot be read": lambda store: (
        store.delete(manifest_key(RECORD)),
        store.put(f"{RECORD.prefix}/commits/00000001.json", b"{"),
    )[0],
    "no seal, and no data set": lambda store: (
        store.delete(manifest_key(RECORD)),
        store.delete(f"datasets/{DATASET}/dataset.json"),
    )[0],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_nobody_can_say_what_is_named_nothing_is_removed(store: DirectoryStore, damage: str) -> None:
    label(store, range(NUM_SHARDS)).seal(NUM_SHARDS)
    DAMAGE[damage](store)
    before = keys(store)

    collection = collect(store, even_incomplete=True)

    assert collection.removed == ()
    assert "nobody can say" in collection.kept[0].reason
    assert keys(store) == before


def test_a_store_that_stops_answering_ends_the_collection(store: DirectoryStore) -> None:
    label(store, range(NUM_SHARDS)).seal(NUM_SHARDS)
    before = keys(store)

    class Silent(DirectoryStore):
        def exists(self, key: str) -> bool:
            raise StoreUnreachableError(self.uri, f"looking for {key}", "no answer")

    with pytest.raises(StoreUnreachableError):
        collect(Silent(Path(store.uri)))
    assert keys(store) == before


def test_what_killed_processes_left_is_removed_with_the_probes(store: DirectoryStore, tmp_path: Path) -> None:
    trained, running = "students/small-0-aaaaaaaaaaaaaaaa", "teachers/wide-bbbbbbbbbbbbbbbb"
    for prefix in (trained, running):
        store.put(f"{prefix}/checkpoints/000000000100.json", b"{}")
        store.put(f"{prefix}/checkpoints/000000000100-{'e' * 64}.pt", b"state")
    store.put(f"{trained}/trained.json", b"{}")
    store.put("probes/0", b"?")
    unfinished = tmp_path / "labels" / ".partial-0"
    unfinished.parent.mkdir()
    unfinished.write_bytes(b"half")

    collection = collect(store)

    kinds = [garbage.kind for garbage in collection.removed]
    assert kinds == ["checkpoint", "checkpoint", "probe", "unfinished file"]
    assert collection.removed[0].key.endswith(".json"), "a record never names bytes that are gone"
    assert keys(store) == {
        f"{trained}/trained.json",
        f"{running}/checkpoints/000000000100.json",
        f"{running}/checkpoints/000000000100-{'e' * 64}.pt",
    }
    assert not unfinished.exists()


def test_rounds_that_come_late_to_a_cohort_whose_record_is_written_are_removed_and_no_others(
    store: DirectoryStore,
) -> None:
    done, going = "a" * 16, "b" * 16
    for member, cohort in (("c" * 16, done), ("d" * 16, going)):
        for name in ("00000003.json", f"00000003-{'e' * 64}.safetensors", "alive"):
            store.put(f"students/s-peer-{member}/rounds/{cohort}/{name}", b"{}")
        store.put(f"students/s-peer-{member}/trained.json", b"{}")  # its own end says nothing of its peers
    store.put(f"students/s-{done}/trained.json", b"{}")

    collection = collect(store)

    assert {(garbage.kind, garbage.key.split("/")[1]) for garbage in collection.removed} == {
        ("round", f"s-peer-{'c' * 16}")
    }
    assert len(collection.removed) == 3
    assert collection.removed[0].key.endswith(".json")


def test_a_young_unfinished_file_may_be_written_right_now(store: DirectoryStore, tmp_path: Path) -> None:
    young, old = tmp_path / ".partial-young", tmp_path / ".partial-old"
    for path, age_s in ((young, 0), (old, LATER_S)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)

    (removed,) = collect(store, later_s=0).removed

    assert removed.key == ".partial-old"
    assert young.exists()


def test_strangers_in_the_store_are_left_alone(store: DirectoryStore, tmp_path: Path) -> None:
    label(store, range(NUM_SHARDS)).seal(NUM_SHARDS)
    for name in (f"{RECORD.prefix}/data/notes.txt", "labels/readme.md", "backup/old.arrow"):
        store.put(name, b"mine")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref")

    assert {garbage.key for garbage in collect(store).removed} == LOST
    assert (tmp_path / ".git" / "HEAD").exists()


def test_the_time_of_a_store_is_that_of_what_is_written_there(tmp_path: Path) -> None:
    class Slow(DirectoryStore):
        """A store whose clock is an hour behind."""

        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            for stat in super().list(prefix):
                yield ObjectStat(stat.key, stat.num_bytes, stat.modified_s - 3600)

    store = Slow(tmp_path)

    assert store_time_s(store) == pytest.approx(time.time() - 3600, abs=60)


def test_what_lost_the_race_for_the_shared_columns_goes_and_what_won_it_stays(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    codec = HiddenConfig(head="head", width=2)
    record = RECORD.model_copy(update={"codec": codec, "columns": codec_of(codec, 3).columns()})
    labels = LabelSet.create(store, record)
    lost = f"{record.prefix}/shared/{'0' * 64}.arrow"
    store.put(lost, b"lost")
    assert collect(store).removed == ()  # nobody has won yet

    publish_shared(labels, {"weight": np.ones((1, 3, 2), np.float32), "bias": np.zeros((1, 3), np.float32)})

    assert [garbage.key for garbage in collect(store).removed] == [lost]
    assert read_shared(labels)["weight"].shape == (1, 3, 2)
