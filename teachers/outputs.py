"""What a teacher emits, checked before it may be stored, and what a commit tells of it."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from cluster.errors import TeacherError

_LARGEST = float(np.finfo(np.float16).max)

Entry = Literal["class", "channel", "value"]

_PLURALS = {"class": "classes", "channel": "channels", "value": "the axes of a tap"}
_KINDS = {"class": "logits", "channel": "hidden states", "value": "outputs of the tapped module"}
_ENTROPY, _CONFIDENCE = "entropy", "confidence"


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


def check_shape(
    values: torch.Tensor, shape: tuple[int, ...], *, teacher: str, shard: int, entry: Entry = "class"
) -> None:
    """Refuse logits or taps that are not of `shape`.

    Raises:
        OutputRefusedError: with both shapes.
    """
    if values.shape != shape:
        found, expected = f"an output of shape {list(values.shape)}", f"{list(shape)}: rows, {_PLURALS[entry]}"
        raise OutputRefusedError(teacher, shard, found, expected)


def check_values(values: torch.Tensor, *, teacher: str, shard: int, first_row: int = 0, entry: Entry = "class") -> None:
    """Refuse logits, hidden states or taps `[rows, ...]` that are not finite, or do not fit into float16.

    Raises:
        OutputRefusedError: with the first row that is wrong; `values` begin with row `first_row` of the shard.
    """
    wrong = ~(values.abs() <= _LARGEST)  # also true of NaN
    if wrong.any():
        row, *position, place = wrong.nonzero()[0].tolist()
        at = "".join(f", position {part}" for part in position)
        found = f"{values[(row, *position, place)].item()} for {entry} {place} in row {first_row + row}{at}"
        raise OutputRefusedError(teacher, shard, found, f"finite {_KINDS[entry]} of at most {_LARGEST:.0f}")


def figures_of(logits: torch.Tensor) -> dict[str, np.ndarray]:
    """Return entropy (nats) and highest probability of each row, float32 `[rows, *positions]`."""
    log_probs = torch.log_softmax(logits, dim=-1)
    probabilities = log_probs.exp()
    return {
        _ENTROPY: -(probabilities * log_probs).sum(dim=-1).cpu().numpy(),
        _CONFIDENCE: probabilities.amax(dim=-1).cpu().numpy(),
    }


def statistics_of(outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
    """Return what a commit tells of its labels: mean entropy (nats) and mean highest probability."""
    return {
        "mean_entropy": round(float(outputs[_ENTROPY].mean(dtype=np.float64)), 6),
        "mean_confidence": round(float(outputs[_CONFIDENCE].mean(dtype=np.float64)), 6),
    }
