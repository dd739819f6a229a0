"""Whether any of several trainings runs: each says so for as long as it does, and who waits asks for how long none has.

Ray does not tell whether a task runs or waits for room, and a task that lost its node waits anew. In a module of its
own, so that the process that holds the attendance loads neither torch nor Ray Train.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

PRESENT_S = 30.0
"""For so long after it was heard of last a training counts as running: its process may be too busy to speak."""

_BEAT_S = 5.0


class Attendance:
    """Memory of when anybody was heard of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._absent_since_s = clock()

    def answer(self) -> None:
        """Note that somebody runs."""
        self._absent_since_s = self._clock() + PRESENT_S

    def absent_s(self) -> float:
        """Return for how long nobody has run."""
        return max(0.0, self._clock() - self._absent_since_s)


@contextlib.contextmanager
def attending(answer: Callable[[], object], *, beat_s: float = _BEAT_S) -> Iterator[None]:
    """Call `answer` at once, and again and again from another thread, for the length of the context."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(beat_s):
            answer()

    answer()
    beating = threading.Thread(target=go_on, name="attendance", daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
