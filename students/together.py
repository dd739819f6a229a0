"""The student on the workers of Ray Train: several trainings one after the other in one start, which costs seconds."""

import tempfile
import threading
import uuid
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

import ray
import ray.exceptions
import ray.train
from ray.train import UserCallback
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.errors import CoffeyError, TrainingError
from cluster.failures import own_error, reason_of, redacting
from cluster.storage.patience import open_patiently
from cluster.tasks import here
from students.divergence import TrainingDivergedError
from students.group import Together
from students.loop import train
from students.register import Register
from students.rendezvous import MeetingConfig
from students.spec import TrainConfig
from students.task import Execution, TrainingTask

_WATCH_S = 0.5
_RESIZE_INTERVAL_S = 30.0
"""Between looks for room for more workers, of a group that may grow; every start of a group costs some seconds."""


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


class WorkersLateError(TrainingError):
    """There were no workers for too long: at the beginning, or after some were lost."""

    def __init__(self, asked: str, timeout_s: float) -> None:
        super().__init__(asked, timeout_s)
        self.asked, self.timeout_s = asked, timeout_s

    def __str__(self) -> str:
        return (
            f"training: {self.asked} did not begin within {self.timeout_s:g} s. The cluster has no room for them now: "
            "`ray status` says who holds it. Give it more, or them more time (cluster.start_timeout_s), and run the "
            "same command again: it goes on from the last checkpoint."
        )


def train_side_by_side(
    store_uri: str, groups: Sequence[Sequence[TrainingTask]], execution: Execution, config: TrainConfig
) -> None:
    """Carry out the trainings of each group in order, every group on workers of its own, all at the same time.

    Their records are in the store afterwards. As soon as one group fails this ends; the others then last as long as
    this process.

    Raises:
        WorkersLateError: the workers of a group were not there for `execution.start_timeout_s`.
        WorkersLostError: workers failed more often than `config.max_failures`.
        CoffeyError: what a worker raised on purpose.
    """
    ended = SimpleQueue[BaseException | None]()

    def carry_out(tasks: Sequence[TrainingTask], register: "ray.ActorHandle[Register]") -> None:
        try:
            _train_together(store_uri, tasks, execution, config, register)
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    registers = [ray.remote(num_cpus=0)(Register).options(scheduling_strategy=here()).remote() for _ in groups]
    for tasks, register in zip(groups, registers, strict=True):
        # Daemons: members wait for each other, so this process must be able to end while others of them still wait.
        threading.Thread(target=carry_out, args=[tasks, register], name=tasks[0].name, daemon=True).start()
    left = len(groups)
    while left:
        try:
            error = ended.get(timeout=_WATCH_S)
        except Empty:
            absent_s = max(ray.get([register.absent_s.remote() for register in registers]))
            if absent_s > execution.start_timeout_s:
                asked = f"{config.min_workers} workers, each with {config.resources},"
                raise WorkersLateError(asked, execution.start_timeout_s) from None
        else:
            if error is not None:
                raise error
            left -= 1


def _train_together(
    store_uri: str,
    tasks: Sequence[TrainingTask],
    execution: Execution,
    config: TrainConfig,
    register: "ray.ActorHandle[Register]",
) -> None:
    """Carry out `tasks` in order on one group of workers.

    Ray Train replaces lost workers; they go on from our own checkpoints, which unlike Ray's survive the driver too.
    """
    with tempfile.TemporaryDirectory(prefix="coffey-train-", ignore_cleanup_errors=True) as scratch:
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "store_uri": store_uri,
                "tasks": list(tasks),
                "execution": execution,
                "register": register,
            },
            # A worker waits in an exchange for as long as another may wait for its labels, and some more.
            torch_config=MeetingConfig(timeout_s=int(execution.labels_timeout_s) + 1800),
            scaling_config=_scaling(config),
            run_config=ray.train.RunConfig(
                # A name of its own: under the name of an earlier run Ray Train would try to restore that.
                name=uuid.uuid4().hex,
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
                callbacks=[_Absences(register)],
            ),
        )
        try:
            refused = trainer.fit().return_value
        except (ray.exceptions.RayError, TrainingFailedError) as error:
            raise own_error(error) or WorkersLostError(reason_of(error)) from error
        if refused is not None:
            raise refused


class _Absences(UserCallback):  # type: ignore[misc]  # Ray is not typed
    """Tells the register that workers are lost."""

    def __init__(self, register: "ray.ActorHandle[Register]") -> None:
        self._register = register

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._register.leave.remote()


def _scaling(config: TrainConfig) -> ray.train.ScalingConfig:
    return ray.train.ScalingConfig(
        num_workers=config.workers,
        elastic_resize_monitor_interval_s=_RESIZE_INTERVAL_S,
        use_gpu=config.gpus_per_worker > 0,
        resources_per_worker=dict(config.resources.amounts),
        label_selector=dict(config.nodes.labels) or None,
    )


def _work(config: dict[str, Any]) -> CoffeyError | None:
    """Run on every worker."""
    register = config["register"]
    earlier: CoffeyError | None = ray.get(register.enter.remote())
    if earlier is not None:
        return earlier  # of the attempt before; all workers see it, so all return
    store, group = open_patiently(config["store_uri"]), Together(get_device())
    try:
        with redacting():
            for task in config["tasks"]:
                train(store, task, config["execution"], group)
    except TrainingDivergedError as error:
        return error  # every worker sees the same sum, so all of them return
    except CoffeyError as error:
        ray.get(register.note.remote(error))
        raise
    return None
