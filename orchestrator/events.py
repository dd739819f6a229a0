"""What happened in a run, kept in the store: `status` and the report work after the cluster, and the driver, are gone.

An object store cannot append, so events are written in numbered batches, and one small record is overwritten as
the run goes on.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from cluster.config import Config
from cluster.errors import CoffeyError, DataError
from cluster.identity import canonical_json
from cluster.redaction import redacted
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore, StoreUnreachableError

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
    done: int | None = None
    """Rows of a step that were done before it started."""
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

    @property
    def remark(self) -> str:
        """What there is to say of it, in a line."""
        return f"no sign of life since {self.updated}" if self.state == "lost" else self.error or self.message


class StopRequest(Config):
    """A wish that a run end, left where its driver looks."""

    at: str
    """UTC, ISO 8601."""


class UnknownRunError(DataError):
    """There is no such run in the store."""

    def __init__(self, uri: str, run: str, known: tuple[str, ...]) -> None:
        super().__init__(uri, run, known)
        self.uri, self.run, self.known = uri, run, known

    def __str__(self) -> str:
        there = f"The latest are {', '.join(self.known)}" if self.known else "No job has run there yet"
        return f"{self.uri}: there is no run {self.run!r}. {there}."


class RunLog:
    """Writes the events and the state of one run, without secrets. Called from one thread at a time.

    A second thread writes when nothing happens: the driver may wait for one answer longer than `LOST_AFTER_S`. It also
    looks whether somebody asked the run to stop, and then calls `on_stop` once: by default, what SIGTERM does.
    """

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        *,
        heartbeat_s: float = _HEARTBEAT_S,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        self._store, self._heartbeat_s, self._on_stop = store, heartbeat_s, on_stop or _terminate
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
        """Keep an event; it is in the store within about a second of the next one, or with the next heartbeat.

        What a store that does not answer has not taken is written later: whether a run outlives an outage is for those
        to say who need an answer.
        """
        event = event.model_copy(update={"message": redacted(event.message)})
        with self._writing:
            self._events.append(event)
            update = {"updated": event.at, "step": event.step or self.state.step, "message": event.message}
            self.state = self.state.model_copy(update=update)
            if time.monotonic() - self._written_s >= _BATCH_S:
                with contextlib.suppress(StoreUnreachableError):
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

    def close_within(self, limit_s: float, outcome: RunOutcome, *, exit_code: int) -> None:
        """Write how the run ended, or give up after so long: who was told to end may not wait for a store."""

        def close() -> None:
            with contextlib.suppress(CoffeyError):
                self.close(outcome, exit_code=exit_code)

        closing = threading.Thread(target=close, name="run-log-end", daemon=True)
        closing.start()
        closing.join(limit_s)

    def flush(self) -> None:
        """Write what has been kept."""
        with self._writing:
            try:
                if self._events:
                    batch = EventBatch(events=tuple(self._events))
                    self._store.put(_batch_key(self.prefix, self._batches), canonical_json(batch))
                    self._batches += 1
                    self._events.clear()
                self._store.put(f"{self.prefix}/state.json", canonical_json(self.state))
            finally:
                self._written_s = time.monotonic()

    def _beat(self) -> None:
        is_stopping = False
        while not self._closed.wait(self._heartbeat_s):
            # What the store refuses is met again by the next event, in the thread that can end the run.
            with contextlib.suppress(CoffeyError), self._writing:
                if not self._closed.is_set():
                    self.state = self.state.model_copy(update={"updated": now()})
                    self.flush()
                    if not is_stopping and is_asked_to_stop(self._store, self.state):
                        is_stopping = True
                        self.append(Event(at=now(), event="said", message="Somebody asked this run to stop."))
                        self._on_stop()


def now() -> str:
    """Return the time, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_runs(store: ObjectStore) -> list[RunState]:
    """Return every run's state, the newest first."""
    keys = [stat.key for stat in store.list("runs/") if stat.key.endswith("/state.json")]
    states = [_alive(read_record(store, key, RunState)) for key in keys]
    return sorted(states, key=lambda state: state.started, reverse=True)


def read_state(store: ObjectStore, run: str) -> RunState:
    """Return the state of the run at `<name>/<time>-<id>`; raises `ObjectMissingError`."""
    return _alive(read_record(store, f"runs/{run}/state.json", RunState))


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


def follow_events(store: ObjectStore, run: str, *, poll_s: float = _BATCH_S) -> Iterator[Event]:
    """Yield the events of the run at `<name>/<time>-<id>`, from the first one, as they come, until it is final."""
    number = 0
    while True:
        # Before its events: what is written between the two is read, or the run is not final yet.
        state = read_state(store, run)
        while store.exists(key := _batch_key(f"runs/{run}", number)):
            yield from read_record(store, key, EventBatch).events
            number += 1
        if state.state != "running":
            return
        time.sleep(poll_s)


def request_stop(store: ObjectStore, run: str) -> RunState:
    """Ask a run to end, if it goes on; return its state as it was found. Raises `UnknownRunError`."""
    state = read_run(store, run)
    if state.state == "running":
        store.put_if_absent(_stop_key(state), canonical_json(StopRequest(at=now())))
    return state


def is_asked_to_stop(store: ObjectStore, state: RunState) -> bool:
    """Return whether somebody asked a run, or the submitted job that it is of, to end."""
    return store.exists(_stop_key(state))


def _batch_key(prefix: str, number: int) -> str:
    return f"{prefix}/events/{number:08d}.json"


def _stop_key(state: RunState) -> str:
    # One for all runs of a submitted job: a cluster that tries a failed job again must not undo the stop.
    return f"runs/{state.name}/stops/{state.job or state.run.rpartition('/')[2]}.json"


def _terminate() -> None:
    # The main thread, and no other: a signal wakes it from whatever it waits for.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _alive(state: RunState) -> RunState:
    silent_s = (datetime.now(UTC) - datetime.fromisoformat(state.updated)).total_seconds()
    is_lost = state.state == "running" and silent_s > LOST_AFTER_S
    return state.model_copy(update={"state": "lost"}) if is_lost else state
