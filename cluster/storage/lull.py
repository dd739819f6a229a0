"""How long nothing has come of what others write to a store, for those who wait for it and at last give up."""

import time
from collections.abc import Callable
from typing import TypeVar

_OUTAGE_S = 30.0
"""A look that takes longer meets a store that does not answer: a listing of 100,000 keys takes a fifth of that."""
_PROMPT_S = 1.0
"""What a store that works answers within: such looks are part of the time, however many there are."""

AnswerT = TypeVar("AnswerT")


class Lull:
    """A time-out that no outage uses up: looks at a store that does not answer do not count.

    After an outage it begins anew. Those who write suffered it too, and need their time once it is over.
    """

    def __init__(self, limit_s: float, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._limit_s, self._clock_s = limit_s, clock_s
        self.begin()

    @property
    def is_over(self) -> bool:
        """Whether nothing has come for longer than the limit."""
        return self._clock_s() > self._deadline_s

    def begin(self) -> None:
        """Count from this moment on: something has come."""
        self._deadline_s = self._clock_s() + self._limit_s

    def look(self, ask: Callable[[], AnswerT]) -> AnswerT:
        """Return what a question to the store is answered with, however long that takes."""
        asked_s = self._clock_s()
        answer = ask()
        took_s = self._clock_s() - asked_s
        if took_s > _OUTAGE_S:
            self.begin()
        elif took_s > _PROMPT_S:
            self._deadline_s += took_s
        return answer
