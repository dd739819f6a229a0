"""A label set under races, crashes and strangers: every shard exactly once, and only those of this teacher."""

import json
import pickle
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from cluster.identity import digest_of
from cluster.shards.codecs.spec import SampledConfig
from cluster.shards.commits import Commit, ForeignLabelsError
from cluster.shards.encoding import encode_shard
from cluster.shards.labelset import LabelSet, LabelSetRecord, manifest_key
from cluster.shards.records import BadRecordError
from cluster.shards.schema import Column
from cluster.shards.verified import ShardCorruptError
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError, ObjectStore
from tests.fixtures.crashing_store import CrashingStore, Killed

NUM_SHARDS = 4
ROWS = 6
RECORD = LabelSetRecord(
    teacher="wide",
    teacher_identity="1" * 16,
    dataset="d" * 16,
    columns=(Column(name="logits", dtype="float16", shape=(3,)),),
)
OTHER_TEACHER = RECORD.model_copy(update={"teacher_identity": "2" * 16})


def outputs(number: int, *, attempt: int = 0) -> dict[str, np.ndarray]:
    """Return what the teacher says of shard `number`; two attempts differ in the last bits, as on two kinds of GPU."""
    rng = np.random.default_rng((number, attempt))
    return {"logits": (number + rng.standard_normal((ROWS, 3)) / 1000).astype(np.float16)}


def commit(labels: LabelSet, number: int, *, attempt: int = 0) -> Commit:
    body = labels.encode(outputs(number, attempt=attempt))
    return labels.commit(number, body, rows=ROWS, statistics={"attempt": float(attempt)})


def label_all(store: ObjectStore, *, attempt: int = 0) -> LabelSet:
    """Do what every job does: label what is not committed, then seal."""
    labels = LabelSet.create(store, RECORD)
    for number in sorted(set(range(NUM_SHARDS)) - labels.committed_numbers()):
        commit(labels, number, attempt=attempt)
    if not labels.is_sealed():
        labels.seal(NUM_SHARDS)
    return labels


def fields(store: ObjectStore, key: str) -> dict[str, object]:
    """Return a record without its digest, for those who want to write another one."""
    record: dict[str, object] = json.loads(bytes(store.get(key)))
    del record["blake3"]
    return record


def keys(store: ObjectStore, folder: str) -> list[str]:
    return [stat.key for stat in store.list(f"{RECORD.prefix}/{folder}/")]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def test_what_was_committed_is_read_back(store: DirectoryStore) -> None:
    labels = LabelSet.create(store, RECORD)
    written = commit(labels, 2)

    reader = LabelSet(store, RECORD)

    assert np.array_equal(reader.read(2)["logits"], outputs(2)["logits"])
    assert reader.committed(2) == written
    assert reader.committed_numbers() == {2}
    assert reader.committed(1) is None
    with pytest.raises(ObjectMissingError, match=r"commits/00000001\.json"):
        reader.read(1)


def test_the_identity_is_that_of_what_determines_the_labels_and_not_of_their_name() -> None:
    renamed = RECORD.model_copy(update={"teacher": "broad"})
    changed = [
        RECORD.model_copy(update={"teacher_identity": "3" * 16}),
        RECORD.model_copy(update={"dataset": "e" * 16}),
        RECORD.model_copy(update={"compression": "zstd"}),
        RECORD.model_copy(update={"codec": SampledConfig(draws=3)}),
        RECORD.model_copy(update={"num_classes": 4}),
        RECORD.model_copy(update={"columns": (Column(name="logits", dtype="float16", shape=(4,)),)}),
    ]

    assert renamed.identity == RECORD.identity
    assert len({record.identity for record in (RECORD, *changed)}) == 7
    assert RECORD.identity == "b2000313625dee19"
    assert RECORD.prefix == f"labels/{'d' * 16}/wide-b2000313625dee19"


def test_the_first_commit_wins_and_the_loser_gets_its_record(store: DirectoryStore) -> None:
    first = commit(LabelSet.create(store, RECORD), 0, attempt=1)
    second = commit(LabelSet.create(store, RECORD), 0, attempt=2)

    assert second == first
    assert second.statistics == {"attempt": 1.0}
    assert np.array_equal(LabelSet(store, RECORD).read(0)["logits"], outputs(0, attempt=1)["logits"])


def test_racing_writers_agree_on_one_winner_for_every_shard(store: DirectoryStore) -> None:
    num_writers, num_shards = 4, 12
    barrier = Barrier(num_writers)

    def write(attempt: int) -> list[Commit]:
        labels = LabelSet.create(store, RECORD)
        commits = []
        for number in range(num_shards):
            barrier.wait(timeout=60)
            commits.append(commit(labels, number, attempt=attempt))
        return commits

    with ThreadPoolExecutor(num_writers) as pool:
        answers = list(pool.map(write, range(num_writers)))

    assert all(answer == answers[0] for answer in answers)
    reader = LabelSet(store, RECORD)
    for number, winner in enumerate(answers[0]):
        attempt = int(winner.statistics["attempt"])
        assert np.array_equal(reader.read(number)["logits"], outputs(number, attempt=attempt)["logits"])
    assert len(keys(store, "commits")) == num_shards


