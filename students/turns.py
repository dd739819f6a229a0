"""Work that is done by turns."""

from collections.abc import Iterator, Sequence


def take_turns(trainings: Sequence[Iterator[object]]) -> None:
    """Carry out trainings of which each yields when something of another is missing, and tries again at its next turn.

    Of the members of a cohort, whoever is furthest behind misses nothing: so there is always one that goes on, and all
    end with the weights that they would have on workers of their own.
    """
    while trainings:
        trainings = [training for training in trainings if next(training, _DONE) is not _DONE]


_DONE = object()
