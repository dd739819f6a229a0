"""What happened in a run, kept in the store: `status` and the report work after the cluster, and the driver, are gone.

An object store cannot append, so events are written in numbered batches, and one small record is overwritten as
the run goes on.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from cluster.config import Config
from cluster.errors import CoffeyError, DataError
from cluster.identity import canonical_json
from cluster.redaction import redacted
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore

LOST_AFTER_S = 60.0
"""A run that has not been heard of for so long has lost its driver."""

_BATCH_S = 1.0
_HEARTBEAT_S = 5.0

RunOutcome = Literal["running", "done", "failed", "stopped", "lost"]


class Event(Config):
    """One thing that happened."""

    at: str
    """UTC, ISO 8601."""
    event: Literal["started", "advanced", "finished", "said", "failed"]
    step: str = ""
    message: str = ""
    rows: int | None = None
    seconds: float | None = None


class EventBatch(Config):
    """Events of about a second."""

    events: tuple[Event, ...]


class RunState(Config):
    """`state.json`: where a run stands."""

    run: str
    """`<name>/<time>-<id>`: its directory under `runs/`."""
    name: str
    state: RunOutcome
    started: str
    updated: str
    step: str = ""
    message: str = ""
    report: bool = False
    """Whether report.html and report.json are written."""
    error: str | None = None
    exit_code: int | None = None
    job: str | None = Field(default_factory=lambda: os.environ.get("COFFEY_SUBMISSION_ID"))
    """Submission id, if the run was submitted to a cluster."""


class UnknownRunError(DataError):
    """There is no such run in the store."""

    def __init__(self, uri: str, run: str, known: tuple[str, ...]) -> None:
        super().__init__(uri, run, known)
        self.uri, self.run, self.known = uri, run, known

    def __str__(self) -> str:
        there = f"The latest are {', '.join(self.known)}" if self.known else "No job has run there yet"
        return f"{self.uri}: there is no run {self.run!r}. {there}."


class RunLog:
    """Writes the events and the state of one run, without secrets. Called from one thread.

    A second thread writes when nothing happens: the driver may wait for one answer longer than `LOST_AFTER_S`.
    """

    def __init__(self, store: ObjectStore, name: str, *, heartbeat_s: float = _HEARTBEAT_S) -> None:
        self._store, self._heartbeat_s = store, heartbeat_s
        started = now()
        run = f"{name}/{started.replace('-', '').replace(':', '')[:15]}-{os.urandom(4).hex()}"
        self.state = RunState(run=run, name=name, state="running", started=started, updated=started)
        self._events: list[Event] = []
        self._batches, self._written_s = 0, 0.0
        self._writing, self._closed = threading.RLock(), threading.Event()
        self.flush()
        threading.Thread(target=self._beat, name="run-log", daemon=True).start()

    @property
    def prefix(self) -> str:
        """Where the run's files lie."""
        return f"runs/{self.state.run}"

    def append(self, event: Event) -> None:
        """Keep an event; it is in the store within about a second of the next one, or with the next heartbeat."""
        event = event.model_copy(update={"message": redacted(event.message)})
        with self._writing:
            self._events.append(event)
            update = {"updated": event.at, "step": event.step or self.state.step, "message": event.message}
            self.state = self.state.model_copy(update=update)
            if time.monotonic() - self._written_s >= _BATCH_S:
                self.flush()

    def close(self, outcome: RunOutcome, *, error: str | None = None, exit_code: int = 0, report: bool = False) -> None:
        """Write how the run ended."""
        self._closed.set()
        error = None if error is None else redacted(error)
        with self._writing:
            if error is not None:
                self._events.append(Event(at=now(), event="failed", step=self.state.step, message=error))
            update = {"state": outcome, "error": error, "exit_code": exit_code, "report": report, "updated": now()}
            self.state = self.state.model_copy(update=update)
            self.flush()

    def flush(self) -> None:
        """Write what has been kept."""
        with self._writing:
            if self._events:
                batch = EventBatch(events=tuple(self._events))
                self._store.put(f"{self.prefix}/events/{self._batches:08d}.json", canonical_json(batch))
                self._batches += 1
                self._events.clear()
            self._store.put(f"{self.prefix}/state.json", canonical_json(self.state))
            self._written_s = time.monotonic()

    def _beat(self) -> None:
        while not self._closed.wait(self._heartbeat_s):
            # A store that does not answer is met again by the next event, in the thread that can end the run.
            with contextlib.suppress(CoffeyError), self._writing:
                if not self._closed.is_set():
                    self.state = self.state.model_copy(update={"updated": now()})
                    self.flush()


def now() -> str:
    """Return the time, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_runs(store: ObjectStore) -> list[RunState]:
    """Return every run's state, the newest first."""
    keys = [stat.key for stat in store.list("runs/") if stat.key.endswith("/state.json")]
    states = [_alive(read_record(store, key, RunState)) for key in keys]
    return sorted(states, key=lambda state: state.started, reverse=True)


def read_run(store: ObjectStore, run: str) -> RunState:
    """Return the state of one run: `<name>/<time>-<id>`, or the latest of `<name>`.

    Raises:
        UnknownRunError: there is none.
    """
    states = read_runs(store)
    for state in states:
        if run in (state.run, state.name, state.job):
            return state
    raise UnknownRunError(store.uri, run, tuple(state.run for state in states[:3]))


def read_events(store: ObjectStore, run: str) -> Iterator[Event]:
    """Yield the events of a run in their order."""
    for stat in store.list(f"runs/{run}/events/"):
        yield from read_record(store, stat.key, EventBatch).events


def _alive(state: RunState) -> RunState:
    silent_s = (datetime.now(UTC) - datetime.fromisoformat(state.updated)).total_seconds()
    is_lost = state.state == "running" and silent_s > LOST_AFTER_S
    return state.model_copy(update={"state": "lost"}) if is_lost else state
