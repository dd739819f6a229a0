"""Whole runs on a Ray cluster: what is computed, what is reused, and what a student learns from."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.logits import LogitsReader
from cluster.storage.open import open_store
from orchestrator.resolution.resolve import ENSEMBLE, resolve
from orchestrator.run import RunResult
from orchestrator.spec import JobSpec
from tests.fixtures import small_jobs
from tests.fixtures.ray_head import RayHead
from tests.fixtures.ray_runs import Listener, outcomes, run, trained_digests
from tests.fixtures.small_jobs import changed

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> tuple[JobSpec, RunResult]:
    """A run of two teachers, one step after the other, into a store that no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    teachers = small_jobs.two_teachers(folder)
    teachers[1]["labels"] = {"codec": "hidden", "head": "layer", "width": 64}
    spec = small_jobs.job(folder, store=str(folder / "store"), teachers=teachers, cluster={"address": ray_head.address})
    spec = changed(spec, train__pipelined="never")
    return spec, run(spec)


@pytest.fixture
def copied(finished: tuple[JobSpec, RunResult], tmp_path: Path) -> JobSpec:
    """The same job with a copy of its store."""
    shutil.copytree(finished[0].store, tmp_path / "store")
    return changed(finished[0], store=str(tmp_path / "store"))


def test_every_row_of_every_split_is_labelled_once_by_every_teacher(finished: tuple[JobSpec, RunResult]) -> None:
    spec, result = finished
    assert result.report.teacher_rows_computed == 2 * small_jobs.ROWS
    job, store = resolve(spec), open_store(spec.store)
    for teacher in job.teachers:
        for record in teacher.label_sets:
            manifest = LabelSet(store, record).load_manifest()
            expected = [entry.rows for entry in Dataset.open(store, record.dataset).record.shards]
            assert [commit.rows for commit in manifest.commits] == expected


def test_labels_are_the_logits_of_the_teacher(finished: tuple[JobSpec, RunResult]) -> None:
    spec, _ = finished
    job, store = resolve(spec), open_store(spec.store)
    for teacher, rows in zip(job.teachers, (slice(0, 300), slice(300, 600)), strict=True):
        weight, bias = small_jobs.teacher_weights(rows)
        labels = LogitsReader(LabelSet(store, teacher.train))
        for number, arrays in enumerate(Dataset.open(store, job.datasets.train)):
            expected = (arrays["image"].reshape(-1, 64) / 255.0) @ weight.T + bias
            np.testing.assert_allclose(labels.read(number), expected, atol=0.02)


def test_the_student_learns_what_its_teachers_know(finished: tuple[JobSpec, RunResult]) -> None:
    summary = finished[1].report.summary
    assert summary.ensemble_accuracy > 0.8
    assert summary.student_accuracy > 0.75


def test_the_same_command_again_computes_nothing(finished: tuple[JobSpec, RunResult], copied: JobSpec) -> None:
    again = run(copied)
    assert again.report.teacher_rows_computed == 0
    assert set(outcomes(again).values()) == {"reused"}
    assert again.report.models == finished[1].report.models


def test_another_teacher_labels_alone_and_a_changed_student_never_relabels(copied: JobSpec, tmp_path: Path) -> None:
    weights = small_jobs.write_onnx_teacher(tmp_path / "third.onnx", rows=slice(600, 900))
    third = {"name": "third", "weights": str(weights), "resources": {"cpu": 0.5}}
    teachers = [*copied.model_dump(mode="json")["teachers"], third]
    with_third = changed(copied, teachers=teachers)
    result = run(with_third)
    assert result.report.teacher_rows_computed == small_jobs.ROWS
    assert outcomes(result)["label:first"] == outcomes(result)["label:second"] == "reused"
    assert outcomes(result)["label:third"] == outcomes(result)["train:student"] == "computed"
    (accuracy,) = [model.accuracy for model in result.report.models if model.name == "third"]
    assert accuracy > 0.8

    shorter = run(changed(with_third, train__epochs=2))
    assert shorter.report.teacher_rows_computed == 0
    assert outcomes(shorter)["train:student"] == "computed"


