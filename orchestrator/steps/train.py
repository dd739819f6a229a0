"""Train: the distilled student, every seed, on the workers of one Ray Train start; or one generation before it."""

import asyncio
import threading
import time

from cluster.daemons import aside
from cluster.shards.records import read_record
from orchestrator.context import RunContext
from orchestrator.planning.planned import PlannedStep
from orchestrator.resolution.weights import put_weights
from orchestrator.steps.fit import progress_note
from students.members import groups_of
from students.rounds import forget_life
from students.task import Execution, TrainedRecord, TrainingTask
from students.together import train_side_by_side

_POLL_S = 0.5


def trainings(context: RunContext, *, side_by_side: bool) -> "list[Training]":
    """Return the train steps in order: each generation, then the student with every seed.

    `side_by_side`: members of a cohort that exchange weights have workers of their own.
    """
    inspection, job = context.inspect(), context.job
    tasks = [(generation.fit,) for generation in job.generations if generation.fit is not None]
    planned = inspection.trainings()
    return [
        Training(context, step, part, side_by_side=side_by_side)
        for step, part in zip(planned, [*tasks, job.students], strict=True)
    ]


class Training:
    """A train step: carried out in a thread of its own, so that labels can be made meanwhile."""

    def __init__(
        self, context: RunContext, planned: PlannedStep, tasks: tuple[TrainingTask, ...], *, side_by_side: bool
    ) -> None:
        self._context, self.planned, self._tasks = context, planned, tasks
        self._groups = groups_of(tasks) if side_by_side else (tasks,)
        self._abandoned = threading.Event()

    @property
    def is_trained(self) -> bool:
        """Whether there is nothing to do."""
        return self.planned.state == "done"

    async def run(self) -> None:
        """Train what is not trained, and show how far it is; raises what ended it early."""
        if self.is_trained:
            self._context.reused(self.planned)
            return
        started_s = time.monotonic()
        missing = await aside(self._prepare)
        self._context.started(self.planned)
        # Aside: if labelling fails, this process must be able to end while Ray Train still waits for labels.
        training = asyncio.ensure_future(aside(self._work))
        try:
            while not (await asyncio.wait({training}, timeout=_POLL_S))[0]:
                if (note := await aside(self._note)) is not None:
                    self._context.advanced(self.planned.name, None, note)
            await training
        finally:
            self._abandoned.set()
        rows = await aside(lambda: self._rows_of(missing))
        self._context.finished(self.planned, seconds=time.monotonic() - started_s, rows=rows)

    def _prepare(self) -> list[TrainingTask]:
        """Return the trainings that are left."""
        self._put_live_weights()
        return self._untrained()

    def _untrained(self) -> list[TrainingTask]:
        return [task for task in self._tasks if not self._context.store.exists(task.record_key)]

    def _rows_of(self, tasks: list[TrainingTask]) -> int:
        return sum(read_record(self._context.store, task.record_key, TrainedRecord).rows for task in tasks)

    def _put_live_weights(self) -> None:
        """See to the weights of teachers that stand beside the student, which may all have labelled elsewhere."""
        live = {teacher.name for teacher in self._tasks[0].live_teachers}
        for teacher in (teacher for teacher in self._context.job.teachers if teacher.config.name in live):
            put_weights(self._context.store, teacher)

    def _work(self) -> None:
        job = self._context.job
        train = job.spec.train
        execution = Execution(
            accumulate=train.accumulate,
            compile=train.compile,
            checkpoint_every_s=train.checkpoint_every_s,
            labels_timeout_s=job.spec.cluster.labels_timeout_s,
            start_timeout_s=job.spec.cluster.start_timeout_s,
            threads=train.resources.num_threads,
        )
        for task in (task for group in self._groups for task in group if task.membership is not None):
            forget_life(self._context.store, task)
        train_side_by_side(self._context.store.uri, self._groups, execution, train, is_abandoned=self._abandoned.is_set)

    def _note(self) -> str | None:
        """Return how far the first training is that is not done, in words."""
        if not (running := self._untrained()):
            return None
        note = progress_note(self._context, running[0]) or "workers start"
        place = f"seed {running[0].seed}" if len(self._tasks) > 1 else ""
        return ": ".join(filter(None, [place, note]))
