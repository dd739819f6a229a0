"""What a training reads of one label set: a teacher's distributions, outputs of its modules, or both."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cluster.shards.labelset import LabelSet
from cluster.shards.logits import LogitsReader
from cluster.shards.taps import names_of_tap, tap_shapes, unpack_tap
from students.objectives.term import TeacherTap


class StoredLabels:
    """One label set, of which every shard is opened once, whatever is read of it."""

    def __init__(self, labels: LabelSet, *, with_logits: bool, modules: Sequence[str]) -> None:
        """`modules` are those whose outputs terms read; the teacher runs beside the student for some of them."""
        self.labels, self.logits = labels, LogitsReader(labels)
        taps = labels.record.taps
        self._modules = tuple(module for module in modules if module in taps)
        of_taps = [name for module in self._modules for name in names_of_tap(taps, module)]
        self._names = (*(self.logits.names if with_logits else ()), *of_taps)

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Return the columns of a committed shard that are read, `[rows, *shape]` each, and no others."""
        arrays = self.labels.read(number)
        return {name: arrays[name] for name in self._names}

    def taps(self, arrays: Mapping[str, np.ndarray]) -> dict[TeacherTap, torch.Tensor]:
        """Return the outputs of modules from rows of these columns, float32 `[rows, ...]`."""
        record = self.labels.record
        return {
            TeacherTap(record.teacher, module): torch.from_numpy(unpack_tap(record.taps, module, arrays))
            for module in self._modules
        }

    def shapes(self) -> dict[TeacherTap, tuple[int, ...]]:
        """Return the shape of a row of each."""
        shapes = tap_shapes(self.labels.record.taps, self.labels.record.columns)
        return {TeacherTap(self.labels.record.teacher, module): shapes[module] for module in self._modules}
