"""What is chosen of a batch of logits where they are, against scipy in float64."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from cluster.shards.codecs.spec import DenseConfig, HiddenConfig, SampledConfig, TopKConfig
from teachers import selection
from teachers.selection import select
from tests.fixtures.distributions import top_k_outputs

LOGITS = (3 * np.random.default_rng(0).standard_normal((6, 5, 40))).astype(np.float32)


@pytest.mark.parametrize("part_values", [1, 100, 1 << 24])
def test_top_k_and_tail_are_those_of_float64_whatever_is_handled_at_once(
    monkeypatch: pytest.MonkeyPatch, part_values: int
) -> None:
    monkeypatch.setattr(selection, "_PART_VALUES", part_values)
    config = TopKConfig(k=7, tail_samples=0)

    found = select(config, torch.from_numpy(LOGITS), draws=np.empty((6, 5, 0)))

    expected = top_k_outputs(config, LOGITS)
    assert found.keys() == expected.keys()
    assert np.array_equal(found["ids"], expected["ids"])
    assert found["log_probs"] == pytest.approx(expected["log_probs"], abs=1e-5)
    assert found["tail"] == pytest.approx(expected["tail"], abs=1e-5)


def test_a_tail_far_below_the_rounding_of_one_keeps_its_mass() -> None:
    logits = np.array([[0.0, -40.0, -41.0]], np.float32)

    found = select(TopKConfig(k=1, tail_samples=0), torch.from_numpy(logits), draws=np.empty((1, 0)))

    assert found["tail"][0, 0] == pytest.approx(np.log(np.exp(-40) + np.exp(-41)))


def test_draws_from_the_tail_fall_on_classes_as_often_as_they_are_probable() -> None:
    # Evenly spaced numbers in place of random ones: each class gets its share of them, to one.
    logits, steps = LOGITS[0, 0], 4_000
    even = ((np.arange(steps) + 0.5) / steps)[None]

    found = select(TopKConfig(k=3, tail_samples=250), torch.from_numpy(logits[None]), draws=even[:, 8::16])
    many = select(SampledConfig(draws=steps), torch.from_numpy(logits[None]), draws=even)

    p = softmax(logits.astype(np.float64))
    assert np.abs(np.bincount(many["draws"][0], minlength=40) - steps * p).max() <= 1
    tail = p.copy()
    tail[np.argsort(-p)[:3]] = 0
    counts = np.bincount(found["tail_ids"][0], minlength=40)
    assert np.abs(counts - found["tail_ids"].shape[1] * tail / tail.sum()).max() <= 1
    assert found["tail_log_probs"][0] == pytest.approx(
        log_softmax(logits.astype(np.float64))[found["tail_ids"][0]], abs=1e-5
    )


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
def test_the_ends_of_the_interval_draw_classes_that_are_possible(uniform: float) -> None:
    logits = torch.tensor([[5.0, -65504.0, 1.0, -65504.0, 2.0, -65504.0]])

    found = select(TopKConfig(k=1, tail_samples=1), logits, draws=np.array([[uniform]]))

    assert found["tail_ids"][0, 0] in (2, 4)


def test_dense_and_hidden_take_what_they_store() -> None:
    logits, hidden = torch.from_numpy(LOGITS), torch.randn(6, 5, 8).bfloat16()

    assert np.array_equal(select(DenseConfig(), logits)["logits"], LOGITS)
    found = select(HiddenConfig(head="head", width=8), logits, hidden=hidden)["hidden"]
    assert np.array_equal(found, hidden.float().numpy())
