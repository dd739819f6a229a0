"""Jobs whose students exchange weights: what is refused, what the plan says of room, and what becomes of members."""

from pathlib import Path

import numpy as np
import pytest

from cluster.session import Capacity
from cluster.shards.records import read_record
from cluster.storage.open import open_store
from orchestrator.cli.run import plan as plan_command
from orchestrator.context import RunContext
from orchestrator.load import dump_spec
from orchestrator.planning.plan import Inspection, make_plan
from orchestrator.publishing import publish_report
from orchestrator.report.record import Report
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.specfile.errors import SpecInvalidError
from orchestrator.steps.fit import progress_note
from students.members import groups_of, members_of
from students.task import TrainedRecord
from tests.fixtures.jobs import finished_job, job_spec, new_context, write_sources

LONE = ("teachers=[]", "objective=[{term: cross_entropy}]")
WIDER = "{name: wider, model: 'tests.fixtures.jobs:Narrow', arguments: {width: 8}}"
COHORT = f"cohort={{method: codistillation, members: [{{name: twin}}, {WIDER}]}}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, RunContext]:
    return finished_job(tmp_path_factory.mktemp("apart"), *LONE, COHORT)


@pytest.fixture(scope="module")
def report(finished: tuple[Job, RunContext]) -> Report:
    return publish_report(finished[1], command="coffey run job.yaml", wall_s=1.0)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("exchange_evry: 2", "did you mean `exchange_every`?"),
        ("exchange_every: 0", "cohort.exchange_every"),
        ("unit: hours", "cohort.unit"),
        ("export: fused", "export is fused, and members that train on workers of their own are exported one by one"),
        (
            "exchange_every: 100",
            "members first learn from each other after 1 round(s) of 100 epoch(s), and train.epochs",
        ),
        ("burn_in: 100", "after 100 round(s) of 1 epoch(s)"),
    ],
)
def test_what_makes_no_codistillation_is_refused(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(SpecInvalidError) as refused:
        job_spec(tmp_path, *LONE, f"cohort={{method: codistillation, {options}}}")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("cpus", "members", "because"),
    [
        (3, "side by side", "together they need 3 CPU, the cluster has 3 CPU"),
        (2, "in turns", "together they need 3 CPU, the cluster has 2 CPU"),
    ],
)
def test_a_plan_says_whether_members_train_side_by_side_or_in_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cpus: int, members: str, because: str
) -> None:
    write_sources(tmp_path)
    spec = job_spec(tmp_path, *LONE, COHORT)
    placement = Inspection(resolve(spec), open_store(spec.store)).place(Capacity(cpus, 0))
    assert (placement.members, placement.members_because) == (members, because)
    (tmp_path / "job.yaml").write_text(dump_spec(spec))
    plan_command(tmp_path / "job.yaml")
    assert "Members of the cohort train " in capsys.readouterr().out


def test_a_plan_of_a_job_without_such_a_cohort_says_nothing_of_members(tmp_path: Path) -> None:
    write_sources(tmp_path)
    for overrides in ((), (*LONE, "cohort={method: dml}")):
        spec = job_spec(tmp_path, *overrides)
        assert make_plan(spec, open_store(spec.store)).members is None


def test_labels_are_followed_if_all_members_find_room_beside_the_teachers(tmp_path: Path) -> None:
    write_sources(tmp_path)
    spec = job_spec(tmp_path, "cohort={method: codistillation, members: 3}")
    inspection = Inspection(resolve(spec), open_store(spec.store))
    pipelined = {cpus: inspection.place(Capacity(cpus, 0)).pipelined for cpus in range(3, 20)}
    first = min(cpus for cpus, is_pipelined in pipelined.items() if is_pipelined)
    lone = Inspection(resolve(job_spec(tmp_path)), open_store(spec.store))
    assert lone.place(Capacity(first - 2, 0)).pipelined
    assert not lone.place(Capacity(first - 3, 0)).pipelined


def test_each_place_of_the_cohorts_of_all_seeds_has_a_group_and_other_students_share_one(tmp_path: Path) -> None:
    write_sources(tmp_path)
    apart = resolve(job_spec(tmp_path, *LONE, COHORT)).students
    assert groups_of(apart) == tuple(tuple(members_of(cohort)[place] for cohort in apart) for place in range(3))
    assert len({task.identity for group in groups_of(apart) for task in group}) == 3 * len(apart)
    together = resolve(job_spec(tmp_path, *LONE, "cohort={method: dml}")).students
    assert groups_of(together) == (together,)


def test_the_report_has_every_member_and_the_student_is_the_best_of_them(
    finished: tuple[Job, RunContext], report: Report
) -> None:
    job, context = finished
    for task, cohort in zip(job.students, report.cohorts, strict=True):
        members = [read_record(context.store, member.record_key, TrainedRecord) for member in members_of(task)]
        last = [member.points[-1] for member in members]
        assert [(member.name, member.accuracy, member.nll) for member in cohort.members] == [
            (name, point.accuracy, point.nll) for name, point in zip(["student", "twin", "wider"], last, strict=True)
        ]
        best = min(range(3), key=lambda place: (-last[place].accuracy, last[place].nll))
        assert cohort.exported == cohort.members[best].name
        record = read_record(context.store, task.record_key, TrainedRecord)
        assert record.weights_digest == members[best].weights_digest
    drawn = [curve.model for curve in report.curves if curve.role == "member"]
    assert drawn == ["student", "twin", "wider"] * len(job.students)
    students = [model for model in report.models if model.role == "student"]
    assert all(np.isfinite(model.nll) for model in students)


def test_a_job_that_is_done_is_done(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    assert {step.state for step in context.inspect().steps()} == {"done"}
    assert context.inspect().place(Capacity(1, 0)).members is None
    assert new_context(job, context.store).inspect().train().state == "done"


def test_progress_is_that_of_the_member_that_is_furthest_behind(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    cohort = job.students[0]
    epochs = job.spec.train.epochs
    assert f"epoch {epochs} of {epochs}" in progress_note(context, cohort)
    last = members_of(cohort)[-1]
    body = bytes(context.store.get(last.progress_key))
    context.store.put(last.progress_key, body.replace(f'"epoch":{epochs}'.encode(), b'"epoch":1'))
    assert f"epoch 1 of {epochs}" in progress_note(context, cohort)
    context.store.delete(last.progress_key)
    assert progress_note(context, cohort) == ""
    context.store.put(last.progress_key, body)
