"""`kill -9` of the driver at random moments: the next run finishes, no row is doubled, the student is the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.storage.open import open_store
from orchestrator.load import dump_spec
from orchestrator.resolve import Job, resolve
from orchestrator.spec import JobSpec
from tests.fixtures import small_jobs
from tests.fixtures.ray_head import RayHead
from tests.fixtures.ray_runs import trained_digests
from tests.fixtures.small_jobs import changed

pytestmark = [pytest.mark.ray, pytest.mark.kill, pytest.mark.timeout(900)]

KILLS_WHILE_LABELLING = 10
KILLS_WHILE_TRAINING = 10
SHARD_ROWS = 32
IN_FLIGHT_ROWS = 2 * SHARD_ROWS
"""Two shards: what one replica may have in hand when its driver dies."""
TIMED_ROWS = 60
"""Single rows that the evaluation sends through each teacher to measure its latency."""


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


class Driver:
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

    def kill_when(self, is_time: Callable[[], bool]) -> bool:
        """Kill it as soon as `is_time`; returns whether it was still running."""
        while self.process.poll() is None:
            if is_time():
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                return True
            time.sleep(0.02)
        return False

    def finish(self) -> dict[str, object]:
        """Wait for its end, and return what it printed."""
        output, _ = self.process.communicate()
        assert self.process.returncode == 0, Path(self.log.name).read_text()[-3000:]
        result: dict[str, object] = json.loads(output)
        return result


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[Callable[[JobSpec], Driver]]:
    started = [Driver(tmp_path)]

    def start(spec: JobSpec) -> Driver:
        driver = started[-1]
        driver.run(spec, tmp_path / "job.yaml")
        started.append(Driver(tmp_path))
        return driver

    yield start
    for driver in started:
        driver.log.close()
        if driver.process.poll() is None:
            os.killpg(driver.process.pid, signal.SIGKILL)
            driver.process.wait()


def watched_job(folder: Path, ray_head: RayHead, *, slowness: float = 1.0) -> JobSpec:
    """Return a job that labels and trains for seconds, and leaves a trace of every row that its teachers compute."""
    folder.mkdir(exist_ok=True)
    weights = small_jobs.write_teacher(folder / "teacher.safetensors", rows=slice(0, 300))
    slow = {"batch_s": 0.1 * slowness}
    teachers = [
        small_jobs.teacher(name, weights, "Watched", arguments={"trace": str(folder / f"{name}.trace"), **slow})
        for name in ("first", "second")
    ]
    spec = small_jobs.job(
        folder, store=str(folder / "store"), teachers=teachers, cluster={"address": ray_head.address}, baseline=None
    )
    return changed(
        spec,
        student__model=f"{small_jobs.MODELS}:Slow",
        student__arguments={"batch_s": 0.01 * slowness},
        data__shard_rows=SHARD_ROWS,
        train__epochs=120,
        train__checkpoint_every_s=0.2,
        train__pipelined="never",
    )


def test_a_driver_killed_twenty_times_loses_nothing(
    tmp_path: Path, ray_head: RayHead, drivers: Callable[[JobSpec], Driver]
) -> None:
    spec = watched_job(tmp_path, ray_head)
    job, draw = resolve(spec), random.Random(20)

    kept: dict[Path, int] = {}
    for kill in range(KILLS_WHILE_LABELLING):
        until = len(commits(job, spec)) + draw.randint(0, 2)
        driver = drivers(spec)
        assert driver.kill_when(lambda until=until: len(commits(job, spec)) >= until + 1), f"kill {kill} came too late"
        assert_unchanged(kept)
        kept = {path: path.stat().st_mtime_ns for path in commits(job, spec)}

    for kill in range(KILLS_WHILE_TRAINING):
        checkpoints_seen = set(checkpoints(job, spec))
        wanted = draw.randint(1, 2)
        driver = drivers(spec)

        def is_time(seen: set[Path] = checkpoints_seen, wanted: int = wanted) -> bool:
            return len(set(checkpoints(job, spec)) - seen) >= wanted

        assert driver.kill_when(is_time), f"training ended before kill {kill}"
        assert_unchanged(kept)
        kept = {path: path.stat().st_mtime_ns for path in commits(job, spec)}

    drivers(spec).finish()
    assert_unchanged(kept)
    assert_every_row_is_labelled_once(job, spec)
    for name in ("first", "second"):
        computed = sum(map(int, (tmp_path / f"{name}.trace").read_text().split()))
        assert computed - small_jobs.ROWS <= KILLS_WHILE_LABELLING * IN_FLIGHT_ROWS + TIMED_ROWS
    unkilled = watched_job(tmp_path / "unkilled", ray_head, slowness=0.0)  # which changes no number
    drivers(unkilled).finish()
    assert trained_digests(unkilled) == trained_digests(spec)
    assert figures(unkilled) == figures(spec)


def commits(job: Job, spec: JobSpec) -> list[Path]:
    """Return the commit records of all label sets."""
    return [
        path
        for teacher in job.teachers
        for record in teacher.label_sets
        for path in Path(spec.store, record.prefix, "commits").glob("*.json")
    ]


def checkpoints(job: Job, spec: JobSpec) -> list[Path]:
    return [path for task in job.students for path in Path(spec.store, task.prefix, "checkpoints").glob("*.json")]


def assert_unchanged(kept: dict[Path, int]) -> None:
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def assert_every_row_is_labelled_once(job: Job, spec: JobSpec) -> None:
    store = open_store(spec.store)
    for teacher in job.teachers:
        for record in teacher.label_sets:
            manifest = LabelSet(store, record).load_manifest()
            expected = [entry.rows for entry in Dataset.open(store, record.dataset).record.shards]
            assert [commit.rows for commit in manifest.commits] == expected
            assert [commit.number for commit in manifest.commits] == list(range(len(expected)))


def figures(spec: JobSpec) -> list[tuple[object, ...]]:
    """Return every figure of the evaluation that no clock is part of."""
    record = json.loads(Path(spec.store, resolve(spec).evaluation_key).read_text())
    return [(model["name"], model["accuracy"], model["nll"], model["ece"]) for model in record["models"]]
