"""Jobs whose student learns with others: what is refused, what the plan says, and what becomes of every member."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from scipy.special import log_softmax, logsumexp

from cluster.shards.records import read_record
from cluster.storage.open import open_store
from orchestrator.context import RunContext
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.load import dump_spec, parse_spec
from orchestrator.planning.plan import make_plan
from orchestrator.publishing import publish_report
from orchestrator.report.record import Report
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.sources.read import read_source
from orchestrator.specfile.errors import SpecInvalidError
from orchestrator.steps.export import ExportRecord, _export
from orchestrator.steps.fit import progress_note
from students.cohorts.sharing import NotSharedError
from students.task import TrainedRecord
from tests.fixtures.jobs import finished_job, job_spec, narrow, trained_weights, write_sources

LONE = ("teachers=[]", "objective=[{term: cross_entropy}]")
WIDER = "{name: wider, model: 'tests.fixtures.jobs:Narrow', arguments: {width: 8}}"
COHORT = f"cohort={{method: dml, members: [{{name: twin}}, {WIDER}]}}"
FUSED = "cohort={method: one, members: 3, shared: [first], export: fused}"


def of_seeds(job: Job, context: RunContext) -> list[TrainedRecord]:
    return [read_record(context.store, task.record_key, TrainedRecord) for task in job.students]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, RunContext]:
    return finished_job(tmp_path_factory.mktemp("cohort"), *LONE, COHORT)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, RunContext]:
    return finished_job(tmp_path_factory.mktemp("fused"), *LONE, FUSED, "train.seeds=[0]", "baseline=null")


@pytest.fixture(scope="module")
def report(finished: tuple[Job, RunContext]) -> Report:
    return publish_report(finished[1], command="coffey run job.yaml", wall_s=1.0)[0]


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (("cohort={method: dlm}",), "cohort.method", "did you mean `dml`?"),
        (("cohort={method: dml, members: 1}",), "cohort.members", "expected a count from 2 to 16"),
        (("cohort={method: dml, member: 3}",), "cohort.member", "did you mean `members`?"),
        (("cohort={method: dml, members: [{name: a, modle: 'm:M'}]}",), "cohort.members.a.modle", "`model`"),
        (("cohort={method: dml, members: [{name: A}]}",), "cohort.members.A.name", "expected text that matches"),
        (("cohort={method: kdcl, variant: genral}",), "cohort.variant", "did you mean `general`?"),
        (("cohort={method: one}",), "cohort.shared", "missing; expected a list"),
        (("cohort={method: dml, members: [{name: baseline}]}",), "cohort.members", "'baseline' is taken"),
        ((FUSED, "train.compile=true"), "train.compile", "members of the cohort `one` share modules"),
    ],
)
def test_what_makes_no_cohort_is_refused_where_it_is_written(
    tmp_path: Path, overrides: tuple[str, ...], key: str, message: str
) -> None:
    with pytest.raises(SpecInvalidError) as refused:
        job_spec(tmp_path, *LONE, *overrides)
    assert [problem.key for problem in refused.value.problems] == [key]
    assert message in refused.value.problems[0].message


def test_terms_that_read_modules_are_refused_with_members_that_are_other_models(tmp_path: Path) -> None:
    fitnet = "objective=[{term: kl}, {term: fitnet, student: first, teacher: 'given:layer'}]"
    job_spec(tmp_path, fitnet, "cohort={method: dml}")
    with pytest.raises(SpecInvalidError, match="the term `fitnet` reads modules of the student, and member wider"):
        job_spec(tmp_path, fitnet, COHORT)


def test_modules_that_members_cannot_share_are_refused_before_any_work(tmp_path: Path) -> None:
    write_sources(tmp_path)
    spec = job_spec(tmp_path, *LONE, "cohort={method: one, shared: [second]}")
    with pytest.raises(NotSharedError, match="the module 'second' is called with another tensor"):
        make_plan(spec, open_store(spec.store))


def test_a_spec_with_a_cohort_survives_being_written_with_every_default(tmp_path: Path) -> None:
    spec = job_spec(tmp_path, COHORT)
    assert parse_spec(dump_spec(spec), "dumped.yaml") == spec
    assert job_spec(tmp_path, "cohort=null").cohort is None


def test_the_plan_says_who_learns_together(tmp_path: Path) -> None:
    write_sources(tmp_path)
    spec = job_spec(tmp_path, *LONE, COHORT)
    (train,) = [step for step in make_plan(spec, open_store(spec.store)).steps if step.kind == "train"]
    assert "3 members that learn together (dml)" in train.note


def test_a_cohort_and_its_members_are_part_of_the_identity_of_students_and_of_nobody_else(tmp_path: Path) -> None:
    write_sources(tmp_path)
    jobs = [
        resolve(job_spec(tmp_path, *overrides))
        for overrides in ((), (COHORT,), (COHORT.replace("8", "9"),), ("cohort={method: dml, members: 3}",))
    ]
    assert len({job.students[0].identity for job in jobs}) == 4
    assert len({job.baselines[0][0].identity for job in jobs}) == 1
    assert len({tuple(teacher.identity for teacher in job.teachers) for job in jobs}) == 1


def test_figures_are_those_of_the_member_that_is_exported(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    evaluation = read_record(context.store, job.evaluation_key, EvaluationRecord)
    test = read_source(job.spec.data).test
    students = [model for model in evaluation.models if model.role == "student"]
    for task, record, model in zip(job.students, of_seeds(job, context), students, strict=True):
        logits_NC = narrow(test.columns["image"], trained_weights(context.store, task))
        assert model.accuracy == np.mean(logits_NC.argmax(axis=1) == test.labels_N)
        assert model.nll == pytest.approx(
            -log_softmax(logits_NC, axis=1)[range(len(logits_NC)), test.labels_N].mean(), abs=1e-5
        )
        width = 8 if record.exported == "wider" else 2
        assert model.parameters == (16 + 1) * width + (width + 1) * 3


def test_the_report_tells_of_every_member_and_why_one_is_exported(
    finished: tuple[Job, RunContext], report: Report
) -> None:
    job, context = finished
    for cohort, record in zip(report.cohorts, of_seeds(job, context), strict=True):
        assert [member.name for member in cohort.members] == ["student", "twin", "wider"]
        best = max(cohort.members, key=lambda member: (member.accuracy, -member.nll))
        assert (cohort.exported, cohort.because) == (best.name, "best on the held-out rows")
        assert cohort.is_other_model is (best.name == "wider")
        assert [member.nll for member in cohort.members] == [member.points[-1].nll for member in record.members]
    of_members = [curve for curve in report.curves if curve.role == "member"]
    assert [(curve.model, curve.seed) for curve in of_members] == [
        (name, seed) for seed in (0, 1) for name in ("student", "twin", "wider")
    ]
    page = bytes(context.store.get(f"runs/{report.run}/report.html")).decode()
    assert 'id="cohort"' in page
    assert page.count("member of the cohort") == 3
    assert len(re.findall(r"best on the held-out rows\s*</td>", page)) == 2
    assert json.loads(bytes(context.store.get(f"runs/{report.run}/report.json")))["cohorts"][0]["method"] == "dml"


def test_progress_shows_every_member(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    note = progress_note(context, job.students[0])
    assert re.fullmatch(r"epoch 3 of 3, [\d.]+% on held-out rows \(members: [\d.]+%, [\d.]+%, [\d.]+%\)", note)


def test_all_as_one_are_exported_as_one_file_of_each_format(fused: tuple[Job, RunContext]) -> None:
    job, context = fused
    state, images = trained_weights(context.store, job.students[0]), read_source(job.spec.data).test.columns["image"]
    each = [
        narrow(
            images,
            {
                name: state[f"members.{k}.{name}"]
                for name in ("first.weight", "first.bias", "second.weight", "second.bias")
            },
        )
        for k in range(3)
    ]
    expected_NC = logsumexp(log_softmax(each, axis=-1), axis=0) - np.log(3)
    assert (state["members.0.first.weight"] == state["members.2.first.weight"]).all()
    assert not np.allclose(state["members.0.second.weight"], state["members.2.second.weight"])
    context.store.delete(job.export_key)

    record: ExportRecord = _export._function(job.spec.store, job)

    files = {file.format: bytes(context.store.get(file.key)) for file in record.files}
    session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
    (found_NC,) = session.run(None, {"inputs": (images / 255).astype(np.float32)})
    assert found_NC == pytest.approx(expected_NC, abs=1e-4)
    report, _ = publish_report(context, command="coffey run job.yaml", wall_s=1.0)
    (cohort,) = report.cohorts
    assert (cohort.exported, cohort.because) == ("fused", "all as one: the mean of their probabilities")
    assert cohort.is_other_model
    (student,) = [model for model in report.models if model.role == "student"]
    assert student.parameters == (16 + 1) * 2 + 3 * (2 + 1) * 3
