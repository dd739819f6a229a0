"""The order in which rows are read: a pure function of (seed, epoch, step), whatever the number of workers.

The epoch's shuffled shards form one sequence of rows, cut into a fixed number of lanes. Every global batch takes the
same share from each lane, and a worker serves a run of lanes. Within a lane, rows are shuffled in windows that fit in
memory. So one integer resumes a run, and 1, 2 or 8 workers see the same batches.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import DataError
from cluster.shards.hashing import hash_of, splitmix64


class TooFewRowsError(DataError):
    """There are fewer rows than lanes, so some worker would get none."""

    def __init__(self, rows: int, lanes: int) -> None:
        super().__init__(rows, lanes)
        self.rows, self.lanes = rows, lanes

    def __str__(self) -> str:
        return (
            f"{self.rows} rows cannot be read in {self.lanes} lanes. "
            f"Set train.order.lanes to at most {self.rows}, or add rows."
        )


@dataclass(frozen=True)
class Slice:
    """Rows `[start, stop)` of one shard, at `position` of their lane."""

    shard: int
    start: int
    stop: int
    position: int


@dataclass(frozen=True)
class Lane:
    """One lane of one epoch: its rows in reading order, before windows are shuffled."""

    number: int
    rows: int
    slices: tuple[Slice, ...]

    def between(self, start: int, stop: int) -> Iterator[Slice]:
        """Yield the parts of the lane's slices that lie in `[start, stop)`, in order."""
        for part in self.slices:
            low = max(start, part.position)
            high = min(stop, part.position + part.stop - part.start)
            if low < high:
                offset = part.start - part.position
                yield Slice(part.shard, low + offset, high + offset, low)


class EpochOrder:
    """The order of one epoch over shards of the given numbers of rows.

    The sizes of the global batches differ by at most one row, and so do the shares of the lanes in a batch. No share is
    empty, and if `batch_size >= 2 * lanes` no batch is larger than `batch_size`: with smaller batches the rows may not
    suffice for a row of every lane in each of so many steps, and there are fewer and larger ones.
    """

    def __init__(
        self, shard_rows: Sequence[int], *, lanes: int, window_rows: int, batch_size: int, seed: int, epoch: int
    ) -> None:
        self.shard_rows, self.rows = tuple(shard_rows), sum(shard_rows)
        if self.rows < lanes:
            raise TooFewRowsError(self.rows, lanes)
        self.window_rows, self._key = window_rows, (seed, epoch)
        # Every step gives every lane at least one row, so no worker ever faces an empty batch.
        self.num_steps = min(math.ceil(self.rows / batch_size), self.rows // lanes)
        self.lanes = _cut(shard_rows, permutation(len(shard_rows), *self._key), lanes)

    def bounds(self, lane: int, step: int) -> tuple[int, int]:
        """Return the positions `[start, stop)` of `lane` that `step` takes; over an epoch every row is taken once."""
        return self.positions([lane], step)[0], self.positions([lane], step + 1)[0]

    def positions(self, lanes: Iterable[int], step: int) -> list[int]:
        """Return, for each of `lanes`, how many of its rows the steps before `step` take."""
        before = self._before(step)
        return [_share(before, lane, len(self.lanes)) for lane in lanes]

    def steps_between(self, start: int, stop: int) -> range:
        """Return a range with all steps that take a position in `[start, stop)` of any lane."""
        first, last = (self.num_steps * len(self.lanes) * position // self.rows for position in (start, stop))
        return range(first, min(last + 1, self.num_steps))

    def batch_rows(self, step: int) -> int:
        """Return the number of rows of the global batch."""
        return self._before(step + 1) - self._before(step)

    def window_places(self, lane: int, window: int, rows: int) -> np.ndarray:
        """Return, for each of the window's rows in reading order, its place after shuffling; int64 `[rows]`."""
        return permutation(rows, *self._key, lane + 1, window + 1)

    def first_window(self, lanes: Iterable[int], step: int) -> int:
        """Return the window that a reader of `lanes` begins with to go on at `step`."""
        return min(self.positions(lanes, step)) // self.window_rows

    def openings(self, lanes: Iterable[int], first_step: int = 0) -> list[int]:
        """Return the shards in the order in which a reader of `lanes` opens them, from `first_step` to the end.

        Windows come one after another, in each of them lane after lane. Neighbouring lanes may share a shard: then each
        of them opens it.
        """
        lanes = list(lanes)
        start = self.first_window(lanes, first_step) * self.window_rows
        parts = (
            (place, part) for place, lane in enumerate(lanes) for part in self.lanes[lane].between(start, self.rows)
        )
        uses = sorted((part.position // self.window_rows, place, part.position, part.shard) for place, part in parts)
        return [shard for *_, shard in uses]

    def shards_by_first_use(self) -> list[int]:
        """Return all shard numbers in the order in which training first needs them: the order to label in."""
        first: dict[int, tuple[int, int]] = {}
        for lane in self.lanes:
            for part in lane.slices:
                use = (part.position, lane.number)
                first[part.shard] = min(first.get(part.shard, use), use)
        return sorted(first, key=first.__getitem__)

    def _before(self, step: int) -> int:
        """Return the rows of all batches before `step`."""
        return self.rows * step // self.num_steps


def lanes_of_worker(rank: int, world_size: int, lanes: int) -> range:
    """Return the lanes that worker `rank` serves; shares differ by at most one lane."""
    return range(rank * lanes // world_size, (rank + 1) * lanes // world_size)


def permutation(count: int, *key: int) -> np.ndarray:
    """Return the permutation of `range(count)` named by `key`; int64 `[count]`.

    It sorts the splitmix64 hash of each index, so it will be the same under every version of numpy. The hash is a
    bijection: there are no ties, and any sort will do.
    """
    return np.argsort(splitmix64(np.arange(count, dtype=np.uint64) ^ np.uint64(hash_of(key))))


def _share(rows: int, lane: int, lanes: int) -> int:
    """Return how many of the first `rows` rows are those of `lane`; the shares of all lanes sum to `rows`."""
    return (rows + lane) // lanes


def _cut(shard_rows: Sequence[int], shard_order: np.ndarray, lanes: int) -> tuple[Lane, ...]:
    """Cut the sequence of shuffled shards into lanes whose rows differ by at most one."""
    ends = np.cumsum([shard_rows[shard] for shard in shard_order])
    total = int(ends[-1])
    cuts = [0, *itertools.accumulate(_share(total, lane, lanes) for lane in range(lanes))]
    return tuple(
        _lane(number, start, stop, shard_rows=shard_rows, shard_order=shard_order, ends=ends)
        for number, (start, stop) in enumerate(itertools.pairwise(cuts))
    )


def _lane(
    number: int, start: int, stop: int, *, shard_rows: Sequence[int], shard_order: np.ndarray, ends: np.ndarray
) -> Lane:
    slices = []
    at = start
    place = int(np.searchsorted(ends, start, side="right"))
    while at < stop:
        shard = int(shard_order[place])
        shard_start = int(ends[place]) - shard_rows[shard]
        until = min(stop, int(ends[place]))
        slices.append(Slice(shard, at - shard_start, until - shard_start, at - start))
        at, place = until, place + 1
    return Lane(number, stop - start, tuple(slices))
