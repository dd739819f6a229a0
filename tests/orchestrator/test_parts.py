"""The parts of a job: what the teachers' part leaves is all that the student's part asks for, now or as it arrives."""

import itertools
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import TrainingError
from cluster.session import Capacity
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.records import read_record
from cluster.storage.open import open_store
from cluster.storage.patience import PatientStore
from orchestrator.context import RunContext
from orchestrator.planning.placement import check_room
from orchestrator.planning.plan import Inspection
from orchestrator.resolution.resolve import resolve
from orchestrator.steps import train as steps_train
from orchestrator.steps.follow import await_labels
from orchestrator.steps.ingest import ingest
from orchestrator.steps.teach import train_elsewhere
from students.arrivals import LabelsLateError
from students.group import Alone
from students.loop import train
from students.task import Execution, TrainedRecord, TrainingTask
from tests.fixtures.jobs import TEACHERS, commit_all, job_spec, logits_of, new_context, train_alone, write_sources
from tests.simulation.outages import Outage, OutStore

GIVEN = 1


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    """A run of which only the rows are there."""
    write_sources(tmp_path)
    job = resolve(job_spec(tmp_path))
    made = new_context(job, open_store(job.spec.store))
    ingest(made)
    return made


def writer(context: RunContext, record: LabelSetRecord) -> Iterator[None]:
    """Commit one shard of a label set at each turn, and do not seal it."""
    (teacher,) = (teacher for teacher in context.job.teachers if record in teacher.label_sets)
    for number, arrays in enumerate(Dataset.open(context.store, record.dataset)):
        commit_all(context.store, record, [logits_of(context, teacher, arrays)], first=number)
        yield


def pausing(*writers: Iterator[None]) -> tuple[Callable[[float], None], list[float]]:
    """Return a pause in which the other part writes its next shard, and the list of all pauses."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        next((turn for each in writers if (turn := next(each, pauses)) is not pauses), None)

    return pause, pauses


def test_labels_are_waited_for_shard_by_shard(context: RunContext) -> None:
    given = context.job.teachers[GIVEN]
    pause, pauses = pausing(writer(context, given.held_out), writer(context, given.train))

    await_labels(context, [given.held_out, given.train], pause=pause)

    num_shards = [
        len(Dataset.open(context.store, record.dataset).record.shards) for record in (given.held_out, given.train)
    ]
    assert len(pauses) == sum(num_shards)
    assert not context.inspect().missing(given.held_out)
    assert not context.inspect().missing(given.train)
    assert context.inspect().missing(given.test)


def test_nothing_is_waited_for_that_is_there(context: RunContext) -> None:
    given = context.job.teachers[GIVEN]
    for _ in writer(context, given.held_out):
        pass
    LabelSet(context.store, given.held_out).seal(len(Dataset.open(context.store, given.held_out.dataset).record.shards))

    await_labels(context, [given.held_out], pause=lambda _: pytest.fail("it waits"))


def test_labels_that_stop_arriving_are_given_up_with_the_shard_that_is_missing(context: RunContext) -> None:
    given, clock = context.job.teachers[GIVEN], Outage(0.0, 0.0)
    next(writer(context, given.train))

    with pytest.raises(LabelsLateError) as late:
        await_labels(context, [given.train], clock_s=clock.now_s, pause=clock.wait)

    assert isinstance(late.value, TrainingError)
    assert (late.value.number, late.value.timeout_s) == (1, 600.0)
    assert clock.now_s() == pytest.approx(600.0, abs=2.0)
    assert given.train.prefix in str(pickle.loads(pickle.dumps(late.value)))


def test_an_outage_longer_than_the_time_out_is_no_reason_to_give_labels_up(context: RunContext) -> None:
    given, outage = context.job.teachers[GIVEN], Outage(500.0, 1160.0)
    shards = writer(context, given.train)

    def pause(seconds: float) -> None:
        outage.wait(seconds)
        if outage.now_s() > 1700.0:
            next(shards, None)

    patient = PatientStore(OutStore(context.store, outage), outage_s=900.0, clock_s=outage.now_s, wait=outage.wait)
    context.store, store = patient, context.store

    await_labels(context, [given.train], clock_s=outage.now_s, pause=pause)

    assert not Inspection(context.job, store).missing(given.train)
    assert outage.now_s() > 1700.0


def test_a_student_follows_labels_that_another_run_writes_and_ends_as_one_that_had_them_all(
    context: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, store, training_began = context.job, context.store, threading.Event()

    def train_here(
        store_uri: str, groups: Sequence[Sequence[TrainingTask]], execution: Execution, _: object, **_more: object
    ) -> None:
        training_began.set()
        for task in itertools.chain.from_iterable(groups):
            train(open_store(store_uri), task, execution, Alone())

    def teach() -> None:
        theirs = new_context(job, store)
        for teacher in job.teachers:
            if teacher.fit is not None:
                train_alone(store, teacher.fit)
        shards = [writer(theirs, teacher.train) for teacher in job.teachers]
        for turns in [*(writer(theirs, teacher.held_out) for teacher in job.teachers), map(next, shards)]:
            list(turns)
        assert training_began.wait(60)  # with one shard of each teacher, and calibrated
        for turns in [*shards, *(writer(theirs, teacher.test) for teacher in job.teachers)]:
            list(turns)

    monkeypatch.setattr(steps_train, "train_side_by_side", train_here)
    with ThreadPoolExecutor(1) as others:
        teaching = others.submit(teach)
        train_elsewhere(context, Capacity(2, 0))
        teaching.result()

    found = [read_record(store, task.record_key, TrainedRecord).weights_digest for task in job.students]
    for task in job.students:
        store.delete(task.record_key)
    train_alone(store, *job.students)
    assert found == [read_record(store, task.record_key, TrainedRecord).weights_digest for task in job.students]
    assert all(LabelSet(store, record).is_sealed() for teacher in job.teachers for record in teacher.label_sets)
    assert {result.name: result.outcome for result in context.results} == {
        **{f"{step}:{name}": "reused" for step, name in [("fit", "fitted"), *(("label", one) for one in TEACHERS)]},
        "ingest": "computed",
        **{f"calibrate:{name}": "computed" for name in TEACHERS},
        "train:student": "computed",
    }


def test_each_part_needs_room_for_its_own_processes_alone(context: RunContext) -> None:
    inspection = context.inspect()
    everything, teachers, student = (inspection.left(part) for part in ("all", "teachers", "student"))
    assert (
        [teacher.name for teacher in everything[0]]
        == [teacher.name for teacher in teachers[0]]
        == ["fitted", "given", "graph"]
    )
    assert student[0] == []
    assert teachers[1] is None
    assert everything[1] == student[1] == context.job.spec.train

    one = Capacity(1, 0)
    assert inspection.place(one, "teachers").waves == inspection.place(one).waves
    assert inspection.place(one, "student").waves == ()
    check_room(*student, one)


def test_generations_label_in_the_part_of_the_student(tmp_path: Path) -> None:
    write_sources(tmp_path)
    job = resolve(job_spec(tmp_path, "generations={count: 2}"))
    inspection = new_context(job, open_store(job.spec.store)).inspect()
    assert [teacher.name for teacher in inspection.left("student")[0]] == ["generation-0"]
    assert "generation-0" not in [teacher.name for teacher in inspection.left("teachers")[0]]
