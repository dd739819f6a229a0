"""The figures of a job: computed from label sets and trained weights in the store. N rows, C classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import get_args

import numpy as np
import torch

from cluster.shards.calibration import Calibration, calibration_of
from cluster.shards.classes import known_classes
from cluster.shards.codecs.codec import LOWEST
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.schema import LABEL, ROW
from cluster.storage.protocol import ObjectStore
from orchestrator.figures.contributions import Voice, belief_on_test_rows, contributions, held_out_belief
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.figures.measuring import Measured, measure_exits, measure_student, measure_teacher
from orchestrator.report.record import (
    Agreement,
    CalibrationResult,
    ModelResult,
    OwnResult,
    Role,
    Sample,
    Summary,
)
from orchestrator.resolution.labellers import ResolvedTeacher
from orchestrator.resolution.resolve import ENSEMBLE, Job
from orchestrator.resolution.trainings import chosen_length
from students.ensembles.ensemble import Ensemble
from students.metrics import accuracy, agreement, kl, knows, nll
from students.reliability import ece, reliability
from students.task import TrainingTask

_NUM_SAMPLES = 12
_ROUNDING = 1e-9
"""A gap that is smaller is none: the mean of three equal accuracies may differ from them in its last bit."""


@dataclass(frozen=True)
class _Rows:
    """One data set in memory."""

    arrays: dict[str, np.ndarray]

    @classmethod
    def load(cls, store: ObjectStore, identity: str) -> "_Rows":
        shards = list(Dataset.open(store, identity))
        return cls({name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]})

    @property
    def labels_N(self) -> np.ndarray:
        return self.arrays[LABEL]


@dataclass(frozen=True)
class _Scored:
    """A model with its logits on the test and the held-out rows."""

    name: str
    role: Role
    seed: int | None
    measured: Measured
    test_NC: np.ndarray
    held_out_NC: np.ndarray
    epochs: int | None = None


def score_job(store: ObjectStore, job: Job) -> EvaluationRecord:
    """Compute every figure; reads labels that teachers have written and runs the trained students."""
    torch.set_num_threads(1)
    test, held_out = _Rows.load(store, job.datasets.test), _Rows.load(store, job.datasets.held_out)
    teachers = [_score_teacher(store, teacher, test) for teacher in job.teachers]
    rows = test.arrays, held_out.arrays
    voices, whole = _voices(store, job, teachers), None if job.fusion is None else Ensemble.open(store, job.fusion)
    authorities = [*teachers, *([] if whole is None else [_score_ensemble(job, teachers, voices, whole, rows)])]
    lone, name = [chosen_length(store, tasks) for tasks in job.baselines], job.spec.student.name
    generations = [_score_teacher(store, one, test, role="generation") for one in job.generations]
    baselines = [_score_trained(store, task, rows, name="baseline", role="baseline") for task in lone]
    students = [_score_trained(store, task, rows, name=name, role="student") for task in job.students]
    exits = [exit_ for task in job.students for exit_ in _score_exits(store, task, rows, name=name)]
    models = [*authorities, *baselines, *generations, *students, *exits]
    return EvaluationRecord(
        models=tuple(_result(model, test.labels_N) for model in models),
        calibrations=tuple(
            _calibration(model, voice.calibration, test.labels_N) for model, voice in zip(teachers, voices, strict=True)
        ),
        contributions=()
        if whole is None
        else contributions(job.spec.fusion, voices, whole, held_out=held_out.arrays, test=test.arrays),
        agreements=tuple(_agreement(model, students, test.labels_N) for model in [*authorities, *generations]),
        samples=_samples(test, [*authorities, *baselines[:1], *generations, *students[:1]]),
        summary=_summary(models, test, held_out),
    )


def _score_teacher(store: ObjectStore, teacher: ResolvedTeacher, test: _Rows, *, role: Role = "teacher") -> _Scored:
    return _Scored(
        teacher.config.name,
        role,
        None,
        measure_teacher(store, teacher, test.arrays),
        _labels(store, teacher.test),
        _labels(store, teacher.held_out),
        teacher.fit.epochs if teacher.fit else None,
    )


def _voices(store: ObjectStore, job: Job, teachers: Sequence[_Scored]) -> list[Voice]:
    parts = () if job.fusion is None else job.fusion.parts
    return [
        Voice(teacher.name, part.weight, calibration_of(store, part.calibration), teacher.held_out_NC, teacher.test_NC)
        for teacher, part in zip(teachers, parts, strict=True)
    ]


def _score_ensemble(
    job: Job,
    teachers: Sequence[_Scored],
    voices: Sequence[Voice],
    ensemble: Ensemble,
    rows: Sequence[Mapping[str, np.ndarray]],
) -> _Scored:
    test, held_out = rows
    used = ensemble.used(teachers)
    return _Scored(
        ENSEMBLE,
        "ensemble",
        None,
        sum((teacher.measured for teacher in used[1:]), used[0].measured),
        _nothing_said(belief_on_test_rows(job.spec.fusion, voices, ensemble, test)),
        _nothing_said(held_out_belief(job.spec.fusion, voices, ensemble, held_out)),
    )


def _nothing_said(fused_NC: np.ndarray) -> np.ndarray:
    """Return minus infinity for the classes of which none of the teachers that were asked about a row knows."""
    return np.where(fused_NC <= LOWEST, -np.inf, fused_NC)


def _score_trained(
    store: ObjectStore, task: TrainingTask, rows: Sequence[Mapping[str, np.ndarray]], *, name: str, role: Role
) -> _Scored:
    measured, (test_logits, held_out_logits) = measure_student(store, task, rows)
    return _Scored(name, role, task.seed, measured, test_logits, held_out_logits, task.epochs)


def _score_exits(
    store: ObjectStore, task: TrainingTask, rows: Sequence[Mapping[str, np.ndarray]], *, name: str
) -> list[_Scored]:
    return [
        _Scored(f"{name}@{path}", "exit", task.seed, measured, test_logits, held_out_logits, task.epochs)
        for path, (measured, (test_logits, held_out_logits)) in measure_exits(store, task, rows).items()
    ]


def _labels(store: ObjectStore, record: LabelSetRecord) -> np.ndarray:
    labels = LabelSet(store, record)
    commits, reader = labels.load_manifest().commits, LogitsReader(labels)
    return np.concatenate([reader.read(commit.number) for commit in commits])


def _result(model: _Scored, labels_N: np.ndarray) -> ModelResult:
    own_NC, own_labels_N = _own(model, labels_N)
    return ModelResult(
        name=model.name,
        role=model.role,
        seed=model.seed,
        accuracy=accuracy(model.test_NC, labels_N),
        own=_own_result(model, labels_N),
        nll=nll(own_NC, own_labels_N),
        ece=ece(reliability(own_NC, own_labels_N)),
        parameters=model.measured.parameters,
        num_bytes=model.measured.num_bytes,
        latency_ms=model.measured.latency_ms,
        epochs=model.epochs,
    )


def _calibration(model: _Scored, calibration: Calibration, labels_N: np.ndarray) -> CalibrationResult:
    own_NC, own_labels_N = _own(model, labels_N)
    cooled = calibration.apply(own_NC.astype(np.float64))
    before, after = reliability(own_NC, own_labels_N), reliability(cooled, own_labels_N)
    return CalibrationResult(
        teacher=model.name,
        temperature=calibration.temperature,
        method="vector" if calibration.scales else "temperature",
        ece_before=ece(before),
        ece_after=ece(after),
        nll_before=nll(own_NC, own_labels_N),
        nll_after=nll(cooled, own_labels_N),
        bins_before=before,
        bins_after=after,
    )


def _own(model: _Scored, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels of the rows whose class the model knows: all, but for specialists and those who ask
    them."""
    own_N = knows(model.test_NC, labels_N)
    return model.test_NC[own_N], labels_N[own_N]


