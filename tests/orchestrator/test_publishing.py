"""The report of a run: what the store knows, whole, in a file that is read back as it was written."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from cluster.shards.dataset import Dataset
from cluster.shards.records import read_record
from cluster.shards.schema import LABEL, NO_LABEL
from cluster.storage.directory import DirectoryStore
from orchestrator.cli.run import run as run_command
from orchestrator.context import RunContext
from orchestrator.events import read_events, read_run
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.load import dump_spec, parse_spec
from orchestrator.progress import Silent
from orchestrator.publishing import build_report, publish_report, warnings_of
from orchestrator.report.page import render_page
from orchestrator.report.record import Report, Summary
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.resolution.trainings import chosen_length
from orchestrator.run import run_job
from students.task import TrainedRecord
from tests.fixtures.jobs import (
    CLASSES,
    HELD_OUT,
    LABELLED,
    TEACHERS,
    TEST_ROWS,
    TRAIN_ROWS,
    carry_out,
    finished_job,
    job_spec,
    new_context,
)

COMMAND = "coffey run job.yaml --set 'name=<b>&'"
LABEL_ROWS = TRAIN_ROWS + TEST_ROWS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, RunContext]:
    job, context = finished_job(tmp_path_factory.mktemp("published"))
    context.log.close("done", report=True)
    return job, context


@pytest.fixture(scope="module")
def report(finished: tuple[Job, RunContext]) -> Report:
    return build_report(finished[1], command=COMMAND, wall_s=12.5)


@pytest.fixture
def folder(finished: tuple[Job, RunContext], tmp_path: Path) -> Path:
    """A copy of the files and the store of the finished job."""
    return shutil.copytree(Path(finished[1].store.uri).parent, tmp_path / "copy")


class TestFiles:
    def test_what_is_written_is_what_is_returned(self, folder: Path) -> None:
        store = DirectoryStore(folder / "store")
        context = new_context(resolve(job_spec(folder)), store)
        carry_out(context)
        written, uri = publish_report(context, command=COMMAND, wall_s=1.0)
        context.log.close("done", report=True)

        run = folder / "store" / "runs" / written.run
        assert uri == str(run / "report.html")
        assert Report.model_validate_json((run / "report.json").read_bytes()) == written
        assert (run / "report.html").read_text() == render_page(written)
        assert parse_spec((run / "spec.yaml").read_text(), "spec.yaml") == context.job.spec
        plan = json.loads((run / "plan.json").read_bytes())
        assert [step["name"] for step in plan] == [step.name for step in context.inspect().steps()]
        assert {step["state"] for step in plan} == {"done"}

    def test_the_record_renders_the_same_page_after_a_round_trip(self, report: Report) -> None:
        again = Report.model_validate_json(report.model_dump_json())
        assert again == report
        page = render_page(report)
        assert render_page(again) == page
        assert "&lt;b&gt;&amp;" in page
        assert "name=<b>&" not in page


class TestRecord:
    def test_every_model_has_its_name_role_figures_and_costs(self, report: Report) -> None:
        models: list[dict[str, Any]] = json.loads(report.model_dump_json())["models"]
        assert [(model["name"], model["role"]) for model in models] == [
            *((name, "teacher") for name in TEACHERS),
            ("ensemble", "ensemble"),
            *[("baseline", "baseline")] * 2,
            *[("student", "student")] * 2,
        ]
        for model in models:
            assert 0 <= model["accuracy"] <= 1
            assert 0 <= model["ece"] <= 1
            assert model["nll"] > 0
            assert model["latency_ms"] > 0
            assert isinstance(model["parameters"], int)
            assert isinstance(model["num_bytes"], int)

    def test_every_step_has_its_time_its_rows_their_rate_and_its_outcome(
        self, finished: tuple[Job, RunContext], report: Report
    ) -> None:
        steps = {step["name"]: step for step in json.loads(report.model_dump_json())["steps"]}
        assert sorted(steps) == sorted(step.name for step in finished[1].inspect().steps())
        assert {step["outcome"] for step in steps.values()} == {"computed"}
        assert all(step["seconds"] > 0 for step in steps.values())
        rows = {f"label:{name}": LABEL_ROWS for name in TEACHERS} | {f"calibrate:{name}": HELD_OUT for name in TEACHERS}
        rows["ingest"] = TRAIN_ROWS - HELD_OUT + LABELLED + TEST_ROWS
        # Epochs of all trainings of a step, times the rows that they learn from.
        rows["fit:fitted"] = 4 * (LABELLED - HELD_OUT)
        rows["baseline"] = 2 * (2 + 5) * (LABELLED - HELD_OUT)
        rows["train:student"] = 2 * 3 * (TRAIN_ROWS - HELD_OUT)
        for name, step in steps.items():
            assert step["rows"] == rows.get(name)
            if name in rows:
                assert step["rows_per_s"] == pytest.approx(step["rows"] / step["seconds"])
            else:
                assert step["rows_per_s"] is None
        assert report.teacher_rows_computed == len(TEACHERS) * LABEL_ROWS

    def test_the_rows_behind_the_figures_are_counted(self, finished: tuple[Job, RunContext], report: Report) -> None:
        job, context = finished
        labels = np.concatenate([arrays[LABEL] for arrays in Dataset.open(context.store, job.datasets.train)])
        assert report.data.source == "npz"
        assert report.data.classes == CLASSES
        assert report.data.train_rows == len(labels) == TRAIN_ROWS - HELD_OUT
        assert report.data.labelled_rows == np.count_nonzero(labels != NO_LABEL) == LABELLED - HELD_OUT
        assert (report.data.held_out_rows, report.data.test_rows) == (HELD_OUT, TEST_ROWS)

    def test_curves_are_those_of_the_trainings_that_are_reported(
        self, finished: tuple[Job, RunContext], report: Report
    ) -> None:
        job, context = finished
        fit = job.teachers[0].fit
        lone = [chosen_length(context.store, tasks) for tasks in job.baselines]
        tasks = [fit, *lone, *job.students]
        assert [(curve.model, curve.role, curve.seed) for curve in report.curves] == [
            ("fitted", "teacher", None),
            ("baseline", "baseline", 0),
            ("baseline", "baseline", 1),
            ("student", "student", 0),
            ("student", "student", 1),
        ]
        for curve, task in zip(report.curves, tasks, strict=True):
            assert task is not None
            points = read_record(context.store, task.record_key, TrainedRecord).points
            assert [point.model_dump() for point in curve.points] == [point.model_dump() for point in points]
            assert [point.epoch for point in curve.points] == list(range(1, task.epochs + 1))

    def test_the_run_its_command_and_its_surroundings_are_named(
        self, finished: tuple[Job, RunContext], report: Report
    ) -> None:
        job, context = finished
        assert (report.name, report.run, report.store) == ("shapes", context.log.state.run, context.store.uri)
        assert (report.command, report.wall_s) == (COMMAND, 12.5)
        assert parse_spec(report.spec, "spec.yaml") == job.spec
        assert {"coffey", "python", "ray", "torch", "cores"} <= report.environment.keys()
        evaluation = read_record(context.store, job.evaluation_key, EvaluationRecord)
        assert report.summary == evaluation.summary
        assert (report.agreements, report.samples) == (evaluation.agreements, evaluation.samples)
        assert [found.teacher for found in report.calibrations] == list(TEACHERS)

    def test_without_calibration_none_is_shown(self, folder: Path) -> None:
        spec = job_spec(folder, "fusion.calibrate=false", "baseline=null", "train.seeds=[0]", "train.epochs=1")
        context = new_context(resolve(spec), DirectoryStore(folder / "store"))
        carry_out(context)
        context.log.close("done")
        report = build_report(context, command=COMMAND, wall_s=1.0)
        assert report.calibrations == ()
        assert {curve.role for curve in report.curves} == {"teacher", "student"}
        outcomes = {step.name: step.outcome for step in report.steps}
        assert outcomes["label:given"] == "reused"
        assert outcomes["train:student"] == "computed"
        assert report.teacher_rows_computed == 0
        render_page(report)


def summary(**keys: float | None) -> Summary:
    values: dict[str, float | None] = {
        "ensemble_accuracy": 0.9,
        "baseline_accuracy": 0.8,
        "baseline_std": 0.01,
        "student_accuracy": 0.85,
        "student_std": 0.01,
        "gap_recovered": 0.5,
        "compression": 10.0,
        "teachers_lead": 0.1,
        "teachers_lead_stderr": 0.02,
    }
    return Summary.model_validate(values | keys)


class TestWarnings:
    def test_a_run_that_paid_warns_of_nothing(self) -> None:
        assert warnings_of(summary()) == ()

    @pytest.mark.parametrize(
        ("lead", "error", "warns"),
        [
            (0.1, 0.06, False),  # 1.67 standard errors
            (0.1, 0.061, True),  # 1.639
            (0.03291, 0.02, False),
            (0.03289, 0.02, True),
            (0.001, 0.0, False),
            (0.0, 0.0, True),  # nobody erred, or all erred alike: not better
            (-0.1, 0.01, True),
            (None, None, False),
        ],
    )
    def test_teachers_that_do_not_clearly_lead_are_told(
        self, lead: float | None, error: float | None, warns: bool
    ) -> None:
        warnings = warnings_of(summary(student_accuracy=0.805, teachers_lead=lead, teachers_lead_stderr=error))
        assert len(warnings) == warns
        if warns:
            assert "not clearly better than the lone student" in warnings[0]
            assert f"{100 * (lead or 0):+.1f} ± {100 * (error or 0):.1f} points" in warnings[0]

    @pytest.mark.parametrize(
        ("student", "lone", "warns"),
        [(0.79, 0.8, True), (0.8, 0.8, False), (0.81, 0.8, False), (0.1, None, False), (0.7, 0.7 + 1e-16, False)],
    )
    def test_a_student_that_is_worse_than_the_lone_one_is_told(
        self, student: float, lone: float | None, warns: bool
    ) -> None:
        warnings = warnings_of(summary(student_accuracy=student, baseline_accuracy=lone))
        assert warnings == (
            ("The distilled student is 1.0 points worse than the lone student on the test rows.",) if warns else ()
        )

    def test_of_a_student_that_has_clearly_gained_nobody_says_that_it_could_not(self) -> None:
        assert warnings_of(summary(student_accuracy=0.811, teachers_lead=0.0)) == ()
        assert len(warnings_of(summary(student_accuracy=0.809, teachers_lead=0.0))) == 1
        assert len(warnings_of(summary(student_accuracy=0.811, teachers_lead=0.0, gain_stderr=0.02))) == 1

    def test_both_are_told_at_once(self) -> None:
        assert len(warnings_of(summary(student_accuracy=0.5, teachers_lead=0.0))) == 2


class TestSecondRun:
    def test_a_run_that_finds_everything_done_reports_without_a_cluster(self, folder: Path) -> None:
        store, spec = DirectoryStore(folder / "store"), job_spec(folder)
        before = {stat.key for stat in store.list("") if not stat.key.startswith("runs/")}
        result = run_job(spec, store, command=COMMAND, progress=Silent())
        assert not ray.is_initialized()
        assert result.report.teacher_rows_computed == 0
        assert {step.outcome for step in result.report.steps} == {"reused"}
        assert [step.name for step in result.report.steps] == [
            step["name"] for step in json.loads((folder / "store" / "runs" / result.run / "plan.json").read_bytes())
        ]
        assert {stat.key for stat in store.list("") if not stat.key.startswith("runs/")} == before
        state = read_run(store, result.run)
        assert (state.state, state.report, state.exit_code) == ("done", True, 0)
        assert Path(result.report_uri).is_file()

    def test_the_part_of_the_teachers_is_done_when_all_labels_are_whatever_becomes_of_the_student(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store, spec = DirectoryStore(folder / "store"), job_spec(folder)
        (folder / "job.yaml").write_text(dump_spec(spec))
        store.delete(resolve(spec).students[0].record_key)
        run_command(folder / "job.yaml", part="teachers")
        assert not ray.is_initialized()
        assert f"All labels are in {store.uri}; 0 rows went" in capsys.readouterr().out
        state = read_run(store, spec.name)
        assert (state.state, state.report, state.exit_code) == ("done", False, 0)

    def test_the_part_of_the_student_of_a_finished_job_is_its_report(self, folder: Path) -> None:
        store, spec = DirectoryStore(folder / "store"), job_spec(folder)
        result = run_job(spec, store, command=COMMAND, progress=Silent(), part="student")
        assert not ray.is_initialized()
        assert {step.outcome for step in result.report.steps} == {"reused"}

    def test_two_runs_of_one_job_say_the_same(self, folder: Path) -> None:
        store, spec = DirectoryStore(folder / "store"), job_spec(folder)
        reports = [run_job(spec, store, command=COMMAND, progress=Silent()).report for _ in range(2)]
        changing = {"run", "created", "wall_s"}
        first, second = (report.model_dump(exclude=changing) for report in reports)
        assert first == second
        assert reports[0].run != reports[1].run


def test_events_tell_of_each_step_that_was_computed(finished: tuple[Job, RunContext]) -> None:
    _, context = finished
    events = list(read_events(context.store, context.log.state.run))
    begun, ended = ([event.step for event in events if event.event == kind] for kind in ("started", "finished"))
    assert begun == ended == [step.name for step in context.results]
    assert [event.rows for event in events if event.event == "finished"] == [step.rows for step in context.results]
    assert [event.at for event in events] == sorted(event.at for event in events)
