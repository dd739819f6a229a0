"""Work that is done before its result is asked for, in threads of its own."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")


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
