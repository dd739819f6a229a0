"""The trainings of a job: of teachers that we fit, of the student for each seed, and of the lone student."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.models import ModelConfig, source_digest
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore
from orchestrator.resolution.splits import DatasetIds
from orchestrator.resolution.viewing import views_of_lone, views_of_student
from orchestrator.spec import JobSpec
from students.cohorts.catalogue import CohortConfig
from students.objectives.catalogue import TermConfig
from students.objectives.cross_entropy import CrossEntropyTerm
from students.spec import OrderConfig
from students.task import LiveTeacher, Peer, Targets, TrainedRecord, TrainingTask
from teachers.spec import TeacherConfig


@dataclass(frozen=True)
class Lesson:
    """What a student learns from, beside the rows: who says what of them, and what is minimised."""

    objective: tuple[TermConfig, ...]
    targets: Targets | None = None
    stored_taps: tuple[LabelSetRecord, ...] = ()
    live_teachers: tuple[LiveTeacher, ...] = ()
    cohort: CohortConfig | None = None
    """How it learns of others that learn too, the `peers`."""
    peers: tuple[Peer, ...] = ()


def fit_task(config: TeacherConfig, datasets: DatasetIds) -> TrainingTask | None:
    """Return the training of a teacher that we fit; None for one that has weights."""
    if config.fit is None:
        return None
    assert config.model is not None  # noqa: S101 - the spec allows `fit` only with a model
    labelled, held_out = datasets.rows_of(config.classes)
    return TrainingTask(
        name=config.name,
        folder="teachers",
        model=ModelConfig(factory=config.model, arguments=config.arguments, inputs=config.inputs),
        model_source=source_digest(config.model),
        dataset=labelled,
        held_out=held_out,
        objective=(CrossEntropyTerm(label_smoothing=config.fit.label_smoothing),),
        epochs=config.fit.epochs,
        batch_size=config.fit.batch_size,
        optimizer=config.fit.optimizer,
        seed=config.fit.seed,
        # Not the student's order: nothing that is said of the student may change a teacher. One worker needs one lane.
        order=OrderConfig(lanes=1),
    )


def student_task(spec: JobSpec, datasets: DatasetIds, lesson: Lesson, *, name: str, seed: int) -> TrainingTask:
    """Return a training of the student on all training rows."""
    return TrainingTask(
        name=name,
        folder="students",
        model=ModelConfig(factory=spec.student.model, arguments=spec.student.arguments, inputs=spec.student.inputs),
        model_source=source_digest(spec.student.model),
        dataset=datasets.train,
        held_out=datasets.held_out,
        targets=lesson.targets,
        stored_taps=lesson.stored_taps,
        live_teachers=lesson.live_teachers,
        objective=lesson.objective,
        cohort=lesson.cohort,
        peers=lesson.peers,
        epochs=spec.train.epochs,
        batch_size=spec.train.batch_size,
        optimizer=spec.train.optimizer,
        seed=seed,
        order=spec.train.order,
        precision=spec.train.precision,
        views=views_of_student(spec),
    )


def lone_tasks(spec: JobSpec, datasets: DatasetIds, *, seed: int) -> tuple[TrainingTask, ...]:
    """Return the student's trainings on the labelled rows alone, one for each candidate length.

    A job in views has these of the rows as they are, and of views that are new in every epoch.
    """
    assert spec.baseline is not None  # noqa: S101
    lesson = Lesson((CrossEntropyTerm(),))
    return tuple(
        student_task(spec, datasets, lesson, name=f"baseline-{seed}-{epochs}", seed=seed).model_copy(
            update={
                "dataset": datasets.labelled,
                "epochs": epochs,
                "batch_size": spec.baseline.batch_size,
                "optimizer": spec.baseline.optimizer or spec.train.optimizer,
                "views": views,
            }
        )
        # A small student on a short schedule does better without, and what distillation has to beat is the best.
        for views in dict.fromkeys((None, views_of_lone(spec)))
        for epochs in spec.baseline.epochs
    )


def chosen_length(store: ObjectStore, tasks: Sequence[TrainingTask]) -> TrainingTask:
    """Return the candidate with the best accuracy on the held-out rows at its end, among equals the least NLL."""

    def merit(task: TrainingTask) -> tuple[float, float]:
        last = read_record(store, task.record_key, TrainedRecord).points[-1]
        return last.accuracy, -last.nll

    return max(tasks, key=merit)
