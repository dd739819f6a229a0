"""Two runs of one job at the same time, on the same store, each believing that it is alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage.open import open_store
from orchestrator.events import read_runs
from tests.fixtures import small_jobs
from tests.simulation.drivers import TEACHERS, Bench, result_of, rows_labelled, watched_job
from tests.simulation.processes import drivers


@dataclass(frozen=True)
class TwoAttempts:
    """What two runs left."""

    shards_wrong: int
    """Shards of a sealed label set that are missing, or there twice, or of another number of rows."""
    reports: int
    """One in the folder of each run."""
    say_the_same: bool
    """Whether both reports hold the same figures, but for those that a clock is part of."""
    is_same_student: bool
    """Whether it is the student of a run that was left alone."""
    rows_computed: int
    rows_needed: int

    @property
    def broken(self) -> int:
        """Promises that were broken; computing a row twice is allowed, committing it is not."""
        return self.shards_wrong + (self.reports != 2) + (not self.say_the_same) + (not self.is_same_student)


def run_twice_at_once(folder: Path, address: str) -> TwoAttempts:
    """Start both, wait for both, and compare them with one that was left alone."""
    spec = watched_job(folder, address, epochs=6)
    with drivers(folder) as start:
        both = [start(spec), start(spec)]
        first, second = (driver.finish() for driver in both)
        alone = watched_job(folder / "alone", address, epochs=6, slowness=0.0)
        start(alone).finish()
    runs = read_runs(open_store(spec.store))
    return TwoAttempts(
        shards_wrong=Bench(spec).count_wrong_shards(),
        reports=sum(run.state == "done" and run.report for run in runs),
        say_the_same=_figures(first) == _figures(second),
        is_same_student=result_of(spec) == result_of(alone),
        rows_computed=sum(rows_labelled(folder, name) for name in TEACHERS),
        rows_needed=len(TEACHERS) * small_jobs.ROWS,
    )


def _figures(said: dict[str, Any]) -> list[tuple[object, ...]]:
    models = said["report"]["models"]
    return [(model["name"], model["accuracy"], model["nll"], model["ece"]) for model in models]
