"""A run: every step that is not done, in order, and the report. The same command again continues."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    AccessDenied,
    CoffeyError,
    PartialResult,
    StorageError,
)
from cluster.failures import own_error, reason_of
from cluster.session import Capacity, ray_session
from cluster.storage.patience import patient
from cluster.storage.probe import check_writable
from cluster.storage.protocol import ObjectStore
from orchestrator.context import RunContext
from orchestrator.planning.placement import check_room, misfits
from orchestrator.planning.planned import Part, PlannedStep
from orchestrator.planning.reach import check_reach
from orchestrator.planning.room import grown
from orchestrator.progress import Progress
from orchestrator.publishing import publish_report
from orchestrator.report.record import Report
from orchestrator.resolution.resolve import resolve
from orchestrator.run_log import RunLog
from orchestrator.spec import JobSpec
from orchestrator.steps.ingest import ingest

_LAST_WORDS_S = 10.0
"""A machine that is taken away leaves 30 seconds, and Ray takes some of them to end."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves behind."""

    run: str
    report: Report
    report_uri: str


@dataclass(frozen=True)
class LabelResult:
    """What a run of the teachers' part leaves behind, beside the labels."""

    run: str
    teacher_rows: int
    """Rows that went through a teacher in this run."""


def run_job(
    spec: JobSpec, store: ObjectStore, *, command: str, progress: Progress, part: Literal["all", "student"] = "all"
) -> RunResult:
    """Do what is left of a job, and write its report; everything that was done before is found in the store.

    `command` is the line that repeats the run, for the report. Of the student's part, labels are made by another run.
    """
    started_s = time.monotonic()
    job = resolve(spec)
    check_writable(store)
    lasting = patient(store)
    log = RunLog(store, spec.name, lasting=lasting)
    with _failures_in(log):
        context = RunContext(job, lasting, log, progress)
        shortfall = _do_steps(context, part)
        report, uri = publish_report(context, command=command, wall_s=time.monotonic() - started_s)
    if shortfall is not None:
        log.close("failed", error=str(shortfall), exit_code=shortfall.exit_code, report=True)
        raise shortfall
    log.close("done", report=True)
    return RunResult(log.state.run, report, uri)


def label_job(spec: JobSpec, store: ObjectStore, *, progress: Progress) -> LabelResult:
    """Do what is left of the teachers' part of a job: the rows, teachers that are fitted, and all labels."""
    job = resolve(spec)
    check_writable(store)
    lasting = patient(store)
    log = RunLog(store, spec.name, lasting=lasting)
    with _failures_in(log):
        context = RunContext(job, lasting, log, progress)
        _do_steps_of_teachers(context)
    log.close("done")
    return LabelResult(log.state.run, context.teacher_rows)


@contextlib.contextmanager
def _failures_in(log: RunLog) -> Iterator[None]:
    """Note in the log what ends a run early."""
    try:
        yield
    except Exception as error:
        own, reason = own_error(error) or CoffeyError(), reason_of(error)
        if isinstance(own, StorageError | AccessDenied):
            # The store will hardly take this either, and what ended the run is what the user has to see.
            log.close_within(_LAST_WORDS_S, "failed", error=reason, exit_code=own.exit_code)
        else:
            with contextlib.suppress(CoffeyError):
                log.close("failed", error=reason, exit_code=own.exit_code)
        raise
    except BaseException as stop:  # Ctrl-C, or whatever the command makes of SIGTERM
        code = EXIT_INTERRUPTED if isinstance(stop, KeyboardInterrupt) else EXIT_TERMINATED
        log.close_within(_LAST_WORDS_S, "stopped", exit_code=code)
        raise


def _do_steps(context: RunContext, part: Literal["all", "student"]) -> PartialResult | None:
    """Do what is left; return what could not be done although everything else could."""
    ingest(context)
    inspection = context.inspect()
    inspection.check_seals()
    if _are_done(context, inspection.steps()):
        return None
    with _cluster(context, part) as capacity:
        return _do_on_cluster(context, capacity, part)


def _do_steps_of_teachers(context: RunContext) -> None:
    ingest(context)
    inspection = context.inspect()
    inspection.check_seals()
    teachers = context.job.teachers
    fits = [inspection.fit(teacher.fit) for teacher in teachers if teacher.fit is not None]
    labels = [inspection.label(teacher) for teacher in teachers]
    if not inspection.awaits_selection and _are_done(context, [inspection.ingest(), *fits, *labels]):
        return
    with _cluster(context, "teachers") as capacity:
        from orchestrator.steps.fit import fit
        from orchestrator.steps.teach import label

        fit(context, "teachers")
        label(context, capacity)


def _are_done(context: RunContext, steps: Sequence[PlannedStep]) -> bool:
    """Account for the steps, ingest first, if all of them are done."""
    if any(step.state != "done" for step in steps):
        return False
    for step in steps[1:]:
        context.reused(step)
    return True


@contextlib.contextmanager
def _cluster(context: RunContext, part: Part) -> Iterator[Capacity]:
    """Connect to the cluster, and say what does not fit before anything is started that would wait for it forever."""
    cluster = context.job.spec.cluster
    with ray_session(cluster.address, cpus=cluster.cpus) as capacity:
        room = grown(capacity, cluster.may_grow_to)
        check_reach(context.store, cluster, room)
        left = context.inspect().left(part)
        check_room(*left, room)
        for misfit in misfits(*left, capacity):
            context.said(f"{misfit.what} waits until the cluster has grown: it needs {misfit.asked}")
        yield room


def _do_on_cluster(context: RunContext, capacity: Capacity, part: Literal["all", "student"]) -> PartialResult | None:
    # Ray's libraries cost seconds to import; a run that finds everything done never pays them.
    from orchestrator.steps.evaluate import evaluate
    from orchestrator.steps.export import export
    from orchestrator.steps.fit import fit
    from orchestrator.steps.teach import label_and_train, train_elsewhere

    fit(context, part)
    if part == "all":
        label_and_train(context, capacity)
    else:
        train_elsewhere(context, capacity)
    evaluate(context)
    try:
        export(context)
    except PartialResult as error:
        return error
    return None
