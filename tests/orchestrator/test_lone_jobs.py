"""Jobs that name no teachers: what is refused, and what is left of a plan, a run and a report."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cluster.session import Capacity
from cluster.shards.records import read_record
from cluster.storage.open import open_store
from orchestrator.cli.run import plan as plan_command
from orchestrator.context import RunContext
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.load import dump_spec, parse_spec
from orchestrator.planning.plan import make_plan
from orchestrator.publishing import publish_report
from orchestrator.report.record import Report
from orchestrator.report.table import print_report
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.sources.read import read_source
from orchestrator.specfile.errors import SpecInvalidError
from tests.fixtures.jobs import finished_job, job_spec, narrow, trained_weights, write_sources

LONE = ("teachers=[]", "objective=[{term: teacher_free, weight: 0.5}, {term: cross_entropy, weight: 0.5}]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, RunContext]:
    return finished_job(tmp_path_factory.mktemp("lone"), *LONE)


@pytest.fixture(scope="module")
def report(finished: tuple[Job, RunContext]) -> Report:
    return publish_report(finished[1], command="coffey run job.yaml", wall_s=1.0)[0]


def problems_of(folder: Path, *overrides: str) -> str:
    with pytest.raises(SpecInvalidError) as refused:
        job_spec(folder, *LONE, *overrides)
    return str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective=[{term: cross_entropy}]", "there are none, and nothing else teaches the student"),
        ("objective=[{term: kl}, {term: teacher_free}]", "objective: the term `kl` reads teachers"),
        ("objective=[{term: sparse_kl}, {term: teacher_free}]", "objective: the term `sparse_kl` reads teachers"),
        (
            "objective=[{term: fitnet, student: first, teacher: 'given:layer'}, {term: teacher_free}]",
            "objective: the term `fitnet` reads teachers",
        ),
        ("objective=[{term: teacher_free, of: given}]", "is `of` a teacher and reads none"),
        ("fusion.when=write", "fusion.when says how teachers are fused"),
        ("fusion.combine=vote", "fusion.combine says how teachers are fused"),
        ("fusion.select=greedy", "fusion.select says how teachers are fused"),
        ("fusion.calibrate=vector", "fusion.calibrate says how teachers are fused"),
        ("fusion.weighting={method: gradient}", "fusion.weighting says how teachers are fused"),
        ("fusion.weights={given: 2}", "fusion.weights says how teachers are fused"),
    ],
)
def test_what_asks_for_teachers_is_refused_where_there_are_none(tmp_path: Path, override: str, message: str) -> None:
    assert message in problems_of(tmp_path, override)


def test_a_spec_without_teachers_survives_being_written_with_every_default(tmp_path: Path) -> None:
    spec = job_spec(tmp_path, *LONE)
    assert parse_spec(dump_spec(spec), "dumped.yaml") == spec


def test_the_plan_has_no_step_of_teachers(tmp_path: Path) -> None:
    write_sources(tmp_path)
    spec = job_spec(tmp_path, *LONE)
    plan = make_plan(spec, open_store(spec.store))
    assert [step.kind for step in plan.steps] == ["ingest", "baseline", "train", "evaluate", "export"]
    assert (plan.pipelined, plan.fused) == (False, None)


def test_the_plan_on_the_terminal_speaks_of_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sources(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(dump_spec(job_spec(tmp_path, *LONE)))
    plan_command(path)
    printed = capsys.readouterr().out
    assert "There are no teachers" in printed
    assert "fused" not in printed


def test_the_placement_has_no_wave_and_checks_the_training_alone(finished: tuple[Job, RunContext]) -> None:
    placement = finished[1].inspect().place(Capacity(cpus=1, gpus=0))
    assert (placement.waves, placement.pipelined) == ((), False)


def test_nothing_is_labelled_and_only_students_are_judged(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    assert job.fusion is None
    assert list(context.store.list("labels/")) == []
    evaluation = read_record(context.store, job.evaluation_key, EvaluationRecord)
    assert [model.role for model in evaluation.models] == ["baseline", "baseline", "student", "student"]
    assert evaluation.calibrations == evaluation.contributions == evaluation.agreements == ()
    assert set(evaluation.samples[0].probabilities) == {"baseline", "student"}


def test_the_summary_compares_the_student_with_the_lone_one(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    test = read_source(job.spec.data).test
    reached = [
        np.mean(narrow(test.columns["image"], trained_weights(context.store, task)).argmax(axis=1) == test.labels_N)
        for task in job.students
    ]
    summary = read_record(context.store, job.evaluation_key, EvaluationRecord).summary
    assert summary.student_accuracy == pytest.approx(np.mean(reached), abs=1e-9)
    assert summary.baseline_accuracy is not None
    assert summary.gain_stderr is not None
    nothing = {summary.ensemble_accuracy, summary.gap_recovered, summary.compression, summary.teachers_lead}
    assert nothing == {None}


def test_the_verdict_names_the_lone_student_and_no_ensemble(report: Report) -> None:
    console = Console(file=io.StringIO(), width=100)
    print_report(report, console)
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "the same student trained on the same labels alone on" in printed
    assert "nobody had to label a row" in printed
    assert "ensemble" not in printed
    assert "no gap" not in printed


def test_the_page_shows_students_alone(finished: tuple[Job, RunContext], report: Report) -> None:
    page = bytes(finished[1].store.get(f"runs/{report.run}/report.html")).decode()
    for word in ("ensemble", "fused", "went through a teacher", 'id="agreement"', 'id="calibration"'):
        assert word not in page
    assert json.loads(bytes(finished[1].store.get(f"runs/{report.run}/report.json")))["agreements"] == []


def test_a_job_without_teachers_has_the_lone_students_of_one_with(tmp_path: Path) -> None:
    write_sources(tmp_path)
    taught, lone = resolve(job_spec(tmp_path)), resolve(job_spec(tmp_path, *LONE))
    assert [[task.identity for task in tasks] for tasks in lone.baselines] == [
        [task.identity for task in tasks] for tasks in taught.baselines
    ]
