"""Random numbers that belong to a row of a label set, so that a row that is labelled again gets the same bytes."""

import math

import numpy as np


def draws_of(labels: str, number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return uniform float64s in [0, 1) for shard `number`, `[rows, ...]`: what `labels`, an identity, and places name.

    Philox counts, so its bits are the same in every version of numpy, unlike what a numpy `Generator` makes of them.
    """
    bits = np.random.Philox(key=np.array([int(labels, 16), number], np.uint64)).random_raw(math.prod(shape))
    return (bits >> np.uint64(11)).reshape(shape) * 2.0**-53
