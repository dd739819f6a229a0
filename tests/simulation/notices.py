"""A run is told to end, as a machine that is taken away in 30 seconds tells it, in each of its phases."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.storage.open import open_store
from orchestrator.events import read_runs
from orchestrator.spec import JobSpec
from tests.fixtures import small_jobs
from tests.simulation.drivers import Bench, result_of
from tests.simulation.processes import EXIT_WITHIN_S, drivers

PHASES = ("ingest", "fit", "label", "calibrate", "train", "evaluate", "export")
_AFTER_S = {"fit": 0.3, "label": 1.0, "train": 10.0}
"""How far into a phase that lasts; the others are over in a moment and are met at their beginning."""


@dataclass(frozen=True)
class Notice:
    """What a run made of one SIGTERM."""

    phase: str
    exit_code: int
    seconds: float
    """From the signal to the end of the process."""
    state: str
    """What its record says of it afterwards."""


@dataclass(frozen=True)
class NoticeResult:
    """What was left after a notice in each phase."""

    notices: tuple[Notice, ...]
    shards_wrong: int
    is_same_student: bool
    """Whether the run that finished found the student of a run that was left alone."""

    @property
    def broken(self) -> int:
        """Promises that were broken."""
        kept = [it.exit_code == 143 and it.seconds <= EXIT_WITHIN_S and it.state == "stopped" for it in self.notices]
        return kept.count(False) + self.shards_wrong + (not self.is_same_student)


def give_notices(folder: Path, address: str, *, phases: Sequence[str] = PHASES) -> NoticeResult:
    """Tell one run after another to end, each in the next phase, and let the last one finish."""
    spec = _job_with_every_phase(folder, address)
    notices = []
    with drivers(folder) as start:
        for phase in phases:
            marker = folder / f"notice-{phase}"
            driver = start(spec, (phase, _AFTER_S.get(phase, 0.0), str(marker)))
            code, _ = driver.end()
            seconds = time.time() - marker.stat().st_mtime if marker.exists() else float("nan")
            notices.append(Notice(phase, code, round(seconds, 2), _state(spec)))
        start(spec).finish()
        alone = _job_with_every_phase(folder / "alone", address)
        start(alone).finish()
    return NoticeResult(tuple(notices), Bench(spec).count_wrong_shards(), result_of(alone) == result_of(spec))


def _state(spec: JobSpec) -> str:
    return read_runs(open_store(spec.store))[0].state


def _job_with_every_phase(folder: Path, address: str) -> JobSpec:
    """Return a job of seconds: a teacher that it fits, labels, calibrates and trains from."""
    folder.mkdir(exist_ok=True)
    teacher = {
        "name": "fitted",
        "model": f"{small_jobs.MODELS}:Watched",
        "arguments": {"trace": str(folder / "fitted.trace"), "batch_s": 0.05},
        "fit": {"epochs": 2, "batch_size": 64},
        "resources": {"cpu": 0.5},
        "batch_size": 32,
    }
    spec = small_jobs.job(
        folder, store=str(folder / "store"), teachers=[teacher], cluster={"address": address}, baseline=None
    )
    return small_jobs.changed(
        spec,
        student__model=f"{small_jobs.MODELS}:Slow",
        student__arguments={"batch_s": 0.01},
        fusion={"calibrate": True},
        train__epochs=40,
        train__workers=1,
        train__checkpoint_every_s=0.2,
        train__pipelined="never",
    )
