"""`coffey run` is killed at random moments, while it labels and while it trains; the next one goes on where it was."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.storage.open import open_store
from orchestrator.resolution.resolve import resolve
from orchestrator.spec import JobSpec
from tests.fixtures import small_jobs
from tests.fixtures.ray_runs import trained_digests
from tests.simulation.processes import EXIT_WITHIN_S, Driver, drivers

SHARD_ROWS = 32
IN_FLIGHT_ROWS = 2 * SHARD_ROWS
"""Two shards: what one replica may have in hand when its driver dies."""
TEACHERS = ("first", "second")
EPOCHS_PER_KILL = 12
"""Long enough that a training is still under way when it is killed for the last time."""


@dataclass(frozen=True)
class DriverKills:
    """What was left after the kills."""

    kills: int
    notices: int
    """Drivers that were told to end, and not killed."""
    notices_kept: int
    """Those of them that ended as they should: with code 143, and in time."""
    commits_lost: int
    """Commit records that a later run removed or wrote again."""
    shards_wrong: int
    """Shards of a sealed label set that are missing, or there twice, or of another number of rows."""
    rows_wasted: int
    """The most rows that one teacher computed again."""
    rows_wasted_at_most: int
    """What the promise allows for these kills."""
    is_same_student: bool
    """Whether weights and figures are those of a run that nobody killed."""

    @property
    def broken(self) -> int:
        """Promises that were broken."""
        wasted = self.rows_wasted > self.rows_wasted_at_most
        late = self.notices - self.notices_kept
        return late + self.commits_lost + self.shards_wrong + wasted + (not self.is_same_student)


def kill_drivers(
    folder: Path, address: str, *, labelling: int, training: int, notices: int = 0, seed: int
) -> DriverKills:
    """Kill a run so many times at each kind of work, complete it, and compare it with one that was left alone.

    `notices`: so many more, at each kind of work, are told to end instead. The last two go on at the same time.
    """
    spec = watched_job(folder, address, epochs=EPOCHS_PER_KILL * max(1, training + notices))
    bench, draw = Bench(spec), random.Random(seed)
    commits_lost, ends = 0, list[tuple[int, float]]()

    def end(driver: Driver, *, is_killed: bool, when: Callable[[], bool]) -> int:
        if is_killed:
            driver.kill_when(when)
        else:
            ends.append(driver.tell_to_end_when(when))
        return bench.count_lost()

    with drivers(folder) as start:
        for number in range(labelling + notices):
            enough = len(bench.commits()) + draw.randint(1, 3)
            is_time = lambda enough=enough: len(bench.commits()) >= enough  # noqa: E731
            commits_lost += end(start(spec), is_killed=number < labelling, when=is_time)
        for number in range(training + notices):
            seen, wanted = bench.checkpoints(), draw.randint(1, 2)
            is_time = lambda seen=seen, wanted=wanted: len(bench.checkpoints() - seen) >= wanted  # noqa: E731
            commits_lost += end(start(spec), is_killed=number < training, when=is_time)
        for driver in [start(spec), start(spec)]:
            driver.finish()
        commits_lost += bench.count_lost()
        unkilled = watched_job(folder / "unkilled", address, epochs=spec.train.epochs, slowness=0.0)
        start(unkilled).finish()
    return DriverKills(
        kills=labelling + training,
        notices=len(ends),
        notices_kept=sum(code == 143 and seconds <= EXIT_WITHIN_S for code, seconds in ends),
        commits_lost=commits_lost,
        shards_wrong=bench.count_wrong_shards(),
        rows_wasted=max(rows_labelled(folder, name) for name in TEACHERS) - small_jobs.ROWS,
        rows_wasted_at_most=(labelling + notices) * IN_FLIGHT_ROWS,
        is_same_student=result_of(unkilled) == result_of(spec),
    )


class Bench:
    """A job's store, and how it looked when its driver was last killed."""

    def __init__(self, spec: JobSpec) -> None:
        self._root, self._job = Path(spec.store), resolve(spec)
        self._records = [record for teacher in self._job.teachers for record in teacher.label_sets]
        self._kept: dict[Path, int] = {}

    def commits(self) -> set[Path]:
        """Return the commit records of all label sets."""
        return {path for record in self._records for path in Path(self._root, record.prefix, "commits").glob("*.json")}

    def checkpoints(self) -> set[Path]:
        """Return those of the students."""
        students = [task.prefix for task in self._job.students]
        return {path for prefix in students for path in Path(self._root, prefix, "checkpoints").glob("*.json")}

    def count_lost(self) -> int:
        """Return how many commits of the last time are gone or written again, and remember those of now."""
        found = {path: path.stat().st_mtime_ns for path in self.commits()}
        lost = sum(found.get(path) != written_ns for path, written_ns in self._kept.items())
        self._kept = found
        return lost

    def count_wrong_shards(self) -> int:
        """Compare every sealed label set with its data set."""
        store, wrong = open_store(str(self._root)), 0
        for record in self._records:
            rows = dict(enumerate(shard.rows for shard in Dataset.open(store, record.dataset).record.shards))
            found = [(commit.number, commit.rows) for commit in LabelSet(store, record).load_manifest().commits]
            wrong += len(set(rows.items()) ^ set(found)) + len(found) - len(set(found))
        return wrong


def watched_job(
    folder: Path, address: str, *, epochs: int, slowness: float = 1.0, store: Path | None = None
) -> JobSpec:
    """Return a job that labels and trains for seconds, and leaves a trace of every row that its teachers compute."""
    folder.mkdir(exist_ok=True)
    weights = small_jobs.write_teacher(folder / "teacher.safetensors", rows=slice(0, 300))
    slow = {"batch_s": 0.1 * slowness}  # which changes no number
    teachers = [
        small_jobs.teacher(name, weights, "Watched", arguments={"trace": str(folder / f"{name}.trace"), **slow})
        for name in TEACHERS
    ]
    spec = small_jobs.job(
        folder,
        store=str(store or folder / "store"),
        teachers=teachers,
        cluster={"address": address},
        baseline=None,
    )
    return small_jobs.changed(
        spec,
        student__model=f"{small_jobs.MODELS}:Slow",
        student__arguments={"batch_s": 0.01 * slowness},
        data__shard_rows=SHARD_ROWS,
        train__epochs=epochs,
        train__checkpoint_every_s=0.2,
        train__pipelined="never",
    )


def rows_labelled(folder: Path, teacher: str) -> int:
    """Return how many rows of shards a teacher computed; single rows are those that an evaluation takes the time of."""
    rows = map(int, Path(folder, f"{teacher}.trace").read_text().split())
    return sum(count for count in rows if count > 1)


def result_of(spec: JobSpec) -> tuple[object, ...]:
    """Return the weights of the students, and every figure of the evaluation that no clock is part of."""
    record = json.loads(Path(spec.store, resolve(spec).evaluation_key).read_text())
    figures = [(model["name"], model["accuracy"], model["nll"], model["ece"]) for model in record["models"]]
    return trained_digests(spec), figures
