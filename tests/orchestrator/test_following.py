"""What the store tells of a run is what its terminal showed, and how it ended."""

import io
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.errors import EnvironmentFailure
from cluster.identity import canonical_json
from cluster.storage.directory import DirectoryStore
from cluster.storage.open import open_store
from cluster.storage.patience import OUTAGE_S
from cluster.storage.protocol import ObjectStore
from orchestrator.context import RunContext
from orchestrator.events import SILENT_AFTER_S, Event, EventBatch, RunState, now, read_run
from orchestrator.following import RunLostError, await_run, exit_code_of_run, tell_run
from orchestrator.progress import PlainLines
from orchestrator.resolution.resolve import resolve
from orchestrator.run_log import RunLog
from tests.fixtures.jobs import job_spec, write_sources

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


STORY = (
    Event(at=at(0.1), event="finished", step="ingest", message="reused"),
    Event(at=at(0.2), event="started", step="label:dog", rows=1000, done=200),
    Event(at=at(2), event="advanced", step="label:dog", rows=300),
    Event(at=at(10.2), event="advanced", step="label:dog", rows=400),
    Event(at=at(11), event="said", message="label:dog: shard 3 is tried again: \x1b[31mNaN\x1b[0m\nin row 7"),
    Event(at=at(12), event="advanced", step="label:dog", rows=500),
    Event(at=at(20.2), event="finished", step="label:dog", rows=800, seconds=20.0),
    Event(at=at(21), event="started", step="train:student"),
    Event(at=at(27), event="advanced", step="train:student", message="epoch 3 of 9"),
    Event(at=at(30), event="failed", step="train:student", message="the loss is no number"),
)

LINES = """\
ingest                 reused
label:dog              400 of 1,000 rows, 20 rows/s, 30 s left
label:dog: shard 3 is tried again: NaN in row 7
label:dog              20.0 s, 800 rows, 40 rows/s
train:student          epoch 3 of 9
the loss is no number
"""


def written(store: DirectoryStore, *events: Event, state: str, **keys: object) -> RunState:
    """Write a run as a driver would have; returns its state as it is read."""
    values = {"run": "job/1", "name": "job", "state": state, "started": at(0), "updated": at(31), "job": "job-0a1b2c3d"}
    record = RunState.model_validate(values | keys)
    store.put(f"runs/{record.run}/state.json", canonical_json(record))
    for number, event in enumerate(events):
        store.put(f"runs/{record.run}/events/{number:08d}.json", canonical_json(EventBatch(events=(event,))))
    return read_run(store, "job")


def told(store: ObjectStore, state: RunState, *, follow: bool) -> tuple[str, RunState]:
    file = io.StringIO()
    last = tell_run(store, state, file, follow=follow)
    return file.getvalue(), last


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


@pytest.mark.parametrize("follow", [False, True])
def test_a_run_is_told_with_its_own_rates_and_pauses(store: DirectoryStore, follow: bool) -> None:
    state = written(store, *STORY, state="failed", error="the loss is no number", exit_code=6)
    text, last = told(store, state, follow=follow)
    assert text == LINES + "Failed with code 6.\n"
    assert exit_code_of_run(last) == 6


@pytest.mark.parametrize(
    ("state", "keys", "ending", "code"),
    [
        ("done", {"exit_code": 0, "report": True}, "Done. Report: {uri}/runs/job/1/report.html", 0),
        ("stopped", {"exit_code": 143}, "Stopped. What is done is kept: the same job again continues.", 143),
        ("stopped", {"exit_code": 130}, "Stopped. What is done is kept: the same job again continues.", 130),
    ],
)
def test_an_ending_is_told_and_has_its_exit_code(
    store: DirectoryStore, state: str, keys: dict[str, object], ending: str, code: int
) -> None:
    text, last = told(store, written(store, state=state, **keys), follow=True)
    assert text == ending.format(uri=store.uri) + "\n"
    assert exit_code_of_run(last) == code


def test_a_run_without_an_ending_is_told_so_far(store: DirectoryStore) -> None:
    log = RunLog(store, "job", heartbeat_s=3600)
    log.append(STORY[0].model_copy(update={"at": now()}))
    log.flush()
    text, last = told(store, read_run(store, "job"), follow=False)
    assert (text, last.state) == ("ingest                 reused\n", "running")
    log.close("done")


