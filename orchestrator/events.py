"""What happened in a run, kept in the store: `status` and the report work after the cluster, and the driver, are gone.

An object store cannot append, so events are written in numbered batches, and one small record is overwritten as
the run goes on.
"""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from cluster.config import Config
from cluster.errors import DataError
from cluster.identity import canonical_json
from cluster.shards.records import read_record
from cluster.storage.patience import longest_outage_s
from cluster.storage.protocol import ObjectStore

SILENT_AFTER_S = 60.0
"""A run that has not been heard of for so long has lost its driver, or its driver has no store to write to."""

_POLL_S = 1.0

RunOutcome = Literal["running", "done", "failed", "stopped", "silent", "lost"]


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
    def is_over(self) -> bool:
        """Whether nothing more will be heard of it."""
        return self.state not in {"running", "silent"}

    @property
    def remark(self) -> str:
        """What there is to say of it, in a line."""
        is_heard = self.state not in {"silent", "lost"}
        return self.error or self.message if is_heard else f"no sign of life since {self.updated}"


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


def now() -> str:
    """Return the time, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_runs(store: ObjectStore) -> list[RunState]:
    """Return every run's state, the newest first."""
    keys = [stat.key for stat in store.list("runs/") if stat.key.endswith("/state.json")]
    states = [_as_heard(read_record(store, key, RunState)) for key in keys]
    return sorted(states, key=lambda state: state.started, reverse=True)


def read_state(store: ObjectStore, run: str) -> RunState:
    """Return the state of the run at `<name>/<time>-<id>`; raises `ObjectMissingError`."""
    return _as_heard(read_record(store, f"runs/{run}/state.json", RunState))


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


def follow_events(
    store: ObjectStore, run: str, *, on_silence: Callable[[RunState], bool], poll_s: float = _POLL_S
) -> Iterator[Event]:
    """Yield the events of the run at `<name>/<time>-<id>`, from the first one, as they come, until it is over.

    As long as it is silent, `on_silence` is asked at each look whether that is the end: it may come back once its
    driver reaches the store again.
    """
    number = 0
    while True:
        # Before its events: what is written between the two is read, or the run is not final yet.
        state = read_state(store, run)
        while store.exists(key := batch_key(f"runs/{run}", number)):
            yield from read_record(store, key, EventBatch).events
            number += 1
        if state.is_over or (state.state == "silent" and on_silence(state)):
            return
        time.sleep(poll_s)


def request_stop(store: ObjectStore, run: str) -> RunState:
    """Ask a run to end, if it goes on; return its state as it was found. Raises `UnknownRunError`."""
    state = read_run(store, run)
    if not state.is_over:
        store.put_if_absent(stop_key(state), canonical_json(StopRequest(at=now())))
    return state


def is_asked_to_stop(store: ObjectStore, state: RunState) -> bool:
    """Return whether somebody asked a run, or the submitted job that it is of, to end."""
    return store.exists(stop_key(state))


def batch_key(prefix: str, number: int) -> str:
    """Return where the batch of that number lies, of the run at `prefix`."""
    return f"{prefix}/events/{number:08d}.json"


def stop_key(state: RunState) -> str:
    """Return where a wish lies that the run, or the job that was submitted with it, end."""
    # One for all runs of a submitted job: a cluster that tries a failed job again must not undo the stop.
    return f"runs/{state.name}/stops/{state.job or state.run.rpartition('/')[2]}.json"


def _as_heard(state: RunState) -> RunState:
    silent_s = (datetime.now(UTC) - datetime.fromisoformat(state.updated)).total_seconds()
    if state.is_over or silent_s <= SILENT_AFTER_S:
        return state
    # As long as a driver waits for a store that does not answer, nobody hears of it.
    is_lost = silent_s > SILENT_AFTER_S + longest_outage_s()
    return state.model_copy(update={"state": "lost" if is_lost else "silent"})
