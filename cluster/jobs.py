"""Jobs on a running Ray cluster: submit, look, follow, stop, wait. What a job is told never contains credentials."""

import asyncio
import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import stamina

from cluster.config import Config
from cluster.dashboard import Dashboard, DashboardUnreachableError, TokenRefusedError, enter_dashboard
from cluster.errors import EXIT_TERMINATED, EnvironmentFailure, SpecError
from cluster.package import Package, pack
from cluster.redaction import is_secret_name, redacted

_POLL_S = 1.0
_PATIENCE_S = 120.0
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"


class JobState(Config):
    """What the cluster knows of a job."""

    id: str
    state: Literal["pending", "running", "stopped", "succeeded", "failed"]
    message: str
    started: str | None
    """UTC, ISO 8601."""
    ended: str | None
    exit_code: int | None
    """Of the entrypoint, once it has ended by itself."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in {"stopped", "succeeded", "failed"}


class JobUnknownError(SpecError):
    """The cluster has no job of that id."""

    def __init__(self, url: str, submission_id: str) -> None:
        super().__init__(url, submission_id)
        self.url, self.submission_id = url, submission_id

    def __str__(self) -> str:
        return (
            f"{self.url}: there is no job {self.submission_id}. `coffey status --address {self.url}` lists them. "
            "A cluster forgets its jobs when its head restarts, but the store does not: `coffey status --store …`."
        )


class JobExistsError(SpecError):
    """The id was used before."""

    def __init__(self, url: str, submission_id: str) -> None:
        super().__init__(url, submission_id)
        self.url, self.submission_id = url, submission_id

    def __str__(self) -> str:
        return f"{self.url}: there is a job {self.submission_id} already. Follow it, or submit under another id."


class JobNotStartedError(EnvironmentFailure):
    """The cluster gave up before the job's command ran, or lost it."""

    def __init__(self, submission_id: str, reason: str) -> None:
        super().__init__(submission_id, reason)
        self.submission_id, self.reason = submission_id, reason

    def __str__(self) -> str:
        return (
            f"job {self.submission_id} failed without an exit code: {self.reason} "
            "Mend the cluster and submit again: what is done is kept."
        )


class DashboardRefusedError(EnvironmentFailure):
    """The dashboard answers a request with an error of its own."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"{self.url}: the cluster refused: {self.reason}. Look at the cluster's dashboard log, then try again."


class SecretInJobError(SpecError):
    """Something of the job looks like a credential; whoever sees the dashboard sees its command and environment."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    def __str__(self) -> str:
        return (
            f"{self.where} holds what looks like a credential, and those do not travel with a job. "
            "Give it to the cluster's own nodes."
        )


def submit(
    address: str,
    *,
    entrypoint: str,
    working_dir: Path,
    submission_id: str,
    env: Mapping[str, str],
    excludes: Sequence[Path] = (),
    allow_open: bool = False,
) -> Package:
    """Run the shell command `entrypoint` on the cluster in a copy of `working_dir`; return what was packed of it.

    Raises:
        AccessDenied: the dashboard refuses us, or is open to everybody.
        EnvironmentFailure: it cannot be reached, or cannot take the job.
        SpecError: the id is taken, the directory cannot be packed, or `env` or `entrypoint` hold a credential.
    """
    refuse_secrets_in(env)
    if redacted(entrypoint) != entrypoint:
        raise SecretInJobError("the job's command")
    dashboard = enter_dashboard(address, allow_open=allow_open)
    with tempfile.TemporaryDirectory(prefix="coffey-") as folder, _in_our_words(dashboard.url, submission_id):
        package = pack(working_dir, into=Path(folder), excludes=excludes)
        runtime_env = {"working_dir": str(package.path), "env_vars": dict(env)}
        _client(dashboard).submit_job(entrypoint=entrypoint, submission_id=submission_id, runtime_env=runtime_env)
    return package


def refuse_secrets_in(env: Mapping[str, str]) -> None:
    """Raise `SecretInJobError` for the first variable that looks like a credential."""
    for variable, value in env.items():
        if is_secret_name(variable) or re.search(r"://[^/]*@", value) or redacted(value) != value:
            raise SecretInJobError(variable)


def job_status(address: str, submission_id: str) -> JobState:
    """Return what the cluster knows of a job; raises `JobUnknownError`."""
    dashboard = enter_dashboard(address, allow_open=True)
    with _in_our_words(dashboard.url, submission_id):
        return _state(_client(dashboard).get_job_info(submission_id))


