"""A submitted job is waited for over all of its attempts, and by its store where its cluster tells nothing any more."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.identity import canonical_json
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectStat, StoreDeniedError, StoreUnreachableError
from orchestrator.events import SILENT_AFTER_S, RunState, request_stop
from orchestrator.following import RunLostError
from orchestrator.waiting import await_job, exit_code_by_store

JOB = "job-0a1b2c3d"
LONG_AGO = "2026-01-01T00:00:00Z"


def run(number: int, state: str, **keys: object) -> RunState:
    now = datetime.now(UTC).isoformat()
    values = {"run": f"job/{number}", "name": "job", "state": state, "started": now, "updated": now, "job": JOB}
    return RunState.model_validate(values | keys)


class Unfolding(DirectoryStore):
    """A store in which the next state of some run is there each time that somebody looks for runs."""

    def __init__(self, root: Path, *story: RunState) -> None:
        super().__init__(root)
        self._story = list(story)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        if prefix == "runs/job/" and self._story:
            state = self._story.pop(0)
            self.put(f"runs/{state.run}/state.json", canonical_json(state))
        return super().list(prefix)


def awaited(store: DirectoryStore, *, retries: int, within_s: float = 60.0) -> tuple[RunState, list[str]]:
    file = io.StringIO()
    state = await_job(
        store, "job", JOB, file, retries=retries, within_s=within_s, on_silence=lambda: None, poll_s=0.001
    )
    return state, file.getvalue().splitlines()


FAILED, DONE = run(1, "failed", exit_code=6), run(3, "done", exit_code=0)
EVICTED = run(2, "stopped", exit_code=143)


def test_what_is_tried_again_is_followed_to_the_attempt_that_ends_well(tmp_path: Path) -> None:
    of_another = run(0, "done", job="job-ffffffff")
    state, lines = awaited(Unfolding(tmp_path, of_another, FAILED, EVICTED, DONE), retries=2)
    assert (state.run, state.exit_code) == ("job/3", 0)
    assert lines == [
        "Failed with code 6.",
        "Attempt 1 of 3 has ended. Waiting for the next one.",
        "Stopped. What is done is kept: the same job again continues.",
        "Attempt 2 of 3 has ended. Waiting for the next one.",
        "Done.",
    ]


@pytest.mark.parametrize("retries", [0, 1])
def test_the_last_attempt_is_the_last(tmp_path: Path, retries: int) -> None:
    state, _ = awaited(Unfolding(tmp_path, FAILED, EVICTED, DONE), retries=retries)
    assert state.run == f"job/{1 + retries}"


def test_nobody_waits_for_an_attempt_that_does_not_come(tmp_path: Path) -> None:
    state, lines = awaited(Unfolding(tmp_path, FAILED), retries=5, within_s=0.0)
    assert (state.run, state.exit_code) == ("job/1", 6)
    assert lines[-1] == "No other attempt has begun within 0 s."


def test_a_job_that_somebody_stopped_is_not_tried_again(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("runs/job/2/state.json", canonical_json(run(2, "running")))
    request_stop(store, JOB)
    state, _ = awaited(Unfolding(tmp_path, EVICTED), retries=2)
    assert state.state == "stopped"


def test_an_attempt_that_was_taken_for_lost_is_followed_on_when_it_is_heard_of_again(tmp_path: Path) -> None:
    lost, again = run(1, "running", updated=LONG_AGO), run(1, "done", exit_code=0)
    state, lines = awaited(Unfolding(tmp_path, lost, again), retries=1)
    assert (state.run, state.state) == ("job/1", "done")
    assert lines[0] == f"Lost: no sign of life since {LONG_AGO}."


def test_an_attempt_that_is_silent_has_ended_when_the_next_one_begins(tmp_path: Path) -> None:
    fell_silent = (datetime.now(UTC) - timedelta(seconds=SILENT_AFTER_S + 30)).isoformat()
    state, lines = awaited(Unfolding(tmp_path, run(1, "running", updated=fell_silent), DONE), retries=2)
    assert state.run == "job/3"
    assert [line.split(" ")[0] for line in lines] == ["No", "Silent:", "Attempt", "Done."]


@pytest.mark.parametrize(("state", "code"), [(DONE, 0), (FAILED, 6), (EVICTED, 143)])
def test_the_store_tells_how_a_job_ended_whose_cluster_is_gone(tmp_path: Path, state: RunState, code: int) -> None:
    assert exit_code_by_store(Unfolding(tmp_path, state), "job", JOB, io.StringIO()) == code


def test_a_driver_that_went_with_its_cluster_is_lost(tmp_path: Path) -> None:
    with pytest.raises(RunLostError, match="Start the job again"):
        exit_code_by_store(Unfolding(tmp_path, run(1, "running", updated=LONG_AGO)), "job", JOB, io.StringIO())


def test_a_store_without_a_run_of_the_job_or_out_of_reach_tells_nothing(tmp_path: Path) -> None:
    class Gone(DirectoryStore):
        def list(self, prefix: str) -> Iterator[ObjectStat]:
            raise StoreUnreachableError(self.uri, "list", "no route to it")

    class Closed(DirectoryStore):
        def list(self, prefix: str) -> Iterator[ObjectStat]:
            raise StoreDeniedError(self.uri, "list", "not yours")

    of_another = run(1, "done", job=None)
    for store in (Unfolding(tmp_path), Unfolding(tmp_path, of_another), Gone(tmp_path), Closed(tmp_path)):
        assert exit_code_by_store(store, "job", JOB, io.StringIO()) is None
