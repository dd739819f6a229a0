"""A run that goes on elsewhere, as its store tells it: the lines it shows there, and how it ended."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import TextIO

from cluster.errors import EnvironmentFailure
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore
from orchestrator.events import Event, RunState, follow_events, read_events, read_state
from orchestrator.progress import PlainLines

_POLL_S = 5.0
_PATIENCE_S = 60.0


class RunLostError(EnvironmentFailure):
    """The driver of a run went without a word."""

    def __init__(self, run: str, updated: str) -> None:
        super().__init__(run, updated)
        self.run, self.updated = run, updated

    def __str__(self) -> str:
        return (
            f"run {self.run}: no sign of life since {self.updated}, so its driver, or the whole cluster, is gone; "
            "expected a word every few seconds. Start the job again: it continues."
        )


def tell_run(
    store: ObjectStore,
    state: RunState,
    file: TextIO,
    *,
    follow: bool,
    gives_up: Callable[[], bool] = lambda: False,
) -> RunState:
    """Write what a run has said so far, or with `follow` until it has ended, and how it ended; return its last state.

    The lines are those that the run itself writes where it has no terminal, at the pace at which things happened.
    `gives_up` is asked while it is silent, and may come back.
    """
    told = set[str]()

    def meet_silence(silent: RunState) -> bool:
        if silent.updated not in told:
            told.add(silent.updated)
            why = "its driver is gone, or it cannot reach the store and comes back when it can"
            print(f"No sign of life since {silent.updated}: {why}.", file=file, flush=True)
        return gives_up()

    retelling = _Retelling(file, state)
    follows = follow_events(store, state.run, on_silence=meet_silence) if follow else read_events(store, state.run)
    for event in follows:
        retelling.tell(event)
    last = read_state(store, state.run)
    if ending := _ending(store, last):
        print(ending, file=file, flush=True)
    return last


def await_run(
    store: ObjectStore,
    name: str,
    submission_id: str,
    *,
    on_silence: Callable[[], None],
    poll_s: float = _POLL_S,
    patience_s: float = _PATIENCE_S,
) -> RunState:
    """Return the state of the first run of the submitted job `name` once there is one.

    `on_silence` is called once if none shows up within `patience_s`: a cluster may wait for machines and images.
    """
    asked_s, is_told = time.monotonic(), False
    others = set[str]()
    while (state := find_run(store, name, submission_id, others)) is None:
        if not is_told and time.monotonic() - asked_s > patience_s:
            is_told = True
            on_silence()
        time.sleep(poll_s)
    return state


def find_run(store: ObjectStore, name: str, submission_id: str, others: set[str]) -> RunState | None:
    """Return the first run of the submission; `others` are keys of runs that are not meant, and grow."""
    keys = [stat.key for stat in store.list(f"runs/{name}/") if stat.key.endswith("/state.json")]
    for key in sorted(set(keys) - others):  # the earliest first: names begin with the time
        state = read_record(store, key, RunState)
        if state.job == submission_id:
            return state
        others.add(key)
    return None


def exit_code_of_run(state: RunState) -> int:
    """Return the exit code of a run that has ended; raises `RunLostError` for one that will not say."""
    if state.exit_code is None:
        raise RunLostError(state.run, state.updated)
    return state.exit_code


class _Retelling:
    """Plain lines whose clock is that of the events."""

    def __init__(self, file: TextIO, state: RunState) -> None:
        self._now_s = _seconds(state.started)
        self._lines = PlainLines(file, clock=lambda: self._now_s)

    def tell(self, event: Event) -> None:
        self._now_s = _seconds(event.at)
        match event.event:
            case "started":
                self._lines.started(event.step, rows=event.rows, done=event.done or 0)
            case "advanced":
                self._lines.advanced(event.step, rows=event.rows, note=event.message)
            case "finished":
                outcome = event.message or "computed"
                self._lines.finished(event.step, outcome=outcome, seconds=event.seconds or 0.0, rows=event.rows)
            case "said" | "failed":
                self._lines.said(event.message)


def _ending(store: ObjectStore, state: RunState) -> str:
    match state.state:
        case "running":
            return ""
        case "silent":
            return f"Silent: {state.remark}."
        case "done":
            return f"Done. Report: {store.uri}/runs/{state.run}/report.html" if state.report else "Done."
        case "failed":
            return f"Failed with code {state.exit_code}."
        case "stopped":
            return "Stopped. What is done is kept: the same job again continues."
        case "lost":
            return f"Lost: {state.remark}."


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
