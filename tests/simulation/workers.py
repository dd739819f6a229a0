"""Workers of Ray Train are killed in the middle of a step, again and again, in one training."""

import random
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from cluster.models import ModelConfig
from cluster.shards.records import read_record
from cluster.storage.directory import DirectoryStore
from students.checkpoints import latest_step
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm
from students.spec import TrainConfig
from students.task import Execution, TrainedRecord, TrainingTask
from students.together import train_side_by_side
from tests.fixtures.tiny import Busy, points, targets, task, teacher_logits, write_labels, write_rows
from tests.fixtures.tiny_workers import together, train_member
from tests.simulation.victims import Kill, kill_one_at_work, kill_process

WORKERS = 2
STEP_S = 0.05
ROWS, BATCH_SIZE = 100, 10
EPOCHS_PER_KILL = 2
"""Twenty steps, a second: more than pass while the next worker is chosen."""
MOST_STEPS = 4
"""Between the last kill and the next one, at most; each is followed by a checkpoint."""
EXECUTION = Execution(checkpoint_every_s=0.0)
_POLL_S = 0.01


@dataclass(frozen=True)
class WorkerKills:
    """What was left after the kills."""

    kills: int
    steps: int
    steps_again: int
    """Taken a second time, because no checkpoint held them."""
    steps_again_at_most: int
    """The one that was being taken and the one whose checkpoint was on its way, for each kill."""
    is_same_student: bool
    """Whether weights are bit by bit those of a training that nobody killed."""

    @property
    def broken(self) -> int:
        """Promises that were broken."""
        return (not self.is_same_student) + (self.steps_again > self.steps_again_at_most)


def kill_workers(
    folder: Path,
    *,
    kills: int,
    seed: int,
    kill: Kill = kill_process,
    cpus_per_worker: float = 1.0,
) -> WorkerKills:
    """Train on the cluster that this process is connected to, and compare with processes that are left alone."""
    training = _training(folder, epochs=EPOCHS_PER_KILL * kills + 1)
    unkilled = Path(shutil.copytree(folder / "store", folder / "unkilled"))
    killer = _Killer(folder, training, kills, random.Random(seed), kill)
    config = TrainConfig(workers=WORKERS, cpus_per_worker=cpus_per_worker, max_failures=2 * kills)
    with killer:
        train_side_by_side(str(folder / "store"), [[training]], EXECUTION, config)
    steps = _taken(folder)
    first, *_ = together(folder, WORKERS, train_member, unkilled, training, EXECUTION)
    needed = _taken(folder) - steps
    record = read_record(DirectoryStore(folder / "store"), training.record_key, TrainedRecord)
    return WorkerKills(
        kills=killer.killed,
        steps=needed,
        steps_again=steps - needed,
        steps_again_at_most=2 * killer.killed,
        is_same_student=record.weights_digest == first.weights_digest,
    )


class _Killer:
    """Kills a worker that is at a step, after some checkpoints; in a thread, because the training has this one."""

    def __init__(self, folder: Path, training: TrainingTask, kills: int, draw: random.Random, kill: Kill) -> None:
        self._busy, self._store, self._training = folder / "busy", DirectoryStore(folder / "store"), training
        self._kills, self._draw, self._kill = kills, draw, kill
        self._ended, self._thread = threading.Event(), threading.Thread(target=self._work, name="killer")
        self.killed = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        while self.killed < self._kills:
            due = self._step() + self._draw.randint(1, MOST_STEPS)
            while self._step() < due or not kill_one_at_work(self._busy, self._draw, self._kill):
                if self._ended.wait(_POLL_S):
                    return
            self.killed += 1

    def _step(self) -> int:
        return latest_step(self._store, self._training)


def _training(folder: Path, *, epochs: int) -> TrainingTask:
    """Write rows, of which a third has labels, and what a teacher says of all of them; return a training on both."""
    store, arrays = DirectoryStore(folder / "store"), points(ROWS, seed=1, labelled=30, spread=0.8)
    (folder / "busy").mkdir()
    rows, held_out = write_rows(store, arrays, "a"), write_rows(store, points(40, seed=2, spread=0.8), "b")
    arguments = {"folder": str(folder / "busy"), "trace": str(folder / "steps.txt"), "step_s": STEP_S}
    return task(
        rows,
        held_out,
        ModelConfig(factory=f"{Busy.__module__}:{Busy.__name__}", arguments=arguments),
        targets=targets(write_labels(store, rows, teacher_logits(arrays["x"]))),
        objective=(KLTerm(temperature=2), CrossEntropyTerm(weight=0.3)),
        epochs=epochs,
        batch_size=BATCH_SIZE,
    )


def _taken(folder: Path) -> int:
    """Return how many steps have begun, on all workers together, in whole steps of the group."""
    return len(Path(folder, "steps.txt").read_text().splitlines()) // WORKERS
