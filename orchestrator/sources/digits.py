"""The handwritten digits that scikit-learn ships."""

import importlib.util
from pathlib import Path

import numpy as np

from cluster.shards.order import permutation
from orchestrator.sources.arrays import Rows
from orchestrator.sources.errors import TooFewLabelsError

CLASSES = tuple("0123456789")


def digits_file() -> Path:
    """Return the file inside scikit-learn, without importing it."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None, "scikit-learn is a dependency of this package"  # noqa: S101
    assert spec.origin is not None  # noqa: S101
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def read_digits(test_rows: int, *, seed: int) -> tuple[Rows, Rows]:
    """Return training and test rows; images are uint8 `[rows, 8, 8]` with values from 0 to 240.

    Raises:
        TooFewLabelsError: no row would be left for training.
    """
    table = np.loadtxt(digits_file(), delimiter=",", dtype=np.int32)
    if test_rows >= len(table):
        raise TooFewLabelsError("data.read.test", test_rows, len(table) - 1)
    images = (table[:, :-1].reshape(-1, 8, 8) * 15).astype(np.uint8)  # stored as 0 to 16
    order = permutation(len(table), seed)
    parts = order[test_rows:], order[:test_rows]
    train, test = (Rows({"image": images[part]}, table[part, -1]) for part in parts)
    return train, test
