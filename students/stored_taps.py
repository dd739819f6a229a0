"""Outputs of a teacher's modules, read from its label set."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cluster.shards.labelset import LabelSet
from cluster.shards.taps import names_of_tap, tap_shapes, unpack_tap
from students.objectives.term import TeacherTap


class StoredTaps:
    """Those of one label set that a training reads."""

    def __init__(self, labels: LabelSet, modules: Sequence[str]) -> None:
        self.labels = labels
        self._modules = tuple(module for module in modules if module in labels.record.taps)
        """The teacher runs beside the student for the others."""

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Return the columns of a committed shard that hold them, `[rows, *shape]` each, and no others."""
        arrays, taps = self.labels.read(number), self.labels.record.taps
        return {name: arrays[name] for module in self._modules for name in names_of_tap(taps, module)}

    def decode(self, arrays: Mapping[str, np.ndarray]) -> dict[TeacherTap, torch.Tensor]:
        """Return the outputs from rows of these columns, float32 `[rows, ...]`."""
        record = self.labels.record
        return {
            TeacherTap(record.teacher, module): torch.from_numpy(unpack_tap(record.taps, module, arrays))
            for module in self._modules
        }

    def shapes(self) -> dict[TeacherTap, tuple[int, ...]]:
        """Return the shape of a row of each."""
        shapes = tap_shapes(self.labels.record.taps, self.labels.record.columns)
        return {TeacherTap(self.labels.record.teacher, module): shapes[module] for module in self._modules}
