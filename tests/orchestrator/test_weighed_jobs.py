"""Jobs whose teachers are weighed row by row: what is fused, learnt from and measured, against numpy."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from cluster.shards.calibration import temperature_of
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from orchestrator.resolve import Job, resolve
from orchestrator.scoring import score_job
from orchestrator.steps.calibrate import calibrate_teachers
from orchestrator.steps.fuse import _fuse
from orchestrator.steps.ingest import ingest
from students.weightings.column import WeightingColumnError
from tests.fixtures.jobs import TEACHERS, job_spec, label, new_context, train_alone, write_sources

PLAIN = (
    "teachers.fitted.inputs={column: image}",
    "teachers.given.inputs={column: image}",
    "teachers.graph.inputs={column: image, shape: [16]}",
    "student.inputs={column: image}",
    "train.seeds=[0]",
    "train.epochs=1",
    "baseline=null",
)
ROUTING = "fusion.weighting={method: routing, column: domain, routes: {given: [0, 2], graph: [2]}}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of the small job, each with a domain."""
    folder = tmp_path_factory.mktemp("domains")
    write_sources(folder)
    for part in ("train", "test"):
        with np.load(folder / f"{part}.npz") as arrays:
            domains = (np.arange(len(arrays["label"])) % 4).astype(np.uint8)
            np.savez(folder / f"{part}.npz", **arrays, domain=domains)
    return folder


def labelled_job(files: Path, *overrides: str) -> tuple[Job, ObjectStore]:
    """Return a job whose teachers have labelled and are calibrated."""
    job = resolve(job_spec(files, *PLAIN, *overrides))
    context = new_context(job, open_store(job.spec.store))
    ingest(context)
    for teacher in job.teachers:
        if teacher.fit is not None:
            train_alone(context.store, teacher.fit)
        label(context, teacher)
    calibrate_teachers(context)
    context.log.close("done")
    return job, context.store


def rows_of(store: ObjectStore, identity: str) -> dict[str, np.ndarray]:
    shards = list(Dataset.open(store, identity))
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def stored(store: ObjectStore, record: LabelSetRecord) -> np.ndarray:
    labels = LabelSet(store, record)
    commits = labels.load_manifest().commits
    return np.concatenate([LogitsReader(labels).read(it.number) for it in commits]).astype(np.float64)


def probabilities(job: Job, store: ObjectStore, part: str) -> np.ndarray:
    """Return what the calibrated teachers say, `[K, N, C]`."""
    temperatures = [temperature_of(store, target.calibration) for target in job.fusion.parts]
    sets = [getattr(teacher, part) for teacher in job.teachers]
    return np.array([softmax(stored(store, it) / t, axis=1) for it, t in zip(sets, temperatures, strict=True)])


def test_the_ensemble_of_specialists_asks_on_each_row_those_that_know_its_domain(files: Path) -> None:
    job, store = labelled_job(files, ROUTING)
    train_alone(store, *job.students)

    (ensemble,) = [model for model in score_job(store, job).models if model.role == "ensemble"]

    rows, said = rows_of(store, job.datasets.test), probabilities(job, store, "test")
    asked = {0: ["given"], 1: ["fitted"], 2: ["given", "graph"], 3: ["fitted"]}
    mixed = [
        np.mean([said[TEACHERS.index(name), row] for name in asked[domain]], axis=0)
        for row, domain in enumerate(rows["domain"].tolist())
    ]
    assert ensemble.nll == pytest.approx(log_loss(rows["label"], mixed, labels=range(3)), abs=1e-5)


def test_what_is_written_of_teachers_weighed_by_their_confidence_is_their_weighed_mean(files: Path) -> None:
    job, store = labelled_job(files, "fusion={when: write, weighting: {method: confidence}}")
    assert job.fused is not None

    _fuse._function(store.uri, job.fused, job.fusion)

    labels, said = rows_of(store, job.datasets.train)["label"], probabilities(job, store, "train")
    assert {bool(it) for it in labels >= 0} == {True, False}
    own = np.array([[row[max(0, label)] for row, label in zip(part, labels, strict=True)] for part in said])
    shares = np.where(labels >= 0, (1 - softmax(-np.log(own), axis=0)) / 2, 1 / 3)
    expected = (shares[..., None] * said).sum(axis=0)
    assert np.abs(softmax(stored(store, job.fused), axis=1) - expected).max() < 1e-3
    train_alone(store, *job.students)


def test_a_column_that_the_rows_do_not_have_is_refused_before_anybody_labels(files: Path) -> None:
    job = resolve(job_spec(files, *PLAIN, ROUTING.replace("column: domain", "column: place")))
    context = new_context(job, open_store(job.spec.store))

    with pytest.raises(WeightingColumnError, match=r"fusion\.weighting\.column is place; the data set has .*domain"):
        ingest(context)
    context.log.close("failed")
