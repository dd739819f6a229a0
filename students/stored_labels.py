"""What a training reads of one label set: a teacher's distributions, outputs of its modules, or both."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch

from cluster.shards.ahead import SHARDS_AHEAD
from cluster.shards.labelset import LabelSet
from cluster.shards.logits import LogitsReader
from cluster.shards.order import EpochOrder
from cluster.shards.reader import UnequalRowsError
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

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory."""
        return sum(column.row_bytes for column in self.labels.record.columns if column.name in self._names)

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


class RowsInPlace:
    """Rows of label sets that are copied from their shards when a batch is made, and wait for it nowhere else.

    The last `open_shards` shards stay open, which should be mapped files: the kernel may take back their pages.
    """

    def __init__(self, label_sets: Sequence[StoredLabels], shard_rows: Sequence[int], *, open_shards: int) -> None:
        """`open_shards` are as many as `shards_in_use` says, or a shard is opened again for a row."""
        self._first_rows = [0, *itertools.accumulate(shard_rows)]
        self._opened = [lru_cache(open_shards)(labels.read) for labels in label_sets]

    def open(self, number: int) -> None:
        """Open a shard whose rows will be asked for soon.

        Raises:
            UnequalRowsError: a label set has another number of rows than the input shard.
        """
        for read in self._opened:
            for name, array in read(number).items():
                expected = self._first_rows[number + 1] - self._first_rows[number]
                if len(array) != expected:
                    raise UnequalRowsError(number, name, len(array), expected)

    def rows(self, place: int, rows_N: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of one label set, `[N, *shape]` each, for the rows with these numbers."""
        numbers = np.searchsorted(self._first_rows, rows_N, side="right") - 1
        gathered = dict[str, np.ndarray]()
        for to, (number, row) in enumerate(zip(numbers.tolist(), rows_N.tolist(), strict=True)):
            for name, array in self._opened[place](number).items():
                if name not in gathered:
                    gathered[name] = np.empty((len(rows_N), *array.shape[1:]), array.dtype)
                gathered[name][to] = array[row - self._first_rows[number]]
        return gathered


def shards_in_use(order: EpochOrder, *, num_lanes: int) -> int:
    """Return a bound on the shards that are used from the opening of one of them until its first row is asked for, and
    from there to the next.

    The windows that are loaded at once hold a lane's share of a batch. While a shard of theirs waits, batches still
    take rows of those before, and the last of them may take rows of the two that come after. What is opened ahead
    waits longer, and meanwhile others are opened ahead.
    """
    share = math.ceil(order.rows / (order.num_steps * len(order.lanes))) + 1
    window_rows = min(order.window_rows, max(lane.rows for lane in order.lanes))
    rows = 4 * window_rows * math.ceil(share / window_rows)
    # All shards are as long as the first, but for the last one.
    waiting = num_lanes * (math.ceil(rows / order.shard_rows[0]) + 1) + 1
    return min(len(order.shard_rows), waiting + 2 * SHARDS_AHEAD)
