"""Work in threads that nobody waits for when the process ends: they may wait for a store as long as an outage lasts."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def begin(work: Callable[[], ResultT]) -> "Future[ResultT]":
    """Start `work` in a thread of its own, and return what will hold its result, or what it raised."""
    future = Future[ResultT]()
    future.set_running_or_notify_cancel()

    def carry_out() -> None:
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=carry_out, name=getattr(work, "__name__", "work"), daemon=True).start()
    return future


def for_each(work: Callable[[ItemT], object], items: Iterable[ItemT], *, num_threads: int) -> None:
    """Do `work` for every item, some of them at the same time; raises what one of them raised."""
    left = deque(items)

    def go_on() -> None:
        while True:
            try:
                item = left.popleft()
            except IndexError:
                return
            try:
                work(item)
            except BaseException:
                left.clear()  # nobody asks for the rest any more
                raise

    for thread in [begin(go_on) for _ in range(min(num_threads, len(left)))]:
        thread.result()


async def aside(work: Callable[[], ResultT]) -> ResultT:
    """Return the result of `work` while the event loop goes on.

    Unlike with `asyncio.to_thread`, a loop that is told to end does so at once.
    """
    return await asyncio.wrap_future(begin(work))
