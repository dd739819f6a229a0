"""The reliability diagram and its error, against a plain loop over rows and bins."""

import itertools
import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from students.reliability import ece, reliability


def plain_ece(probabilities: list[list[float]], labels: list[int], bins: int = 15) -> float:
    """Return Σ_b (n_b / n) |accuracy_b - confidence_b| over bins `[b/15, (b+1)/15)`, the last one closed."""
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (max(row), int(row.index(max(row)) == label))
            for row, label in zip(probabilities, labels, strict=True)
            if low <= max(row) < high or (number == bins - 1 and max(row) == 1.0)
        ]
        if inside:
            confidence, hits = fmean(part[0] for part in inside), fmean(part[1] for part in inside)
            error += len(inside) / len(labels) * abs(hits - confidence)
    return error


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 30))
def test_the_error_is_that_of_a_plain_loop(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = scale * rng.standard_normal((60, 4)), rng.integers(0, 4, 60)

    bins = reliability(logits, labels)

    expected = plain_ece(softmax(logits, axis=1).tolist(), labels.tolist())
    assert ece(bins) == pytest.approx(expected, abs=1e-9)
    assert sum(part.rows for part in bins) == 60


@pytest.mark.parametrize("edge", range(8, 15))
def test_a_confidence_on_an_edge_belongs_to_the_upper_bin(edge: int) -> None:
    # A hair above the edge, since the softmax of a logarithm is not exact.
    confidence = edge / 15 + 1e-12
    logits = np.log([[confidence, 1 - confidence]])

    bins = reliability(logits, np.array([0]))

    assert [place for place, part in enumerate(bins) if part.rows] == [edge]


def test_certain_rows_lie_in_the_last_bin() -> None:
    bins = reliability(np.array([[1000.0, 0.0], [1000.0, 0.0]]), np.array([0, 1]))

    assert (bins[-1].rows, bins[-1].confidence, bins[-1].accuracy) == (2, 1.0, 0.5)
    assert ece(bins) == 0.5


def test_a_model_that_is_as_sure_as_it_is_right_has_no_error() -> None:
    logits = np.tile(np.log([[0.75, 0.25]]), (8, 1))
    labels = np.array([0, 0, 0, 1, 0, 0, 0, 1])

    assert ece(reliability(logits, labels)) == pytest.approx(0.0, abs=1e-12)


def test_bins_cover_all_probabilities_and_empty_ones_are_zero() -> None:
    bins = reliability(np.zeros((3, 2)), np.array([0, 0, 1]))

    assert (bins[0].low, bins[-1].high) == (0.0, 1.0)
    assert all(math.isclose(left.high, right.low) for left, right in itertools.pairwise(bins))
    assert [(part.rows, part.confidence, part.accuracy) for part in bins if part.low != 7 / 15] == [(0, 0.0, 0.0)] * 14
    assert bins[7].rows == 3
    assert bins[7].accuracy == pytest.approx(2 / 3)


def test_without_rows_there_is_no_error() -> None:
    assert ece(reliability(np.zeros((0, 3)), np.zeros(0, dtype=int))) == 0.0
