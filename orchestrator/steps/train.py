"""Train: the distilled student, every seed, on the workers of one Ray Train start; or one generation before it."""

import asyncio
import threading
import time
from concurrent.futures import Future

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
        self._outcome: Future[None] = Future()

    @property
    def is_trained(self) -> bool:
        """Whether there is nothing to do."""
        return self.planned.state == "done"

    async def run(self) -> None:
        """Train what is not trained, and show how far it is; raises what ended it early."""
        if self.is_trained:
            self._context.reused(self.planned)
            return
        store, started_s = self._context.store, time.monotonic()
        missing = [task for task in self._tasks if not store.exists(task.record_key)]
        self._put_live_weights()
        self._context.started(self.planned)
        # A daemon: if labelling fails, this process must be able to end while Ray Train still waits for labels.
        threading.Thread(target=self._work, name="training", daemon=True).start()
        while not self._outcome.done():
            await asyncio.sleep(_POLL_S)
            self._show()
        self._outcome.result()
        rows = sum(read_record(store, task.record_key, TrainedRecord).rows for task in missing)
        self._context.finished(self.planned, seconds=time.monotonic() - started_s, rows=rows)

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
        try:
            for task in (task for group in self._groups for task in group if task.membership is not None):
                forget_life(self._context.store, task)
            train_side_by_side(self._context.store.uri, self._groups, execution, train)
        except BaseException as error:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(None)

    def _show(self) -> None:
        store = self._context.store
        running = [task for task in self._tasks if not store.exists(task.record_key)]
        if running:
            note = progress_note(self._context, running[0]) or "workers start"
            place = f"seed {running[0].seed}" if len(self._tasks) > 1 else ""
            self._context.advanced(self.planned.name, None, ": ".join(filter(None, [place, note])))
