"""Training from the cache, against the same steps on tensors that lie in memory.

Three teachers' cached logits, an MLP student, one worker. Epochs from the store and from memory alternate in one
process, with the same model, optimizer, objective and batch size. Two references:

    memory     images uint8 and three teachers' float16 logits as tensors, rows picked by index_select, then converted
               and fused as training from the store does
    prepared   images as float32 and the teachers fused beforehand: nothing is left but picking rows and learning

    python benchmarks/training.py [--rows N] [--rounds N] [--batch-size N] [--width N]
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from statistics import median

import numpy as np
import torch

from cluster.models import InputConfig, ModelConfig
from cluster.modules import build_module, to_inputs
from cluster.optimizers import OptimizerConfig
from cluster.shards.codecs.dense import LOGITS
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.dataset import write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import LABEL, NO_LABEL
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from students.batches import TrainingData
from students.fusion import fuse
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm
from students.objectives.objective import Batch, Objective
from students.optimizer import build_optimizer
from students.spec import OrderConfig
from students.task import Execution, Target, Targets, TrainingTask

DATASET, CLASSES, TEACHERS, SHARD_ROWS = "0" * 16, 10, 3, 4096
INPUTS = InputConfig(shape=(1, 28, 28))
CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        task, images, labels, logits = write_data(store, options.rows, options.batch_size, options.width)
        result = measure(store, task, images, labels, logits, rounds=options.rounds)
    for name in ("store", "memory", "prepared"):
        print(f"{name:<9} {1000 * result[f'{name}_epoch_s']:8.0f} ms an epoch")  # type: ignore[operator]
    print(f"store / memory {result['ratio']:.3f}, store / prepared {result['ratio_prepared']:.3f}")
    print(json.dumps(result))


def measure(
    store: ObjectStore,
    task: TrainingTask,
    images: torch.Tensor,
    labels: torch.Tensor,
    logits: list[torch.Tensor],
    *,
    rounds: int,
) -> dict[str, object]:
    """Return the median epoch times and their ratios; round 0 warms up."""
    data = TrainingData(store, task, Execution(), rank=0, world_size=1)
    prepared = to_inputs(images.numpy(), INPUTS), fused(logits)
    sources: dict[str, Callable[[int], Iterator[Batch]]] = {
        "store": lambda epoch: data.batches(first_step=epoch * data.order(0).num_steps, device=CPU),
        "memory": lambda epoch: from_memory(images, labels, logits, task.batch_size, epoch),
        "prepared": lambda epoch: from_prepared(prepared[0], labels, prepared[1], task.batch_size, epoch),
    }
    learners = {name: Learner(task, num_steps=data.order(0).num_steps, rows=len(images)) for name in sources}
    times: dict[str, list[float]] = {name: [] for name in sources}
    for epoch in range(rounds + 1):
        for name, batches in sources.items():
            times[name].append(learners[name].epoch(batches(epoch)))
    ratios = {name: [a / b for a, b in zip(times["store"][1:], times[name][1:], strict=True)] for name in sources}
    return {
        "benchmark": "training",
        "rows": len(images),
        "batch_size": task.batch_size,
        "teachers": TEACHERS,
        "cores": len(os.sched_getaffinity(0)),
        **{f"{name}_epoch_s": round(median(seconds[1:]), 4) for name, seconds in times.items()},
        "ratio": round(median(ratios["memory"]), 3),
        "ratio_prepared": round(median(ratios["prepared"]), 3),
    }


class Learner:
    """A student, its optimizer and its objective."""

    def __init__(self, task: TrainingTask, *, num_steps: int, rows: int) -> None:
        torch.manual_seed(0)
        self._module = build_module(task.model)
        self._optimizer = build_optimizer(task.optimizer, self._module)
        self._objective = Objective(task.objective, labelled_share=0.1)
        self._num_steps = num_steps

    def epoch(self, batches: Iterator[Batch]) -> float:
        """Learn from one epoch, and return its seconds."""
        started_s = time.perf_counter()
        with closing(batches):  # type: ignore[type-var]
            for _ in range(self._num_steps):
                batch = next(batches)
                self._objective(self._module(batch.inputs), batch, global_rows=len(batch)).backward()
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started_s


def from_memory(
    images: torch.Tensor, labels: torch.Tensor, logits: list[torch.Tensor], batch_size: int, epoch: int
) -> Iterator[Batch]:
    """Yield shuffled batches, converted and fused one by one."""
    for rows in shuffled(len(images), batch_size, epoch):
        inputs = to_inputs(images.index_select(0, rows).numpy(), INPUTS)
        yield Batch(inputs, labels.index_select(0, rows), fused([part.index_select(0, rows) for part in logits]))


def from_prepared(
    inputs: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor, batch_size: int, epoch: int
) -> Iterator[Batch]:
    """Yield shuffled batches of tensors that need no work."""
    for rows in shuffled(len(inputs), batch_size, epoch):
        yield Batch(inputs.index_select(0, rows), labels.index_select(0, rows), targets.index_select(0, rows))


def shuffled(rows: int, batch_size: int, epoch: int) -> Iterator[torch.Tensor]:
    """Yield the row numbers of each batch of an epoch."""
    yield from torch.randperm(rows, generator=torch.Generator().manual_seed(epoch)).split(batch_size)


def fused(logits: list[torch.Tensor]) -> torch.Tensor:
    """Return the mean of the teachers' probabilities, as logits."""
    return fuse(logits, combine="mean_probability", weights=[1.0] * len(logits))


def write_data(
    store: ObjectStore, rows: int, batch_size: int, width: int
) -> tuple[TrainingTask, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Write random images and logits, and return the task and the same rows as tensors."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
    labels = np.where(draw.random(rows) < 0.1, draw.integers(0, CLASSES, rows), NO_LABEL).astype(np.int32)
    arrays = {"image": images, LABEL: labels}
    names = tuple(map(str, range(CLASSES)))
    write_dataset(store, arrays, identity=DATASET, classes=names, shard_rows=SHARD_ROWS, compression="none")
    codec = codec_of(DenseConfig(), CLASSES)
    parts, logits = [], []
    for number in range(TEACHERS):
        values = draw.normal(0, 3, (rows, CLASSES)).astype(np.float32)
        record = LabelSetRecord(
            teacher=f"teacher{number}",
            teacher_identity=f"{number:016x}",
            dataset=DATASET,
            columns=codec.columns(),
        )
        label_set = LabelSet.create(store, record)
        for shard, start in enumerate(range(0, rows, SHARD_ROWS)):
            part = codec.pack({LOGITS: values[start : start + SHARD_ROWS]})
            label_set.commit(shard, label_set.encode(part), rows=len(part[LOGITS]), statistics={})
        label_set.seal(-(-rows // SHARD_ROWS))
        parts.append(Target(labels=record, weight=1.0))
        logits.append(torch.from_numpy(values.astype(np.float16)))
    task = TrainingTask(
        name="student",
        folder="students",
        model=ModelConfig(factory="examples.models:MLP", arguments={"width": width}, inputs=INPUTS),
        model_source="",
        dataset=DATASET,
        held_out=DATASET,
        targets=Targets(combine="mean_probability", parts=tuple(parts)),
        objective=(KLTerm(weight=0.9), CrossEntropyTerm(weight=0.1)),
        epochs=1000,
        batch_size=batch_size,
        optimizer=OptimizerConfig(),
        seed=0,
        order=OrderConfig(),
    )
    return task, torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), logits


if __name__ == "__main__":
    main()