def test_data_without_a_record_is_not_a_shard(store: DirectoryStore) -> None:
    body = LabelSet.create(store, RECORD).encode(outputs(0))
    store.put(f"{RECORD.prefix}/data/{digest_of(body)}.arrow", body)

    reader = LabelSet(store, RECORD)
    assert reader.committed(0) is None
    assert reader.committed_numbers() == set()
    with pytest.raises(ObjectMissingError):
        reader.read(0)


@pytest.mark.parametrize("after_it", [False, True])
def test_after_a_crash_at_any_operation_a_retry_ends_with_every_shard_exactly_once(
    tmp_path: Path, after_it: bool
) -> None:
    undisturbed = CrashingStore(DirectoryStore(tmp_path / "undisturbed"))
    label_all(undisturbed)

    for fatal in range(undisturbed.num_operations):
        store = DirectoryStore(tmp_path / str(fatal))
        with pytest.raises(Killed):
            label_all(CrashingStore(store, fatal=fatal, after_it=after_it), attempt=1)
        committed_before = LabelSet(store, RECORD).committed_numbers()

        label_all(store, attempt=2)

        assert_every_shard_exactly_once(store, by_first_attempt=committed_before)


def assert_every_shard_exactly_once(store: DirectoryStore, *, by_first_attempt: set[int]) -> None:
    reader = LabelSet(store, RECORD)
    manifest = reader.load_manifest()
    assert [entry.number for entry in manifest.commits] == list(range(NUM_SHARDS))
    assert manifest.rows == NUM_SHARDS * ROWS
    for number in range(NUM_SHARDS):
        attempt = 1 if number in by_first_attempt else 2
        assert np.array_equal(reader.read(number)["logits"], outputs(number, attempt=attempt)["logits"])
    orphans = set(keys(store, "data")) - {f"{RECORD.prefix}/data/{entry.digest}.arrow" for entry in manifest.commits}
    assert len(orphans) <= 1


@pytest.mark.parametrize("missing", range(NUM_SHARDS))
def test_an_incomplete_set_cannot_be_sealed(store: DirectoryStore, missing: int) -> None:
    labels = LabelSet.create(store, RECORD)
    for number in set(range(NUM_SHARDS)) - {missing}:
        commit(labels, number)

    with pytest.raises(ObjectMissingError, match=rf"commits/0000000{missing}\.json"):
        labels.seal(NUM_SHARDS)

    assert not labels.is_sealed()


def test_the_manifest_repeats_the_commits_and_replaces_reading_them(store: DirectoryStore) -> None:
    labels = LabelSet.create(store, RECORD)
    commits = tuple(commit(labels, number) for number in range(NUM_SHARDS))

    sealed = labels.seal(NUM_SHARDS)

    assert sealed.commits == commits
    assert sealed.labelset == RECORD.identity
    for key in keys(store, "commits"):
        store.delete(key)
    reader = LabelSet(store, RECORD)
    assert reader.load_manifest() == sealed
    assert all(np.array_equal(reader.read(n)["logits"], outputs(n)["logits"]) for n in range(NUM_SHARDS))


def test_sealing_twice_gives_the_first_seal(store: DirectoryStore) -> None:
    assert label_all(store).seal(NUM_SHARDS) == label_all(store).load_manifest()


def copy_folder(root: Path, source: LabelSetRecord, target: LabelSetRecord, *names: str) -> None:
    for name in names:
        copied = root / source.prefix / name
        copy = shutil.copytree if copied.is_dir() else shutil.copy
        (root / target.prefix).mkdir(parents=True, exist_ok=True)
        copy(copied, root / target.prefix / name)


def test_commits_copied_from_another_teacher_are_refused(store: DirectoryStore, tmp_path: Path) -> None:
    label_all(store)
    copy_folder(tmp_path, RECORD, OTHER_TEACHER, "data", "commits")
    thief = LabelSet(store, OTHER_TEACHER)

    for attempt in (lambda: thief.read(0), lambda: thief.committed(0), lambda: thief.seal(NUM_SHARDS)):
        with pytest.raises(ForeignLabelsError) as refusal:
            attempt()
        assert refusal.value.where == f"{store.uri}/{OTHER_TEACHER.prefix}/commits/00000000.json"
        assert (refusal.value.found, refusal.value.expected) == (RECORD.identity, OTHER_TEACHER.identity)
        assert refusal.value.exit_code == 7
        assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


def test_a_whole_directory_copied_from_another_teacher_is_refused_by_a_writer(
    store: DirectoryStore, tmp_path: Path
) -> None:
    label_all(store)
    copy_folder(tmp_path, RECORD, OTHER_TEACHER, "labelset.json", "data", "commits", "manifest.json")

    with pytest.raises(ForeignLabelsError, match=r"labelset\.json"):
        LabelSet.create(store, OTHER_TEACHER)


