"""How good a model is on labelled rows, and how near to another. N rows, C classes."""

import numpy as np
from scipy.special import log_softmax


def accuracy(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the share of rows whose largest logit is that of the label."""
    return float((logits_NC.argmax(axis=1) == labels_N).mean())


def nll(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the labels, nats."""
    log_probs = log_softmax(logits_NC.astype(np.float64), axis=1)
    return float(-log_probs[np.arange(len(labels_N)), labels_N].mean())


def agreement(logits_NC: np.ndarray, others_NC: np.ndarray) -> float:
    """Return the share of rows on which both name the same class."""
    return float((logits_NC.argmax(axis=1) == others_NC.argmax(axis=1)).mean())


def kl(others_NC: np.ndarray, logits_NC: np.ndarray) -> float:
    """Return the mean KL(others ‖ logits) at temperature 1, nats."""
    others = log_softmax(others_NC.astype(np.float64), axis=1)
    ours = log_softmax(logits_NC.astype(np.float64), axis=1)
    return float((np.exp(others) * (others - ours)).sum(axis=1).mean())
