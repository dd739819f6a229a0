"""Reads shuffled batches: input shards and label shards of the same number, zipped column by column.

A lane's window is read sequentially, shard slice by shard slice, and each row is scattered straight to its place in the
batches to come; a batch is then a view. Reading sequentially suits page caches, disks and object stores, and the one
copy that is made goes to memory that fits in a processor's cache.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cluster.errors import DataError
from cluster.memory import page_in
from cluster.shards.order import EpochOrder

Arrays = Mapping[str, np.ndarray]
ReadShard = Callable[[int], Arrays]
"""From a shard number to its columns, each `[rows, *shape]`. May wait until the shard exists. Several lanes may ask for
the same shard, and each keeps the mapping that it is given while it reads from it."""


class UnequalRowsError(DataError):
    """A column does not have the rows of the input shard that it is zipped with."""

    def __init__(self, shard: int, column: str, found: int, expected: int) -> None:
        super().__init__(shard, column, found, expected)
        self.shard, self.column, self.found, self.expected = shard, column, found, expected

    def __str__(self) -> str:
        return (
            f"shard {self.shard}: column {self.column} has {self.found} rows, the input shard has {self.expected}. "
            "Remove the label set that this column comes from and run the job again: the teacher labels anew."
        )


def read_batches(
    read_shard: ReadShard, order: EpochOrder, *, lanes: Sequence[int], first_step: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Yield this worker's part of each global batch from `first_step` to the end of the epoch.

    Rows are those of `lanes`, in lane order. The arrays belong to the caller; as long as one is kept, so is the memory
    of its neighbours, about a window of every lane.

    Raises:
        UnequalRowsError: a column of a shard has more or fewer rows than the shard.
    """
    block = _Block(_checked(read_shard, order.shard_rows), order, lanes, first_step=first_step)
    starts = order.positions(lanes, first_step)
    for step in range(first_step, order.num_steps):
        stops = order.positions(lanes, step + 1)
        block.load(max(stops), keep_from=sum(starts))
        yield block.rows(sum(starts), sum(stops))
        starts = stops


def _checked(read_shard: ReadShard, shard_rows: Sequence[int]) -> ReadShard:
    """Return a reader that refuses columns of unequal length, which would give rows the labels of others."""

    def read(number: int) -> Arrays:
        arrays = read_shard(number)
        for name, array in arrays.items():
            if len(array) != shard_rows[number]:
                raise UnequalRowsError(number, name, len(array), shard_rows[number])
        return arrays

    return read


class _Block:
    """Memory with some windows of every lane, its rows arranged in the order in which this worker meets them.

    A row's place counts the worker's rows before it: step by step, and within a step lane by lane. What a caller was
    given is never written again: other windows go to other memory, behind the rows that are still to be given.
    """

    def __init__(self, read_shard: ReadShard, order: EpochOrder, lanes: Sequence[int], *, first_step: int) -> None:
        self._order, self._lanes = order, list(lanes)
        self._open_shards = [_OpenShard(read_shard) for _ in lanes]
        self._window = order.first_window(lanes, first_step)
        """The next window to be loaded."""
        start = self._window * order.window_rows
        self._first = self._place(min(first_step, order.steps_between(start, start).start))
        """Place of the first row."""
        self._columns: dict[str, _Column] = {}

    def load(self, position: int, *, keep_from: int) -> None:
        """See that the rows before `position` of every lane are there; those at places before `keep_from` may go."""
        window_rows = self._order.window_rows
        windows = range(self._window, math.ceil(position / window_rows))
        if not windows:
            return
        kept = {name: column.array[keep_from - self._first :] for name, column in self._columns.items()}
        self._first = keep_from if kept else self._first
        stop = windows.stop * window_rows
        steps = self._order.steps_between(windows.start * window_rows, stop)
        last_step = next(step for step in reversed(steps) if min(self._order.positions(self._lanes, step)) < stop)
        self._columns = {}
        for window in windows:
            self._load(window, num_rows=self._place(last_step + 1) - self._first, kept=kept)
        self._window = windows.stop

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the rows at places `[start, stop)`."""
        low, high = start - self._first, stop - self._first
        return {name: column.array[low:high] for name, column in self._columns.items()}

    def _load(self, window: int, *, num_rows: int, kept: Arrays) -> None:
        start = window * self._order.window_rows
        for lane, shard, places in zip(self._lanes, self._open_shards, self._places(start), strict=True):
            shuffled = places[self._order.window_places(lane, window, len(places))]
            for part in self._order.lanes[lane].between(start, start + len(places)):
                targets = shuffled[part.position - start : part.position - start + part.stop - part.start]
                for name, column in shard.open(part.shard).items():
                    if name not in self._columns:
                        self._columns[name] = _column(_begun_with(kept.get(name, column.array[:0]), num_rows))
                    page_in(column.array[part.start : part.stop])
                    self._columns[name].items[targets] = column.items[part.start : part.stop]

    def _place(self, step: int) -> int:
        return sum(self._order.positions(self._lanes, step))

    def _places(self, start: int) -> list[np.ndarray]:
        """Return, for each lane, where in the block the positions from `start` to the end of the window belong."""
        stops = [min(start + self._order.window_rows, self._order.lanes[lane].rows) for lane in self._lanes]
        steps = self._order.steps_between(start, start + self._order.window_rows)
        positions = np.array([self._order.positions(self._lanes, step) for step in (*steps, steps.stop)])
        shares = np.diff(positions, axis=0)
        first_places = positions[:-1].sum(axis=1, keepdims=True) + np.cumsum(shares, axis=1) - shares
        rows = np.diff(np.clip(positions, start, stops), axis=0)
        shifts = np.repeat((first_places - positions[:-1] - self._first).T.ravel(), rows.T.ravel())
        lane_ends = np.cumsum(rows.sum(axis=0))[:-1]
        return [shift + np.arange(start, start + len(shift)) for shift in np.split(shifts, lane_ends)]


class _OpenShard:
    """The shard that a lane reads from at the moment."""

    def __init__(self, read_shard: ReadShard) -> None:
        self._read_shard = read_shard
        self._number, self._columns = -1, dict[str, _Column]()
        self._arrays: Arrays = {}

    def open(self, number: int) -> Mapping[str, "_Column"]:
        if number != self._number:
            self._arrays, self._number = self._read_shard(number), number
            self._columns = {name: _column(array) for name, array in self._arrays.items()}
        return self._columns


class _Column(NamedTuple):
    array: np.ndarray
    items: np.ndarray
    """The same memory, each row one opaque item: numpy moves those faster than rows of numbers."""


def _column(array: np.ndarray) -> _Column:
    whole = np.ascontiguousarray(array)
    rows = whole.reshape(len(whole), -1)
    return _Column(whole, rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).reshape(-1))


def _begun_with(rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Return memory for `num_rows` rows that begins with a copy of `rows`."""
    array = np.empty((num_rows, *rows.shape[1:]), rows.dtype)
    array[: len(rows)] = rows
    return array
