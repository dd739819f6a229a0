"""The label sets of one view of the rows, opened for reading."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.verified import Fetch
from cluster.shards.views.spec import View
from cluster.storage.protocol import ObjectStore
from students.stored_taps import StoredTaps
from students.task import Target, TrainingTask


class ViewLabels:
    """What teachers say of the rows as they are seen in one view."""

    def __init__(
        self, store: ObjectStore, task: TrainingTask, parts: Sequence[Target], view: View | None, fetch: Fetch
    ) -> None:
        """`parts` are those of the task's targets that are used."""
        self.targets = [LogitsReader(_open_labels(store, part.labels.seen(view), fetch)) for part in parts]
        self.taps = [
            StoredTaps(_open_labels(store, record.seen(view), fetch), task.modules_of(record.teacher))
            for record in task.stored_taps
        ]

    def readers(self) -> Iterator[tuple[LabelSet, Callable[[int], dict[str, np.ndarray]]]]:
        """Yield label sets, and what reads a shard of them: first those with targets, then those with taps."""
        yield from ((reader.labels, reader.columns) for reader in self.targets)
        yield from ((taps.labels, taps.read) for taps in self.taps)


def _open_labels(store: ObjectStore, record: LabelSetRecord, fetch: Fetch) -> LabelSet:
    labels = LabelSet(store, record, fetch=fetch)
    if labels.is_sealed():
        labels.load_manifest()
    return labels
