"""Waiting for a submitted job to its end, by its store: over every attempt at it, and when its cluster is gone."""

import time
from collections.abc import Callable
from typing import TextIO

from cluster.errors import AccessDenied, StorageError
from cluster.storage.lull import Lull
from cluster.storage.protocol import ObjectStore
from orchestrator.events import RunState, is_asked_to_stop, read_state
from orchestrator.following import await_run, exit_code_of_run, find_run, tell_run

_POLL_S = 5.0


def await_job(
    store: ObjectStore,
    name: str,
    submission_id: str,
    file: TextIO,
    *,
    retries: int,
    within_s: float,
    on_silence: Callable[[], None],
    poll_s: float = _POLL_S,
) -> RunState:
    """Tell a submitted job run by run, as its cluster starts it anew up to `retries` times; return how the last ended.

    The first run is waited for without end, and each that follows one that failed for `within_s`: a cluster may give
    up, or lose an attempt before its run begins. One that is silent has ended when the next one has begun.
    """
    state = await_run(store, name, submission_id, on_silence=on_silence, poll_s=poll_s)
    seen = {state.run}

    others = set[str]()

    def is_followed() -> bool:
        others.update(_keys(seen))
        return find_run(store, name, submission_id, others) is not None

    while True:
        state = tell_run(store, state, file, follow=True, gives_up=is_followed)
        if state.state == "done" or len(seen) > retries or is_asked_to_stop(store, state):
            return state
        print(f"Attempt {len(seen)} of {retries + 1} has ended. Waiting for the next one.", file=file, flush=True)
        following = _next_run(store, state, submission_id, seen, within_s=within_s, poll_s=poll_s)
        if following is None:
            print(f"No other attempt has begun within {within_s:g} s.", file=file, flush=True)
            return state
        state = following
        seen.add(state.run)


def exit_code_by_store(store: ObjectStore, name: str, submission_id: str, file: TextIO) -> int | None:
    """Tell a submitted job that its cluster tells nothing of any more; return its exit code, None if there is no run.

    Raises:
        RunLostError: its driver went with the cluster.
    """
    try:
        state = find_run(store, name, submission_id, set())
    except (StorageError, AccessDenied):  # a store that this machine may not ask, or does not reach, tells nothing
        return None
    if state is None:
        return None
    return exit_code_of_run(tell_run(store, state, file, follow=True))


def _next_run(
    store: ObjectStore, last: RunState, submission_id: str, seen: set[str], *, within_s: float, poll_s: float
) -> RunState | None:
    """Return the run after `last`, or that one if it was taken for lost and is not."""
    others, lull = _keys(seen), Lull(within_s)
    while (state := lull.look(lambda: find_run(store, last.name, submission_id, others))) is None:
        if last.state == "lost" and (again := read_state(store, last.run)).state != "lost":
            return again
        if lull.is_over:
            return None
        time.sleep(poll_s)
    return state


def _keys(runs: set[str]) -> set[str]:
    return {f"runs/{run}/state.json" for run in runs}
