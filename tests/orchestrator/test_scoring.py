"""The figures of a job, computed again from the weights and the rows by numpy, scipy and scikit-learn."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import safetensors.numpy
from scipy.special import rel_entr, softmax
from scipy.stats import sem
from sklearn.metrics import accuracy_score, log_loss

from cluster.identity import digest_of
from cluster.shards.calibration import CalibrationRecord, calibration_key
from cluster.shards.codecs.dense import LOGITS
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.records import publish_record, read_record
from cluster.shards.schema import LABEL, ROW
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError, ObjectStore
from orchestrator.context import RunContext
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.figures.measuring import Measured, measure_student
from orchestrator.figures.scoring import score_job
from orchestrator.report.record import ModelResult, Role
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.resolution.trainings import chosen_length
from orchestrator.steps.ingest import ingest
from students.spec import FusionConfig
from students.task import EpochPoint, TrainedRecord, TrainingTask
from tests.fixtures.jobs import (
    CLASSES,
    HELD_OUT,
    TEACHERS,
    TEST_ROWS,
    finished_job,
    job_spec,
    label,
    linear,
    narrow,
    new_context,
    trained_weights,
    write_sources,
)

NUM_CLASSES = len(CLASSES)


@dataclass(frozen=True)
class Finished:
    """A job that is done, what was said of it, and the rows."""

    job: Job
    context: RunContext
    record: EvaluationRecord
    rows: dict[str, dict[str, np.ndarray]]

    @property
    def store(self) -> ObjectStore:
        return self.context.store

    def model(self, role: Role, *, name: str | None = None, seed: int | None = None) -> ModelResult:
        (found,) = [m for m in self.record.models if m.role == role and m.seed == seed and name in (None, m.name)]
        return found

    def teacher(self, number: int, part: str) -> np.ndarray:
        """Return the logits that a teacher has stored, float64."""
        teacher = self.job.teachers[number]
        record = teacher.test if part == "test" else teacher.held_out
        labels = LabelSet(self.store, record)
        count = len(Dataset.open(self.store, record.dataset).record.shards)
        return np.concatenate([labels.read(shard)[LOGITS] for shard in range(count)]).astype(np.float64)

    def ensemble(self, part: str) -> np.ndarray:
        """Return the log of the mean of the teachers' calibrated probabilities."""
        cooled = [self.teacher(number, part) / self.temperature(number) for number in range(len(TEACHERS))]
        shares = [self.job.spec.fusion.weights.get(name, 1.0) for name in TEACHERS]
        mean = np.average([softmax(logits, axis=1) for logits in cooled], axis=0, weights=shares)
        log_probs: np.ndarray = np.log(mean)
        return log_probs

    def temperature(self, number: int) -> float:
        key = calibration_key(self.job.teachers[number].held_out)
        return read_record(self.store, key, CalibrationRecord).temperature

    def student(self, task: TrainingTask, part: str) -> np.ndarray:
        return narrow(self.rows[part]["image"], trained_weights(self.store, task))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A job with weights on its teachers and three seeds."""
    folder = tmp_path_factory.mktemp("scored")
    job, context = finished_job(folder, "fusion.weights={given: 2}", "train.seeds=[0, 1, 7]")
    context.log.close("done")
    rows = {part: whole(context.store, getattr(job.datasets, part)) for part in ("test", "held_out")}
    return Finished(job, context, score_job(context.store, job), rows)


def whole(store: ObjectStore, identity: str) -> dict[str, np.ndarray]:
    shards = list(Dataset.open(store, identity))
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return Σ |rows of the bin| / rows · |accuracy - confidence|, bin by bin as the paper writes it."""
    probabilities = softmax(logits, axis=1)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, truth in zip(probabilities, labels, strict=True):
        bins[min(14, int(row.max() * 15))].append((float(row.max()), int(row.argmax()) == truth))
    gaps = [abs(np.mean([hit for _, hit in part]) - np.mean([share for share, _ in part])) for part in bins if part]
    return float(np.average(gaps, weights=[len(part) for part in bins if part]))


def assert_figures(model: ModelResult, logits: np.ndarray, labels: np.ndarray) -> None:
    assert model.accuracy == pytest.approx(accuracy_score(labels, logits.argmax(axis=1)))
    assert model.nll == pytest.approx(log_loss(labels, softmax(logits, axis=1), labels=range(NUM_CLASSES)), abs=1e-5)
    assert model.ece == pytest.approx(expected_calibration_error(logits, labels), abs=1e-4)


