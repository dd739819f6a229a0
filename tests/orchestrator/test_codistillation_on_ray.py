"""Runs of cohorts that exchange weights, on a Ray cluster: groups of workers side by side, and one that takes turns."""

from pathlib import Path

import pytest

from cluster.shards.records import read_record
from cluster.storage.open import open_store
from orchestrator.resolution.resolve import resolve
from orchestrator.run import RunResult
from orchestrator.spec import JobSpec
from students.group import Alone
from students.loop import train
from students.members import members_of
from students.task import Execution, TrainedRecord
from tests.fixtures import small_jobs
from tests.fixtures.ray_head import RayHead
from tests.fixtures.ray_runs import Listener, outcomes, run
from tests.fixtures.small_jobs import changed

pytestmark = pytest.mark.ray


@pytest.fixture
def spec(tmp_path: Path, ray_head: RayHead) -> JobSpec:
    """A job without teachers whose student has one peer."""
    return small_jobs.job(
        tmp_path,
        store=str(tmp_path / "store"),
        teachers=[],
        objective=[{"term": "cross_entropy"}],
        cohort={"method": "codistillation", "members": 2},
        train={"epochs": 4, "batch_size": 64, "workers": 1, "cpus_per_worker": 0.5, "optimizer": {"lr": 0.01}},
        cluster={"address": ray_head.address},
    )


def digests(spec: JobSpec) -> list[str]:
    store, (cohort,) = open_store(spec.store), resolve(spec).students
    return [read_record(store, member.record_key, TrainedRecord).weights_digest for member in members_of(cohort)]


def test_members_on_workers_of_their_own_end_as_members_that_take_turns_in_one_process(
    spec: JobSpec, tmp_path: Path
) -> None:
    listener = Listener()

    result = run(spec, listener)

    assert any("members of the cohort train side by side" in message for message in listener.messages)
    assert_reported(spec, result)
    found, store, (cohort,) = digests(spec), open_store(spec.store), resolve(spec).students
    for one in (cohort, *members_of(cohort)):
        for stat in list(store.list(f"{one.prefix}/")):
            store.delete(stat.key)
    train(store, cohort, Execution(), Alone())
    assert digests(spec) == found


def test_members_without_room_for_each_take_turns_and_a_repeated_run_computes_nothing(spec: JobSpec) -> None:
    listener, crowded = Listener(), changed(spec, train__workers=2, train__cpus_per_worker=2.5)

    result = run(crowded, listener)

    assert any("members of the cohort train in turns: together they need 10 CPU" in text for text in listener.messages)
    assert_reported(crowded, result)
    assert set(outcomes(run(crowded)).values()) == {"reused"}


def assert_reported(spec: JobSpec, result: RunResult) -> None:
    """Assert that the best member is the student of the report, and that nothing is left of the rounds."""
    store, (cohort,) = open_store(spec.store), resolve(spec).students
    records = [read_record(store, member.record_key, TrainedRecord) for member in members_of(cohort)]
    best = max(record.points[-1].accuracy for record in records)
    exported = read_record(store, cohort.record_key, TrainedRecord)
    assert exported.points[-1].accuracy == best
    assert [len(record.points) for record in records] == [4, 4]
    assert not [stat for member in members_of(cohort) for stat in store.list(f"{member.prefix}/rounds/")]
    assert result.report.summary.student_accuracy > 0.7
