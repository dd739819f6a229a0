"""Work done ahead of its use: results in their order, errors in their place, and no thread that stays behind."""

import gc
import itertools
import math
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DataError
from cluster.shards.ahead import ShardsAhead, prefetched
from cluster.shards.reader import Arrays

WAIT_S = 60


class UnreadableError(DataError):
    """Stands for whatever the work raises."""


@pytest.mark.parametrize("depth", [1, 2, 7, 100])
def test_items_read_ahead_arrive_in_their_order(depth: int) -> None:
    assert list(prefetched(iter(range(50)), depth=depth)) == list(range(50))
    assert list(prefetched(iter(()), depth=depth)) == []


def test_none_is_an_item_like_any_other() -> None:
    assert list(prefetched(iter([None, 1, None]), depth=2)) == [None, 1, None]


@pytest.mark.parametrize("error", [UnreadableError("lost"), KeyboardInterrupt(), StopAsyncIteration()])
def test_an_error_arrives_where_the_item_would_have(error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise error

    ahead = prefetched(items(), depth=10)

    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(type(error)) as arrived:
        next(ahead)
    assert arrived.value is error
    assert next(ahead, "ended") == "ended"


def test_reading_runs_ahead_by_no_more_than_it_may() -> None:
    depth, consumed = 3, 0
    behind: list[int] = []
    ran_ahead = threading.Event()

    def items() -> Iterator[int]:
        for number in range(40):
            behind.append(number - consumed)
            if number == depth + 1:
                ran_ahead.set()
            yield number

    ahead = prefetched(items(), depth=depth)
    assert next(ahead) == 0
    consumed = 1
    assert ran_ahead.wait(WAIT_S)  # one consumed, `depth` queued, one in hand, all without another call
    for _item in ahead:
        consumed += 1

    assert max(behind) <= depth + 1


def stopped_early(stop: Callable[[Iterator[int]], None]) -> threading.Thread:
    """Return the thread that read ahead for a caller who stopped after the first item."""
    threads: list[threading.Thread] = []

    def items() -> Iterator[int]:
        threads.append(threading.current_thread())
        yield from itertools.count()

    ahead = prefetched(items(), depth=2)
    assert next(ahead) == 0
    stop(ahead)
    return threads[0]


def close(ahead: Iterator[int]) -> None:
    ahead.close()  # type: ignore[attr-defined]


def throw(ahead: Iterator[int]) -> None:
    with pytest.raises(UnreadableError):
        ahead.throw(UnreadableError("the caller failed"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("stop", [close, throw])
def test_the_thread_ends_when_the_caller_stops_early(stop: Callable[[Iterator[int]], None]) -> None:
    thread = stopped_early(stop)

    thread.join(WAIT_S)

    assert not thread.is_alive()


def test_a_caller_who_stops_does_not_wait_for_an_item_that_never_comes() -> None:
    waiting, release = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        waiting.set()
        release.wait(WAIT_S)
        yield 1

    ahead = prefetched(items(), depth=2)
    assert next(ahead) == 0
    assert waiting.wait(WAIT_S)

    close(ahead)

    assert not release.is_set()
    release.set()


def shard(number: int) -> Arrays:
    return {"x": np.full((3, 2), number)}


def always(_number: int) -> bool:
    return True


class WatchedShards:
    """Reads shards, remembers by which thread, and can make the reading of one wait or fail."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.threads: list[threading.Thread] = []
        self.has_begun = threading.Condition()
        self.held = dict[int, threading.Event]()
        self.errors = dict[int, BaseException]()

    def __call__(self, number: int) -> Arrays:
        with self.has_begun:
            self.begun.append(number)
            self.threads.append(threading.current_thread())
            self.has_begun.notify_all()
        if number in self.held:
            assert self.held[number].wait(WAIT_S)
        if number in self.errors:
            raise self.errors[number]
        return shard(number)

    def await_begun(self, *numbers: int) -> None:
        with self.has_begun:
            assert self.has_begun.wait_for(lambda: set(numbers) <= set(self.begun), WAIT_S)

    def join(self) -> None:
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(WAIT_S)
                assert not thread.is_alive()


@given(
    numbers=st.lists(st.integers(0, 5), max_size=30),
    ready=st.sets(st.integers(0, 5)),
    readings_until_cheap=st.sampled_from([1, 2, math.inf]),
    threads=st.integers(1, 4),
    depth=st.integers(1, 6),
)
@settings(deadline=None, max_examples=50)
def test_whoever_reads_them_and_when_shards_are_those_that_were_asked_for(
    numbers: list[int], ready: set[int], readings_until_cheap: float, threads: int, depth: int
) -> None:
    shards = ShardsAhead(
        shard,
        numbers,
        is_ready=ready.__contains__,
        readings_until_cheap=lambda: readings_until_cheap,
        threads=threads,
        depth=depth,
    )

    assert [int(shards(number)["x"][0, 0]) for number in numbers] == numbers


def test_the_next_shards_are_read_while_one_is_used_and_no_more_than_allowed() -> None:
    read = WatchedShards()
    shards = ShardsAhead(read, range(10), is_ready=always, readings_until_cheap=lambda: math.inf, threads=9, depth=3)

    shards(0)
    read.await_begun(0, 1, 2, 3)
    read.join()

    assert sorted(read.begun) == [0, 1, 2, 3]
    shards(1)
    read.await_begun(4)
    read.join()
    assert sorted(read.begun) == [0, 1, 2, 3, 4]


def test_as_many_shards_are_read_side_by_side_as_there_may_be_threads() -> None:
    read = WatchedShards()
    read.held = {1: threading.Event(), 2: threading.Event()}
    shards = ShardsAhead(read, range(10), is_ready=always, readings_until_cheap=lambda: math.inf, threads=2, depth=5)

    shards(0)
    read.await_begun(1, 2)
    read.held[1].set()

    assert shards(1)["x"][0, 0] == 1  # a thread is free again, and goes on with the third
    read.await_begun(3)
    read.held[2].set()
    read.join()
    assert sorted(read.begun) == [0, 1, 2, 3]


@pytest.mark.parametrize(("readings_until_cheap", "ahead"), [(1, 2), (2, 5), (math.inf, 8)])
def test_a_shard_is_read_ahead_until_it_is_at_hand_and_then_by_whoever_asks(
    readings_until_cheap: float, ahead: int
) -> None:
    read = WatchedShards()
    numbers = [0, 1, 2] * 3
    shards = ShardsAhead(read, numbers, is_ready=always, readings_until_cheap=lambda: readings_until_cheap, depth=2)

    for number in numbers:
        shards(number)
        read.await_begun(*range(min(number + 2, 3)))
        read.join()
        gc.collect()

    assert sorted(read.begun) == sorted(numbers)
    assert sum(thread is not threading.current_thread() for thread in read.threads) == ahead


def test_an_error_arrives_where_the_shard_would_have() -> None:
    read = WatchedShards()
    read.errors[2] = UnreadableError("lost")
    shards = ShardsAhead(read, range(5), is_ready=always, readings_until_cheap=lambda: math.inf, threads=4)

    shards(0)
    read.await_begun(2)
    assert shards(1)["x"][0, 0] == 1
    with pytest.raises(UnreadableError):
        shards(2)


def test_a_shard_that_several_lanes_use_at_a_time_is_read_once() -> None:
    read = WatchedShards()
    shards = ShardsAhead(
        read, [0, 0, 1, 0, 1], is_ready=always, readings_until_cheap=lambda: math.inf, threads=4, depth=2
    )

    used = [shards(number) for number in (0, 0, 1, 0, 1)]

    assert sorted(read.begun) == [0, 1]
    assert used[0] is used[1] is used[3]
    assert used[2] is used[4]


def test_a_shard_that_nobody_uses_any_more_is_given_up_and_read_again() -> None:
    read = WatchedShards()
    shards = ShardsAhead(read, [0, 1, 2, 0], is_ready=always, readings_until_cheap=lambda: math.inf, threads=1, depth=1)

    for number in (0, 1, 2, 0):
        shards(number)
        read.join()
        gc.collect()

    assert read.begun.count(0) == 2


def test_a_shard_that_is_not_ready_is_read_when_it_is_asked_for_by_whoever_asks() -> None:
    read, ready = WatchedShards(), {0, 2}
    shards = ShardsAhead(read, range(3), is_ready=ready.__contains__, readings_until_cheap=lambda: math.inf, threads=2)
    shards(0)
    read.await_begun(2)

    shards(1)

    assert sorted(read.begun) == [0, 1, 2]
    assert read.threads[read.begun.index(1)] is threading.current_thread()
    assert read.threads[read.begun.index(2)] is not threading.current_thread()


def test_an_error_of_the_question_whether_a_shard_is_ready_arrives_too() -> None:
    def is_ready(number: int) -> bool:
        if number == 1:
            raise UnreadableError("no answer")
        return True

    shards = ShardsAhead(shard, range(3), is_ready=is_ready, readings_until_cheap=lambda: math.inf, threads=1)
    shards(0)

    with pytest.raises(UnreadableError):
        shards(1)


def test_threads_end_with_the_shards_that_they_read_when_nobody_asks_any_more() -> None:
    read = WatchedShards()
    read.held[2] = threading.Event()
    shards = ShardsAhead(
        read, itertools.count(), is_ready=always, readings_until_cheap=lambda: math.inf, threads=4, depth=4
    )
    shards(0)
    read.await_begun(0, 1, 2, 3, 4)

    del shards
    read.held[2].set()
    read.join()

    assert sorted(read.begun) == [0, 1, 2, 3, 4]
    assert all(thread.daemon for thread in read.threads[1:] if thread is not threading.current_thread())
