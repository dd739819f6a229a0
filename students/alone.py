"""Small trainings, each in one Ray task of its own, side by side."""

import ray
import torch

from cluster.failures import redacting
from cluster.resources import ResourceConfig
from cluster.storage.patience import open_patiently
from students.group import Alone
from students.loop import train
from students.task import Execution, TrainedRecord, TrainingTask


def start_alone(
    store_uri: str, task: TrainingTask, execution: Execution, *, on: ResourceConfig
) -> "ray.ObjectRef[TrainedRecord]":
    """Start a training in a Ray task that is repeated, from its last checkpoint, if its process dies."""
    return _train_alone.options(name=task.name, **on.ray_options).remote(store_uri, task, execution)


@ray.remote(max_retries=3)
def _train_alone(store_uri: str, task: TrainingTask, execution: Execution) -> TrainedRecord:
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    with redacting():
        return train(open_patiently(store_uri), task, execution, Alone(device))
