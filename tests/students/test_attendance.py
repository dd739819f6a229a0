"""Attendance: nobody is late while anybody runs, and who stops speaking is missed."""

import threading
from dataclasses import dataclass

import pytest

from students.attendance import PRESENT_S, Attendance, attending


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_until_somebody_begins_the_whole_wait_counts() -> None:
    clock = Clock()
    attendance = Attendance(clock)
    clock.now_s += 7
    assert attendance.absent_s() == 7
    attendance.answer()
    assert attendance.absent_s() == 0


def test_who_speaks_now_and_then_is_there_and_who_has_stopped_is_missed_after_a_while() -> None:
    clock = Clock()
    attendance = Attendance(clock)
    for _ in range(100):
        attendance.answer()
        clock.now_s += PRESENT_S
        assert attendance.absent_s() == 0
    clock.now_s += 11
    assert attendance.absent_s() == 11
    attendance.answer()  # another, or the same one on another node
    assert attendance.absent_s() == 0


def test_a_training_speaks_at_once_and_until_it_ends() -> None:
    answers, spoken = list[str](), threading.Event()

    def answer() -> None:
        answers.append(threading.current_thread().name)
        if len(answers) > 3:
            spoken.set()

    with attending(answer, beat_s=0.001):
        assert answers[0] == threading.current_thread().name
        assert spoken.wait(timeout=60)
    heard = len(answers)
    assert not any(thread.name == "attendance" for thread in threading.enumerate())
    assert len(answers) == heard


def test_a_training_that_fails_falls_silent() -> None:
    with pytest.raises(ValueError, match="NaN"), attending(lambda: None, beat_s=0.001):
        raise ValueError("NaN")
    assert not any(thread.name == "attendance" for thread in threading.enumerate())
