"""Teachers that run beside the student, for outputs of modules that are not stored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from cluster.modules import build_module, in_fast_layout, input_array, load_weights, to_inputs
from cluster.shards.records import read_record
from cluster.shards.verified import fetch_verified
from cluster.storage.protocol import ObjectStore
from cluster.tapping import Tapped, shapes_of_taps
from cluster.weights import StoredWeights
from students.objectives.objective import Batch
from students.objectives.term import TeacherTap
from students.task import LiveTeacher, TrainedRecord, TrainingTask


class LiveTeachers:
    """Those of one training, in evaluation mode and float32: part of neither the student nor its checkpoints."""

    def __init__(self, store: ObjectStore, task: TrainingTask, device: torch.device) -> None:
        stored = {(record.teacher, module) for record in task.stored_taps for module in record.taps}
        self._teachers = task.live_teachers
        self._tapped = {
            teacher.name: _loaded(
                store, teacher, [path for path in task.modules_of(teacher.name) if (teacher.name, path) not in stored]
            ).to(device)
            for teacher in task.live_teachers
        }
        self._device = device

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
        for name, inputs in inputs_of(self._teachers, rows).items():
            found = shapes_of_taps(self._tapped[name], inputs.to(self._device))
            shapes |= {TeacherTap(name, module): shape for module, shape in found.items()}
        return shapes


def inputs_of(teachers: Sequence[LiveTeacher], arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return what each teacher is given of some rows, by its name."""
    configs = {teacher.name: teacher.model.inputs for teacher in teachers}
    return {name: to_inputs(input_array(arrays, config), config) for name, config in configs.items()}


def _loaded(store: ObjectStore, teacher: LiveTeacher, modules: Sequence[str]) -> Tapped:
    weights = _weights(store, teacher)
    module = build_module(teacher.model)
    body = fetch_verified(store, weights.key, digest=weights.digest, num_bytes=weights.num_bytes)
    load_weights(module, bytes(body), where=f"teacher {teacher.name} ({weights.key})")
    return Tapped(in_fast_layout(module).requires_grad_(False), modules, name=f"teacher {teacher.name}").eval()


def _weights(store: ObjectStore, teacher: LiveTeacher) -> StoredWeights:
    if isinstance(teacher.weights, StoredWeights):
        return teacher.weights
    record = read_record(store, teacher.weights, TrainedRecord)
    return StoredWeights(key=record.weights_key, digest=record.weights_digest, num_bytes=record.num_bytes)
