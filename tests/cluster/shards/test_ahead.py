"""Work done ahead of its use: results in their order, errors in their place, and no thread that stays behind."""

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from cluster.errors import DataError
from cluster.shards.ahead import prefetched

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
