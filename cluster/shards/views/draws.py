"""Random numbers that belong to a row, whoever asks and whatever rows are beside it: SplitMix64, seeded by a hash.

They are integers until the last moment, and are made into numbers by operations that IEEE 754 rounds correctly, so that
every machine gets the same.
"""

from functools import cache

import numpy as np

from cluster.shards.hashing import GOLDEN, hash_of, splitmix64

UNIT = 65536
"""What shares and angles are multiples of a part of: coarse enough to hide the last digit of a library's function."""


def bits_of(key: tuple[int, ...], rows_N: np.ndarray, count: int) -> np.ndarray:
    """Return uniform uint64s for rows of these numbers, `[N, count]`."""
    seeds_N = splitmix64(rows_N.astype(np.uint64) ^ np.uint64(hash_of(key)))
    steps = np.arange(count, dtype=np.uint64) * np.uint64(GOLDEN)
    return splitmix64(seeds_N[:, None] + steps)


def shares_from(bits: np.ndarray) -> np.ndarray:
    """Return float64s uniform in (0, 1)."""
    return ((bits >> np.uint64(11)) + 0.5) * 2.0**-53


def integers_from(bits: np.ndarray, count: int) -> np.ndarray:
    """Return int64s uniform in `range(count)`, for a `count` below 2**32."""
    return ((bits >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def normals_for(key: tuple[int, ...], rows_N: np.ndarray, count: int) -> np.ndarray:
    """Return float32s of the standard normal distribution for rows of these numbers, `[N, count]`; at most 4.3."""
    words = bits_of(key, rows_N, -(-count // 4)).astype("<u8").view("<u2")
    found: np.ndarray = _normal_quantiles()[words[:, :count]]
    return found


def betas_from(bits: np.ndarray, concentration: float) -> np.ndarray:
    """Return draws of Beta(`concentration`, `concentration`) as int64, in parts of `UNIT`."""
    from scipy.special import betaincinv

    found = betaincinv(concentration, concentration, shares_from(bits))
    parts: np.ndarray = np.rint(found * UNIT).astype(np.int64)
    return parts


@cache
def _normal_quantiles() -> np.ndarray:
    from scipy.special import ndtri

    quantiles: np.ndarray = ndtri((np.arange(UNIT) + 0.5) / UNIT)
    return quantiles.astype(np.float32)
