"""One temperature for each teacher: against a grid, against scipy, and against logits made too sure on purpose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import norm
from sklearn.metrics import log_loss

from teachers.calibration import calibrate, fit_temperature, negative_log_likelihood


def honest(rows: int, seed: int, *, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels that are drawn from them, so that the right temperature is 1."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((rows, classes))
    labels = [rng.choice(classes, p=p) for p in softmax(logits, axis=1)]
    return logits, np.array(labels)


def cost(logits_NC: np.ndarray, labels_N: np.ndarray, temperature: float) -> float:
    """Return what the most probable temperature makes least: likelihood of all rows, and a normal prior of ln T."""
    log_probs = log_softmax(logits_NC / temperature, axis=1)[np.arange(len(labels_N)), labels_N]
    return -float(log_probs.sum() + norm.logpdf(np.log(temperature), scale=0.25))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0, 8.0])
def test_logits_that_were_multiplied_by_a_temperature_are_divided_by_it_again(temperature: float) -> None:
    logits, labels = honest(20_000, seed=1)

    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), rows=st.sampled_from([5, 50, 500]), scale=st.floats(0.2, 10))
def test_no_temperature_of_a_fine_grid_is_better_and_neither_is_what_scipy_finds_from_elsewhere(
    seed: int, rows: int, scale: float
) -> None:
    logits, labels = honest(rows, seed=seed)
    logits = logits * scale

    fitted = fit_temperature(logits, labels)

    assert 0.05 <= fitted <= 20
    of_fitted = cost(logits, labels, fitted)
    assert of_fitted <= min(cost(logits, labels, t) for t in np.geomspace(0.05, 20, 300)) + 1e-6
    by_inverse = minimize(
        lambda b: cost(logits, labels, 1 / b[0]), x0=[0.7], bounds=[(1 / 20, 1 / 0.05)], method="L-BFGS-B"
    )
    assert of_fitted <= by_inverse.fun + 1e-6


def test_a_thousand_rows_outweigh_the_prior() -> None:
    logits, labels = honest(1000, seed=2)
    overconfident = 2.5 * logits

    by_rows_alone = minimize_scalar(
        lambda u: log_loss(labels, softmax(overconfident / np.exp(u), axis=1)), bounds=(-3, 3), method="bounded"
    )

    assert fit_temperature(overconfident, labels) == pytest.approx(np.exp(by_rows_alone.x), rel=0.05)


def test_a_teacher_that_is_right_on_all_of_a_few_rows_is_not_made_certain() -> None:
    few, labels = np.tile(np.eye(3) * 4, (10, 1)), np.tile(np.arange(3), 10)

    assert 0.5 < fit_temperature(few, labels) < 1
    assert softmax(few / fit_temperature(few, labels), axis=1).max() < 0.999


def test_a_teacher_that_is_always_wrong_stops_at_the_upper_bound() -> None:
    logits, wrong = np.tile(np.eye(3) * 4, (1000, 1)), np.tile([1, 2, 0], 1000)

    assert fit_temperature(logits, wrong) == pytest.approx(20, rel=1e-3)


def test_without_rows_or_without_a_difference_nothing_is_changed() -> None:
    empty = np.zeros((0, 3)), np.zeros(0, dtype=int)

    assert fit_temperature(*empty) == 1.0
    assert fit_temperature(np.zeros((50, 3)), np.zeros(50, dtype=int)) == pytest.approx(1.0, abs=1e-4)
    record = calibrate("wide", *empty)
    assert (record.temperature, record.rows, record.nll_before, record.nll_after) == (1.0, 0, 0.0, 0.0)


def test_likelihood_is_that_of_scikit_learn_also_from_half_precision() -> None:
    logits, labels = honest(300, seed=3)
    stored = (5 * logits).astype(np.float16)

    found = negative_log_likelihood(stored, labels, temperature=2.5)

    expected = log_loss(labels, softmax(stored.astype(np.float64) / 2.5, axis=1), labels=range(4))
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_record_tells_what_calibration_changes() -> None:
    logits, labels = honest(500, seed=4)

    record = calibrate("wide", 3 * logits, labels)

    assert (record.teacher, record.rows) == ("wide", 500)
    assert record.temperature == fit_temperature(3 * logits, labels)
    assert record.nll_before == pytest.approx(log_loss(labels, softmax(3 * logits, axis=1)), rel=1e-9)
    calibrated = softmax(3 * logits / record.temperature, axis=1)
    assert record.nll_after == pytest.approx(log_loss(labels, calibrated), rel=1e-9)
    assert record.nll_after < record.nll_before


def test_calibration_changes_no_decision() -> None:
    logits, labels = honest(500, seed=5)

    assert np.array_equal((logits / fit_temperature(3 * logits, labels)).argmax(axis=1), logits.argmax(axis=1))
