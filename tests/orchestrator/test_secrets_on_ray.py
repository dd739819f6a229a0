"""A whole run on a cluster of its own, with secrets in its environment and models that quote it in their errors.

What it listens on is probed while workers train; what it leaves behind is searched when it has failed.
"""

import contextlib
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.load import dump_spec
from tests.fixtures import small_jobs
from tests.fixtures.canaries import CANARY, SECRETS, files_with_canaries
from tests.fixtures.open_ports import Port, Probed, ports_below, probe, told_with_token

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

MODELS = "tests.fixtures.indiscreet_models"
ROOT = Path(__file__).parents[2]
TOKEN = SECRETS["RAY_AUTH_TOKEN"]
OUR_LINES = re.compile(r"(ingest|label:only|calibrate:only|train:student)[ :].*|coffey: .*|  .*")
TABLES = (
    "JobInfoGcsService/GetAllJobInfo",
    "ActorInfoGcsService/GetAllActorInfo",
    "WorkerInfoGcsService/GetAllWorkerInfo",
    "NodeInfoGcsService/GetAllNodeInfo",
    "TaskInfoGcsService/GetTaskEvents",
)
"""What a cluster knows of its jobs: their runtime environments, command lines and errors among it."""


@dataclass(frozen=True)
class Finished:
    """What a run has left."""

    exit_code: int
    stdout: str
    stderr: str
    store: Path
    ray: Path
    """Where Ray kept its files."""
    ports: dict[Port, Probed]
    """All that listened while workers trained."""
    tables: dict[str, bytes]
    """Of the cluster at that time, told to somebody who has the token."""

    def owners(self, kind: str) -> list[str]:
        return sorted(port.owner for port, probed in self.ports.items() if probed.kind == kind)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("secrets")
    # Ray's sockets lie in its folder, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="cf", dir="/tmp", ignore_cleanup_errors=True) as ray:
        with started(folder, Path(ray)) as process:
            await_training(folder, process)
            ports = probe(ports_below(process.pid))
            gcs = next(port for port in ports if port.owner == "gcs_server")
            tables = {table: told_with_token(gcs, f"/ray.rpc.{table}", TOKEN) for table in TABLES}
            (folder / "leave").write_text("go on\n")
            exit_code = process.wait()
        written = ((folder / name).read_text() for name in ("stdout", "stderr"))
        yield Finished(exit_code, *written, folder / "store", Path(ray), ports, tables)


@contextlib.contextmanager
def started(folder: Path, ray: Path) -> Iterator[subprocess.Popen[bytes]]:
    for pipe in ("reached", "leave"):
        os.mkfifo(folder / pipe)
    weights = small_jobs.write_teacher(folder / "only.safetensors", rows=slice(0, 300))
    teacher = small_jobs.teacher("only", weights) | {
        "model": f"{MODELS}:Quotes",
        "arguments": {"marker": str(folder / "quoted")},
    }
    student = {"model": f"{MODELS}:WaitsAndQuotes", "arguments": {it: str(folder / it) for it in ("reached", "leave")}}
    spec = small_jobs.job(
        folder, store=str(folder / "store"), teachers=[teacher], student=student, baseline=None, cluster={"cpus": 3}
    )
    spec = small_jobs.changed(spec, train__max_failures=0, train__pipelined="never")
    (folder / "job.yaml").write_text(dump_spec(spec))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(folder / "job.yaml")]
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment | SECRETS | {"RAY_TMPDIR": str(ray)}, stdout=stdout, stderr=stderr
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def await_training(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when the student is in its first step, which opens the pipe `reached`."""
    reached, ended = os.open(folder / "reached", os.O_RDONLY | os.O_NONBLOCK), os.pidfd_open(process.pid)
    ready, _, _ = select.select([reached, ended], [], [])
    for descriptor in (reached, ended):
        os.close(descriptor)
    assert ended not in ready, (folder / "stderr").read_text()


def test_errors_that_quote_the_environment_show_no_secret_anywhere(finished: Finished) -> None:
    assert finished.exit_code == 6, finished.stderr
    assert CANARY not in finished.stdout + finished.stderr
    assert [str(path) for path in files_with_canaries(finished.store, finished.ray)] == []
    assert [table for table, told in finished.tables.items() if CANARY.encode() in told] == []
    # They did get that far: both are shown, and lie in Ray's logs.
    assert "is tried again: RuntimeError: not with this environment: {" in finished.stderr
    assert "coffey: training ended early: RuntimeError: neither with this one: {" in finished.stderr
    logs = [path.read_text(errors="replace") for path in finished.ray.rglob("*.*") if path.is_file()]
    assert any(re.search(r"neither with this one: \{.*'HF_TOKEN': '\*\*\*'", log) for log in logs)
    assert b"RayTrainWorker" in finished.tables["ActorInfoGcsService/GetAllActorInfo"]


def test_the_terminal_shows_our_own_lines_alone(finished: Finished) -> None:
    assert finished.stdout == ""
    strangers = [line for line in finished.stderr.splitlines() if not OUR_LINES.fullmatch(line)]
    assert strangers == []
    assert re.search(r"\n  Last lines of its traceback; Ray's logs are in \S+:\n", finished.stderr)


def test_all_that_listens_does_so_on_loopback(finished: Finished) -> None:
    assert [port for port in finished.ports if not port.is_on_loopback] == []


def test_no_port_does_anything_without_the_token(finished: Finished) -> None:
    assert {port: probed for port, probed in finished.ports.items() if probed.kind == "open"} == {}
    assert {"gcs_server", "raylet", "RayTrainWorker", "DashboardAgent", "RuntimeEnvAgent"} <= set(
        finished.owners("locked")
    )
    # Numbers for Prometheus of two of Ray's own processes, which have no setting that closes them.
    assert set(finished.owners("metrics")) <= {"dashboard.py", "monitor.py"}
    # Where torch's workers meet, and where each of the two is found by the other: bytes of one training, and no calls.
    assert finished.owners("mute") == ["RayTrainWorker"] * 3
