"""What a teacher may emit, and what is told of it."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from cluster.errors import TeacherError
from teachers.outputs import OutputRefusedError, check_shape, check_values, figures_of, statistics_of


def check(logits: np.ndarray, *, shape: tuple[int, ...] = (4, 3), first_row: int = 0) -> None:
    check_shape(torch.from_numpy(logits), shape, teacher="wide", shard=7)
    check_values(torch.from_numpy(logits), teacher="wide", shard=7, first_row=first_row)


def logits_with(value: float) -> np.ndarray:
    logits = np.zeros((4, 3), np.float32)
    logits[2, 1] = value
    return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 65505.0, -1e9])
def test_what_is_not_finite_in_half_precision_is_refused_with_row_and_class(value: float) -> None:
    logits = logits_with(value)

    with pytest.raises(OutputRefusedError) as refusal:
        check(logits)

    assert str(refusal.value).startswith(f"teacher wide, shard 7: found {logits[2, 1]} for class 1 in row 2, expected")
    assert "at most 65504" in str(refusal.value)
    assert isinstance(refusal.value, TeacherError)


@pytest.mark.parametrize("value", [65504.0, -65504.0, 0.0, 1e-30])
def test_what_half_precision_can_hold_passes(value: float) -> None:
    check(logits_with(value))

    assert np.isfinite(logits_with(value).astype(np.float16)).all()


def test_a_wrong_value_is_named_by_its_row_in_the_shard_and_its_position() -> None:
    logits = np.zeros((2, 5, 3), np.float32)
    logits[1, 4, 2] = np.nan

    with pytest.raises(OutputRefusedError, match="nan for class 2 in row 129, position 4"):
        check(logits, shape=(2, 5, 3), first_row=128)


@pytest.mark.parametrize("shape", [(4, 4), (4, 2), (4,), (4, 3, 1), (3, 3), (1, 3), (5, 3)])
def test_another_shape_is_refused_with_both(shape: tuple[int, ...]) -> None:
    with pytest.raises(OutputRefusedError) as refusal:
        check(np.zeros(shape, np.float32))

    assert f"found an output of shape {list(shape)}, expected [4, 3]" in str(refusal.value)


def test_statistics_are_the_mean_entropy_of_scipy_and_the_mean_highest_probability() -> None:
    logits = 3 * np.random.default_rng(1).standard_normal((200, 6)).astype(np.float32)
    p = softmax(logits.astype(np.float64), axis=1)

    statistics = statistics_of(figures_of(torch.from_numpy(logits)))

    assert statistics["mean_entropy"] == pytest.approx(entropy(p, axis=1).mean(), abs=2e-6)
    assert statistics["mean_confidence"] == pytest.approx(p.max(axis=1).mean(), abs=2e-6)


def test_statistics_of_the_largest_logits_are_finite() -> None:
    sure, unsure = torch.tensor([[65504.0, -65504.0]]), torch.zeros((2, 4))

    assert statistics_of(figures_of(sure)) == {"mean_entropy": 0.0, "mean_confidence": 1.0}
    assert statistics_of(figures_of(unsure)) == {
        "mean_entropy": pytest.approx(np.log(4), abs=1e-6),
        "mean_confidence": 0.25,
    }


def test_half_precision_costs_far_less_than_bfloat16_would() -> None:
    def kl_after(bits_kept: int) -> float:
        logits = 4 * np.random.default_rng(2).standard_normal((500, 10)).astype(np.float32)
        step = np.exp2(np.floor(np.log2(np.abs(logits))) - bits_kept)
        p, q = softmax(logits.astype(np.float64), axis=1), softmax(np.round(logits / step) * step, axis=1)
        return float(entropy(p, q, axis=1).mean())

    assert kl_after(10) < 1e-6  # float16 keeps 10 bits of a number, bfloat16 keeps 7
    assert kl_after(7) > 50 * kl_after(10)
