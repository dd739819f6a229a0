"""How good a model is on labelled rows, and how near to another: means over the rows, 0 without any.

N rows, C classes. The logit of a class of which a model knows nothing is minus infinity.
"""

import numpy as np
from scipy.special import log_softmax


def accuracy(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the share of rows whose largest logit is that of the label."""
    return _mean(logits_NC.argmax(axis=1) == labels_N)


def nll(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the labels, nats."""
    log_probs = log_softmax(logits_NC.astype(np.float64), axis=1)
    return _mean(-log_probs[np.arange(len(labels_N)), labels_N])


def knows(logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return on which rows a model knows the class that they have, bool `[N]`."""
    known: np.ndarray = np.isfinite(logits_NC[np.arange(len(labels_N)), labels_N])
    return known


def agreement(logits_NC: np.ndarray, others_NC: np.ndarray) -> float:
    """Return the share of rows on which both name the same class."""
    return _mean(logits_NC.argmax(axis=1) == others_NC.argmax(axis=1))


def kl(others_NC: np.ndarray, logits_NC: np.ndarray) -> float:
    """Return the mean KL(others ‖ logits) at temperature 1, nats."""
    others = log_softmax(others_NC.astype(np.float64), axis=1)
    ours = log_softmax(logits_NC.astype(np.float64), axis=1)
    # Nothing times infinity is nothing: a class that the others do not know.
    gaps = np.where(np.isfinite(others), others, 0) - ours
    return _mean((np.exp(others) * gaps).sum(axis=1))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
