"""Rows blended with others of their shard: mixup (1710.09412) and CutMix (1905.04899).

Whoever trains on such rows asks the teachers what they say of the blend itself (2106.05237), so nothing is assumed of
their labels between two rows; the hard label becomes two labels and a share.
"""

from dataclasses import dataclass

import numpy as np

from cluster.shards.views.draws import UNIT, betas_from, bits_of, integers_from
from cluster.shards.views.images import stored_as
from cluster.shards.views.spec import View

_DRAWS = 5
_PLACE = 2**32
"""In the key of the draws, where augmentations have their place in the list: other augmentations, same partners."""


@dataclass(frozen=True)
class Mixing:
    """Who is blended with whom, and how. N rows of a shard."""

    partners_N: np.ndarray
    """int64; the place of each row's partner, which is never the row itself unless it is alone."""
    parts_N: np.ndarray
    """int64; the row's own share, in parts of `UNIT`."""
    is_cut_N: np.ndarray
    """Whether a box of the partner is pasted in place of blending the whole."""
    middles_N2: np.ndarray
    """uint64 bits that say where a box has its middle."""


def mixing_of(view: View, rows_N: np.ndarray) -> Mixing:
    """Draw partners and shares for the rows of a shard, given by their numbers."""
    bits_NK = bits_of((view.seed, view.number, _PLACE), rows_N, _DRAWS)
    order = np.argsort(bits_NK[:, 0], kind="stable")
    partners_N = np.empty_like(order)
    partners_N[order] = np.roll(order, -1)
    both = view.mixup is not None and view.cutmix is not None
    is_cut_N = bits_NK[:, 1] >> np.uint64(63) == 1 if both else np.full(len(rows_N), view.cutmix is not None)
    parts_N = np.zeros(len(rows_N), np.int64)
    for concentration, chosen_N in ((view.mixup, ~is_cut_N), (view.cutmix, is_cut_N)):
        if concentration is not None:
            parts_N[chosen_N] = betas_from(bits_NK[chosen_N, 2], concentration)
    return Mixing(partners_N, parts_N, is_cut_N, bits_NK[:, 3:5])


def own_shares(mixing: Mixing, size: tuple[int, int]) -> np.ndarray:
    """Return the share of each row in what is seen, float32 `[N]`; where a box is pasted, its share of the pixels."""
    shares_N = mixing.parts_N / UNIT
    if mixing.is_cut_N.any():
        top, bottom, left, right = _boxes(mixing, *size)
        shares_N = np.where(mixing.is_cut_N, 1 - (bottom - top) * (right - left) / (size[0] * size[1]), shares_N)
    return shares_N.astype(np.float32)


def blended(images: np.ndarray, mixing: Mixing, rows: slice) -> np.ndarray:
    """Return some rows of `images`, `[N, C, H, W]`, as they are seen."""
    own, other = images[rows], images[mixing.partners_N[rows]]
    parts_N, is_cut_N = mixing.parts_N[rows, None, None, None], mixing.is_cut_N[rows, None, None, None]
    if not is_cut_N.any():
        return _blend(own, other, parts_N)
    height, width = images.shape[2:]
    top, bottom, left, right = (edge[rows, None, None, None] for edge in _boxes(mixing, height, width))
    y, x = np.arange(height)[:, None], np.arange(width)
    is_pasted = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    cut = np.where(is_pasted, other, own)
    return cut if is_cut_N.all() else np.where(is_cut_N, cut, _blend(own, other, parts_N))


def _blend(own: np.ndarray, other: np.ndarray, parts: np.ndarray) -> np.ndarray:
    if own.dtype.kind == "u":
        own_parts = parts.astype(np.uint32)
        blend: np.ndarray = (own_parts * own + (UNIT - own_parts) * other + UNIT // 2) // UNIT
        return blend.astype(own.dtype)
    shares = (parts / UNIT).astype(np.float32)
    return stored_as(shares * own + (1 - shares) * other, own.dtype)


def _boxes(mixing: Mixing, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return top, bottom, left and right of each row's box, which ends where the image does; int64 `[N]`."""
    edges = []
    for axis, length in enumerate((height, width)):
        middles_N = integers_from(mixing.middles_N2[:, axis], length)
        sides_N = np.floor(np.sqrt(1 - mixing.parts_N / UNIT) * length).astype(np.int64)
        edges += [np.maximum(0, middles_N - sides_N // 2), np.minimum(length, middles_N - sides_N // 2 + sides_N)]
    top, bottom, left, right = edges
    return top, bottom, left, right
