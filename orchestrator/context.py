"""What every step of a run is given, and where it says what it did."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.storage.protocol import ObjectStore
from orchestrator.events import Event, now
from orchestrator.planning.plan import Inspection
from orchestrator.planning.planned import PlannedStep
from orchestrator.progress import Progress
from orchestrator.report.record import StepResult
from orchestrator.resolution.resolve import Job
from orchestrator.run_log import RunLog


@dataclass
class StepAccount:
    """What a step has computed; filled in by the step."""

    name: str
    rows: int | None = None


@dataclass
class RunContext:
    """One run: the job, the store, and everyone who wants to know. Any thread may tell of its step."""

    job: Job
    store: ObjectStore
    log: RunLog
    progress: Progress
    results: list[StepResult] = field(default_factory=list)
    teacher_rows: int = 0
    """Rows that went through a teacher in this run."""
    _telling: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def inspect(self) -> Inspection:
        """Compare the job with the store as it is now."""
        return Inspection(self.job, self.store)

    @contextlib.contextmanager
    def step(self, planned: PlannedStep) -> Iterator[StepAccount]:
        """Account for a step that is not done."""
        self.started(planned)
        account, started_s = StepAccount(planned.name), time.monotonic()
        yield account
        self.finished(planned, seconds=time.monotonic() - started_s, rows=account.rows)

    def reused(self, planned: PlannedStep) -> None:
        """Note a step whose result was there, unless this run has done it."""
        if any(result.name == planned.name for result in self.results):
            return
        with self._telling:
            self.progress.finished(planned.name, outcome="reused", seconds=0.0, rows=None)
            self.log.append(Event(at=now(), event="finished", step=planned.name, message="reused"))
        self.results.append(StepResult(name=planned.name, kind=planned.kind, outcome="reused", seconds=0.0))

    def started(self, planned: PlannedStep) -> None:
        """Note the beginning of a step."""
        done = planned.rows_done or 0
        with self._telling:
            self.progress.started(planned.name, rows=planned.rows, done=done)
            self.log.append(Event(at=now(), event="started", step=planned.name, rows=planned.rows, done=done))

    def advanced(self, step: str, rows: int | None, note: str = "") -> None:
        """Note how far a step is."""
        with self._telling:
            self.progress.advanced(step, rows=rows, note=note)
            self.log.append(Event(at=now(), event="advanced", step=step, rows=rows, message=note))

    def finished(self, planned: PlannedStep, *, seconds: float, rows: int | None) -> None:
        """Note the end of a step."""
        outcome = "continued" if planned.state == "partial" else "computed"
        with self._telling:
            self.progress.finished(planned.name, outcome=outcome, seconds=seconds, rows=rows)
            self.log.append(Event(at=now(), event="finished", step=planned.name, rows=rows, seconds=round(seconds, 3)))
        result = StepResult(name=planned.name, kind=planned.kind, outcome=outcome, seconds=seconds, rows=rows)
        names = [earlier.name for earlier in self.results]
        if planned.name in names:
            place = names.index(planned.name)
            self.results[place] = _continued(self.results[place], result)
        else:
            self.results.append(_with_rate(result))

    def said(self, message: str) -> None:
        """Tell whoever watches, and keep it."""
        with self._telling:
            self.progress.said(message)
            self.log.append(Event(at=now(), event="said", message=message))


def _continued(earlier: StepResult, later: StepResult) -> StepResult:
    """Return both parts of a step that a run leaves and comes back to as one."""
    outcome = later.outcome if earlier.outcome == "reused" else earlier.outcome
    rows = later.rows if earlier.rows is None else earlier.rows + (later.rows or 0)
    seconds = earlier.seconds + later.seconds
    return _with_rate(later.model_copy(update={"outcome": outcome, "seconds": seconds, "rows": rows}))


def _with_rate(result: StepResult) -> StepResult:
    rows_per_s = result.rows / result.seconds if result.rows and result.seconds else None
    return result.model_copy(update={"rows_per_s": rows_per_s})
