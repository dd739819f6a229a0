"""A small data set and a teacher for it, whose attempts differ in the last bits, as on two kinds of GPU."""

import numpy as np

from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import LABEL, ROW, Column

NUM_SHARDS = 3
ROWS = 64
"""Rows of one shard, so that half of its bytes are values."""
DATASET = "d" * 16
CLASSES = ("red", "green", "blue", "white")
RECORD = LabelSetRecord(
    teacher="wide",
    teacher_identity="1" * 16,
    dataset=DATASET,
    columns=(Column(name="logits", dtype="float16", shape=(len(CLASSES),)),),
)


def inputs() -> dict[str, np.ndarray]:
    """Return the rows of the data set; every row holds its own number."""
    numbers = np.arange(NUM_SHARDS * ROWS, dtype=np.int32)
    return {ROW: numbers, LABEL: numbers % len(CLASSES)}


def outputs(number: int, attempt: int) -> dict[str, np.ndarray]:
    """Return what the teacher says of a shard; attempts of equal parity run on the same kind of hardware."""
    kind = attempt % 2
    rows = np.arange(number * ROWS, (number + 1) * ROWS)
    return {"logits": (rows[:, None] + np.array([[kind / 2, 1, 2, 3]])).astype(np.float16)}
