"""Metrics against scikit-learn and scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, log_loss

from students.metrics import accuracy, agreement, kl, nll


def logits_and_labels(seed: int, *, rows: int = 40, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((rows, classes)), rng.integers(0, classes, rows)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000))
def test_accuracy_and_likelihood_are_those_of_scikit_learn(seed: int) -> None:
    logits, labels = logits_and_labels(seed)

    assert accuracy(logits, labels) == accuracy_score(labels, logits.argmax(axis=1))
    assert nll(logits, labels) == pytest.approx(log_loss(labels, softmax(logits, axis=1), labels=range(5)), rel=1e-12)


def test_likelihood_does_not_overflow() -> None:
    logits = np.array([[6e4, -6e4, 0.0]], dtype=np.float16)

    assert nll(logits, np.array([0])) == 0.0
    assert nll(logits, np.array([1])) == pytest.approx(12e4, rel=1e-3)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000))
def test_divergence_and_agreement_are_those_of_scipy_and_of_counting(seed: int) -> None:
    others, ours = logits_and_labels(seed)[0], logits_and_labels(seed + 1)[0]

    expected = np.mean([entropy(softmax(p), softmax(q)) for p, q in zip(others, ours, strict=True)])
    equal = [int(np.argmax(p) == np.argmax(q)) for p, q in zip(others, ours, strict=True)]
    assert kl(others, ours) == pytest.approx(expected, rel=1e-10)
    assert agreement(ours, others) == sum(equal) / len(equal)


def test_a_model_agrees_with_itself_and_does_not_diverge_from_itself() -> None:
    logits, _ = logits_and_labels(1)

    assert agreement(logits, logits) == 1.0
    assert kl(logits, logits) == 0.0
