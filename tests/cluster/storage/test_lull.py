"""A time-out for those who look into a store, on a clock that jumps."""

import pytest

from cluster.storage.lull import Lull

LIMIT_S = 600.0


class Clock:
    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def look_for(self, seconds: float) -> str:
        self.at_s += seconds
        return "answer"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lull(clock: Clock) -> Lull:
    return Lull(LIMIT_S, clock_s=clock.now_s)


def test_a_lull_is_over_after_its_limit_and_not_before(clock: Clock, lull: Lull) -> None:
    clock.at_s = LIMIT_S
    assert not lull.is_over
    clock.at_s = LIMIT_S + 0.1
    assert lull.is_over
    lull.begin()
    assert not lull.is_over


def test_the_time_that_looks_take_does_not_count(clock: Clock, lull: Lull) -> None:
    for _ in range(100):
        assert lull.look(lambda: clock.look_for(20.0)) == "answer"
        clock.at_s += 6.0
    assert clock.at_s == 2600.0
    assert not lull.is_over
    clock.at_s += 0.1
    assert lull.is_over


def test_after_an_outage_there_is_as_much_time_as_at_first(clock: Clock, lull: Lull) -> None:
    clock.at_s += LIMIT_S - 1.0
    lull.look(lambda: clock.look_for(660.0))
    clock.at_s += LIMIT_S
    assert not lull.is_over
    clock.at_s += 0.1
    assert lull.is_over


def test_a_question_that_fails_is_the_business_of_who_asked(lull: Lull) -> None:
    with pytest.raises(ZeroDivisionError):
        lull.look(lambda: 1 // 0)
