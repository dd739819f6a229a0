"""One temperature for each teacher, fitted on held-out rows (Guo et al. 2017, 1706.04599).

T* = argmin_T  mean_i  -log softmax(z_i / T)[y_i]. It changes no decision of a single teacher, but teachers that
are equally right and not equally sure would otherwise not have an equal say in a mean of probabilities.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from cluster.shards.calibration import CalibrationRecord

_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the temperature in [0.05, 20] with the least negative log-likelihood; 1.0 without rows."""
    if len(labels_N) == 0:
        return 1.0
    fit = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(
            logits_NC, labels_N, temperature=float(np.exp(log_temperature))
        ),
        bounds=(np.log(_LOWEST), np.log(_HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(fit.x))


def calibrate(teacher: str, logits_NC: np.ndarray, labels_N: np.ndarray) -> CalibrationRecord:
    """Fit the temperature of one teacher and say what it changes."""
    temperature = fit_temperature(logits_NC, labels_N)
    return CalibrationRecord(
        teacher=teacher,
        temperature=temperature,
        rows=len(labels_N),
        nll_before=negative_log_likelihood(logits_NC, labels_N, temperature=1.0),
        nll_after=negative_log_likelihood(logits_NC, labels_N, temperature=temperature),
    )


def negative_log_likelihood(logits_NC: np.ndarray, labels_N: np.ndarray, *, temperature: float) -> float:
    """Return the mean negative log-likelihood of the labels, nats; 0 without rows."""
    if len(labels_N) == 0:
        return 0.0
    scaled = logits_NC.astype(np.float64) / temperature
    return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels_N)), labels_N]).mean())
