"""A teacher's calibration, fitted on held-out rows (Guo et al. 2017, 1706.04599), with priors. N rows, C classes.

    temperature   T* = argmin_T    Σ_i -log softmax(z_i / T)[y_i]  +  (ln T)² / (2 s²)
    vector        a*, b* = argmin  Σ_i -log softmax(a ⊙ z̃_i + b)[y_i]  +  Σ_c ((a_c - 1)² + b_c²) / (2 s²)

with s = 0.25 and z̃ = z / T* less its mean over the classes, so that a scale and a bias say how a class differs from the
teacher's one temperature. A teacher that knows some classes is fitted on the rows of these, and its scales and biases
are 1 and 0 elsewhere. Both are strictly convex but for the bounded T, so there is one answer.

Without the prior a teacher that happens to be right on nearly all of a few hundred rows gets a temperature far below 1,
and is then wrong with great confidence elsewhere, and a class of which no row was held out would be forbidden. A
thousand rows outweigh it. The temperature changes no decision of a single teacher, but teachers that are equally right
and not equally sure would otherwise not have an equal say in a mean of probabilities. Scales and biases do change
decisions.
"""

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp

from cluster.shards.calibration import Calibration, CalibrationRecord, Method
from cluster.shards.classes import known_classes

PRIOR_SIGMA = 0.25
"""Standard deviation of ln T before any row is seen, a factor of 1.3 either way; and of each scale and bias."""

_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the most probable temperature, within [0.05, 20]; 1.0 without rows."""

    def cost(log_temperature: float) -> float:
        nll = negative_log_likelihood(logits_NC, labels_N, temperature=float(np.exp(log_temperature)))
        return len(labels_N) * nll + log_temperature**2 / (2 * PRIOR_SIGMA**2)

    bounds = (np.log(_LOWEST), np.log(_HIGHEST))
    fit = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return 1.0 if len(labels_N) == 0 else float(np.exp(fit.x))


def fit_vector(
    logits_NC: np.ndarray, labels_N: np.ndarray, *, temperature: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the most probable scale and bias of each class; ones and zeros without rows."""
    cooled_NC = logits_NC.astype(np.float64) / temperature
    cooled_NC -= cooled_NC.mean(axis=1, keepdims=True)
    truth_NC = np.eye(cooled_NC.shape[1])[labels_N]
    centre_2C = np.stack([np.ones(cooled_NC.shape[1]), np.zeros(cooled_NC.shape[1])])

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scales_C, biases_C = flat.reshape(centre_2C.shape)
        log_probs_NC = log_softmax(cooled_NC * scales_C + biases_C, axis=1)
        gap_NC, away_2C = np.exp(log_probs_NC) - truth_NC, flat.reshape(centre_2C.shape) - centre_2C
        slope_2C = np.stack([(gap_NC * cooled_NC).sum(axis=0), gap_NC.sum(axis=0)]) + away_2C / PRIOR_SIGMA**2
        value = -float((truth_NC * log_probs_NC).sum()) + float((away_2C**2).sum()) / (2 * PRIOR_SIGMA**2)
        return value, slope_2C.ravel()

    fit = minimize(
        cost,
        centre_2C.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-8},
    )
    scales_C, biases_C = fit.x.reshape(centre_2C.shape)
    return tuple(scales_C.tolist()), tuple(biases_C.tolist())


def calibrate(
    teacher: str, logits_NC: np.ndarray, labels_N: np.ndarray, *, method: Method = "temperature"
) -> CalibrationRecord:
    """Fit the calibration of one teacher and say what it changes, on the rows of the classes that it knows."""
    known = known_classes(logits_NC)
    own_N = np.isin(labels_N, known)
    own_NK, own_labels_N = logits_NC[np.ix_(own_N, known)], np.searchsorted(known, labels_N[own_N])
    temperature = fit_temperature(own_NK, own_labels_N)
    fitted = Calibration(temperature=temperature)
    if method == "vector":
        scales_C, biases_C = np.ones(logits_NC.shape[1]), np.zeros(logits_NC.shape[1])
        scales_C[known], biases_C[known] = fit_vector(own_NK, own_labels_N, temperature=temperature)
        fitted = Calibration(temperature=temperature, scales=tuple(scales_C.tolist()), biases=tuple(biases_C.tolist()))
    calibrated_NC = fitted.apply(logits_NC[own_N].astype(np.float64))
    return CalibrationRecord(
        **fitted.model_dump(),
        teacher=teacher,
        rows=len(own_labels_N),
        nll_before=negative_log_likelihood(own_NK, own_labels_N, temperature=1.0),
        nll_after=negative_log_likelihood(calibrated_NC, labels_N[own_N], temperature=1.0),
    )


def negative_log_likelihood(logits_NC: np.ndarray, labels_N: np.ndarray, *, temperature: float) -> float:
    """Return the mean negative log-likelihood of the labels, nats; 0 without rows."""
    if len(labels_N) == 0:
        return 0.0
    scaled = logits_NC.astype(np.float64) / temperature
    return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels_N)), labels_N]).mean())
