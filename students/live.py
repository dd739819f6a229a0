"""Teachers beside the student: run for outputs of modules that are not stored, or read for the weights of a layer."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from cluster.modules import build_module, in_fast_layout, input_array, load_weights, to_inputs
from cluster.shards.records import read_record
from cluster.shards.verified import fetch_verified
from cluster.storage.protocol import ObjectStore
from cluster.tapping import Tapped, parameters_of_head, shapes_of_taps
from cluster.weights import StoredWeights
from students.objectives.objective import Batch
from students.objectives.term import TeacherTap
from students.task import LiveTeacher, TrainedRecord, TrainingTask, heads_read


class LiveTeachers:
    """Those of one training, in evaluation mode and float32: part of neither the student nor its checkpoints."""

    def __init__(self, store: ObjectStore, task: TrainingTask, device: torch.device) -> None:
        self._inputs = {teacher.name: teacher.model.inputs for teacher in task.live_teachers}
        self._tapped: dict[str, Tapped] = {}
        self.heads: dict[TeacherTap, tuple[torch.Tensor, torch.Tensor]] = {}
        """Weight `[C, D]` and bias `[C]` of the linear layers that terms read."""
        for teacher in task.live_teachers:
            module, name = _loaded(store, teacher).to(device), f"teacher {teacher.name}"
            for head in (head for head in heads_read(task.objective) if head.teacher == teacher.name):
                self.heads[head] = parameters_of_head(module, head.module, name=name)
            if modules := task.live_modules_of(teacher.name):
                self._tapped[teacher.name] = Tapped(module, modules, name=name).eval()
        self._device = device

    def inputs(self, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Return what each teacher that runs is given of some rows of stored columns, by its name."""
        configs = {name: self._inputs[name] for name in self._tapped}
        return {name: to_inputs(input_array(arrays, config), config) for name, config in configs.items()}

    def columns(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the columns that `inputs` needs."""
        given = {id(input_array(arrays, self._inputs[name])) for name in self._tapped}
        return {name: array for name, array in arrays.items() if id(array) in given}

    def watched(self, batch: Batch) -> Batch:
        """Return the batch with what the teachers' modules say of it; without gradient."""
        taps = dict(batch.teacher_taps)
        for name, tapped in self._tapped.items():
            with torch.no_grad():  # not inference mode: nothing computed there may take part in a backward pass
                _, outputs = tapped(batch.teacher_inputs[name])
            taps |= {TeacherTap(name, module): output for module, output in outputs.items()}
        return replace(batch, teacher_taps=taps) if self._tapped else batch

    def shapes(self, rows: Mapping[str, np.ndarray]) -> dict[TeacherTap, tuple[int, ...]]:
        """Return the shape of a row of each tap, from a forward pass of some rows of stored columns."""
        shapes = dict[TeacherTap, tuple[int, ...]]()
        for name, inputs in self.inputs(rows).items():
            found = shapes_of_taps(self._tapped[name], inputs.to(self._device))
            shapes |= {TeacherTap(name, module): shape for module, shape in found.items()}
        return shapes


def load_stored(store: ObjectStore, module: nn.Module, weights: StoredWeights, *, name: str) -> None:
    """Copy weights that lie in the store into a module; `name` is what errors call it.

    Raises:
        ShardCorruptError: their bytes are not those that were written.
        WeightsError: they are of another module.
    """
    body = fetch_verified(store, weights.key, digest=weights.digest, num_bytes=weights.num_bytes)
    load_weights(module, bytes(body), where=f"{name} ({weights.key})")


def _loaded(store: ObjectStore, teacher: LiveTeacher) -> nn.Module:
    module = build_module(teacher.model)
    load_stored(store, module, _weights(store, teacher), name=f"teacher {teacher.name}")
    return in_fast_layout(module).requires_grad_(False)


def _weights(store: ObjectStore, teacher: LiveTeacher) -> StoredWeights:
    if isinstance(teacher.weights, StoredWeights):
        return teacher.weights
    record = read_record(store, teacher.weights, TrainedRecord)
    return StoredWeights(key=record.weights_key, digest=record.weights_digest, num_bytes=record.num_bytes)
