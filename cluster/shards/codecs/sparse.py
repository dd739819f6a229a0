"""What a codec keeps of a distribution over many classes, in the form in which a sparse loss reads it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SparseLabels:
    """A distribution at one temperature T: some classes with their probabilities, and the mass of all others.

    An unbiased estimate of Σ_c p_T(c) f(c), for any f, is Σ_k exp(log_probs_k) f(ids_k) + Σ_s exp(tail_log_masses_s)
    f(tail_ids_s): the head is exact, and a draw from the tail stands for what it is expected to. Without draws the tail
    has a mass and no shape; a loss says what it makes of that.
    """

    ids: np.ndarray
    """Indices of classes, `[N, *P, K]`."""
    log_probs: np.ndarray
    """Their log-probabilities at T, float32 `[N, *P, K]`, nats."""
    log_tail: np.ndarray
    """Log of the mass of all other classes at T, float32 `[N, *P]`."""
    log_normaliser: np.ndarray
    """log Σ_c p(c)^(1/T), float32 `[N, *P]`: what divides probabilities at T = 1 when they are tempered; 0 at T = 1."""
    tail_ids: np.ndarray
    """Classes drawn from the others, `[N, *P, S]`; a class may be drawn several times."""
    tail_log_probs: np.ndarray
    """Log-probabilities at T of the classes drawn, float32 `[N, *P, S]`, nats."""
    tail_log_masses: np.ndarray
    """Log of the mass that each draw stands for at T, float32 `[N, *P, S]`."""
