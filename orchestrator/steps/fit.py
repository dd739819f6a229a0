"""Fit: small trainings side by side in Ray tasks: teachers of ours, and the lone student."""

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from cluster.resources import ResourceConfig
from cluster.shards.records import read_record
from cluster.tasks import result_of
from orchestrator.context import RunContext
from orchestrator.planning.planned import Part, PlannedStep
from students.alone import TrainingsLateError, open_attendance, start_alone
from students.attendance import Attendance
from students.members import groups_of
from students.task import Execution, ProgressRecord, TrainedRecord, TrainingTask

_POLL_S = 0.5


@dataclass
class _Fitting:
    """The trainings of one step."""

    planned: PlannedStep
    tasks: Sequence[TrainingTask]
    resources: ResourceConfig
    running: "set[ray.ObjectRef[TrainedRecord]]"


def fit(context: RunContext, part: Part = "all") -> None:
    """Train every teacher that we fit, and every lone student, that is not trained yet and belongs to the part.

    Raises:
        CoffeyError: what a training raised on purpose.
        TaskLostError: its process died more often than it is repeated.
        TrainingsLateError: none of them has run for `cluster.start_timeout_s`. While one does, others may wait for it.
    """
    fittings = [fitting for fitting in _fittings(context, part) if fitting.planned.state != "done"]
    if not fittings:
        return
    attendance = open_attendance()
    for fitting in fittings:
        context.started(fitting.planned)
        fitting.running = {_start(context, task, fitting.resources, attendance) for task in fitting.tasks}
    while fittings:
        _settle([ref for fitting in fittings for ref in fitting.running], fittings)
        _check_attendance(context, attendance, fittings)
        for fitting in [fitting for fitting in fittings if not fitting.running]:
            _finish(context, fitting)
            fittings.remove(fitting)
        for fitting in fittings:
            context.advanced(fitting.planned.name, None, _note(context, fitting))


def _fittings(context: RunContext, part: Part) -> list[_Fitting]:
    inspection, job = context.inspect(), context.job
    fittings = [
        _Fitting(inspection.fit(teacher.fit), (teacher.fit,), teacher.config.resources, set())
        for teacher in job.teachers
        if teacher.fit is not None and part != "student"
    ]
    if job.baselines and part != "teachers":
        tasks = [task for tasks in job.baselines for task in tasks]
        fittings.append(_Fitting(inspection.baseline(), tasks, job.spec.train.resources, set()))
    for fitting in fittings:
        if fitting.planned.state == "done":
            context.reused(fitting.planned)
    return fittings


def _start(
    context: RunContext, task: TrainingTask, resources: ResourceConfig, attendance: "ray.ActorHandle[Attendance]"
) -> "ray.ObjectRef[TrainedRecord]":
    execution = Execution(checkpoint_every_s=context.job.spec.train.checkpoint_every_s, threads=resources.num_threads)
    return start_alone(context.store.uri, task, execution, on=resources, attendance=attendance)


def _finish(context: RunContext, fitting: _Fitting) -> None:
    """Account for the trainings' own time; how long they queued for a core says nothing of them."""
    records = [read_record(context.store, task.record_key, TrainedRecord) for task in fitting.tasks]
    seconds = sum(record.seconds for record in records)
    context.finished(fitting.planned, seconds=seconds, rows=sum(record.rows for record in records))


def _settle(running: "list[ray.ObjectRef[TrainedRecord]]", fittings: Sequence[_Fitting]) -> None:
    """Wait a moment, and take what is ready out of its step."""
    ready, _ = ray.wait(running, num_returns=len(running), timeout=_POLL_S, fetch_local=False)
    for ref in ready:
        result_of(ref)
        for fitting in fittings:
            fitting.running.discard(ref)


def _check_attendance(
    context: RunContext, attendance: "ray.ActorHandle[Attendance]", fittings: Sequence[_Fitting]
) -> None:
    timeout_s = context.job.spec.cluster.start_timeout_s
    waiting = tuple(f"{it.planned.name} (needs {it.resources})" for it in fittings if it.running)
    if waiting and ray.get(attendance.absent_s.remote()) > timeout_s:
        raise TrainingsLateError(waiting, timeout_s)


def _note(context: RunContext, fitting: _Fitting) -> str:
    """Say how far the trainings of a step are, from what they wrote last."""
    done = len(fitting.tasks) - len(fitting.running)
    if len(fitting.tasks) > 1:
        return f"{done} of {len(fitting.tasks)} trained"
    return progress_note(context, fitting.tasks[0])


def progress_note(context: RunContext, task: TrainingTask) -> str:
    """Return how far one training is, in words; empty before its first epoch has ended.

    Of a cohort on workers of its own: how far the member is that is furthest behind.
    """
    keys = [part.progress_key for (part,) in groups_of([task])]
    if not all(map(context.store.exists, keys)):
        return ""
    progress = min((read_record(context.store, key, ProgressRecord) for key in keys), key=lambda it: it.epoch)
    members = f" (members: {', '.join(f'{accuracy:.1%}' for accuracy in progress.members)})" if progress.members else ""
    return f"epoch {progress.epoch} of {progress.epochs}, {progress.accuracy:.1%} on held-out rows{members}"