def _own_result(model: _Scored, labels_N: np.ndarray) -> OwnResult | None:
    own_NC, own_labels_N = _own(model, labels_N)
    classes = known_classes(model.test_NC)
    if len(own_NC) == len(labels_N) and len(classes) == model.test_NC.shape[1]:
        return None
    return OwnResult(classes=len(classes), rows=len(own_NC), accuracy=accuracy(own_NC, own_labels_N))


def _agreement(model: _Scored, students: Sequence[_Scored], labels_N: np.ndarray) -> Agreement:
    own_N = knows(model.test_NC, labels_N)
    return Agreement(
        model=model.name,
        role=model.role,
        agreement=fmean(agreement(student.test_NC[own_N], model.test_NC[own_N]) for student in students),
        kl=fmean(kl(model.test_NC[own_N], student.test_NC[own_N]) for student in students),
    )


def _samples(test: _Rows, models: Sequence[_Scored]) -> tuple[Sample, ...]:
    """Return the first test rows: nobody has picked them."""
    images = next((array for array in test.arrays.values() if array.dtype == np.uint8 and array.ndim == 3), None)
    chosen = range(min(_NUM_SAMPLES, len(test.labels_N)))
    return tuple(
        Sample(
            row=int(test.arrays[ROW][row]),
            label=int(test.labels_N[row]),
            pixels=None if images is None else tuple(map(tuple, images[row].tolist())),
            probabilities={model.name: _probabilities(model.test_NC[row]) for model in models},
        )
        for row in chosen
    )