def test_a_manifest_copied_from_another_teacher_is_refused(store: DirectoryStore, tmp_path: Path) -> None:
    label_all(store)
    copy_folder(tmp_path, RECORD, OTHER_TEACHER, "data", "manifest.json")

    with pytest.raises(ForeignLabelsError, match=r"manifest\.json"):
        LabelSet(store, OTHER_TEACHER).load_manifest()


def test_a_manifest_under_another_name_is_refused_even_with_the_right_commits(store: DirectoryStore) -> None:
    label_all(store)
    manifest = fields(store, manifest_key(RECORD)) | {"labelset": OTHER_TEACHER.identity}
    store.put(manifest_key(RECORD), json.dumps(manifest).encode())

    with pytest.raises(ForeignLabelsError, match=r"manifest\.json"):
        LabelSet(store, RECORD).load_manifest()


def test_a_directory_copied_from_another_teacher_is_noticed_without_writing(
    store: DirectoryStore, tmp_path: Path
) -> None:
    LabelSet(store, RECORD).check_description()  # there is none, and nothing to complain about
    label_all(store)
    copy_folder(tmp_path, RECORD, OTHER_TEACHER, "labelset.json")

    LabelSet(store, RECORD).check_description()
    with pytest.raises(ForeignLabelsError, match=f"wide-{RECORD.identity}, expected wide-{OTHER_TEACHER.identity}"):
        LabelSet(store, OTHER_TEACHER).check_description()


def test_sealing_does_not_accept_a_manifest_of_another_teacher(store: DirectoryStore, tmp_path: Path) -> None:
    label_all(store)
    copy_folder(tmp_path, RECORD, OTHER_TEACHER, "manifest.json")
    labels = LabelSet.create(store, OTHER_TEACHER)
    for number in range(NUM_SHARDS):
        commit(labels, number)

    with pytest.raises(ForeignLabelsError, match=r"manifest\.json"):
        labels.seal(NUM_SHARDS)


def test_a_commit_moved_to_another_number_is_refused(store: DirectoryStore) -> None:
    label_all(store)
    first, second = keys(store, "commits")[:2]
    store.put(second, store.get(first))

    with pytest.raises(BadRecordError, match=r"00000001\.json: it describes shard 0 .* not 1"):
        LabelSet(store, RECORD).read(1)


def test_a_manifest_in_another_order_is_refused(store: DirectoryStore) -> None:
    label_all(store)
    manifest = fields(store, manifest_key(RECORD))
    manifest["commits"].reverse()
    store.put(manifest_key(RECORD), json.dumps(manifest).encode())

    with pytest.raises(BadRecordError, match=r"manifest\.json"):
        LabelSet(store, RECORD).load_manifest()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
        ({"number": -1}, "number"),
        ({"rows": 0}, "rows"),
        ({"digest": "../../../../etc/passwd"}, "digest"),
        ({"statistics": {"mean": "NaN"}}, "statistics.mean"),
        ({"unknown": 1}, "unknown"),
        ({"columns": [{"name": "logits", "dtype": "float16", "shape": [4]}]}, "it describes shard 0"),
    ],
)
def test_a_damaged_commit_record_is_refused_and_the_field_named(
    store: DirectoryStore, change: dict[str, object], reason: str
) -> None:
    label_all(store)
    key = keys(store, "commits")[0]
    store.put(key, json.dumps(fields(store, key) | change).encode())

    with pytest.raises(BadRecordError, match=r"commits/00000000\.json") as refusal:
        LabelSet(store, RECORD).read(0)

    assert reason in str(refusal.value)


def test_half_a_commit_record_is_refused(store: DirectoryStore) -> None:
    label_all(store)
    key = keys(store, "commits")[0]
    store.put(key, bytes(store.get(key))[:40])

    with pytest.raises(BadRecordError, match=r"commits/00000000\.json"):
        LabelSet(store, RECORD).committed(0)


def test_damaged_data_is_refused(store: DirectoryStore) -> None:
    label_all(store)
    key = keys(store, "data")[0]
    body = bytearray(store.get(key))
    body[len(body) // 2] ^= 1
    store.put(key, bytes(body))

    damaged = Counter[str]()
    for number in range(NUM_SHARDS):
        try:
            LabelSet(store, RECORD).read(number)
        except ShardCorruptError as error:
            damaged[error.where] += 1

    assert damaged == {f"{store.uri}/{key}": 1}


def test_strangers_among_the_commits_are_passed_over(store: DirectoryStore) -> None:
    label_all(store)
    for name in ("0.json", "000000000.json", "00000009.json.bak", "x/00000008.json", "00000007.arrow"):
        store.put(f"{RECORD.prefix}/commits/{name}", b"{}")

    assert LabelSet(store, RECORD).committed_numbers() == set(range(NUM_SHARDS))


def test_only_the_columns_of_the_set_can_be_encoded(store: DirectoryStore) -> None:
    labels = LabelSet.create(store, RECORD)

    for wrong in ({"logits": np.zeros((ROWS, 4), np.float16)}, {"scores": np.zeros((ROWS, 3), np.float16)}):
        with pytest.raises(AssertionError):
            labels.encode(wrong)
    assert labels.encode(outputs(0)) == encode_shard(outputs(0))
