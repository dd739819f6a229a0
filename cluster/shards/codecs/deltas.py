"""Descending values as small integers: the steps from each to the next, quantised in a closed loop.

    c_k = c_{k-1} + q_k²,   v_k ≈ v_0 - c_k R / m²,   q_k the integer in [0, m] that brings c_k nearest to its aim

Each step aims from where the reader will be, not from where the true values are, so errors do not add up: no value is
off by more than half a step. Squares make small steps fine and large ones coarse: the values of likely classes, which
carry the mass, lie close to each other. R is the largest step of the row. `c_k` are integers, so what the reader
computes is what the writer saw, bit by bit. Legend: K values, the last axis.
"""

from typing import Literal

import numpy as np

Bits = Literal[4, 8]

_LARGEST = float(np.finfo(np.float16).max)


def packed_bytes(count: int, bits: Bits) -> int:
    """Return the bytes that the steps of `count` values take."""
    return -(-(count - 1) * bits // 8)


def pack_deltas(values: np.ndarray, *, bits: Bits) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of descending, finite `values` `[..., K]`, uint8 `[..., packed_bytes]`, and R, float16 `[...]`.

    The first value is not stored.
    """
    depths = values[..., :1].astype(np.float64) - values
    scales = _rounded_up(np.diff(depths, axis=-1).max(axis=-1, initial=0))
    top = 2**bits - 1
    units = np.divide(top**2, scales, out=np.zeros(scales.shape), where=scales > 0, dtype=np.float64)
    steps = np.zeros((*depths.shape[:-1], _padded(depths.shape[-1] - 1, bits)), np.uint8)
    reached = np.zeros_like(units)
    for place in range(depths.shape[-1] - 1):
        missing = depths[..., place + 1] * units - reached
        # The square nearest to x is that of this integer, not of the one nearest to sqrt(x).
        step = np.minimum(np.floor(np.sqrt(np.maximum(missing - 0.25, 0)) + 0.5), top)
        reached += step**2
        steps[..., place] = step
    return (steps if bits == 8 else steps[..., 0::2] << 4 | steps[..., 1::2]), scales


def unpack_deltas(packed: np.ndarray, scales: np.ndarray, *, count: int, bits: Bits) -> np.ndarray:
    """Return the `count` values less the first, float32 `[..., count]`: 0, then descending."""
    depths = np.zeros((*packed.shape[:-1], count), np.int32)
    if bits == 8:
        np.square(packed, out=depths[..., 1:], dtype=np.int32)
    else:
        np.square(packed[..., : count // 2] >> 4, out=depths[..., 1::2], dtype=np.int32)
        np.square(packed[..., : (count - 1) // 2] & 15, out=depths[..., 2::2], dtype=np.int32)
    np.cumsum(depths, axis=-1, out=depths)
    units = scales.astype(np.float32) / -((2**bits - 1) ** 2)
    values: np.ndarray = np.multiply(depths, units[..., None], dtype=np.float32, casting="same_kind")
    return values


def _rounded_up(values: np.ndarray) -> np.ndarray:
    """Return float16s that are not smaller, so that no step is out of reach."""
    rounded: np.ndarray = np.minimum(values, _LARGEST).astype(np.float16)
    rounded[rounded < values] = np.nextafter(rounded, np.float16(_LARGEST))[rounded < values]
    return rounded


def _padded(count: int, bits: Bits) -> int:
    return count if bits == 8 else count + count % 2