def test_one_worker_trains_the_same_student_as_two(finished: tuple[JobSpec, RunResult], copied: JobSpec) -> None:
    forget_training(copied)
    alone = run(changed(copied, train__workers=1))
    (one,) = [model for model in alone.report.models if model.role == "student"]
    (two,) = [model for model in finished[1].report.models if model.role == "student"]
    assert one.nll == pytest.approx(two.nll, abs=1e-5)
    assert one.accuracy == two.accuracy


def test_training_that_follows_the_labels_ends_with_the_same_student(
    finished: tuple[JobSpec, RunResult], tmp_path: Path
) -> None:
    spec = changed(finished[0], store=str(tmp_path / "empty"), train__pipelined="auto")
    listener = Listener()
    result = run(spec, listener)
    assert any("training follows the labels" in message for message in listener.messages)
    assert trained_digests(spec) == trained_digests(finished[0])
    assert result.report.summary == finished[1].report.summary


def test_labels_that_were_fused_before_train_the_same_student(
    finished: tuple[JobSpec, RunResult], copied: JobSpec
) -> None:
    result = run(changed(copied, fusion__when="write"))
    assert result.report.teacher_rows_computed == 0
    assert outcomes(result)["fuse"] == "computed"
    job, store = resolve(changed(copied, fusion__when="write")), open_store(copied.store)
    assert job.fused is not None
    assert job.fused.teacher == ENSEMBLE
    assert LabelSet(store, job.fused).load_manifest().rows == small_jobs.TRAIN_ROWS - small_jobs.HELD_OUT_ROWS
    (written,) = [model for model in result.report.models if model.role == "student"]
    (read,) = [model for model in finished[1].report.models if model.role == "student"]
    assert written.nll == pytest.approx(read.nll, abs=2e-3)


def test_a_teacher_that_a_selection_leaves_out_labels_no_training_rows(tmp_path: Path, ray_head: RayHead) -> None:
    weights = small_jobs.write_teacher(tmp_path / "first.safetensors", rows=slice(0, 300))
    alike = [small_jobs.teacher(name, weights) for name in ("first", "second")]  # the second can add nothing
    spec = small_jobs.job(
        tmp_path,
        store=str(tmp_path / "store"),
        teachers=alike,
        fusion={"select": "greedy"},
        train={"epochs": 1, "batch_size": 64},
        baseline=None,
        cluster={"address": ray_head.address},
    )

    result = run(spec)

    unread = small_jobs.TRAIN_ROWS - small_jobs.HELD_OUT_ROWS
    assert result.report.teacher_rows_computed == 2 * small_jobs.ROWS - unread
    assert [one.share for one in result.report.contributions] == [1, 0]
    first, second = resolve(spec).teachers
    store = open_store(spec.store)
    assert [LabelSet(store, teacher.train).is_sealed() for teacher in (first, second)] == [True, False]
    assert set(outcomes(run(spec)).values()) == {"reused"}


def forget_training(spec: JobSpec) -> None:
    """Delete what training left behind, so that it is done again."""
    job = resolve(spec)
    for task in job.students:
        shutil.rmtree(Path(spec.store, task.prefix))
    Path(spec.store, job.evaluation_key).unlink()


def test_a_cohort_without_teachers_learns_on_two_workers_and_is_exported_as_one(
    tmp_path: Path, ray_head: RayHead
) -> None:
    spec = small_jobs.job(
        tmp_path,
        store=str(tmp_path / "store"),
        teachers=[],
        objective=[{"term": "cross_entropy"}],
        cohort={"method": "kdcl", "variant": "general", "members": 3, "export": "fused"},
        baseline=None,
        cluster={"address": ray_head.address},
    )
    result = run(spec)
    assert result.report.teacher_rows_computed == 0
    assert [member.name for member in result.report.cohorts[0].members] == ["student", "peer-1", "peer-2"]
    (student,) = [model for model in result.report.models if model.role == "student"]
    assert student.parameters == 3 * (64 + 1) * 10
    assert student.accuracy > 0.75
    assert set(outcomes(run(spec)).values()) == {"reused"}
