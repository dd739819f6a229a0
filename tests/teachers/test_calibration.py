"""How each teacher is calibrated: against a grid, against scipy, and against logits made too sure on purpose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import norm
from sklearn.metrics import log_loss

from cluster.shards.calibration import Calibration, Method
from teachers.calibration import calibrate, fit_temperature, fit_vector, negative_log_likelihood


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


class TestVector:
    def test_a_scale_and_a_bias_that_were_put_on_a_class_are_found(self) -> None:
        logits, labels = honest(20_000, seed=6)
        centred = logits - logits.mean(axis=1, keepdims=True)
        scales, biases = np.array([1.0, 2.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.5, -0.5])

        found_scales, found_biases = fit_vector((centred - biases) / scales, labels, temperature=1.0)

        # Taking the mean away again mixes the classes a little: what counts is that the distribution is found.
        calibration = Calibration(scales=found_scales, biases=found_biases)
        before, after = (
            negative_log_likelihood(z, labels, temperature=1.0)
            for z in ((centred - biases) / scales, calibration.apply((centred - biases) / scales))
        )
        truth = negative_log_likelihood(logits, labels, temperature=1.0)
        assert after - truth < 0.1 * (before - truth)

    @pytest.mark.parametrize(("seed", "rows"), [(0, 1), (1, 40), (2, 400)])
    def test_no_other_optimiser_finds_a_more_probable_one(self, seed: int, rows: int) -> None:
        logits, labels = honest(rows, seed=seed)
        cooled = logits / 1.7 - (logits / 1.7).mean(axis=1)[:, None]

        def vector_cost(flat: np.ndarray) -> float:
            log_probs = log_softmax(flat[:4] * cooled + flat[4:], axis=1)[np.arange(rows), labels]
            prior = norm.logpdf(flat[:4], loc=1, scale=0.25).sum() + norm.logpdf(flat[4:], scale=0.25).sum()
            return -float(log_probs.sum() + prior)

        scales, biases = fit_vector(logits, labels, temperature=1.7)

        other = minimize(vector_cost, np.full(8, 0.5), method="BFGS", options={"gtol": 1e-6})
        assert np.array([*scales, *biases]) == pytest.approx(other.x, abs=1e-4)
        assert vector_cost(np.array([*scales, *biases])) <= other.fun + 1e-7

    def test_a_constant_that_a_teacher_adds_to_all_its_logits_changes_nothing(self) -> None:
        logits, labels = honest(300, seed=3)
        offsets = np.random.default_rng(0).normal(0, 30, (300, 1))

        record, shifted = (calibrate("wide", z, labels, method="vector") for z in (logits, logits + offsets))

        assert shifted.scales == pytest.approx(record.scales, abs=1e-4)
        assert softmax(shifted.apply(logits + offsets), axis=1) == pytest.approx(
            softmax(record.apply(logits), axis=1), abs=1e-4
        )

    def test_a_class_of_which_no_row_was_held_out_stays_possible(self) -> None:
        logits, labels = honest(500, seed=4)
        record = calibrate("wide", logits[labels != 2], labels[labels != 2], method="vector")

        assert record.biases[2] < min(record.biases[:2])
        assert record.biases[2] > -10
        assert all(np.isfinite([*record.scales, *record.biases]))

    def test_the_record_tells_more_than_the_temperature_could(self) -> None:
        logits, labels = honest(1000, seed=5)
        skewed = logits + np.array([0.0, 1.5, 0.0, 0.0])

        plain, record = (calibrate("wide", skewed, labels, method=method) for method in ("temperature", "vector"))

        assert record.temperature == plain.temperature
        assert (plain.scales, plain.biases) == ((), ())
        assert record.nll_after < plain.nll_after < plain.nll_before == record.nll_before
        again = log_loss(labels, softmax(record.apply(skewed), axis=1))
        assert record.nll_after == pytest.approx(again, rel=1e-9)

    def test_without_rows_nothing_is_changed(self) -> None:
        scales, biases = fit_vector(np.zeros((0, 3)), np.zeros(0, dtype=int), temperature=1.0)

        assert (scales, biases) == ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calibrated_logits_are_of_the_type_that_was_given(dtype: type) -> None:
    calibration = Calibration(temperature=2.0, scales=(1.0, 2.0), biases=(0.5, 0.0))

    found = calibration.apply(np.array([[2.0, 6.0]], dtype))

    assert found.dtype == dtype
    assert found.tolist() == [[-0.5, 2.0]]
    assert Calibration().apply(np.ones((1, 2), dtype)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_a_teacher_of_some_classes_is_calibrated_on_their_rows_as_if_there_were_no_others(method: Method) -> None:
    logits, labels = honest(400, seed=3, classes=5)
    known, rows = [0, 2, 4], np.isin(labels, [0, 2, 4])
    wide = np.full_like(logits, -np.inf)
    wide[:, known] = 3 * logits[:, known]

    among = calibrate("low", wide, labels, method=method)

    alone = calibrate("low", wide[rows][:, known], labels[rows] // 2, method=method)
    assert (among.rows, among.temperature) == (alone.rows, alone.temperature)
    assert (among.nll_before, among.nll_after) == pytest.approx((alone.nll_before, alone.nll_after))
    applied = among.apply(wide)
    assert applied[:, known] == pytest.approx(alone.apply(wide[:, known]))
    assert applied[:, [1, 3]].max() == -np.inf


def test_a_teacher_of_whose_classes_no_row_is_held_out_stays_as_it_is() -> None:
    wide = np.array([[1.0, 2.0, -np.inf]] * 3)

    record = calibrate("low", wide, np.array([2, 2, 2]), method="vector")

    assert (record.rows, record.temperature, record.nll_before, record.nll_after) == (0, 1.0, 0.0, 0.0)
    assert (record.scales, record.biases) == ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
