"""Reads shuffled batches: input shards and label shards of the same number, zipped column by column.

A lane's window is read sequentially, shard slice by shard slice, and each row is scattered straight to its place in the
batches to come; a batch is then one contiguous copy. Reading sequentially suits page caches, disks and object stores.
"""

import math
import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from cluster.errors import DataError
from cluster.shards.order import EpochOrder, Lane

Arrays = Mapping[str, np.ndarray]
ReadShard = Callable[[int], Arrays]
"""From a shard number to its columns, each `[rows, *shape]`. May wait until the shard exists."""

ItemT = TypeVar("ItemT")


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

    Rows are those of `lanes`, in lane order; the arrays belong to the caller.

    Raises:
        UnequalRowsError: a column of a shard has more or fewer rows than the shard.
    """
    read_once = _read_once(_checked(read_shard, order.shard_rows), [order.lanes[lane] for lane in lanes])
    ring = _Ring(read_once, order, lanes)
    starts = order.positions(lanes, first_step)
    window = min(starts) // order.window_rows
    for step in range(first_step, order.num_steps):
        stops = order.positions(lanes, step + 1)
        while window * order.window_rows < max(stops):
            ring.load(window)
            window += 1
        yield ring.copy(sum(starts), sum(stops))
        starts = stops


def prefetched(items: Iterator[ItemT], *, depth: int) -> Generator[ItemT]:
    """Yield from `items`, computed up to `depth` ahead in a thread of its own.

    An error arrives where the item would have been. When the caller stops early, the thread ends with the item that it
    is computing; nobody waits for that, since the item itself may be waiting for a shard.
    """
    ahead: queue.Queue[tuple[ItemT | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def offer(item: ItemT | None, error: BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ahead.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not offer(item, None):
                    return
        except BaseException as error:
            offer(None, error)
        else:
            offer(None, StopIteration())

    threading.Thread(target=produce, name="read-ahead", daemon=True).start()
    try:
        while True:
            item, error = ahead.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # None only beside an error
    finally:
        stopped.set()


def _checked(read_shard: ReadShard, shard_rows: Sequence[int]) -> ReadShard:
    """Return a reader that refuses columns of unequal length, which would give rows the labels of others."""

    def read(number: int) -> Arrays:
        arrays = read_shard(number)
        for name, array in arrays.items():
            if len(array) != shard_rows[number]:
                raise UnequalRowsError(number, name, len(array), shard_rows[number])
        return arrays

    return read


def _read_once(read_shard: ReadShard, lanes: Sequence[Lane]) -> ReadShard:
    """Return a reader that keeps each shard that several of `lanes` need, so that every shard is read once.

    One lane begins with the shard that its neighbour ends with, and checking a digest costs as much as copying rows.
    """
    num_lanes = Counter(number for lane in lanes for number in {part.shard for part in lane.slices})
    kept: dict[int, Arrays] = {}

    def read(number: int) -> Arrays:
        if num_lanes[number] == 1:
            return read_shard(number)
        if number not in kept:
            kept[number] = read_shard(number)
        return kept[number]

    return read


class _Ring:
    """One window of each lane, its rows arranged in the order in which this worker meets them.

    A row's place counts the worker's rows before it: step by step, and within a step lane by lane. It lies at its place
    modulo the size of the ring, which has room for the windows and for the batches that begin or end in other windows.
    """

    def __init__(self, read_shard: ReadShard, order: EpochOrder, lanes: Sequence[int]) -> None:
        self._order, self._lanes = order, list(lanes)
        self._open_shards = [_OpenShard(read_shard) for _ in lanes]
        largest_share = math.ceil(order.rows / (order.num_steps * len(order.lanes)))
        rows_per_lane = min(order.window_rows + 2 * largest_share, max(order.lanes[lane].rows for lane in lanes))
        self._size = rows_per_lane * len(lanes)
        self._columns: dict[str, np.ndarray] = {}

    def load(self, window: int) -> None:
        """Bring in the rows of one window of every lane; windows come one after another."""
        start = window * self._order.window_rows
        for lane, shard, places in zip(self._lanes, self._open_shards, self._places(start), strict=True):
            shuffled = places[self._order.window_places(lane, window, len(places))] % self._size
            for part in self._order.lanes[lane].between(start, start + len(places)):
                targets = shuffled[part.position - start : part.position - start + part.stop - part.start]
                for name, array in shard.open(part.shard).items():
                    _items(self._column(name, array))[targets] = _items(array[part.start : part.stop])

    def copy(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the rows at places `[start, stop)`."""
        low = start % self._size
        high = low + stop - start
        beyond = max(0, high - self._size)
        return {name: np.concatenate([column[low:high], column[:beyond]]) for name, column in self._columns.items()}

    def _places(self, start: int) -> Iterator[np.ndarray]:
        """Yield, for each lane, the places of the positions from `start` to the end of the window."""
        steps = self._order.steps_between(start, start + self._order.window_rows)
        positions = np.array([self._order.positions(self._lanes, step) for step in (*steps, steps.stop)])
        shares = np.diff(positions, axis=0)
        first_places = positions[:-1].sum(axis=1, keepdims=True) + np.cumsum(shares, axis=1) - shares
        for index, lane in enumerate(self._lanes):
            stop = min(start + self._order.window_rows, self._order.lanes[lane].rows)
            rows = np.diff(np.clip(positions[:, index], start, stop))
            yield np.repeat(first_places[:, index] - positions[:-1, index], rows) + np.arange(start, stop)

    def _column(self, name: str, like: np.ndarray) -> np.ndarray:
        if name not in self._columns:
            self._columns[name] = np.empty((self._size, *like.shape[1:]), like.dtype)
        return self._columns[name]


class _OpenShard:
    """The shard that a lane reads from at the moment."""

    def __init__(self, read_shard: ReadShard) -> None:
        self._read_shard = read_shard
        self._number, self._arrays = -1, dict[str, np.ndarray]()

    def open(self, number: int) -> Arrays:
        if number != self._number:
            self._arrays, self._number = dict(self._read_shard(number)), number
        return self._arrays


def _items(array: np.ndarray) -> np.ndarray:
    """View each row as one opaque item: numpy moves those faster than rows of numbers."""
    rows = np.ascontiguousarray(array).reshape(len(array), -1)
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).reshape(-1)
