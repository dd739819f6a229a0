"""A run: every step that is not done, in order, and the report. The same command again continues."""

import contextlib
import time
from dataclasses import dataclass

from cluster.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, CoffeyError, PartialResult
from cluster.failures import own_error, reason_of
from cluster.session import Capacity, ray_session
from cluster.storage.patience import patient
from cluster.storage.probe import check_writable
from cluster.storage.protocol import ObjectStore
from orchestrator.context import RunContext
from orchestrator.events import RunLog
from orchestrator.progress import Progress
from orchestrator.publishing import publish_report
from orchestrator.report.record import Report
from orchestrator.resolve import resolve
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


def run_job(spec: JobSpec, store: ObjectStore, *, command: str, progress: Progress) -> RunResult:
    """Do what is left of a job, and write its report; everything that was done before is found in the store.

    `command` is the line that repeats the run, for the report.
    """
    started_s = time.monotonic()
    job = resolve(spec)
    check_writable(store)
    log = RunLog(store, spec.name)
    try:
        context = RunContext(job, patient(store), log, progress)
        shortfall = _do_steps(context)
        report, uri = publish_report(context, command=command, wall_s=time.monotonic() - started_s)
    except Exception as error:
        code = (own_error(error) or CoffeyError()).exit_code
        # If the store is what failed it will not take this either; what ended the run is what the user has to see.
        with contextlib.suppress(CoffeyError):
            log.close("failed", error=reason_of(error), exit_code=code)
        raise
    except BaseException as stop:  # Ctrl-C, or whatever the command makes of SIGTERM
        code = EXIT_INTERRUPTED if isinstance(stop, KeyboardInterrupt) else EXIT_TERMINATED
        log.close_within(_LAST_WORDS_S, "stopped", exit_code=code)
        raise
    if shortfall is not None:
        log.close("failed", error=str(shortfall), exit_code=shortfall.exit_code, report=True)
        raise shortfall
    log.close("done", report=True)
    return RunResult(log.state.run, report, uri)


def _do_steps(context: RunContext) -> PartialResult | None:
    """Do what is left; return what could not be done although everything else could."""
    ingest(context)
    inspection = context.inspect()
    inspection.check_seals()
    steps = inspection.steps()
    if all(step.state == "done" for step in steps):
        for step in steps[1:]:
            context.reused(step)
        return None
    cluster = context.job.spec.cluster
    with ray_session(cluster.address, cpus=cluster.cpus) as capacity:
        # Whatever does not fit is said before anything is started that would wait for it forever.
        context.inspect().check_room(capacity)
        return _do_on_cluster(context, capacity)


def _do_on_cluster(context: RunContext, capacity: Capacity) -> PartialResult | None:
    # Ray's libraries cost seconds to import; a run that finds everything done never pays them.
    from orchestrator.steps.evaluate import evaluate
    from orchestrator.steps.export import export
    from orchestrator.steps.fit import fit
    from orchestrator.steps.teach import label_and_train

    fit(context)
    label_and_train(context, capacity)
    evaluate(context)
    try:
        export(context)
    except PartialResult as error:
        return error
    return None
