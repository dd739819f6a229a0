"""Numbers that look random and are not: SplitMix64, the same under every version of Python and numpy."""

from typing import TypeVar

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
"""What the state of the generator grows by from one number to the next."""

_MASK = 0xFFFFFFFFFFFFFFFF

WordsT = TypeVar("WordsT", int, np.ndarray)


def hash_of(key: tuple[int, ...]) -> int:
    """Return the 64 bits that some numbers name."""
    state = 0
    for part in key:
        state = splitmix64((state ^ part) & _MASK)
    return state


def splitmix64(values: WordsT) -> WordsT:
    """Hash one word, or each word of an array, whose arithmetic wraps around by itself; a bijection."""
    mixed = (values + GOLDEN) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
