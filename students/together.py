"""The student on the workers of Ray Train: several trainings one after the other in one start, which costs seconds."""

import tempfile
import threading
import uuid
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import ray
import ray.exceptions
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.errors import CoffeyError, TrainingError
from cluster.failures import own_error, reason_of, redacting
from cluster.storage.open import open_store
from students.divergence import TrainingDivergedError
from students.group import Together
from students.loop import train
from students.refusal import Refusal
from students.spec import TrainConfig
from students.task import Execution, TrainingTask


class WorkersLostError(TrainingError):
    """The workers of a training failed more often than they may."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"training ended early: {self.reason}. What was trained is kept in the last checkpoint; "
            "run the same command again to go on from it."
        )


def train_side_by_side(
    store_uri: str, groups: Sequence[Sequence[TrainingTask]], execution: Execution, config: TrainConfig
) -> None:
    """Carry out the trainings of each group in order, every group on workers of its own, all at the same time.

    Raises as `train_together` does, as soon as one group fails; the others then last as long as this process.
    """
    ended = SimpleQueue[BaseException | None]()

    def carry_out(tasks: Sequence[TrainingTask]) -> None:
        try:
            train_together(store_uri, tasks, execution, config)
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    for tasks in groups:
        # Daemons: members wait for each other, so this process must be able to end while others of them still wait.
        threading.Thread(target=carry_out, args=[tasks], name=tasks[0].name, daemon=True).start()
    for _ in groups:
        if (error := ended.get()) is not None:
            raise error


def train_together(store_uri: str, tasks: Sequence[TrainingTask], execution: Execution, config: TrainConfig) -> None:
    """Carry out `tasks` in order on `config.workers` workers; their records are in the store afterwards.

    Ray Train replaces lost workers; they go on from our own checkpoints, which unlike Ray's survive the driver too.

    Raises:
        WorkersLostError: workers failed more often than `config.max_failures`.
        CoffeyError: what a worker raised on purpose.
    """
    with tempfile.TemporaryDirectory(prefix="coffey-train-", ignore_cleanup_errors=True) as scratch:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "store_uri": store_uri,
                "tasks": list(tasks),
                "execution": execution,
                "refusal": ray.remote(num_cpus=0)(Refusal).remote(),
            },
            # A worker waits in an exchange for as long as another may wait for its labels, and some more.
            torch_config=TorchConfig(timeout_s=int(execution.labels_timeout_s) + 1800),
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.workers,
                use_gpu=config.gpus_per_worker > 0,
                resources_per_worker=_resources(config),
            ),
            run_config=ray.train.RunConfig(
                # A name of its own: under the name of an earlier run Ray Train would try to restore that.
                name=uuid.uuid4().hex,
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            ),
        )
        try:
            refused = trainer.fit().return_value
        except (ray.exceptions.RayError, TrainingFailedError) as error:
            raise own_error(error) or WorkersLostError(reason_of(error)) from error
        if refused is not None:
            raise refused


def _work(config: dict[str, Any]) -> CoffeyError | None:
    """Run on every worker."""
    refusal = config["refusal"]
    earlier: CoffeyError | None = ray.get(refusal.noted.remote())
    if earlier is not None:
        return earlier  # of the attempt before; all workers see it, so all return
    store, group = open_store(config["store_uri"]), Together(get_device())
    try:
        with redacting():
            for task in config["tasks"]:
                train(store, task, config["execution"], group)
    except TrainingDivergedError as error:
        return error  # every worker sees the same sum, so all of them return
    except CoffeyError as error:
        ray.get(refusal.note.remote(error))
        raise
    return None


def _resources(config: TrainConfig) -> dict[str, float]:
    resources = {"CPU": config.cpus_per_worker}
    return resources | ({"GPU": config.gpus_per_worker} if config.gpus_per_worker else {})
