"""Jobs whose teachers are weighed row by row: what is fused, learnt from and measured, against numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from cluster.shards.calibration import CalibrationRecord, calibration_of
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.records import read_record
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from orchestrator.figures.scoring import score_job
from orchestrator.planning.plan import make_plan
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.specfile.errors import SpecInvalidError
from orchestrator.steps.fuse import write_fused
from students.batches import TrainingData
from students.task import Execution
from students.weightings.column import WeightingColumnError
from tests.fixtures.jobs import TEACHERS, job_spec, taught, train_alone, write_sources

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
    context = taught(job)
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
    temperatures = [calibration_of(store, target.calibration).temperature for target in job.fusion.parts]
    sets = [getattr(teacher, part) for teacher in job.teachers]
    return np.array([softmax(stored(store, it) / t, axis=1) for it, t in zip(sets, temperatures, strict=True)])


def test_the_ensemble_of_specialists_asks_on_each_row_those_that_know_its_domain(files: Path) -> None:
    job, store = labelled_job(files, ROUTING)
    train_alone(store, *job.students)

    record = score_job(store, job)

    rows, said = rows_of(store, job.datasets.test), probabilities(job, store, "test")

    def mixed(asked: dict[int, list[str]]) -> float:
        of_rows = [
            np.mean([said[TEACHERS.index(name), row] for name in asked[domain]], axis=0)
            for row, domain in enumerate(rows["domain"].tolist())
        ]
        return float(log_loss(rows["label"], of_rows, labels=range(3)))

    (ensemble,) = [model for model in record.models if model.role == "ensemble"]
    asked = {0: ["given"], 1: ["fitted"], 2: ["given", "graph"], 3: ["fitted"]}
    assert ensemble.nll == pytest.approx(mixed(asked), abs=1e-5)
    without = {found.teacher: found for found in record.contributions}
    assert {found.share for found in record.contributions} == {None}
    lone = {0: ["fitted"], 1: ["fitted"], 2: ["graph"], 3: ["fitted"]}
    assert without["given"].nll == pytest.approx(mixed(lone), abs=1e-5)
    # Where nobody is a generalist, all are asked about what none of them knows.
    specialists = {0: ["given"], 1: ["given", "graph"], 2: ["given", "graph"], 3: ["given", "graph"]}
    assert without["fitted"].nll == pytest.approx(mixed(specialists), abs=1e-5)


def test_what_is_written_of_teachers_weighed_by_their_confidence_is_their_weighed_mean(files: Path) -> None:
    job, store = labelled_job(files, "fusion={when: write, weighting: {method: confidence}}")
    assert job.fused is not None

    write_fused(store, job.fused, job.fusion)

    labels, said = rows_of(store, job.datasets.train)["label"], probabilities(job, store, "train")
    assert {bool(it) for it in labels >= 0} == {True, False}
    own = np.array([[row[max(0, label)] for row, label in zip(part, labels, strict=True)] for part in said])
    shares = np.where(labels >= 0, (1 - softmax(-np.log(own), axis=0)) / 2, 1 / 3)
    expected = (shares[..., None] * said).sum(axis=0)
    assert np.abs(softmax(stored(store, job.fused), axis=1) - expected).max() < 1e-3
    train_alone(store, *job.students)


@pytest.mark.parametrize(
    "override",
    ["fusion.weighting={method: gradient}", "objective=[{term: kl}, {term: kl, of: given}]"],
)
def test_what_each_teacher_says_to_a_step_is_calibrated_class_by_class(files: Path, override: str) -> None:
    job, store = labelled_job(files, "fusion.calibrate=vector", override)
    data = TrainingData(store, job.students[0], Execution(), rank=0, world_size=1)

    found = {
        (255 * image).round().byte().numpy().tobytes(): {
            name: logits[row].double().numpy() for name, logits in batch.teacher_logits.items()
        }
        for batch in data.batches(first_step=0, device=torch.device("cpu"))
        for row, image in enumerate(batch.inputs)
    }

    matched = [found[image.tobytes()] for image in rows_of(store, job.datasets.train)["image"]]
    for teacher, target in zip(job.teachers, job.fusion.parts, strict=True):
        assert target.calibration is not None
        fitted = read_record(store, target.calibration, CalibrationRecord)
        z = stored(store, teacher.train) / fitted.temperature
        z = np.array(fitted.scales) * (z - z.mean(axis=1, keepdims=True)) + np.array(fitted.biases)
        said = np.array([of_row[teacher.config.name] for of_row in matched])
        assert said == pytest.approx(log_softmax(z, axis=1), abs=1e-4)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("hue", "column is hue; the data set has row, image, domain, label. Expected"),
        ("domains", "column is domains; .* of which domain is the nearest. Expected"),
        ("image", r"column is image; the data set has it as uint8 \[.+\]. Expected a column of whole numbers"),
    ],
)
def test_a_plan_refuses_a_column_that_the_rows_do_not_have(files: Path, column: str, says: str) -> None:
    spec = job_spec(files, *PLAIN, ROUTING.replace("column: domain", f"column: {column}"))

    with pytest.raises(WeightingColumnError, match=rf"fusion\.weighting\.{says}"):
        make_plan(spec, open_store(spec.store))


def test_fused_labels_are_not_written_for_terms_that_read_none(files: Path) -> None:
    taps = "teachers.given.taps={layer: {}}"
    objective = "objective=[{term: cross_entropy}, {term: fitnet, student: second, teacher: 'given:layer'}]"

    with pytest.raises(SpecInvalidError, match=r"fusion\.when says how teachers are fused, and no term reads them"):
        job_spec(files, taps, objective, "fusion.when=write")
