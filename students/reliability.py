"""Reliability diagrams and the expected calibration error (Guo et al. 2017, 1706.04599). N rows, C classes."""

from typing import Annotated

import numpy as np
from pydantic import Field

from cluster.config import Config

NUM_BINS = 15

Share = Annotated[float, Field(ge=0, le=1)]


class ReliabilityBin(Config):
    """Rows whose highest probability lies in `[low, high)`; the last bin includes 1."""

    low: Share
    high: Share
    rows: int
    confidence: Share
    """Mean highest probability of these rows; 0 if there are none."""
    accuracy: Share


def reliability(logits_NC: np.ndarray, labels_N: np.ndarray) -> tuple[ReliabilityBin, ...]:
    """Return the reliability diagram in 15 equal bins of the highest probability (Guo et al. 2017, 1706.04599)."""
    probabilities = _softmax(logits_NC)
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels_N
    place = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    rows = np.bincount(place, minlength=NUM_BINS)
    confidences = np.bincount(place, confidence, NUM_BINS) / np.maximum(rows, 1)
    accuracies = np.bincount(place, hits, NUM_BINS) / np.maximum(rows, 1)
    return tuple(
        ReliabilityBin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            rows=int(rows[number]),
            confidence=min(1.0, float(confidences[number])),
            accuracy=float(accuracies[number]),
        )
        for number in range(NUM_BINS)
    )


def ece(bins: tuple[ReliabilityBin, ...]) -> float:
    """Return the expected calibration error: mean |accuracy - confidence| over bins, weighted by rows."""
    total = sum(part.rows for part in bins)
    return sum(part.rows * abs(part.accuracy - part.confidence) for part in bins) / max(1, total)


def _softmax(logits_NC: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