class TestModels:
    def test_every_model_is_there_by_name_role_and_seed(self, finished: Finished) -> None:
        assert [(model.name, model.role, model.seed) for model in finished.record.models] == [
            ("fitted", "teacher", None),
            ("given", "teacher", None),
            ("graph", "teacher", None),
            ("ensemble", "ensemble", None),
            ("baseline", "baseline", 0),
            ("baseline", "baseline", 1),
            ("baseline", "baseline", 7),
            ("student", "student", 0),
            ("student", "student", 1),
            ("student", "student", 7),
        ]

    @pytest.mark.parametrize("number", range(3))
    def test_figures_of_teachers_are_those_of_their_labels(self, finished: Finished, number: int) -> None:
        logits, labels = finished.teacher(number, "test"), finished.rows["test"][LABEL]
        assert logits.shape == (TEST_ROWS, NUM_CLASSES)
        assert_figures(finished.model("teacher", name=TEACHERS[number]), logits, labels)

    def test_figures_of_the_ensemble_are_those_of_the_mean_of_cooled_probabilities(self, finished: Finished) -> None:
        assert_figures(finished.model("ensemble"), finished.ensemble("test"), finished.rows["test"][LABEL])

    @pytest.mark.parametrize("place", range(3))
    def test_figures_of_students_are_those_of_their_weights_on_the_test_rows(
        self, finished: Finished, place: int
    ) -> None:
        task = finished.job.students[place]
        logits, labels = finished.student(task, "test"), finished.rows["test"][LABEL]
        assert_figures(finished.model("student", seed=task.seed), logits, labels)
        lone = chosen_length(finished.store, finished.job.baselines[place])
        result = finished.model("baseline", seed=task.seed)
        assert_figures(result, finished.student(lone, "test"), labels)
        assert result.epochs == lone.epochs

    def test_sizes_are_those_of_the_files_and_the_ensembles_is_their_sum(self, finished: Finished) -> None:
        linear, hidden = 16 * 3 + 3, 16 * 2 + 2 + 2 * 3 + 3
        files = [Path(str(teacher.config.weights)) for teacher in finished.job.teachers if teacher.fit is None]
        given, graph = (path.stat().st_size for path in files)
        teachers = [finished.model("teacher", name=name) for name in TEACHERS]
        assert [model.parameters for model in teachers] == [linear] * 3
        assert [model.num_bytes for model in teachers][1:] == [given, graph]
        ensemble = finished.model("ensemble")
        assert ensemble.parameters == 3 * linear
        assert ensemble.num_bytes == sum(model.num_bytes for model in teachers)
        assert ensemble.latency_ms == pytest.approx(sum(model.latency_ms for model in teachers))
        for model in finished.record.models:
            assert model.latency_ms > 0
            if model.role in ("student", "baseline"):
                assert model.parameters == hidden

    def test_a_model_of_unknown_size_makes_that_of_the_ensemble_unknown(self) -> None:
        known, unknown = Measured(10, 100, 1.0), Measured(None, 50, 0.5)
        assert known + known == Measured(20, 200, 2.0)
        assert known + unknown == unknown + known == Measured(None, 150, 1.5)


class TestComparisons:
    def test_calibration_is_measured_on_test_rows_with_the_temperature_of_the_held_out_rows(
        self, finished: Finished
    ) -> None:
        labels = finished.rows["test"][LABEL]
        for number, found in enumerate(finished.record.calibrations):
            logits, temperature = finished.teacher(number, "test"), finished.temperature(number)
            assert (found.teacher, found.temperature) == (TEACHERS[number], temperature)
            for before_or_after, scaled in (("before", logits), ("after", logits / temperature)):
                ece, nll = (getattr(found, f"{figure}_{before_or_after}") for figure in ("ece", "nll"))
                assert ece == pytest.approx(expected_calibration_error(scaled, labels))
                probabilities = softmax(scaled, axis=1)
                assert nll == pytest.approx(log_loss(labels, probabilities, labels=range(NUM_CLASSES)), abs=1e-6)
                assert sum(part.rows for part in getattr(found, f"bins_{before_or_after}")) == TEST_ROWS

    def test_agreement_and_divergence_are_means_over_the_students(self, finished: Finished) -> None:
        others = [finished.teacher(number, "test") for number in range(3)] + [finished.ensemble("test")]
        students = [finished.student(task, "test") for task in finished.job.students]
        assert [found.model for found in finished.record.agreements] == [*TEACHERS, "ensemble"]
        for found, other in zip(finished.record.agreements, others, strict=True):
            same = [accuracy_score(other.argmax(axis=1), student.argmax(axis=1)) for student in students]
            distance = [
                rel_entr(softmax(other, axis=1), softmax(student, axis=1)).sum(axis=1).mean() for student in students
            ]
            assert found.agreement == pytest.approx(np.mean(same))
            assert found.kl == pytest.approx(np.mean(distance), abs=1e-5)

    def test_samples_are_the_first_test_rows_with_what_each_model_believes(self, finished: Finished) -> None:
        rows = finished.rows["test"]
        assert [sample.row for sample in finished.record.samples] == rows[ROW][:12].tolist() == list(range(12))
        for place, sample in enumerate(finished.record.samples):
            assert sample.label == rows[LABEL][place]
            assert np.array_equal(sample.pixels or (), rows["image"][place])
            assert sample.probabilities.keys() == {*TEACHERS, "ensemble", "baseline", "student"}
            expected = softmax(finished.student(finished.job.students[0], "test")[place])
            assert sample.probabilities["student"] == pytest.approx(expected, abs=2e-5)
            assert all(sum(shares) == pytest.approx(1, abs=1e-4) for shares in sample.probabilities.values())