def _probabilities(logits_C: np.ndarray) -> tuple[float, ...]:
    exponentials = np.exp(logits_C.astype(np.float64) - logits_C.max())
    return tuple(np.round(exponentials / exponentials.sum(), 5).tolist())


def _summary(models: Sequence[_Scored], test: _Rows, held_out: _Rows) -> Summary:
    by_role = {role: [model for model in models if model.role == role] for role in get_args(Role)}
    ensembles, students = by_role["ensemble"], by_role["student"]
    reached = [accuracy(student.test_NC, test.labels_N) for student in students]
    lone = [accuracy(baseline.test_NC, test.labels_N) for baseline in by_role["baseline"]]
    top = accuracy(ensembles[0].test_NC, test.labels_N) if ensembles else None
    gap = top - fmean(lone) if lone and top is not None else 0.0
    lead, error = _lead(
        [one.held_out_NC for one in ensembles], [one.held_out_NC for one in by_role["baseline"]], held_out.labels_N
    )
    _, gain_error = _lead(
        [one.test_NC for one in students], [one.test_NC for one in by_role["baseline"]], test.labels_N
    )
    size = ensembles[0].measured.parameters if ensembles else None
    small = students[0].measured.parameters
    return Summary(
        ensemble_accuracy=top,
        baseline_accuracy=fmean(lone) if lone else None,
        baseline_std=_std(lone) if lone else None,
        student_accuracy=fmean(reached),
        student_std=_std(reached),
        gain_stderr=gain_error,
        gap_recovered=(fmean(reached) - fmean(lone)) / gap if gap > _ROUNDING else None,
        compression=size / small if size and small else None,
        teachers_lead=lead,
        teachers_lead_stderr=error,
    )


def _lead(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], labels_N: np.ndarray
) -> tuple[float | None, float | None]:
    """Return how far some logits `[N, C]` lead others in accuracy, and the standard error, rows paired."""
    if not (ours and theirs):
        return None, None
    hits, lone = (np.mean([part.argmax(axis=1) == labels_N for part in parts], axis=0) for parts in (ours, theirs))
    difference = hits - lone
    error = float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else 0.0
    return float(difference.mean()), error


def _std(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
