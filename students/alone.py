"""Small trainings, each in one Ray task of its own, side by side."""

import ray
import torch

from cluster.failures import redacting
from cluster.storage.open import open_store
from students.group import Alone
from students.loop import train
from students.task import Execution, TrainedRecord, TrainingTask


def start_alone(
    store_uri: str, task: TrainingTask, execution: Execution, *, cpus: float, gpus: float
) -> "ray.ObjectRef[TrainedRecord]":
    """Start a training in a Ray task that is repeated, from its last checkpoint, if its process dies."""
    options = {"num_cpus": cpus, "num_gpus": gpus, "name": task.name}
    return _train_alone.options(**options).remote(store_uri, task, execution)


@ray.remote(max_retries=3)
def _train_alone(store_uri: str, task: TrainingTask, execution: Execution) -> TrainedRecord:
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    with redacting():
        return train(open_store(store_uri), task, execution, Alone(device))
