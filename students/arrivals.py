"""Label shards that others are still writing: waiting for one, and giving up when none of them comes any more."""

import time
from collections.abc import Callable
from functools import partial

from cluster.errors import TrainingError
from cluster.shards.labelset import LabelSet
from cluster.storage.lull import Lull

_POLL_S = 0.1


class LabelsLateError(TrainingError):
    """Training follows a label set that has stopped growing."""

    def __init__(self, where: str, number: int, timeout_s: float) -> None:
        super().__init__(where, number, timeout_s)
        self.where, self.number, self.timeout_s = where, number, timeout_s

    def __str__(self) -> str:
        return (
            f"{self.where}: shard {self.number} was not committed, nor any other within {self.timeout_s:.0f} s. "
            "Training follows the teachers and these have stopped; see what they say, then run the same command again: "
            "it continues."
        )


def await_shard(
    labels: LabelSet,
    number: int,
    *,
    timeout_s: float,
    clock_s: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Return once shard `number` is committed.

    Raises:
        LabelsLateError: no shard of the set was committed for `timeout_s`, outages of the store not counted.
    """
    lull, num_committed = Lull(timeout_s, clock_s=clock_s), -1
    while lull.look(partial(labels.committed, number)) is None:
        if num_committed < 0 or lull.is_over:
            # Shards may arrive in the order of another training, and this one be the last of them.
            num_before, num_committed = num_committed, len(lull.look(labels.committed_numbers))
            if num_committed > num_before:
                lull.begin()
            elif lull.is_over:
                raise LabelsLateError(f"{labels.store.uri}/{labels.record.prefix}", number, timeout_s)
        pause(_POLL_S)
