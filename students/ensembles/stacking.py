"""Stacking (Wolpert 1992): a softmax regression from the teachers' log-probabilities to the class, with a prior.

    W*, b* = argmin  Σ_i -log softmax(b + Σ_k L_ki W_k)[y_i]  +  (Σ_k |W_k - I / K|² + |b|²) / (2 s²)

with s = 0.1. L_ki are teacher k's bounded log-probabilities of row i, `[C]`. The prior's centre is the mean of the
logits: without rows that is what stacking is, and rows have to say why it should be anything else. Strictly convex, so
there is one answer.

Of a class that a teacher does not know it reads 0. The centre is then, for each class, the mean over those who know it,
and for one that nobody knows b_c = -log C, what a teacher would say who knows nothing. Legend: K teachers, N rows, C
classes.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

PRIOR_SIGMA = 0.1
"""Standard deviation of each weight about its centre before any row is seen."""


def fit_stacking(
    log_probs_KNC: np.ndarray, labels_N: np.ndarray, known_KC: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the most probable weights `[K, C, C]`, from what a teacher says to each class, and biases `[C]`.

    `known_KC` says which classes each teacher knows, by default all.
    """
    num_teachers, num_rows, num_classes = log_probs_KNC.shape
    features_ND = np.concatenate([*log_probs_KNC, np.ones((num_rows, 1))], axis=1, dtype=np.float64)
    known_KC = np.ones((num_teachers, num_classes), bool) if known_KC is None else known_KC
    knowing_C = known_KC.sum(axis=0)
    identities = [np.diag(known_C / np.maximum(knowing_C, 1)) for known_C in known_KC]
    centre_DC = np.concatenate([*identities, np.where(knowing_C > 0, 0.0, -np.log(num_classes))[None]])
    weights_DC = fit_softmax_regression(features_ND, labels_N, centre_DC=centre_DC, sigma=PRIOR_SIGMA)
    return weights_DC[:-1].reshape(num_teachers, num_classes, num_classes), weights_DC[-1]


def fit_softmax_regression(
    features_ND: np.ndarray, labels_N: np.ndarray, *, centre_DC: np.ndarray, sigma: float
) -> np.ndarray:
    """Return the weights `[D, C]` that are most probable if each is normal about its centre before any row is seen."""
    truth_NC = np.eye(centre_DC.shape[1])[labels_N]

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        away_DC = flat.reshape(centre_DC.shape)
        log_probs_NC = log_softmax(features_ND @ (centre_DC + away_DC), axis=1)
        slope_DC = features_ND.T @ (np.exp(log_probs_NC) - truth_NC) + away_DC / sigma**2
        value = -float((truth_NC * log_probs_NC).sum()) + float((away_DC**2).sum()) / (2 * sigma**2)
        return value, slope_DC.ravel()

    fit = minimize(
        cost,
        np.zeros(centre_DC.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-14, "gtol": 1e-7},
    )
    weights_DC: np.ndarray = centre_DC + fit.x.reshape(centre_DC.shape)
    return weights_DC
