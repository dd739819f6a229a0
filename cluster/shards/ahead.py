"""Work that is done before its result is asked for, in threads of its own."""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar
from weakref import WeakValueDictionary

import numpy as np

from cluster.shards.reader import ReadShard

_PAGE_BYTES = 4096

ItemT = TypeVar("ItemT")


class ShardsAhead:
    """A `ReadShard` that has the next shards read before they are asked for, each in a thread of its own.

    It is told the numbers that it will be asked for, in their order. A shard that is still in use is not read again. An
    error arrives where the shard would have been. A shard that is not ready when its turn comes to be read ahead is
    read when it is asked for: only then does anybody wait. So no thread lives longer than the reading of one shard.
    """

    def __init__(
        self, read_shard: ReadShard, numbers: Iterable[int], *, is_ready: Callable[[int], bool], depth: int = 4
    ) -> None:
        self._read_shard, self._is_ready = read_shard, is_ready
        self._numbers, self._depth = iter(numbers), depth
        self._ahead = deque[tuple[int, Future[_Shard | None]]]()
        self._in_use = WeakValueDictionary[int, _Shard]()

    def __call__(self, number: int) -> "_Shard":
        """Return the next shard, and begin to read the ones after it."""
        for following in itertools.islice(self._numbers, self._depth + 1 - len(self._ahead)):
            self._ahead.append((following, self._begun(following)))
        expected, begun = self._ahead.popleft()
        assert number == expected, "shards are asked for in the order that was announced"  # noqa: S101
        shard = self._in_use.get(number) or begun.result() or _Shard(self._read_shard(number))
        self._in_use[number] = shard
        return shard

    def _begun(self, number: int) -> "Future[_Shard | None]":
        if (begun := dict(self._ahead).get(number)) is not None:
            return begun
        begun = Future()
        if (shard := self._in_use.get(number)) is not None:
            begun.set_result(shard)
        else:
            threading.Thread(target=self._attempt, args=(number, begun), name="shard-ahead", daemon=True).start()
        return begun

    def _attempt(self, number: int, begun: "Future[_Shard | None]") -> None:
        try:
            begun.set_result(self._read_if_ready(number))
        except BaseException as error:
            begun.set_exception(error)

    def _read_if_ready(self, number: int) -> "_Shard | None":
        if not self._is_ready(number):
            return None
        shard = _Shard(self._read_shard(number))
        for array in shard.values():
            # Pages of a mapped file come from the disk here, and not when rows are copied.
            array.reshape(-1).view(np.uint8)[::_PAGE_BYTES].max()
        return shard


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
