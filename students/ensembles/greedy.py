"""Forward selection of teachers, with replacement (Caruana et al. 2004, Ensemble Selection from Libraries of Models).

    S_0 = {},   S_r = S_{r-1} + the teacher with which the combination of S_r does best on the held-out rows
    w_k = how often k is in S_r, over r, for the best r <= 50; among equals the first

What counts is the NLL, or the accuracy and among equals the NLL. A teacher that is never picked has no say at all.
"""

from collections.abc import Sequence

import numpy as np
import torch

from students.fusion import fuse
from students.metrics import accuracy, nll
from students.spec import Combine, Merit

_ROUNDS = 50
_CLEARLY = 1e-6
"""A smaller gain is rounding."""


def select_greedily(
    logits_KNC: Sequence[np.ndarray], labels_N: np.ndarray, *, combine: Combine, by: Merit
) -> tuple[float, ...]:
    """Return the share of each teacher, which sum to 1; 0 for those that are left out."""
    tensors = [torch.from_numpy(logits_NC) for logits_NC in logits_KNC]
    counts = best = (0,) * len(tensors)
    best_merit = (-np.inf, -np.inf)
    for _ in range(_ROUNDS):
        grown = [_with(counts, teacher) for teacher in range(len(tensors))]
        merits = [_merit(tensors, labels_N, each, combine=combine, by=by) for each in grown]
        chosen = _first_best(merits)
        counts = grown[chosen]
        if _is_better(merits[chosen], best_merit):
            best, best_merit = counts, merits[chosen]
    return tuple(count / sum(best) for count in best)


def _with(counts: tuple[int, ...], teacher: int) -> tuple[int, ...]:
    return (*counts[:teacher], counts[teacher] + 1, *counts[teacher + 1 :])


def _merit(
    logits_KNC: Sequence[torch.Tensor], labels_N: np.ndarray, counts: Sequence[int], *, combine: Combine, by: Merit
) -> tuple[float, float]:
    used = [(logits, count) for logits, count in zip(logits_KNC, counts, strict=True) if count]
    fused_NC = fuse([logits for logits, _ in used], combine=combine, weights=[count for _, count in used]).numpy()
    likelihood = -nll(fused_NC, labels_N)
    return (accuracy(fused_NC, labels_N) if by == "accuracy" else likelihood, likelihood)


def _first_best(merits: Sequence[tuple[float, float]]) -> int:
    best = 0
    for place, merit in enumerate(merits):
        if _is_better(merit, merits[best]):
            best = place
    return best


def _is_better(merit: tuple[float, float], than: tuple[float, float]) -> bool:
    gains = [ours - theirs for ours, theirs in zip(merit, than, strict=True)]
    return next((gain > 0 for gain in gains if abs(gain) > _CLEARLY), False)
