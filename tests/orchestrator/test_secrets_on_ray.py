"""A whole run on a cluster of its own, with secrets in its environment and models that quote it in their errors.

What it listens on is probed while workers train; what it leaves behind is searched when it has failed.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from orchestrator.load import dump_spec
from tests.fixtures import small_jobs
from tests.fixtures.canaries import CANARY, SECRETS, files_with_canaries
from tests.fixtures.open_ports import SILENCE, Port, answers_to_calls, answers_to_requests, ports_below

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

MODELS = "tests.fixtures.indiscreet_models"
ROOT = Path(__file__).parents[2]
TOKEN = SECRETS["RAY_AUTH_TOKEN"]
OUR_LINES = re.compile(r"(ingest|label:only:?|train:student|coffey:) .*|  .*")


@dataclass(frozen=True)
class Finished:
    """What a run has left."""

    exit_code: int
    stdout: str
    stderr: str
    store: Path
    ray: Path
    """Where Ray kept its files."""
    calls: dict[Port, dict[str, grpc.StatusCode]]
    """What became of calls without a token to whatever listened while workers trained."""
    calls_with_token: dict[str, grpc.StatusCode]
    """To the port that governs the cluster."""
    requests: dict[Port, dict[str, int]]
    """Statuses of HTTP requests without a token."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("secrets")
    # Ray's sockets lie in its folder, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="cf", dir="/tmp", ignore_cleanup_errors=True) as ray:
        with started(folder, Path(ray)) as process:
            (folder / "reached").read_text()  # opens when the student is in its first step
            ports = sorted(ports_below(process.pid), key=lambda port: port.number)
            with ThreadPoolExecutor(8) as pool:
                calls = pool.map(answers_to_calls, ports)
                requests = pool.map(answers_to_requests, ports)
            gcs = next(port for port in ports if "gcs_server" in port.owner)
            with_token = answers_to_calls(gcs, token=TOKEN)
            (folder / "leave").write_text("go on\n")
            exit_code = process.wait()
        written = ((folder / name).read_text() for name in ("stdout", "stderr"))
        yield Finished(
            exit_code,
            *written,
            folder / "store",
            Path(ray),
            dict(zip(ports, calls, strict=True)),
            with_token,
            dict(zip(ports, requests, strict=True)),
        )


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


def test_errors_that_quote_the_environment_show_no_secret_anywhere(finished: Finished) -> None:
    assert finished.exit_code == 6, finished.stderr
    assert CANARY not in finished.stdout + finished.stderr
    assert [str(path) for path in files_with_canaries(finished.store, finished.ray)] == []
    # They did get that far: both are shown, and lie in Ray's logs.
    assert "is tried again: RuntimeError: not with this environment: {" in finished.stderr
    assert re.search(r"neither with this one: \{.*'HF_TOKEN': '\*\*\*'", finished.stderr)
    logs = [path.read_bytes() for path in finished.ray.rglob("*") if path.is_file()]
    assert any(b"neither with this one" in log for log in logs)


def test_the_terminal_shows_our_own_lines_alone(finished: Finished) -> None:
    assert finished.stdout == ""
    strangers = [line for line in finished.stderr.splitlines() if not OUR_LINES.fullmatch(line)]
    assert strangers == []
    assert re.search(r"coffey: training ended early: .*\n  Last lines of its traceback", finished.stderr)


def test_the_cluster_listens_on_loopback_but_for_the_place_where_workers_meet(finished: Finished) -> None:
    assert len(finished.calls) > 5
    # torch binds its rendezvous to every interface, and has no setting for that.
    outside = [port for port in finished.calls if not port.is_on_loopback]
    assert len(outside) == 1, outside
    assert "TrainWorker" in outside[0].owner


def test_no_port_does_anything_without_the_token(finished: Finished) -> None:
    refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}
    codes = {code for answers in finished.calls.values() for code in answers.values()}
    assert codes <= refused | SILENCE, finished.calls
    doors = [port for port, answers in finished.calls.items() if grpc.StatusCode.UNAUTHENTICATED in answers.values()]
    assert len(doors) > 3
    assert finished.calls_with_token["/ray.rpc.InternalKVGcsService/InternalKVKeys"] is grpc.StatusCode.OK
    statuses = {status for answers in finished.requests.values() for status in answers.values()}
    assert 401 in statuses
    assert not statuses & {200, 201, 202, 204}, finished.requests