class TestSummary:
    def test_accuracies_gap_and_compression_follow_from_the_models(self, finished: Finished) -> None:
        summary = finished.record.summary
        student, lone = accuracies(finished.record, "student"), accuracies(finished.record, "baseline")
        assert summary.student_accuracy == pytest.approx(np.mean(student))
        assert summary.student_std == pytest.approx(np.std(student, ddof=1))
        assert summary.baseline_accuracy == pytest.approx(np.mean(lone))
        assert summary.baseline_std == pytest.approx(np.std(lone, ddof=1))
        assert summary.ensemble_accuracy == finished.model("ensemble").accuracy
        gap = summary.ensemble_accuracy - np.mean(lone)
        assert gap > 0
        assert summary.gap_recovered == pytest.approx((np.mean(student) - np.mean(lone)) / gap)
        assert summary.compression == pytest.approx(153 / 43)

    def test_the_lead_of_the_teachers_is_measured_on_held_out_rows_that_are_paired(self, finished: Finished) -> None:
        labels = finished.rows["held_out"][LABEL]
        hits = finished.ensemble("held_out").argmax(axis=1) == labels
        lone = [
            finished.student(chosen_length(finished.store, tasks), "held_out").argmax(axis=1) == labels
            for tasks in finished.job.baselines
        ]
        differences = [float(hits[row]) - float(np.mean([seed[row] for seed in lone])) for row in range(HELD_OUT)]
        assert finished.record.summary.teachers_lead == pytest.approx(np.mean(differences))
        assert finished.record.summary.teachers_lead_stderr == pytest.approx(sem(differences))

    def test_the_gain_over_the_lone_student_is_as_certain_as_test_rows_that_are_paired_make_it(
        self, finished: Finished
    ) -> None:
        labels = finished.rows["test"][LABEL]
        lone = [chosen_length(finished.store, tasks) for tasks in finished.job.baselines]
        reached, alone = (
            np.array([finished.student(task, "test").argmax(axis=1) == labels for task in tasks], dtype=float)
            for tasks in (finished.job.students, lone)
        )
        assert finished.record.summary.gain_stderr == pytest.approx(sem(reached.mean(axis=0) - alone.mean(axis=0)))


def accuracies(record: EvaluationRecord, role: Role) -> list[float]:
    return [model.accuracy for model in record.models if model.role == role]


class TestOtherJobs:
    """Other jobs over a copy of the same store."""

    @pytest.fixture
    def folder(self, finished: Finished, tmp_path: Path) -> Path:
        return shutil.copytree(Path(finished.store.uri).parent, tmp_path / "copy")

    def test_without_a_lone_student_nothing_is_compared_with_one(self, folder: Path) -> None:
        job = resolve(job_spec(folder, "fusion.weights={given: 2}", "baseline=null"))
        summary = score_job(DirectoryStore(folder / "store"), job).summary
        assert (summary.baseline_accuracy, summary.baseline_std, summary.gap_recovered) == (None, None, None)
        assert (summary.teachers_lead, summary.teachers_lead_stderr, summary.gain_stderr) == (None, None, None)
        assert summary.student_accuracy > 0

    def test_one_seed_has_no_spread(self, folder: Path) -> None:
        job = resolve(job_spec(folder, "fusion.weights={given: 2}", "train.seeds=[1]"))
        summary = score_job(DirectoryStore(folder / "store"), job).summary
        assert (summary.student_std, summary.baseline_std) == (0.0, 0.0)

    def test_figures_need_every_label_and_every_training(self, folder: Path) -> None:
        job = resolve(job_spec(folder, "fusion.weights={given: 2}", "train.seeds=[0, 1, 7]"))
        store = DirectoryStore(folder / "store")
        store.delete(job.students[1].record_key)
        with pytest.raises(ObjectMissingError, match=r"trained\.json"):
            score_job(store, job)