def list_jobs(address: str) -> tuple[JobState, ...]:
    """Return all submitted jobs that the cluster remembers, newest first."""
    dashboard = enter_dashboard(address, allow_open=True)
    with _in_our_words(dashboard.url, "all"):
        jobs = [job for job in _client(dashboard).list_jobs() if job.submission_id]
    return tuple(_state(job) for job in sorted(jobs, key=lambda job: -(job.start_time or 0)))


def read_logs(address: str, submission_id: str) -> str:
    """Return what a job has printed so far."""
    dashboard = enter_dashboard(address, allow_open=True)
    with _in_our_words(dashboard.url, submission_id):
        return str(_client(dashboard).get_job_logs(submission_id))


def follow_logs(address: str, submission_id: str) -> Iterator[str]:
    """Yield what a job prints, from its beginning, in pieces as they come, until it ends."""
    dashboard = enter_dashboard(address, allow_open=True)
    with _in_our_words(dashboard.url, submission_id):
        client = _client(dashboard)
        client.get_job_info(submission_id)  # the stream of an unknown job would fail with a riddle
        yield from _pulled(client.tail_job_logs(submission_id))


def stop(address: str, submission_id: str) -> bool:
    """Ask a job to end; return whether it was running."""
    dashboard = enter_dashboard(address, allow_open=True)
    with _in_our_words(dashboard.url, submission_id):
        return bool(_client(dashboard).stop_job(submission_id))


def wait(address: str, submission_id: str) -> int:
    """Return the exit code of a job once it has ended: that of its command, and 143 if it was stopped.

    Raises:
        JobNotStartedError: it failed without an exit code.
        DashboardUnreachableError: the dashboard stayed silent for two minutes.
    """
    while not (job := _patient_status(address, submission_id)).is_final:
        time.sleep(_POLL_S)
    if job.state == "stopped":
        return EXIT_TERMINATED
    if job.exit_code is None:
        raise JobNotStartedError(submission_id, job.message)
    return job.exit_code


@stamina.retry(on=DashboardUnreachableError, attempts=None, timeout=_PATIENCE_S)
def _patient_status(address: str, submission_id: str) -> JobState:
    return job_status(address, submission_id)


def _client(dashboard: Dashboard) -> Any:
    from ray.job_submission import JobSubmissionClient

    for chatter in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{chatter}").setLevel(logging.WARNING)
    # Ray lets these variables overrule the address that it is given.
    before = os.environ.get(_ADDRESS_VARIABLE)
    os.environ[_ADDRESS_VARIABLE] = dashboard.url
    try:
        return JobSubmissionClient(dashboard.url, headers=dict(dashboard.headers))
    finally:
        os.environ.pop(_ADDRESS_VARIABLE)
        if before is not None:
            os.environ[_ADDRESS_VARIABLE] = before


@contextlib.contextmanager
def _in_our_words(url: str, submission_id: str) -> Iterator[None]:
    """Raise what Ray's client raises as an error that says whose move it is."""
    import aiohttp
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise TokenRefusedError(url, "refuses the token") from error
    except (OSError, aiohttp.ClientError) as error:
        raise DashboardUnreachableError(url, f"{type(error).__name__}: {error}") from error
    except RuntimeError as error:
        text = str(error)
        if "status code 404" in text:
            raise JobUnknownError(url, submission_id) from error
        if "already exists" in text:
            raise JobExistsError(url, submission_id) from error
        raise DashboardRefusedError(url, text.strip().splitlines()[-1]) from error


def _pulled(pieces: AsyncIterator[str]) -> Iterator[str]:
    async def next_piece() -> str | None:
        return await anext(pieces, None)

    with asyncio.Runner() as runner:
        while (piece := runner.run(next_piece())) is not None:
            yield piece


def _state(job: Any) -> JobState:
    return JobState(
        id=job.submission_id,
        state=job.status.value.lower(),
        message=job.message or "",
        started=_iso(job.start_time),
        ended=_iso(job.end_time),
        exit_code=_shell_code(job.driver_exit_code),
    )


def _iso(milliseconds: int | None) -> str | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else None


def _shell_code(code: int | None) -> int | None:
    """Return what a shell would call the exit code: 128 + N for a command that signal N ended."""
    return 128 - code if code is not None and code < 0 else code
