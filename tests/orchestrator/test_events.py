"""What a run leaves about itself: everything in order, and a state that is true even of a driver that is gone."""

import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.identity import canonical_json
from cluster.storage.directory import DirectoryStore
from cluster.storage.patience import OUTAGE_S
from cluster.storage.protocol import StoreFullError, StoreUnreachableError, check_key
from orchestrator.events import (
    SILENT_AFTER_S,
    Event,
    RunState,
    UnknownRunError,
    follow_events,
    read_events,
    read_run,
    read_runs,
    request_stop,
)
from orchestrator.progress import Silent
from orchestrator.run import run_job
from orchestrator.run_log import RunLog
from orchestrator.sources.errors import TooFewLabelsError
from tests.fixtures.jobs import job_spec, write_sources
from tests.fixtures.memory_store import MemoryStore

LOST_AFTER_S = SILENT_AFTER_S + OUTAGE_S
LONG_S = 3600.0
"""A heartbeat that no test waits for."""


class WatchedStore(DirectoryStore):
    """Fails as often as it is told to, and says when a state has been written."""

    def __init__(self, root: Path, *, failures: int = 0) -> None:
        super().__init__(root)
        self.failures, self.states = failures, threading.Semaphore(0)

    def put(self, key: str, body: bytes | memoryview) -> None:
        if self.failures and threading.current_thread() is not threading.main_thread():
            self.failures -= 1
            raise StoreUnreachableError(self.uri, f"writing {key}", "no answer")
        super().put(key, body)
        if key.endswith("/state.json"):
            self.states.release()

    def wait_for_states(self, count: int) -> None:
        for _ in range(count):
            assert self.states.acquire(timeout=30)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def event(number: int, step: str = "label:wide") -> Event:
    return Event(
        at=f"2026-01-01T00:00:{number:02d}.000Z", event="advanced", step=step, rows=number, message=f"{number}"
    )


def put_state(store: DirectoryStore, run: str, *, started: str, **keys: object) -> RunState:
    values = {"run": run, "name": run.partition("/")[0], "state": "done", "started": started, "updated": started}
    state = RunState.model_validate(values | keys)
    store.put(f"runs/{run}/state.json", canonical_json(state))
    return state


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TestEvents:
    def test_events_are_read_back_in_their_order_across_batches(self, store: DirectoryStore) -> None:
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        events = [event(number) for number in range(37)]
        for number, item in enumerate(events):
            log.append(item)
            if number % 3 == 0:
                log.flush()
        log.close("done")
        assert list(read_events(store, log.state.run)) == events
        batches = [stat.key for stat in store.list(f"{log.prefix}/events/")]
        assert len(batches) == 13  # more than ten: a batch's number is padded, or 10 would come before 2

    def test_what_was_appended_just_before_the_end_is_kept(self, store: DirectoryStore) -> None:
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        log.append(event(1))
        log.append(event(2))
        log.close("done")
        assert list(read_events(store, log.state.run)) == [event(1), event(2)]

    def test_no_secret_reaches_the_store(self, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "s3cr3t-of-ann")
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        log.append(event(1).model_copy(update={"message": "login with s3cr3t-of-ann failed"}))
        log.close("failed", error="http://ann:s3cr3t-of-ann@host refused", exit_code=8)
        assert [found.message for found in read_events(store, log.state.run)] == [
            "login with *** failed",
            "http://***@host refused",
        ]
        assert not [stat.key for stat in store.list("") if b"s3cr3t" in bytes(store.get(stat.key))]

    def test_runs_keep_their_events_apart(self, store: DirectoryStore) -> None:
        logs = [RunLog(store, "job", heartbeat_s=LONG_S) for _ in range(3)]
        for number, log in enumerate(logs):
            log.append(event(number))
            log.close("done")
        assert len({log.state.run for log in logs}) == 3
        assert [list(read_events(store, log.state.run)) for log in logs] == [[event(number)] for number in range(3)]
        assert all(check_key(f"{log.prefix}/state.json") for log in logs)

    def test_events_that_the_store_did_not_take_are_written_later(self, tmp_path: Path) -> None:
        class Full(DirectoryStore):
            is_full = False

            def put(self, key: str, body: bytes | memoryview) -> None:
                if self.is_full:
                    raise StoreUnreachableError(self.uri, f"writing {key}", "no answer")
                super().put(key, body)

        store = Full(tmp_path)
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        log.append(event(1))
        store.is_full = True
        with pytest.raises(StoreUnreachableError):
            log.flush()
        store.is_full = False
        log.close("done")
        assert list(read_events(store, log.state.run)) == [event(1)]

    def test_who_adds_an_event_waits_for_no_store(self, tmp_path: Path) -> None:
        class Hanging(DirectoryStore):
            asked, answers = threading.Event(), threading.Event()

            def put(self, key: str, body: bytes | memoryview) -> None:
                if threading.current_thread().name == "run-log":
                    self.asked.set()
                    self.answers.wait()
                super().put(key, body)

        store = Hanging(tmp_path)
        log = RunLog(store, "job", heartbeat_s=0.001)
        assert store.asked.wait(timeout=30)
        for number in range(9):
            log.append(event(number))
        store.answers.set()
        log.close("done")
        assert list(read_events(store, log.state.run)) == [event(number) for number in range(9)]

    def test_an_event_is_written_without_another_one_to_follow(self, tmp_path: Path) -> None:
        store = WatchedStore(tmp_path)
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        log.append(event(1))
        store.wait_for_states(2)
        assert list(read_events(store, log.state.run)) == [event(1)]
        log.close("done")

    def test_a_batch_whose_answer_was_lost_stays_as_it_may_have_been_read(self, tmp_path: Path) -> None:
        class LosesAnswers(DirectoryStore):
            is_losing = False

            def put(self, key: str, body: bytes | memoryview) -> None:
                super().put(key, body)
                if self.is_losing:
                    raise StoreUnreachableError(self.uri, f"writing {key}", "no answer")

        store = LosesAnswers(tmp_path)
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        log.append(event(1))
        store.is_losing = True
        with pytest.raises(StoreUnreachableError):
            log.flush()
        read = list(read_events(store, log.state.run))
        log.append(event(2))
        store.is_losing = False
        log.close("done")
        assert read == [event(1)]
        batches = [bytes(store.get(stat.key)) for stat in store.list(f"{log.prefix}/events/")]
        assert [body.count(b'"advanced"') for body in batches] == [1, 1]
        assert list(read_events(store, log.state.run)) == [event(1), event(2)]

    def test_what_a_store_refuses_ends_the_run_at_its_next_event(self, tmp_path: Path) -> None:
        class Full(DirectoryStore):
            is_full = False

            def put(self, key: str, body: bytes | memoryview) -> None:
                if self.is_full:
                    raise StoreFullError(self.uri, f"writing {key}", "No space left on device")
                super().put(key, body)

        store = Full(tmp_path)
        log = RunLog(store, "job", heartbeat_s=0.001)
        store.is_full = True

        def go_on() -> None:
            while True:
                log.append(event(1))

        with pytest.raises(StoreFullError):
            go_on()
        store.is_full = False
        log.close("failed", exit_code=4)


