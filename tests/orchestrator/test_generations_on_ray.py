"""A run without teachers whose student is born again: on a Ray cluster, where Serve labels what a generation says."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.logits import LogitsReader
from cluster.shards.records import read_record
from cluster.storage.open import open_store
from orchestrator.resolution.resolve import resolve
from orchestrator.run import RunResult
from orchestrator.spec import JobSpec
from students.task import TrainedRecord
from tests.fixtures import small_jobs
from tests.fixtures.ray_head import RayHead
from tests.fixtures.ray_runs import outcomes, run
from tests.fixtures.small_jobs import changed

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> tuple[JobSpec, RunResult]:
    """A run of two generations, into a store that no test changes."""
    folder = tmp_path_factory.mktemp("born")
    spec = small_jobs.job(
        folder,
        store=str(folder / "store"),
        teachers=[],
        objective=[{"term": "cross_entropy"}],
        generations={"count": 2, "resources": {"cpu": 0.5}},
        cluster={"address": ray_head.address},
    )
    return spec, run(spec)


def test_a_generation_labels_every_row_of_every_split_with_its_own_logits(
    finished: tuple[JobSpec, RunResult],
) -> None:
    spec, result = finished
    (generation,), store = resolve(spec).generations, open_store(spec.store)
    assert generation.fit is not None
    assert result.report.teacher_rows_computed == small_jobs.ROWS
    weights = safetensors.numpy.load(
        bytes(store.get(read_record(store, generation.fit.record_key, TrainedRecord).weights_key))
    )
    for record in generation.label_sets:
        labels, dataset = LabelSet(store, record), Dataset.open(store, record.dataset)
        reader = LogitsReader(labels)
        for commit in labels.load_manifest().commits:
            images = dataset.read(commit.number)["image"].reshape(-1, 64) / 255
            expected = images @ weights["layer.weight"].T.astype(np.float64) + weights["layer.bias"]
            assert np.abs(reader.read(commit.number) - expected).max() < 2e-2


def test_every_generation_and_the_student_are_in_the_report(finished: tuple[JobSpec, RunResult]) -> None:
    _, result = finished
    assert [model.role for model in result.report.models] == ["baseline", "generation", "student"]
    assert [curve.model for curve in result.report.curves] == ["baseline", "generation-0", "student"]
    assert result.report.summary.student_accuracy > 0.7
    assert result.report.summary.ensemble_accuracy is None


def test_the_same_command_again_computes_nothing(finished: tuple[JobSpec, RunResult], tmp_path: Path) -> None:
    shutil.copytree(finished[0].store, tmp_path / "store")
    again = run(changed(finished[0], store=str(tmp_path / "store")))
    assert set(outcomes(again).values()) == {"reused"}
    assert again.report.models == finished[1].report.models


def test_one_more_generation_goes_on_from_the_last_one(finished: tuple[JobSpec, RunResult], tmp_path: Path) -> None:
    shutil.copytree(finished[0].store, tmp_path / "store")
    longer = run(changed(finished[0], store=str(tmp_path / "store"), generations__count=3))
    steps = outcomes(longer)
    assert steps["train:generation-0"] == steps["label:generation-0"] == "reused"
    assert steps["train:generation-1"] == steps["label:generation-1"] == steps["train:student"] == "computed"
    assert longer.report.teacher_rows_computed == small_jobs.ROWS
