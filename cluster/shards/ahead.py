"""Work that is done before its result is asked for, in threads of its own."""

import itertools
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar
from weakref import WeakValueDictionary

import numpy as np

from cluster.shards.reader import ReadShard

ItemT = TypeVar("ItemT")

SHARDS_AHEAD = 4
"""Shards that are opened before their rows are asked for."""


class ShardsAhead:
    """A `ReadShard` that has the next shards read before they are asked for, by a few threads.

    It is told the numbers that it will be asked for, in their order. A shard that is still in use is not read again. An
    error arrives where the shard would have been. A shard that is not ready when it could be read ahead is read when it
    is asked for: only then does anybody wait. So no thread lives longer than the reading of one shard. A shard that
    was read `readings_until_cheap()` times is at hand: opening it takes a moment, and handing that to a thread longer.
    """

    def __init__(
        self,
        read_shard: ReadShard,
        numbers: Iterable[int],
        *,
        is_ready: Callable[[int], bool],
        readings_until_cheap: Callable[[], float],
        threads: int = 4,
        depth: int = SHARDS_AHEAD,
    ) -> None:
        self._read_shard, self._is_ready, self._readings_until_cheap = read_shard, is_ready, readings_until_cheap
        self._numbers, self._threads, self._depth = iter(numbers), threads, depth
        self._readings = Counter[int]()
        self._next = deque[int]()
        self._begun = dict[int, Future[_Shard | None]]()
        self._in_use = WeakValueDictionary[int, _Shard]()

    def __call__(self, number: int) -> "_Shard":
        """Return the next shard, and begin to read some of those after it."""
        self._next.extend(itertools.islice(self._numbers, self._depth + 1 - len(self._next)))
        expected = self._next.popleft()
        assert number == expected, "shards are asked for in the order that was announced"  # noqa: S101
        begun = self._begun.get(number) if number in self._next else self._begun.pop(number, None)
        self._begin(
            following for following in dict.fromkeys(self._next) if self._pays(following) and following != number
        )
        shard = self._in_use.get(number)
        if shard is None:
            # What no thread has begun is read here: handing it to one and waiting would take longer.
            shard = self._in_use[number] = (begun and begun.result()) or _Shard(self._read_shard(number))
            self._readings[number] += 1
        return shard

    def _pays(self, number: int) -> bool:
        is_at_hand = number in self._in_use or self._readings[number] >= self._readings_until_cheap()
        return number not in self._begun and not is_at_hand

    def _begin(self, numbers: Iterable[int]) -> None:
        busy = sum(not begun.done() for begun in self._begun.values())
        for number in list(itertools.islice(numbers, self._threads - busy)):
            begun = self._begun[number] = Future()
            threading.Thread(target=self._read, args=(number, begun), name="shard-ahead", daemon=True).start()

    def _read(self, number: int, begun: "Future[_Shard | None]") -> None:
        try:
            begun.set_result(self._read_if_ready(number))
        except BaseException as error:
            begun.set_exception(error)

    def _read_if_ready(self, number: int) -> "_Shard | None":
        if not self._is_ready(number):
            return None
        return _Shard(self._read_shard(number))


class _Shard(dict[str, np.ndarray]):
    """Columns that can be referred to weakly."""


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
