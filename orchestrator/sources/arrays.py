"""What every source yields: rows in memory, in the order in which they lie in the source."""

from dataclasses import dataclass

import numpy as np

from orchestrator.sources.errors import SourceFormatError
from orchestrator.sources.quarantine import BadRow

_MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class Rows:
    """Columns `[rows, *shape]` and the class index of every row, int32."""

    columns: dict[str, np.ndarray]
    labels_N: np.ndarray
    numbers_N: np.ndarray | None = None
    """Number of each row in the source, where some were left out; by default 0, 1, …"""

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True)
class SourceRows:
    """Training and test rows, as the source divides them, and the names of the classes."""

    train: Rows
    test: Rows
    classes: tuple[str, ...]
    bad: tuple[BadRow, ...] = ()
    """Rows that are left out."""


def class_indices(labels: np.ndarray, *, where: str) -> np.ndarray:
    """Return labels as int32 `[rows]`.

    Raises:
        SourceFormatError: there are none, or they are not the indices of at most a million classes.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise SourceFormatError(where, f"labels of {labels.dtype} {list(labels.shape)}", "integers, one for each row")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= _MOST_CLASSES:
        raise SourceFormatError(where, f"labels from {low} to {high}", f"0 to at most {_MOST_CLASSES - 1}")
    return labels.astype(np.int32)