class TestState:
    def test_a_run_is_running_from_its_first_moment(self, store: DirectoryStore) -> None:
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        (state,) = read_runs(store)
        assert (state.run, state.name, state.state, state.report) == (log.state.run, "job", "running", False)
        assert state.started == state.updated
        log.close("done", report=True)
        (state,) = read_runs(store)
        assert (state.state, state.exit_code, state.error, state.report) == ("done", 0, None, True)

    def test_a_remark_does_not_hide_the_step_that_runs(self, store: DirectoryStore) -> None:
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        log.append(event(1, step="train:student"))
        log.append(Event(at="2026-01-01T00:00:02.000Z", event="said", message="a replica was replaced"))
        log.close("done")
        state = read_run(store, "job")
        assert (state.step, state.message) == ("train:student", "a replica was replaced")

    def test_a_failure_is_kept_with_its_step_its_reason_and_its_exit_code(self, store: DirectoryStore) -> None:
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        log.append(event(1))
        log.close("failed", error="teacher wide does not start", exit_code=5)
        state = read_run(store, "job")
        assert (state.state, state.error, state.exit_code) == ("failed", "teacher wide does not start", 5)
        last = list(read_events(store, log.state.run))[-1]
        assert (last.event, last.step, last.message) == ("failed", "label:wide", "teacher wide does not start")

    @pytest.mark.parametrize(
        ("silent_s", "state", "expected"),
        [
            (LOST_AFTER_S + 5, "running", "lost"),
            (LOST_AFTER_S - 30, "running", "silent"),
            (SILENT_AFTER_S + 5, "running", "silent"),
            (SILENT_AFTER_S - 30, "running", "running"),
            (LOST_AFTER_S + 5, "done", "done"),
            (LOST_AFTER_S + 5, "failed", "failed"),
        ],
    )
    def test_a_run_that_stays_silent_longer_than_any_outage_is_lost_unless_it_had_ended(
        self, store: DirectoryStore, silent_s: float, state: str, expected: str
    ) -> None:
        put_state(store, "job/1", started=ago(9000), state=state, updated=ago(silent_s))
        assert read_run(store, "job").state == expected
        assert read_run(store, "job").is_over == (expected not in ("running", "silent"))
        assert read_runs(store)[0].state == expected

    def test_a_driver_that_waits_in_silence_is_heard_of(self, tmp_path: Path) -> None:
        store = WatchedStore(tmp_path)
        log = RunLog(store, "job", heartbeat_s=0.002)
        log.append(event(1))
        store.wait_for_states(4)
        first = read_run(store, "job").updated
        store.wait_for_states(20)
        assert read_run(store, "job").updated > first > event(1).at
        assert list(read_events(store, log.state.run)) == [event(1)]
        assert read_run(store, "job").step == "label:wide"
        log.close("done")

    def test_nothing_is_written_after_the_end(self, tmp_path: Path) -> None:
        store = WatchedStore(tmp_path)
        others = set(threading.enumerate())
        log = RunLog(store, "job", heartbeat_s=0.001)
        (heartbeat,) = (thread for thread in set(threading.enumerate()) - others if thread.name == "run-log")
        store.wait_for_states(3)
        log.close("failed", error="because", exit_code=6)
        heartbeat.join(timeout=30)
        assert not heartbeat.is_alive()
        assert read_run(store, "job") == log.state
        assert log.state.state == "failed"

    def test_a_store_that_does_not_answer_for_a_while_does_not_end_the_heartbeat(self, tmp_path: Path) -> None:
        store = WatchedStore(tmp_path, failures=5)
        log = RunLog(store, "job", heartbeat_s=0.001)
        store.wait_for_states(4)
        assert store.failures == 0
        log.close("done")

    def test_a_run_that_is_told_to_end_does_not_wait_for_a_store_that_hangs(self, tmp_path: Path) -> None:
        class Hanging(DirectoryStore):
            answers = threading.Event()

            def put(self, key: str, body: bytes | memoryview) -> None:
                self.answers.wait()
                super().put(key, body)

        store = Hanging(tmp_path)
        store.answers.set()
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        store.answers.clear()
        log.close_within(0.01, "stopped", exit_code=143)
        assert read_run(store, "job").state == "running"
        (closing,) = (thread for thread in threading.enumerate() if thread.name == "run-log-end")
        store.answers.set()
        closing.join(timeout=30)
        assert read_run(store, "job").state == "stopped"

    def test_a_submitted_run_knows_its_job(self, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COFFEY_SUBMISSION_ID", "job-12345678")
        RunLog(store, "job", heartbeat_s=LONG_S).close("done")
        monkeypatch.delenv("COFFEY_SUBMISSION_ID")
        RunLog(store, "other", heartbeat_s=LONG_S).close("done")
        assert read_run(store, "job-12345678").name == "job"
        assert read_run(store, "other").job is None


class TestStopping:
    def test_a_run_that_is_asked_to_stop_stops_once_and_says_why(self, tmp_path: Path) -> None:
        store, stops = WatchedStore(tmp_path), threading.Semaphore(0)
        log = RunLog(store, "job", heartbeat_s=0.002, on_stop=stops.release)
        assert request_stop(store, log.state.run).state == "running"
        assert stops.acquire(timeout=30)
        store.wait_for_states(20)  # many heartbeats later it was still asked once
        assert not stops.acquire(blocking=False)
        log.close("stopped", exit_code=143)
        assert [(it.event, it.message) for it in read_events(store, log.state.run)] == [
            ("said", "Somebody asked this run to stop.")
        ]

    def test_by_default_it_stops_as_by_sigterm_whatever_its_main_thread_waits_for(self, tmp_path: Path) -> None:
        def raise_stop(_signal: int, _frame: object) -> None:
            raise Stop

        store, before = DirectoryStore(tmp_path), signal.signal(signal.SIGTERM, raise_stop)
        log = RunLog(store, "job", heartbeat_s=0.01)
        try:
            request_stop(store, "job")
            with pytest.raises(Stop):
                threading.Event().wait(timeout=30)
        finally:
            log.close("stopped", exit_code=143)
            signal.signal(signal.SIGTERM, before)
        assert read_run(store, "job").state == "stopped"

    def test_a_job_that_its_cluster_starts_again_stays_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COFFEY_SUBMISSION_ID", "job-0a1b2c3d")
        store, stops = DirectoryStore(tmp_path), threading.Semaphore(0)
        first = RunLog(store, "job", heartbeat_s=LONG_S)
        request_stop(store, "job-0a1b2c3d")
        first.close("stopped", exit_code=143)
        second = RunLog(store, "job", heartbeat_s=0.002, on_stop=stops.release)
        assert stops.acquire(timeout=30)
        second.close("stopped", exit_code=143)

    def test_other_runs_of_the_same_job_go_on(self, tmp_path: Path) -> None:
        store, stops = WatchedStore(tmp_path), threading.Semaphore(0)
        asked = RunLog(store, "job", heartbeat_s=LONG_S)
        request_stop(store, asked.state.run)
        asked.close("stopped", exit_code=143)
        other = RunLog(store, "job", heartbeat_s=0.002, on_stop=stops.release)
        store.wait_for_states(12)
        assert not stops.acquire(blocking=False)
        other.close("done")

    def test_a_run_that_has_ended_is_not_asked(self, store: DirectoryStore) -> None:
        put_state(store, "job/1", started=ago(5), state="done")
        put_state(store, "lost/1", started=ago(9000), state="running", updated=ago(LOST_AFTER_S + 5))
        assert request_stop(store, "job").state == "done"
        assert request_stop(store, "lost").state == "lost"
        assert not any("stops" in stat.key for stat in store.list("runs/"))
        with pytest.raises(UnknownRunError):
            request_stop(store, "nobody")

    def test_a_run_that_may_wait_for_its_store_is_asked(self, store: DirectoryStore) -> None:
        put_state(store, "job/1", started=ago(900), state="running", updated=ago(SILENT_AFTER_S + 5))
        assert request_stop(store, "job").state == "silent"
        assert [stat.key for stat in store.list("runs/job/stops/")]

    def test_runs_are_listed_beside_wishes_that_they_stop(self, tmp_path: Path) -> None:
        store = DirectoryStore(tmp_path)
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        request_stop(store, "job")
        assert [state.run for state in read_runs(store)] == [log.state.run]
        log.close("stopped", exit_code=143)


class TestFollowing:
    def test_events_are_followed_from_the_first_to_the_last_while_they_are_written(self, store: DirectoryStore) -> None:
        log = RunLog(store, "job", heartbeat_s=LONG_S)
        log.append(event(1))
        log.flush()
        following = follow_events(store, log.state.run, on_silence=_fail, poll_s=0.001)
        assert next(following) == event(1)
        log.append(event(2))
        log.flush()
        assert next(following) == event(2)
        log.append(event(3))
        log.close("done")
        assert list(following) == [event(3)]

    def test_what_is_written_between_two_looks_is_not_missed(self, store: DirectoryStore) -> None:
        class Late(DirectoryStore):
            """A store whose run ends right after its state was read."""

            def get(self, key: str) -> memoryview:
                body = super().get(key)
                if key.endswith("/state.json") and log.state.state == "running":
                    body = memoryview(bytes(body))
                    log.append(event(1))
                    log.close("done")
                return body

        log = RunLog(store, "job", heartbeat_s=LONG_S)
        assert list(follow_events(Late(Path(store.uri)), log.state.run, on_silence=_fail, poll_s=0.001)) == [event(1)]

    def test_a_run_whose_driver_is_gone_is_not_followed_for_ever(self, store: DirectoryStore) -> None:
        state = put_state(store, "job/1", started=ago(9000), state="running", updated=ago(LOST_AFTER_S + 5))
        assert list(follow_events(store, "job/1", on_silence=_fail, poll_s=0.001)) == []
        assert read_run(store, "job").remark == f"no sign of life since {state.updated}"

    def test_a_silent_run_is_given_up_by_whoever_says_so(self, store: DirectoryStore) -> None:
        put_state(store, "job/1", started=ago(900), state="running", updated=ago(600))
        assert list(follow_events(store, "job/1", on_silence=lambda state: True, poll_s=3600)) == []

    def test_a_run_that_is_silent_for_ten_minutes_is_followed_on(self, store: DirectoryStore) -> None:
        put_state(store, "job/1", started=ago(900), state="running", updated=ago(600))
        silences = list[RunState]()

        def note(silent: RunState) -> bool:
            silences.append(silent)
            return False

        class Back(DirectoryStore):
            """Where the driver is heard of again after some looks, falls silent once more, and ends."""

            looks = 0

            def get(self, key: str) -> memoryview:
                self.looks += key.endswith("/state.json")
                if self.looks in (4, 8, 12):
                    keys = {4: {"updated": ago(0)}, 8: {"updated": ago(300)}, 12: {"state": "done"}}[self.looks]
                    put_state(store, "job/1", started=ago(900), **({"state": "running"} | keys))
                return super().get(key)

        assert list(follow_events(Back(Path(store.uri)), "job/1", on_silence=note, poll_s=0.001)) == []
        assert {state.state for state in silences} == {"silent"}
        assert len({state.updated for state in silences}) == 2


class TestFinding:
    def test_runs_are_listed_the_newest_first(self, store: DirectoryStore) -> None:
        for run, started in (("b/1", "2026-01-02"), ("a/2", "2026-01-03"), ("a/1", "2026-01-01")):
            put_state(store, run, started=f"{started}T00:00:00.000Z")
        assert [state.run for state in read_runs(store)] == ["a/2", "b/1", "a/1"]

    def test_a_run_is_found_by_its_directory_by_its_job_and_the_latest_by_its_name(self, store: DirectoryStore) -> None:
        old = put_state(store, "a/1", started="2026-01-01T00:00:00.000Z", job="a-0001")
        new = put_state(store, "a/2", started="2026-01-02T00:00:00.000Z", job="a-0002")
        put_state(store, "b/3", started="2026-01-03T00:00:00.000Z")
        assert read_run(store, "a") == read_run(store, "a/2") == read_run(store, "a-0002") == new
        assert read_run(store, "a/1") == read_run(store, "a-0001") == old

    def test_an_unknown_run_is_told_with_the_latest_ones(self, store: DirectoryStore) -> None:
        with pytest.raises(UnknownRunError, match=r"there is no run 'c'\. No job has run there yet\."):
            read_run(store, "c")
        for day in range(1, 6):
            put_state(store, f"a/{day}", started=f"2026-01-0{day}T00:00:00.000Z")
        with pytest.raises(UnknownRunError, match=r"there is no run 'c'\. The latest are a/5, a/4, a/3\.") as error:
            read_run(store, "c")
        assert store.uri in str(error.value)
        assert error.value.exit_code == 7


class Stop(BaseException):
    """What a command may make of SIGTERM."""


class Interrupted(Silent):
    """Raises when the first step ends."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def finished(self, step: str, *, outcome: str, seconds: float, rows: int | None) -> None:
        raise self.error


class TestRuns:
    @pytest.mark.parametrize(
        ("error", "state", "exit_code", "reason"),
        [
            (KeyboardInterrupt(), "stopped", 130, None),
            (Stop(), "stopped", 143, None),
            (TooFewLabelsError("data.labelled", 3, 2), "failed", 7, "data.labelled asks for 3 rows"),
            (RuntimeError("a bug\nof ours"), "failed", 1, "RuntimeError: of ours"),
        ],
    )
    def test_a_run_that_ends_early_says_how(
        self, tmp_path: Path, error: BaseException, state: str, exit_code: int, reason: str | None
    ) -> None:
        write_sources(tmp_path)
        spec, store = job_spec(tmp_path), DirectoryStore(tmp_path / "store")
        with pytest.raises(type(error)):
            run_job(spec, store, command="coffey run", progress=Interrupted(error))
        found = read_run(store, "shapes")
        assert (found.state, found.exit_code, found.step) == (state, exit_code, "ingest")
        assert found.error is None if reason is None else reason in str(found.error)

    def test_a_run_that_ends_in_an_outage_is_known_to_have_ended(self, tmp_path: Path) -> None:
        class OutAtTheEnd(MemoryStore):
            is_over = False

            def put(self, key: str, body: bytes | memoryview) -> None:
                if b'"failed"' in bytes(body) and not self.is_over:
                    self.is_over = True
                    raise StoreUnreachableError(self.uri, f"writing {key}", "no answer")
                super().put(key, body)

        write_sources(tmp_path)
        store, error = OutAtTheEnd(), TooFewLabelsError("data.labelled", 3, 2)
        with pytest.raises(TooFewLabelsError):
            run_job(job_spec(tmp_path), store, command="coffey run", progress=Interrupted(error))
        assert store.is_over
        assert (read_run(store, "shapes").state, read_run(store, "shapes").exit_code) == ("failed", 7)

    def test_a_job_that_cannot_be_resolved_leaves_no_run(self, tmp_path: Path) -> None:
        write_sources(tmp_path)
        spec, store = job_spec(tmp_path, "data.read.train=missing.npz"), DirectoryStore(tmp_path / "store")
        with pytest.raises(Exception, match=r"missing\.npz"):
            run_job(spec, store, command="coffey run", progress=Silent())
        assert not Path(store.uri).exists()


def _fail(_state: RunState) -> None:
    raise AssertionError("nobody was silent")