def test_an_ensemble_that_is_only_as_good_as_the_lone_student_leaves_no_gap(tmp_path: Path) -> None:
    """All models have the same weights and are right on 0.7 of the rows. The mean of three times 0.7 is less."""
    assert fmean([0.7] * 3) < 0.7
    write_sources(tmp_path)
    spec = job_spec(
        tmp_path, "student.model=tests.fixtures.jobs:Linear", "student.arguments={}", "train.seeds=[0, 1, 2]"
    )
    state = safetensors.numpy.load_file(tmp_path / "given.safetensors")
    with np.load(tmp_path / "test.npz") as test:
        images = test["image"]
    named = linear(images, state["layer.weight"], state["layer.bias"]).argmax(axis=1)
    labels = np.where(np.arange(TEST_ROWS) < 0.7 * TEST_ROWS, named, (named + 1) % NUM_CLASSES)
    np.savez(tmp_path / "test.npz", image=images, label=labels)

    job = resolve(spec.model_copy(update={"teachers": (spec.teachers[1],), "fusion": FusionConfig(calibrate=False)}))
    context = new_context(job, DirectoryStore(tmp_path / "store"))
    ingest(context)
    label(context, job.teachers[0])
    for task in [*job.students, *(task for tasks in job.baselines for task in tasks)]:
        publish_training(context.store, task, (tmp_path / "given.safetensors").read_bytes())
    context.log.close("done")

    summary = score_job(context.store, job).summary
    assert summary.ensemble_accuracy == 0.7
    assert summary.baseline_accuracy == summary.student_accuracy == pytest.approx(0.7)
    assert (summary.gap_recovered, summary.teachers_lead, summary.teachers_lead_stderr) == (None, 0.0, 0.0)


def publish_training(
    store: ObjectStore,
    task: TrainingTask,
    weights: bytes,
    points: Sequence[EpochPoint] = (EpochPoint(epoch=1, loss=1.0, accuracy=0.5, nll=1.0),),
) -> None:
    """Publish a training that ended with `weights`."""
    record = TrainedRecord(
        rows=0,
        identity=task.identity,
        weights_key=f"{task.prefix}/{digest_of(weights)}.safetensors",
        weights_digest=digest_of(weights),
        num_bytes=len(weights),
        parameters=51,
        points=tuple(points),
        seconds=1.0,
    )
    store.put(record.weights_key, weights)
    publish_record(store, task.record_key, record)


class TestChosenLength:
    @pytest.fixture
    def tasks(self, finished: Finished) -> tuple[TrainingTask, ...]:
        task = finished.job.baselines[0][0]
        return tuple(task.model_copy(update={"epochs": epochs, "name": f"lone-{epochs}"}) for epochs in (1, 2, 3))

    @pytest.mark.parametrize(
        ("ends", "chosen"),
        [
            ([(0.5, 1.0), (0.7, 2.0), (0.6, 0.1)], 1),
            ([(0.7, 1.0), (0.7, 0.9), (0.7, 0.95)], 1),
            ([(0.7, 1.0), (0.6, 0.2), (0.7, 0.9)], 2),
            ([(0.7, 1.0), (0.7, 1.0), (0.7, 1.0)], 0),
        ],
    )
    def test_the_most_accurate_end_wins_and_among_equals_the_likelier(
        self, tmp_path: Path, tasks: Sequence[TrainingTask], ends: list[tuple[float, float]], chosen: int
    ) -> None:
        store = DirectoryStore(tmp_path)
        for task, (accuracy, nll) in zip(tasks, ends, strict=True):
            # A better epoch in between counts for nothing: no epoch is picked.
            better = EpochPoint(epoch=1, loss=0.0, accuracy=1.0, nll=0.0)
            last = EpochPoint(epoch=2, loss=0.0, accuracy=accuracy, nll=nll)
            publish_training(store, task, b"weights", (better, last))
        assert chosen_length(store, tasks) == tasks[chosen]


def test_a_job_with_labels_of_few_classes_ends_like_one_with_all(tmp_path: Path) -> None:
    """Two classes of three are kept, and the mass of the third: nothing is lost."""
    figures = []
    for codec in ("dense", "topk, k: 2, tail_samples: 0"):
        folder = tmp_path / codec[:4]
        folder.mkdir()
        job, context = finished_job(folder, f"teachers.given.labels={{codec: {codec}}}", "fusion.calibrate=false")
        context.log.close("done")
        figures.append({(model.name, model.seed): model for model in score_job(context.store, job).models})
    assert figures[0].keys() == figures[1].keys()
    for name, model in figures[0].items():
        assert figures[1][name].nll == pytest.approx(model.nll, abs=2e-3)
        assert figures[1][name].accuracy == pytest.approx(model.accuracy, abs=0.05)


def test_a_student_is_run_in_parts_and_in_evaluation_mode(finished: Finished) -> None:
    task = finished.job.students[0]
    many = {"image": np.concatenate([finished.rows["test"]["image"]] * 30)}  # more than one part of 1,024 rows
    _, (logits,) = measure_student(finished.store, task, [many])
    np.testing.assert_allclose(logits, narrow(many["image"], trained_weights(finished.store, task)), atol=1e-5)
