"""Everything that a training reads of label sets: columns zipped with those of input shards, and what they say."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from cluster.shards.codecs.sparse import SparseLabels
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.order import EpochOrder
from students.objectives.term import TeacherTap
from students.stored_labels import RowsInPlace, StoredLabels, shards_in_use
from students.task import Target, TrainingTask

ROWS = ".rows"
"""The numbers of the rows: beside stored columns, whose names have no dot."""

_WINDOWS_BYTES = 256 * 1024 * 1024
"""Labels that would take more in the windows of all lanes wait in their shards, and change no order."""
_MOST_FILES = 512
"""That stay open at once: half of what systems let a process open."""

Stored = Sequence[Mapping[str, np.ndarray]]
"""The columns of each label set, by their own names, for the same rows."""


class LabelColumns:
    """The label sets of the teachers that are matched, and of those whose modules terms read; each is opened once."""

    def __init__(
        self, task: TrainingTask, parts: Sequence[Target], open_labels: Callable[[LabelSetRecord], LabelSet]
    ) -> None:
        """`parts` are those of the target that have a say, if terms read the target."""
        records = list(dict.fromkeys([*(part.labels for part in parts), *task.stored_taps]))
        self._target_places = [records.index(part.labels) for part in parts]
        self._sets = [
            StoredLabels(
                open_labels(record),
                with_logits=place in self._target_places,
                modules=task.modules_of(record.teacher),
            )
            for place, record in enumerate(records)
        ]
        self._in_place: RowsInPlace | None = None

    @property
    def label_sets(self) -> list[LabelSet]:
        """The sets themselves."""
        return [stored.labels for stored in self._sets]

    @property
    def needs_rows(self) -> bool:
        """Whether the column `ROWS` has to be among those of a window."""
        return self._in_place is not None

    def keep_within(self, order: EpochOrder, *, num_lanes: int, are_files: bool) -> None:
        """Leave labels in their shards if the windows of so many lanes could not hold them, and shards are mapped.

        `are_files`: what is fetched of a shard is a mapped file.
        """
        if num_lanes * order.window_rows * sum(stored.row_bytes for stored in self._sets) <= _WINDOWS_BYTES:
            return
        open_shards = shards_in_use(order, num_lanes=num_lanes)
        is_compressed = any(labels.record.compression != "none" for labels in self.label_sets)
        if are_files and not is_compressed and open_shards * len(self._sets) <= _MOST_FILES:
            self._in_place = RowsInPlace(self._sets, order.shard_rows, open_shards=open_shards)

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Return the columns that windows hold of the shards of this number, which are committed.

        Raises:
            UnequalRowsError: a label set whose rows stay in the shard has other rows than the input shard.
        """
        if self._in_place is not None:
            self._in_place.open(number)
            return {}
        return {
            _prefix(place) + name: array
            for place, stored in enumerate(self._sets)
            for name, array in stored.read(number).items()
        }

    def stored(self, arrays: Mapping[str, np.ndarray]) -> Stored:
        """Return what is stored for the rows of a batch; `arrays` are its columns, as windows gave them."""
        places = range(len(self._sets))
        if self._in_place is not None:
            return [self._in_place.rows(place, arrays[ROWS]) for place in places]
        return [
            {name.removeprefix(_prefix(it)): array for name, array in arrays.items() if name.startswith(_prefix(it))}
            for it in places
        ]

    def logits(self, stored: Stored, *, temperature: float) -> list[np.ndarray]:
        """Return the raw logits `[N, C]` of each teacher with a say."""
        return [
            self._sets[place].logits.decode(stored[place], temperature=temperature) for place in self._target_places
        ]

    def sparse(self, stored: Stored, *, temperature: float) -> SparseLabels:
        """Return what the only teacher's labels hold of its distribution."""
        (place,) = self._target_places
        return self._sets[place].logits.decode_sparse(stored[place], temperature=temperature)

    def taps(self, stored: Stored) -> dict[TeacherTap, torch.Tensor]:
        """Return the outputs of modules, float32 `[N, ...]`."""
        return {
            tap: output
            for labels, columns in zip(self._sets, stored, strict=True)
            for tap, output in labels.taps(columns).items()
        }

    def shapes(self) -> dict[TeacherTap, tuple[int, ...]]:
        """Return the shape of a row of each of these."""
        return {tap: shape for stored in self._sets for tap, shape in stored.shapes().items()}


def _prefix(place: int) -> str:
    # Stored columns have no dot in their names, so these can never clash with one.
    return f"{place}."
