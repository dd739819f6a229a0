"""Work that is done by turns."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

AwaitedT = TypeVar("AwaitedT")


def take_turns(trainings: Sequence[Iterator[AwaitedT]], wait: Callable[[AwaitedT], None]) -> None:
    """Carry out trainings of which each yields what it misses of another, and tries again at its next turn.

    Of the members of a cohort, whoever is furthest behind misses nothing: so there is always one that goes on, and all
    end with the weights that they would have on workers of their own. If none does, what the first one misses cannot
    come from here, and is waited for.
    """
    missed: list[AwaitedT] = []
    while trainings:
        tried = [(training, next(training, None)) for training in trainings]
        trainings = [training for training, awaited in tried if awaited is not None]
        missing = [awaited for _, awaited in tried if awaited is not None]
        if missing and missing == missed:
            wait(missing[0])
        missed = missing
