"""`coffey run` in processes of their own, which have imported everything before they are needed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.context import RunContext
from orchestrator.load import dump_spec
from orchestrator.planning.plan import PlannedStep
from orchestrator.spec import JobSpec

WARM_UP = """
import json, sys
import ray.serve, ray.train, torch
import orchestrator.run, orchestrator.steps.evaluate, orchestrator.steps.export
import orchestrator.steps.fit, orchestrator.steps.teach
from orchestrator.cli.app import main
from tests.simulation.processes import expect_notice
sys.argv, notice = json.loads(sys.stdin.readline())
if notice:
    expect_notice(*notice)
main()
"""
"""What `coffey` does, but that it imports, which takes seconds, before it is told its arguments."""


EXIT_WITHIN_S = 25.0
"""Of a SIGTERM, after which a machine that is taken away leaves 30 seconds."""

Start = Callable[..., "Driver"]


class DriverFailedError(Exception):
    """A driver ended by itself where it should have gone on, with its last words."""


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

    def run(self, spec: JobSpec, path: Path, notice: Sequence[object] = ()) -> None:
        """Begin with a job; `notice` is what `expect_notice` is told."""
        path.write_text(dump_spec(spec))
        assert self.process.stdin is not None
        told = [["coffey", "run", str(path), "--json"], list(notice)]
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        self.process.stdin.close()
        self.process.stdin = None

    def kill_when(self, is_time: Callable[[], bool]) -> None:
        """Kill it as soon as `is_time`."""
        self._await(is_time)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tell_to_end_when(self, is_time: Callable[[], bool]) -> tuple[int, float]:
        """Send it SIGTERM as soon as `is_time`; return its exit code and how many seconds that took."""
        self._await(is_time)
        told_s = time.monotonic()
        self.process.terminate()
        return self.end()[0], time.monotonic() - told_s

    def _await(self, is_time: Callable[[], bool]) -> None:
        while not is_time():
            if self.process.poll() is not None:
                raise DriverFailedError(f"it ended before it was killed: {self._last_words()}")
            time.sleep(0.02)

    def finish(self) -> dict[str, Any]:
        """Wait for its end, and return what it says in JSON."""
        code, output = self.end()
        if code or not output:
            raise DriverFailedError(f"it ended with {code}: {self._last_words()}")
        return output

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for its end, however it ends; return its exit code and what it says in JSON."""
        output, _ = self.process.communicate()
        return self.process.returncode, json.loads(output) if output else {}

    def stop(self) -> None:
        """End it, if it is still there."""
        self.log.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _last_words(self) -> str:
        return Path(self.log.name).read_text()[-3000:]


@contextmanager
def drivers(folder: Path) -> "Iterator[Start]":
    """Yield what starts a driver with a job, while the next one warms up."""
    started = [Driver(folder)]

    def start(spec: JobSpec, notice: Sequence[object] = ()) -> Driver:
        driver = started[-1]
        driver.run(spec, folder / "job.yaml", notice)
        started.append(Driver(folder))
        return driver

    try:
        yield start
    finally:
        for driver in started:
            driver.stop()


def expect_notice(phase: str, after_s: float, marker: str) -> None:
    """Have this process told to end so long after a step of this kind has begun; `marker` appears at that moment."""
    started = RunContext.started

    def tell() -> None:
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGTERM)

    def started_and_told(context: RunContext, planned: PlannedStep) -> None:
        started(context, planned)
        if planned.kind == phase:
            timer = threading.Timer(after_s, tell)
            timer.daemon = True
            timer.start()
            if not after_s:  # it must not be over before the signal is there
                threading.Event().wait()

    RunContext.started = started_and_told  # type: ignore[method-assign]
