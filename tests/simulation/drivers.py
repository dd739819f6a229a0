"""`coffey run` is killed at random moments, while it labels and while it trains; the next one goes on where it was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.storage.open import open_store
from orchestrator.load import dump_spec
from orchestrator.resolve import resolve
from orchestrator.spec import JobSpec
from tests.fixtures import small_jobs
from tests.fixtures.ray_runs import trained_digests

SHARD_ROWS = 32
IN_FLIGHT_ROWS = 2 * SHARD_ROWS
"""Two shards: what one replica may have in hand when its driver dies."""
TIMED_ROWS = 60
"""Single rows that the evaluation sends through each teacher to measure its latency."""
TEACHERS = ("first", "second")
EPOCHS_PER_KILL = 12
"""Long enough that a training is still under way when it is killed for the last time."""

WARM_UP = """
import json, sys
import ray.serve, ray.train, torch
import orchestrator.run, orchestrator.steps.evaluate, orchestrator.steps.export
import orchestrator.steps.fit, orchestrator.steps.teach
from orchestrator.cli.app import main
sys.argv = json.loads(sys.stdin.readline())
main()
"""
"""What `coffey` does, but that it imports, which takes seconds, before it is told its arguments."""


class DriverFailedError(Exception):
    """A driver ended by itself where it should have gone on, with its last words."""


@dataclass(frozen=True)
class DriverKills:
    """What was left after the kills."""

    kills: int
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


def kill_drivers(folder: Path, address: str, *, labelling: int, training: int, seed: int) -> DriverKills:
    """Kill a run so many times at each kind of work, complete it, and compare it with one that was left alone."""
    spec = _watched_job(folder, address, epochs=EPOCHS_PER_KILL * max(1, training))
    bench, draw = _Bench(spec), random.Random(seed)
    commits_lost = 0
    with _drivers(folder) as start:
        for _ in range(labelling):
            enough = len(bench.commits()) + draw.randint(1, 3)
            commits_lost += bench.kill(start(spec), when=lambda enough=enough: len(bench.commits()) >= enough)
        for _ in range(training):
            seen, wanted = bench.checkpoints(), draw.randint(1, 2)
            is_time = lambda seen=seen, wanted=wanted: len(bench.checkpoints() - seen) >= wanted  # noqa: E731
            commits_lost += bench.kill(start(spec), when=is_time)
        start(spec).finish()
        commits_lost += bench.count_lost()
        unkilled = _watched_job(folder / "unkilled", address, epochs=spec.train.epochs, slowness=0.0)
        start(unkilled).finish()
    computed = [sum(map(int, Path(folder, f"{name}.trace").read_text().split())) for name in TEACHERS]
    return DriverKills(
        kills=labelling + training,
        commits_lost=commits_lost,
        shards_wrong=bench.count_wrong_shards(),
        rows_wasted=max(computed) - small_jobs.ROWS - TIMED_ROWS,
        rows_wasted_at_most=labelling * IN_FLIGHT_ROWS,
        is_same_student=_result(unkilled) == _result(spec),
    )


class _Driver:
    """`coffey run` in a process of its own, which is warm before it is needed."""

    def __init__(self, folder: Path) -> None:
        self.log = (folder / "driver.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", WARM_UP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
        )

    def run(self, spec: JobSpec, path: Path) -> None:
        """Begin with a job."""
        path.write_text(dump_spec(spec))
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(["coffey", "run", str(path), "--json"]).encode() + b"\n")
        self.process.stdin.close()
        self.process.stdin = None

    def kill_when(self, is_time: Callable[[], bool]) -> None:
        """Kill it as soon as `is_time`."""
        while self.process.poll() is None:
            if is_time():
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                return
            time.sleep(0.02)
        raise DriverFailedError(f"it ended before it was killed: {self._last_words()}")

    def finish(self) -> None:
        """Wait for its end."""
        output, _ = self.process.communicate()
        if self.process.returncode or not json.loads(output):
            raise DriverFailedError(f"it ended with {self.process.returncode}: {self._last_words()}")

    def stop(self) -> None:
        """End it, if it is still there."""
        self.log.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _last_words(self) -> str:
        return Path(self.log.name).read_text()[-3000:]


@contextmanager
def _drivers(folder: Path) -> Iterator[Callable[[JobSpec], _Driver]]:
    """Yield what starts a driver with a job, while the next one warms up."""
    started = [_Driver(folder)]

    def start(spec: JobSpec) -> _Driver:
        driver = started[-1]
        driver.run(spec, folder / "job.yaml")
        started.append(_Driver(folder))
        return driver

    try:
        yield start
    finally:
        for driver in started:
            driver.stop()


class _Bench:
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

    def kill(self, driver: _Driver, *, when: Callable[[], bool]) -> int:
        """Kill a driver, and return how many commits of its predecessors it has lost."""
        driver.kill_when(when)
        return self.count_lost()

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


def _watched_job(folder: Path, address: str, *, epochs: int, slowness: float = 1.0) -> JobSpec:
    """Return a job that labels and trains for seconds, and leaves a trace of every row that its teachers compute."""
    folder.mkdir(exist_ok=True)
    weights = small_jobs.write_teacher(folder / "teacher.safetensors", rows=slice(0, 300))
    slow = {"batch_s": 0.1 * slowness}  # which changes no number
    teachers = [
        small_jobs.teacher(name, weights, "Watched", arguments={"trace": str(folder / f"{name}.trace"), **slow})
        for name in TEACHERS
    ]
    spec = small_jobs.job(
        folder, store=str(folder / "store"), teachers=teachers, cluster={"address": address}, baseline=None
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


def _result(spec: JobSpec) -> tuple[object, ...]:
    """Return the weights of the students, and every figure of the evaluation that no clock is part of."""
    record = json.loads(Path(spec.store, resolve(spec).evaluation_key).read_text())
    figures = [(model["name"], model["accuracy"], model["nll"], model["ece"]) for model in record["models"]]
    return trained_digests(spec), figures
