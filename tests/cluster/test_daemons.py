"""Threads that work beside an event loop, and hold up no end."""

import asyncio
import subprocess
import sys
import threading

import pytest

from cluster.daemons import aside, begin, for_each


def test_work_gives_what_it_returns_or_raises() -> None:
    assert begin(lambda: 7).result() == 7
    with pytest.raises(ZeroDivisionError):
        begin(lambda: 1 // 0).result()


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_every_item_is_worked_on_once_by_at_most_so_many_threads(count: int) -> None:
    done, threads = list[int](), set[int]()

    def work(item: int) -> None:
        threads.add(threading.get_ident())
        done.append(item)

    for_each(work, iter(range(count)), num_threads=4)

    assert sorted(done) == list(range(count))
    assert len(threads) <= 4
    assert threading.get_ident() not in threads


def test_items_are_worked_on_at_the_same_time() -> None:
    together = threading.Barrier(4)

    for_each(lambda _: together.wait(timeout=30), range(4), num_threads=4)


def test_what_an_item_raises_is_raised_even_if_it_is_an_index_that_is_missing() -> None:
    with pytest.raises(IndexError):
        for_each([1, 2].__getitem__, [0, 1, 7], num_threads=2)


def test_the_event_loop_goes_on_while_work_waits() -> None:
    goes_on = threading.Event()

    async def main() -> bool:
        waiting = asyncio.ensure_future(aside(goes_on.wait))
        await asyncio.sleep(0)
        assert not waiting.done()
        goes_on.set()
        return await waiting

    assert asyncio.run(main())


def test_what_work_raises_is_raised_where_it_is_awaited() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await aside(lambda: 1 // 0)

    asyncio.run(main())


def test_a_process_that_ends_waits_for_no_work() -> None:
    program = """
import asyncio, threading
from cluster.daemons import aside

async def main():
    waiting = asyncio.ensure_future(aside(threading.Event().wait))
    await asyncio.sleep(0.01)
    raise SystemExit(3)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (3, "")
