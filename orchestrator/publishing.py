"""From a finished run to `report.json` and `report.html` in the store."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence

from cluster.redaction import redacted
from cluster.shards.dataset import DatasetRecord, dataset_key
from cluster.shards.records import read_record
from orchestrator.context import RunContext
from orchestrator.events import now
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.load import dump_spec
from orchestrator.report.page import render_page
from orchestrator.report.record import (
    CohortMember,
    CohortResult,
    Curve,
    CurvePoint,
    DataSummary,
    Report,
    Role,
    Summary,
    ViewsSummary,
)
from orchestrator.resolution.trainings import chosen_length
from orchestrator.resolution.viewing import views_of
from students.cohorts.method import FUSED
from students.task import EpochPoint, TrainedRecord, TrainingTask

_CLEARLY = 1.645
"""Standard errors by which teachers must lead: one-sided 95 %."""

_SHOWN_PACKAGES = ("coffey", "ray", "torch", "pyarrow", "numpy")


def publish_report(context: RunContext, *, command: str, wall_s: float) -> tuple[Report, str]:
    """Write both files, and return the record and the address of the page."""
    report = build_report(context, command=command, wall_s=wall_s)
    prefix = f"runs/{report.run}"
    context.store.put(f"{prefix}/spec.yaml", report.spec.encode())
    context.store.put(f"{prefix}/plan.json", _plan_json(context))
    context.store.put(f"{prefix}/report.json", report.model_dump_json(indent=1).encode())
    context.store.put(f"{prefix}/report.html", render_page(report).encode())
    return report, f"{context.store.uri}/{prefix}/report.html"


def build_report(context: RunContext, *, command: str, wall_s: float) -> Report:
    """Gather everything that a run has to say; every step has to be done."""
    job, store = context.job, context.store
    evaluation = read_record(store, job.evaluation_key, EvaluationRecord)
    return Report(
        name=job.spec.name,
        run=context.log.state.run,
        created=now(),
        command=command,
        store=store.uri,
        wall_s=wall_s,
        teacher_rows_computed=context.teacher_rows,
        summary=evaluation.summary,
        warnings=warnings_of(evaluation.summary),
        data=_data(context),
        views=_views(context),
        models=evaluation.models,
        calibrations=evaluation.calibrations if job.spec.fusion.calibration else (),
        contributions=evaluation.contributions,
        agreements=evaluation.agreements,
        cohorts=_cohorts(context),
        curves=_curves(context),
        steps=tuple(context.results),
        samples=evaluation.samples,
        environment=_environment(),
        spec=redacted(dump_spec(job.spec)),
    )


def warnings_of(summary: Summary) -> tuple[str, ...]:
    """Return what a reader must not overlook."""
    warnings = []
    lead, error = summary.teachers_lead, summary.teachers_lead_stderr
    # Where the student has gained all the same, by classes that are spread over specialists or by views, that stands.
    has_gained = (summary.clear_gain or 0.0) > 0
    if lead is not None and error is not None and lead <= _CLEARLY * error and not has_gained:
        warnings.append(
            f"The teachers are not clearly better than the lone student: {100 * lead:+.1f} ± {100 * error:.1f} "
            "points on the held-out rows. Distillation does not pay here. Use better teachers, or more unlabelled "
            "rows."
        )
    loss = 100 * ((summary.baseline_accuracy or 0.0) - summary.student_accuracy)
    if loss > 1e-6:  # means of equal accuracies may differ in their last bit
        warnings.append(f"The distilled student is {loss:.1f} points worse than the lone student on the test rows.")
    return tuple(warnings)


def _data(context: RunContext) -> DataSummary:
    job = context.job
    records = {
        identity: read_record(context.store, dataset_key(identity), DatasetRecord)
        for identity in job.datasets.distinct()
    }
    train = records[job.datasets.train]
    return DataSummary(
        source=job.spec.data.read.source,
        classes=job.classes,
        train_rows=train.rows,
        labelled_rows=train.labelled_rows,
        held_out_rows=records[job.datasets.held_out].rows,
        test_rows=records[job.datasets.test].rows,
    )


def _views(context: RunContext) -> ViewsSummary | None:
    job, views = context.job, context.job.spec.data.views
    if views is None:
        return None
    lone = [chosen_length(context.store, tasks) for tasks in job.baselines]
    mixed = {"mixup": views.mixup, "cutmix": views.cutmix}
    return ViewsSummary(
        number=len(views_of(job.spec)),
        changes=(*(change.kind for change in views.augment), *(name for name, alpha in mixed.items() if alpha)),
        lone_in_views=tuple(task.seed for task in lone if task.views),
    )


def _curves(context: RunContext) -> tuple[Curve, ...]:
    job = context.job
    curves = [_curve(context, teacher.fit, "teacher", teacher.config.name) for teacher in job.teachers if teacher.fit]
    lone = (chosen_length(context.store, tasks) for tasks in job.baselines)
    curves += [_curve(context, task, "baseline", "baseline") for task in lone]
    curves += [_curve(context, one.fit, "generation", one.config.name) for one in job.generations if one.fit]
    curves += [_curve(context, task, "student", job.spec.student.name) for task in job.students]
    for task in job.students:
        members = read_record(context.store, task.record_key, TrainedRecord).members
        curves += [_drawn(member.points, "member", member.name, task.seed) for member in members]
    return tuple(curves)


def _curve(context: RunContext, task: TrainingTask, role: Role, name: str) -> Curve:
    record = read_record(context.store, task.record_key, TrainedRecord)
    return _drawn(record.points, role, name, task.seed if role in {"baseline", "student"} else None)


def _drawn(points: Sequence[EpochPoint], role: Role, name: str, seed: int | None) -> Curve:
    drawn = tuple(CurvePoint.model_validate(point.model_dump()) for point in points)
    return Curve(model=name, role=role, seed=seed, points=drawn)


def _cohorts(context: RunContext) -> tuple[CohortResult, ...]:
    """Return who learned together, and what became of them; nothing for a student that learned by itself."""
    records = [(task, read_record(context.store, task.record_key, TrainedRecord)) for task in context.job.students]
    return tuple(_cohort(task, record) for task, record in records if record.exported is not None)


def _cohort(task: TrainingTask, record: TrainedRecord) -> CohortResult:
    assert task.cohort is not None  # noqa: S101 - only its members are exported
    assert record.exported is not None  # noqa: S101
    members = tuple(
        CohortMember(
            name=member.name,
            parameters=member.parameters,
            accuracy=member.points[-1].accuracy,
            nll=member.points[-1].nll,
        )
        for member in record.members
    )
    is_fused = record.exported == FUSED
    because = "all as one: the mean of their probabilities" if is_fused else "best on the held-out rows"
    others = {peer.name for peer in task.peers if peer.model != task.model}
    return CohortResult(
        seed=task.seed,
        method=task.cohort.method,
        members=members,
        exported=record.exported,
        because=because,
        is_other_model=is_fused or record.exported in others,
    )


def _plan_json(context: RunContext) -> bytes:
    lines = ",\n".join(step.model_dump_json() for step in context.inspect().steps())
    return f"[{lines}]\n".encode()


def _environment() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _SHOWN_PACKAGES}
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(len(os.sched_getaffinity(0))),
    }
    return versions | machine