def test_a_lost_run_has_no_exit_code_of_its_own(store: DirectoryStore) -> None:
    updated = datetime.now(UTC) - timedelta(seconds=SILENT_AFTER_S + OUTAGE_S + 5)
    state = written(store, state="running", updated=updated.isoformat())
    text, last = told(store, state, follow=True)
    assert text.startswith("Lost: no sign of life since ")
    with pytest.raises(RunLostError, match=r"no sign of life since .* Start the job again: it continues") as error:
        exit_code_of_run(last)
    assert isinstance(error.value, EnvironmentFailure)


def test_a_run_that_fell_silent_is_told_so_once_and_followed_to_its_end(store: DirectoryStore) -> None:
    class Out(DirectoryStore):
        """A store in which the driver writes its end after somebody has looked, ten minutes late."""

        looks = 0

        def get(self, key: str) -> memoryview:
            self.looks += key.endswith("/state.json")
            if self.looks == 2:
                written(store, *STORY[:1], state="done", exit_code=0, report=True)
            return super().get(key)

    updated = (datetime.now(UTC) - timedelta(seconds=600)).isoformat()
    state = written(store, state="running", updated=updated)
    text, last = told(Out(Path(store.uri)), state, follow=True)
    first, *others = text.splitlines()
    assert first.startswith("No sign of life since ")
    assert "comes back when it can" in first
    assert others == ["ingest                 reused", f"Done. Report: {store.uri}/runs/job/1/report.html"]
    assert exit_code_of_run(last) == 0


def test_a_silent_run_is_told_so_far(store: DirectoryStore) -> None:
    updated = (datetime.now(UTC) - timedelta(seconds=600)).isoformat()
    text, last = told(store, written(store, state="running", updated=updated), follow=False)
    assert text == f"Silent: no sign of life since {updated}.\n"
    assert not last.is_over


def test_a_submitted_job_is_awaited_until_its_run_begins(store: DirectoryStore) -> None:
    class Slow(DirectoryStore):
        """A store in which the run appears after somebody has looked in vain, beside one that was there."""

        looks = 0

        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            self.looks += 1
            if self.looks == 2:
                written(store, state="running", updated=datetime.now(UTC).isoformat())
            return super().list(prefix)

    written(store, state="running", run="job/0", job=None)
    slow = Slow(Path(store.uri))
    assert await_run(slow, "job", "job-0a1b2c3d", on_silence=_fail, poll_s=0.001).run == "job/1"
    assert slow.looks == 2


def test_silence_is_told_once_and_waiting_goes_on(store: DirectoryStore) -> None:
    said: list[str] = []

    class Empty(DirectoryStore):
        looks = 0

        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            self.looks += 1
            if self.looks == 2:
                written(store, state="done", exit_code=0)
            return super().list(prefix)

    await_run(
        Empty(Path(store.uri)), "job", "job-0a1b2c3d", on_silence=lambda: said.append("?"), poll_s=0.001, patience_s=0
    )
    assert said == ["?"]


def test_what_steps_say_is_told_as_it_was_shown(tmp_path: Path) -> None:
    write_sources(tmp_path)
    job, shown = resolve(job_spec(tmp_path)), io.StringIO()
    store = open_store(job.spec.store)
    display = PlainLines(shown, every_s=math.inf)  # how far a step is may be shown or not: a slow machine tells
    context = RunContext(job, store, RunLog(store, "shapes", heartbeat_s=3600), display)
    first, second, third = context.inspect().steps()[:3]
    for step in (first, second):
        with context.step(step) as account:
            context.advanced(step.name, 10, "half")
            account.rows = 20
    context.said("a replica was replaced")
    context.reused(third)
    context.log.close("done")
    retold = iter(map(without_rate, told(store, read_run(store, "shapes"), follow=True)[0].splitlines()))
    lines = [without_rate(line) for line in shown.getvalue().splitlines()]
    assert len(lines) == 4
    assert all(line in retold for line in lines), "in this order"


def without_rate(line: str) -> str:
    # Events keep milliseconds, and these steps last hardly one.
    return re.sub(r", [\d,]+ rows/s", "", line)


def _fail() -> None:
    raise AssertionError("nobody was silent for a minute")
