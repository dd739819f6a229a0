"""What a teacher emits, checked before it may be stored."""

from collections.abc import Mapping

import numpy as np

from cluster.errors import TeacherError
from cluster.shards.labelset import LOGITS
from cluster.shards.schema import Column

_LARGEST = float(np.finfo(np.float16).max)


class OutputRefusedError(TeacherError):
    """A teacher's output must not be learnt from."""

    def __init__(self, teacher: str, shard: int, found: str, expected: str) -> None:
        super().__init__(teacher, shard, found, expected)
        self.teacher, self.shard, self.found, self.expected = teacher, shard, found, expected

    def __str__(self) -> str:
        return (
            f"teacher {self.teacher}, shard {self.shard}: found {self.found}, expected {self.expected}. Nothing "
            "of this shard was stored. Check the teacher's weights and its `inputs`."
        )


def logits_column(num_classes: int) -> Column:
    """Return the column of dense logits: raw float16, from which every temperature and fusion follows later."""
    return Column(name=LOGITS, dtype="float16", shape=(num_classes,))


def check_logits(logits: np.ndarray, *, rows: int, num_classes: int, teacher: str, shard: int) -> None:
    """Refuse logits that are not finite, do not fit into float16, or are not `[rows, num_classes]`.

    Raises:
        OutputRefusedError: with the first row that is wrong.
    """
    if logits.shape != (rows, num_classes):
        found, expected = f"an output of shape {list(logits.shape)}", f"[{rows}, {num_classes}]: rows, classes"
        raise OutputRefusedError(teacher, shard, found, expected)
    wrong = ~(np.abs(logits) <= _LARGEST)  # also true of NaN
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        found = f"{logits[row, place]} for class {place} in row {row}"
        raise OutputRefusedError(teacher, shard, found, f"finite logits of at most {_LARGEST:.0f}")


def encode_logits(logits_NC: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns to store; float16 costs 1e-7 nats where bfloat16 costs 70 times as much."""
    return {LOGITS: logits_NC.astype(np.float16)}


def statistics_of(logits_NC: np.ndarray) -> Mapping[str, float]:
    """Return what a commit tells of its labels: mean entropy (nats) and mean highest probability."""
    shifted = logits_NC - logits_NC.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted)
    totals = probabilities.sum(axis=1, keepdims=True)
    probabilities /= totals
    entropy = np.log(totals[:, 0]) - (probabilities * shifted).sum(axis=1)
    return {
        "mean_entropy": round(float(entropy.mean()), 6),
        "mean_confidence": round(float(probabilities.max(axis=1).mean()), 6),
    }
