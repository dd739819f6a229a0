"""Small trainings, each in one Ray task of its own, side by side."""

import ray
import torch

from cluster.errors import TrainingError
from cluster.failures import redacting
from cluster.resources import ResourceConfig
from cluster.storage.patience import open_patiently
from cluster.tasks import here
from students.attendance import Attendance, attending
from students.group import Alone
from students.loop import train
from students.task import Execution, TrainedRecord, TrainingTask


class TrainingsLateError(TrainingError):
    """Trainings wait, and none of them has run for too long: at the beginning, or after their nodes were lost."""

    def __init__(self, waiting: tuple[str, ...], timeout_s: float) -> None:
        super().__init__(waiting, timeout_s)
        self.waiting, self.timeout_s = waiting, timeout_s

    def __str__(self) -> str:
        return (
            f"{', '.join(self.waiting)}: none of these trainings has run for {self.timeout_s:g} s. The cluster has no "
            "room for them now: `ray status` says who holds it. Give it more, or them more time "
            "(cluster.start_timeout_s), and run the same command again: it goes on from the last checkpoints."
        )


def open_attendance() -> "ray.ActorHandle[Attendance]":
    """Return where trainings say that they run."""
    return ray.remote(num_cpus=0)(Attendance).options(scheduling_strategy=here()).remote()


def start_alone(
    store_uri: str,
    task: TrainingTask,
    execution: Execution,
    *,
    on: ResourceConfig,
    attendance: "ray.ActorHandle[Attendance]",
) -> "ray.ObjectRef[TrainedRecord]":
    """Start a training in a Ray task that is repeated, from its last checkpoint, if its process dies."""
    return _train_alone.options(name=task.name, **on.ray_options).remote(store_uri, task, execution, attendance)


@ray.remote(max_retries=3)
def _train_alone(
    store_uri: str, task: TrainingTask, execution: Execution, attendance: "ray.ActorHandle[Attendance]"
) -> TrainedRecord:
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    with attending(attendance.answer.remote), redacting():
        return train(open_patiently(store_uri), task, execution, Alone(device))
