"""The shortest mixture of a few vectors: a small quadratic program, solved exactly. K vectors of D numbers."""

import numpy as np

_TOLERANCE = 1e-12
"""Relative to the mean square of the vectors' lengths."""
_MOST_FACES = 100
"""For each vector; a few are usual."""


def min_norm_shares(vectors_KD: np.ndarray, *, cap: float) -> np.ndarray:
    """Return w, float64 `[K]`: of all w with Σ w = 1 and 0 <= w <= `cap`, one with the least ‖Σ_k w_k v_k‖.

    If all are equal, so are the shares. A `cap` that no shares can keep, below 1 / K, gives equal shares, and so do
    vectors that are not finite.
    """
    count = len(vectors_KD)
    equal = np.full(count, 1 / count)
    if cap * count <= 1 or not np.isfinite(vectors_KD).all():
        return equal
    gram_KK = vectors_KD @ vectors_KD.T
    size = float(np.trace(gram_KK)) / count
    return equal if size == 0.0 else _descend(gram_KK / size, equal, cap)


def _descend(gram_KK: np.ndarray, shares: np.ndarray, cap: float) -> np.ndarray:
    """Walk to the minimum, from face to face of the polytope of allowed shares (an active-set method)."""
    is_free = np.ones(len(shares), dtype=bool)
    just_released = list[int]()
    for _ in range(_MOST_FACES * len(shares)):
        best = _minimum_on_face(gram_KK, shares, is_free)
        step, blocking = _longest_step(shares, best, is_free, cap)
        # Each face is left for a lower value, until rounding is all that is left of the differences.
        if blocking in just_released and step <= _TOLERANCE:
            break
        shares = shares + step * (best - shares)
        if blocking is not None:
            shares[blocking] = 0.0 if best[blocking] < 0 else cap
            is_free[blocking] = False
            continue
        just_released = _released(gram_KK @ shares, is_free, is_capped=shares > cap / 2)
        if not just_released:
            break
        is_free[just_released] = True
    kept: np.ndarray = shares.clip(0.0, cap)
    return kept


def _minimum_on_face(gram_KK: np.ndarray, shares: np.ndarray, is_free: np.ndarray) -> np.ndarray:
    """Return the shares with the least value if those that are not free stay as they are; bounds do not count."""
    free, held = np.flatnonzero(is_free), np.flatnonzero(~is_free)
    best = shares.copy()
    if len(free) > 0:
        base = np.full(len(free), (1 - shares[held].sum()) / len(free))
        slopes = gram_KK[np.ix_(free, free)] @ base + gram_KK[np.ix_(free, held)] @ shares[held]
        keeps_sum = np.eye(len(free)) - 1 / len(free)
        curvature = keeps_sum @ gram_KK[np.ix_(free, free)] @ keeps_sum
        values, axes = np.linalg.eigh(curvature)
        # The shortest way to the minimum: where vectors are equal or dependent, there are many.
        curved = values > _TOLERANCE
        best[free] = base - axes[:, curved] @ (axes[:, curved].T @ slopes / values[curved])
    return best


def _longest_step(shares: np.ndarray, best: np.ndarray, is_free: np.ndarray, cap: float) -> tuple[float, int | None]:
    """Return the part of the way to `best` that keeps to the bounds, and who stops it; 1 and None if nobody does."""
    step, blocking = 1.0, None
    for place in np.flatnonzero(is_free):
        if -_TOLERANCE <= best[place] <= cap + _TOLERANCE:
            continue
        bound = 0.0 if best[place] < 0 else cap
        possible = max(0.0, float((bound - shares[place]) / (best[place] - shares[place])))
        if blocking is None or possible < step:
            step, blocking = possible, int(place)
    return step, blocking


def _released(slopes: np.ndarray, is_free: np.ndarray, *, is_capped: np.ndarray) -> list[int]:
    """Return which shares have to leave their bounds so that the value falls; none at the minimum."""
    # A share may grow unless it is capped, and shrink unless it is 0: the best trade is between the two extremes.
    may_grow, may_shrink = np.flatnonzero(is_free | ~is_capped), np.flatnonzero(is_free | is_capped)
    if len(may_grow) == 0 or len(may_shrink) == 0:
        return []
    grows, shrinks = may_grow[slopes[may_grow].argmin()], may_shrink[slopes[may_shrink].argmax()]
    if slopes[shrinks] - slopes[grows] <= _TOLERANCE:
        return []
    return [int(place) for place in (grows, shrinks) if not is_free[place]]
