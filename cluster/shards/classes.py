"""The classes of a label set among those of its data set: a specialist's distributions are over some of them."""

from dataclasses import dataclass

import numpy as np

from cluster.errors import DataError
from cluster.shards.dataset import DatasetRecord, dataset_key
from cluster.shards.labelset import LabelSet
from cluster.shards.records import read_record


class ForeignClassError(DataError):
    """A label set names a class that its data set does not have."""

    def __init__(self, where: str, name: str, dataset: str) -> None:
        super().__init__(where, name, dataset)
        self.where, self.name, self.dataset = where, name, dataset

    def __str__(self) -> str:
        return (
            f"{self.where}: it names the class {self.name!r}; expected classes of the data set {self.dataset}. Delete "
            "the label set and run the same command again: its teacher labels anew."
        )


@dataclass(frozen=True)
class Widening:
    """Lays logits over some classes among those over all classes. C classes, K of them known."""

    places: tuple[int, ...]
    """Of each known class among all, in the order of the teacher's outputs."""
    num_classes: int

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Return `[..., C]` of `[..., K]`: minus infinity for a class of which the teacher says nothing."""
        wide = np.full((*logits.shape[:-1], self.num_classes), -np.inf, logits.dtype)
        wide[..., list(self.places)] = logits
        return wide


def widening_of(labels: LabelSet) -> Widening | None:
    """Return how the logits of a label set are laid among its data set's classes; None if they are over all of them.

    Raises:
        ForeignClassError: the data set has no such class.
    """
    record = labels.record
    if not record.classes:
        return None
    among = read_record(labels.store, dataset_key(record.dataset), DatasetRecord).classes
    if unknown := [name for name in record.classes if name not in among]:
        raise ForeignClassError(f"{labels.store.uri}/{record.prefix}", unknown[0], record.dataset)
    return Widening(tuple(among.index(name) for name in record.classes), len(among))


def known_classes(logits_NC: np.ndarray) -> np.ndarray:
    """Return the places of the classes of which logits `[N, C]` say anything on some row."""
    known: np.ndarray = np.flatnonzero(np.isfinite(logits_NC).any(axis=0))
    return known
