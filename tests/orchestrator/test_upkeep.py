"""Label sets with damage of every kind: exactly the broken shards are labelled again, whoever is killed on the way."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.shards.codecs.dense import LOGITS
from cluster.shards.damage import dataset_of, find_damages
from cluster.shards.dataset import Dataset, dataset_key, shard_key
from cluster.shards.labelset import LabelSet, manifest_key
from cluster.shards.taps import pack_tap
from cluster.shards.verified import ShardCorruptError
from cluster.storage.directory import DirectoryStore
from orchestrator.planning.plan import Inspection
from orchestrator.upkeep import TOLERANCE, Repair, Teachers, compare, repair, rerun
from tests.fixtures import small_jobs
from tests.fixtures.crashing_store import CrashingStore, Killed
from tests.fixtures.labelled_job import NUM_SHARDS, SHARD_ROWS, LabelledJob, label, labelled_job

LAST_ROWS = 300  # of the last training shard


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> LabelledJob:
    return labelled_job(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def made(sound: LabelledJob, tmp_path: Path) -> LabelledJob:
    sound.rows_computed()  # by the test before
    return copy_of(sound, tmp_path / "store")


def copy_of(made: LabelledJob, root: Path) -> LabelledJob:
    shutil.copytree(made.store.uri, root)
    return replace(made, store=DirectoryStore(root))


def commit_key(made: LabelledJob, number: int) -> str:
    return f"{made.record.prefix}/commits/{number:08d}.json"


def data_key(made: LabelledJob, number: int) -> str:
    return f"{made.record.prefix}/data/{digests(made)[number]}.arrow"


def digests(made: LabelledJob) -> list[str]:
    manifest = json.loads(bytes(made.store.get(manifest_key(made.record))))
    return [commit["digest"] for commit in manifest["commits"]]


def unseal(made: LabelledJob) -> None:
    made.store.delete(manifest_key(made.record))


def flip(made: LabelledJob, number: int) -> None:
    body = bytearray(made.store.get(data_key(made, number)))
    body[len(body) // 2] ^= 1
    made.store.put(data_key(made, number), bytes(body))


def spoil_labels(made: LabelledJob, number: int) -> None:
    """Let a shard be committed whose labels are no numbers."""
    labels = LabelSet(made.store, made.record)
    rows = labels.committed(number).rows  # type: ignore[union-attr]
    labels.withdraw([number])
    body = labels.encode({LOGITS: np.full((rows, 10), np.nan, np.float16)})
    labels.commit(number, body, rows=rows, statistics={})
    labels.seal(NUM_SHARDS)


def exchange_records(made: LabelledJob) -> None:
    unseal(made)
    made.store.put(commit_key(made, 1), made.store.get(commit_key(made, 0)))


def halve_record(made: LabelledJob) -> None:
    unseal(made)
    made.store.put(commit_key(made, 1), bytes(made.store.get(commit_key(made, 1)))[:40])


DAMAGES: dict[str, tuple[Callable[[LabelledJob], None], dict[str, tuple[int, ...]]]] = {
    "a bit of the data": (lambda made: flip(made, 1), {"put_back": (1,)}),
    "no data": (lambda made: made.store.delete(data_key(made, 1)), {"put_back": (1,)}),
    "data of two shards": (lambda made: (flip(made, 0), flip(made, 2))[0], {"put_back": (0, 2)}),
    "labels that are no numbers": (lambda made: spoil_labels(made, 1), {"labelled": (1,)}),
    "half a record": (halve_record, {"labelled": (1,)}),
    "the record of another shard": (exchange_records, {"labelled": (1,)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_exactly_the_broken_shards_are_labelled_again(made: LabelledJob, damage: str) -> None:
    before = digests(made)
    inflict, fates = DAMAGES[damage]
    inflict(made)

    done = repair(made.store, made.record.prefix, teachers=made.teachers)

    broken = {number for numbers in fates.values() for number in numbers}
    assert done == Repair(name=made.record.prefix.rpartition("/")[2], **fates)
    assert made.rows_computed() == sum(LAST_ROWS if number == 2 else SHARD_ROWS for number in broken)
    assert digests(made) == before, "the teacher says the same again"
    assert_sound(made)


def assert_sound(made: LabelledJob) -> None:
    labels = LabelSet.open(made.store, made.record.prefix)
    commits, damages = find_damages(labels, dataset_of(made.store, made.record))
    assert damages == ()
    assert [commit.number for commit in commits] == list(range(NUM_SHARDS))
    assert labels.is_sealed()


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_teacher_the_next_run_computes_exactly_the_broken_shards(made: LabelledJob, damage: str) -> None:
    inflict, fates = DAMAGES[damage]
    inflict(made)
    broken = [number for numbers in fates.values() for number in numbers]

    done = repair(made.store, made.record.prefix, teachers=None)

    assert list(done.withdrawn) == broken
    assert made.rows_computed() == 0
    assert Inspection(made.job, made.store).missing(made.record) == broken
    label(made, made.record)
    assert made.rows_computed() == sum(LAST_ROWS if number == 2 else SHARD_ROWS for number in broken)
    assert_sound(made)


def test_a_teacher_that_says_something_else_gets_a_new_commit_and_the_others_keep_theirs(made: LabelledJob) -> None:
    before = digests(made)
    made.store.delete(data_key(made, 1))
    changed = small_jobs.teacher_weights(slice(300, 600))[0]
    teachers = StubTeachers(made.job, made.store, by=float(changed.mean()) + 1)

    done = repair(made.store, made.record.prefix, teachers=teachers)

    assert done.labelled == (1,)
    after = digests(made)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    assert_sound(made)


class StubTeachers(Teachers):
    """Teachers whose every logit has moved, as on a machine that computes otherwise."""

    def __init__(self, job: object, store: object, *, by: float) -> None:
        super().__init__(job, store)  # type: ignore[arg-type]
        self._by = by

    def rerun_of(self, prefix: str):  # type: ignore[no-untyped-def]
        teacher, by = super().rerun_of(prefix), self._by
        assert teacher is not None

        class Moved:
            def ask(self, record, number):  # type: ignore[no-untyped-def]
                answer = teacher.ask(record, number)
                return replace(answer, columns={LOGITS: (answer.columns[LOGITS] + by).astype(np.float16)})

        return Moved()


@pytest.mark.parametrize("teachers", [True, False])
def test_a_seal_that_cannot_be_read_is_written_again_from_the_records(made: LabelledJob, teachers: bool) -> None:
    seal = bytes(made.store.get(manifest_key(made.record)))
    made.store.put(manifest_key(made.record), seal[:100])

    done = repair(made.store, made.record.prefix, teachers=made.teachers if teachers else None)

    assert len(done.records) == 1
    assert made.rows_computed() == 0
    assert bytes(made.store.get(manifest_key(made.record))) == seal
    assert_sound(made)


@pytest.mark.parametrize("body", [b"{", b"", None])
def test_a_broken_description_is_written_again_from_the_spec(made: LabelledJob, body: bytes | None) -> None:
    key = f"{made.record.prefix}/labelset.json"
    description = bytes(made.store.get(key))
    made.store.delete(key) if body is None else made.store.put(key, body)

    done = repair(made.store, made.record.prefix, teachers=made.teachers)

    assert key in done.records[0]
    assert bytes(made.store.get(key)) == description
    assert made.rows_computed() == 0
    assert_sound(made)


def test_records_that_only_the_seal_repeats_outlive_the_seal(made: LabelledJob) -> None:
    for number in range(NUM_SHARDS):
        made.store.delete(commit_key(made, number))
    flip(made, 1)

    repair(made.store, made.record.prefix, teachers=None)

    assert LabelSet(made.store, made.record).committed_numbers() == {0, 2}


def test_a_sound_set_is_left_untouched(made: LabelledJob) -> None:
    before = {stat.key: stat for stat in made.store.list("")}

    assert not repair(made.store, made.record.prefix, teachers=made.teachers).is_needed
    assert {stat.key: stat for stat in made.store.list("")} == before
    assert made.rows_computed() == 0


def test_a_broken_input_shard_says_what_to_do_and_doing_it_helps(made: LabelledJob) -> None:
    key = shard_key(made.record.dataset, 1)
    body = bytes(made.store.get(key))
    made.store.put(key, body[:-1])
    flip(made, 1)

    with pytest.raises(ShardCorruptError, match="Delete this object, and the record") as refusal:
        repair(made.store, made.record.prefix, teachers=made.teachers)

    assert key in refusal.value.where
    made.store.delete(key)
    made.store.delete(dataset_key(made.record.dataset))
    assert Inspection(made.job, made.store).ingest().state == "partial"


@pytest.mark.parametrize("after_it", [False, True])
@pytest.mark.parametrize("damage", ["a bit of the data", "labels that are no numbers"])
def test_a_repair_that_is_killed_anywhere_is_finished_by_the_next(
    sound: LabelledJob, tmp_path: Path, damage: str, after_it: bool
) -> None:
    fatal, num_operations = 0, 1
    damaged = copy_of(sound, tmp_path / "damaged")
    DAMAGES[damage][0](damaged)
    teachers = sound.teachers  # loaded once; they read input shards from the sound store
    while fatal < num_operations:
        made = copy_of(damaged, tmp_path / f"{fatal}")
        crashing = CrashingStore(made.store, fatal=fatal, after_it=after_it)
        try:
            repair(crashing, made.record.prefix, teachers=teachers)
        except Killed:
            num_operations = fatal + 2
        sound_data = [bytes(made.store.get(data_key(sound, number))) for number in (0, 2)]

        repair(made.store, made.record.prefix, teachers=teachers)

        assert_sound(made)
        assert digests(made) == digests(sound)
        assert sound_data == [bytes(made.store.get(data_key(sound, number))) for number in (0, 2)]
        shutil.rmtree(made.store.uri)
        fatal += 1
    assert fatal > 5


def test_a_run_finishes_what_a_killed_repair_began(made: LabelledJob) -> None:
    flip(made, 1)
    LabelSet(made.store, made.record).withdraw([1])

    label(made, made.record)

    assert_sound(made)


def test_a_teacher_that_is_asked_again_agrees_with_itself(made: LabelledJob) -> None:
    for record in made.job.teachers[0].label_sets:
        teacher = made.teachers.rerun_of(record.prefix)
        assert teacher is not None
        for comparison in rerun(made.store, record, teacher, num_shards=9, seed=1):
            assert (comparison.difference, comparison.agreement) == (0.0, 1.0)
    assert made.rows_computed() == small_jobs.ROWS


def test_labels_that_numpy_computes_agree_within_the_tolerance(made: LabelledJob) -> None:
    weight, bias = small_jobs.teacher_weights(slice(0, 300))
    pixels = Dataset.open(made.store, made.record.dataset).read(1)["image"].reshape(SHARD_ROWS, 64) / 255
    by_numpy = (pixels @ weight.T + bias).astype(np.float16)

    difference, agreement = compare(LabelSet(made.store, made.record).read(1)[LOGITS], by_numpy)

    assert difference <= TOLERANCE / 4
    assert agreement == 1.0


def test_only_as_many_shards_as_asked_for_are_computed_again(made: LabelledJob) -> None:
    teacher = made.teachers.rerun_of(made.record.prefix)
    assert teacher is not None

    (comparison,) = rerun(made.store, made.record, teacher, num_shards=1, seed=3)

    assert made.rows_computed() == comparison.rows


@pytest.mark.parametrize("values", ["float16", "int8"])
def test_outputs_of_modules_are_asked_again_like_distributions(tmp_path: Path, values: str) -> None:
    made = labelled_job(tmp_path, taps={"layer": {"values": values}})
    labels, teacher = LabelSet(made.store, made.record), made.teachers.rerun_of(made.record.prefix)
    assert teacher is not None
    arrays = dict(labels.read(1))
    weight, bias = small_jobs.teacher_weights(slice(0, 300))
    pixels = Dataset.open(made.store, made.record.dataset).read(1)["image"].reshape(SHARD_ROWS, 64) / 255
    by_numpy = pixels @ weight.T + bias

    def differences(output: np.ndarray) -> list[bool]:
        columns = arrays | pack_tap(made.record.taps, "layer", output.astype(np.float32))
        labels.replace(1, labels.encode(columns), rows=SHARD_ROWS, statistics={})
        return [it.differs for it in rerun(made.store, made.record, teacher, num_shards=9, seed=1)]

    assert differences(by_numpy) == [False, False, False]
    assert differences(by_numpy * 1.05) == [False, True, False]


@pytest.mark.parametrize(("by", "differs"), [(0.0, False), (2.0**-9, False), (2.0**-7, True), (float("nan"), True)])
def test_a_difference_beyond_rounding_is_told_from_one_within(by: float, differs: bool) -> None:
    stored = np.array([[8.0, -4.0], [0.5, 0.25]], np.float16)

    difference, _ = compare(stored, stored * np.float16(1 + by))

    assert (not difference <= TOLERANCE) == differs


def test_agreement_is_the_share_of_rows_with_the_same_first_choice() -> None:
    stored = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float16)
    again = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], np.float16)

    assert compare(stored, again) == (1.0, 0.75)


def test_where_draws_are_stored_one_draw_and_one_row_in_a_hundred_may_differ() -> None:
    stored = np.full((200, 4), 0.25)
    again = stored.copy()
    again[:, 0] += 0.1  # every row by one draw of ten
    again[:2, 1] += 0.5

    assert compare(stored, again, step=0.1, share=0.99)[0] <= TOLERANCE
    assert compare(stored, again, step=0.1)[0] > TOLERANCE
    assert compare(stored, again, share=0.99)[0] > TOLERANCE
