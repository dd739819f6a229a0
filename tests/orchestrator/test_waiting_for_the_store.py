"""While the store keeps a step waiting, the event loop of the driver goes on."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, manifest_key
from cluster.shards.records import publish_record
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from orchestrator.context import RunContext
from orchestrator.resolution.resolve import resolve
from orchestrator.steps import train as steps_train
from orchestrator.steps.ingest import ingest
from orchestrator.steps.label import Labelling
from orchestrator.steps.train import trainings
from students.task import TrainedRecord, TrainingTask
from teachers.deployment import Accepted, Answer, Labelled, LabelRequest
from tests.fixtures.jobs import commit_all, job_spec, logits_of, new_context, write_sources

GIVEN = 1


class Hanging:
    """Another store, which answers the questions that are chosen once it is told to."""

    def __init__(self, store: ObjectStore, hangs: Callable[[str, str], bool]) -> None:
        self._store, self._hangs = store, hangs
        self.asked, self.answers = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def ask(key: str, *others: object) -> object:
            if self._hangs(name, key):
                self.asked.set()
                assert self.answers.wait(timeout=30), "nothing else goes on while this is waited for"
            return found(key, *others)

        return ask


class Teacher:
    """What Ray Serve's handle shows of a teacher that labels at once."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def options(self, *, stream: bool) -> "Teacher":
        return self

    @property
    def label(self) -> "Teacher":
        return self

    async def remote(self, request: LabelRequest) -> AsyncIterator[Answer]:
        yield Accepted("replica")
        store, record = self._context.store, request.record
        rows = Dataset.open(store, record.dataset).read(request.number)
        logits = logits_of(self._context, self._context.job.teachers[GIVEN], rows)
        commit_all(store, record, [logits], first=request.number)
        commit = LabelSet(store, record).committed(request.number)
        assert commit is not None
        yield Labelled(commit, commit.rows)


def answered_by_the_loop(store: Hanging, work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, and have the store answer once the event loop sees that it was asked."""

    async def main() -> None:
        working = asyncio.ensure_future(work)
        while not (store.asked.is_set() or working.done()):
            await asyncio.sleep(0.001)
        assert store.asked.is_set()
        store.answers.set()
        await working

    asyncio.run(main())


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    """A run of which only the rows are there."""
    write_sources(tmp_path)
    job = resolve(job_spec(tmp_path))
    made = new_context(job, open_store(job.spec.store))
    ingest(made)
    return made


def test_a_seal_that_the_store_keeps_waiting_holds_up_no_label(context: RunContext) -> None:
    teacher, handle = context.job.teachers[GIVEN], Teacher(context)
    seal, inner = manifest_key(teacher.held_out), context.store
    store = Hanging(inner, lambda name, key: (name, key) == ("put_if_absent", seal))
    labelling = Labelling(RunContext(context.job, store, context.log, context.progress), teacher)

    answered_by_the_loop(store, labelling.run(handle))  # type: ignore[arg-type]

    assert all(LabelSet(inner, record).is_sealed() for record in context.inspect().needed(teacher))


def test_a_note_that_the_store_keeps_waiting_holds_up_nobody(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, inner, notes = context.job.students, context.store, list[str]()
    store = Hanging(inner, lambda name, key: name == "exists" and key == tasks[0].progress_key)

    def train(_uri: str, groups: Sequence[Sequence[TrainingTask]], *_others: object, **_more: object) -> None:
        assert store.asked.wait(timeout=30)
        for task in (task for group in groups for task in group):
            facts: dict[str, Any] = {"identity": task.identity, "weights_key": "w", "weights_digest": "0" * 64}
            record = TrainedRecord(**facts, num_bytes=1, parameters=1, points=(), rows=7, seconds=1.0)
            publish_record(inner, task.record_key, record)

    monkeypatch.setattr(steps_train, "train_side_by_side", train)
    running = RunContext(context.job, store, context.log, context.progress)
    monkeypatch.setattr(running, "advanced", lambda step, rows, note="": notes.append(note))
    *_, training = trainings(running, side_by_side=False)

    answered_by_the_loop(store, training.run())

    assert any("workers start" in note for note in notes)
    assert [(it.name, it.rows) for it in running.results] == [("train:student", 7 * len(tasks))]
