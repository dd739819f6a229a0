"""Trainings of a cohort in one group of workers, where there is no room for a group for each."""

from collections.abc import Sequence

from cluster.storage.protocol import ObjectStore
from students.group import Group
from students.loop import turns
from students.task import Execution, TrainingTask


def train_in_turns(
    store: ObjectStore, tasks: Sequence[TrainingTask], execution: Execution, groups: Sequence[Group]
) -> None:
    """Carry out all members' trainings, each in a group of its own over the same workers.

    Each goes on until something of a peer is missing, and whoever is furthest behind misses nothing. So nobody waits,
    and all end with the weights that they would have on workers of their own.
    """
    unfinished = [turns(store, task, execution, group) for task, group in zip(tasks, groups, strict=True)]
    while unfinished:
        unfinished = [training for training in unfinished if next(training, _DONE) is not _DONE]


_DONE = object()
