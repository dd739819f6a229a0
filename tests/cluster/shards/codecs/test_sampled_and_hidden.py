"""The codecs `sampled` and `hidden`: shares of draws, and what a linear layer makes of stored hidden states."""

import numpy as np
import pytest
from scipy.special import softmax

from cluster.shards.codecs.codec import Arrays
from cluster.shards.codecs.hidden import HiddenCodec
from cluster.shards.codecs.sampled import SampledCodec
from cluster.shards.codecs.spec import HiddenConfig, SampledConfig
from cluster.shards.schema import columns_of


def test_logits_of_draws_are_the_logs_of_their_shares_and_never_minus_infinity() -> None:
    codec = SampledCodec(SampledConfig(draws=4), num_classes=3)
    draws = np.array([[[2, 0, 2, 1]], [[1, 1, 1, 1]]])

    packed = codec.pack({"draws": draws})
    logits = codec.logits(packed, temperature=1.0)

    assert columns_of(packed) == codec.columns((1,))
    assert packed["draws"].tolist() == [[[0, 1, 2, 2]], [[1, 1, 1, 1]]]
    assert softmax(logits, axis=-1) == pytest.approx(np.array([[[0.25, 0.25, 0.5]], [[0, 1, 0]]]), abs=1e-7)
    assert np.isfinite(logits).all()
    assert (logits.dtype, logits.shape) == (np.float32, (2, 1, 3))


def test_each_draw_is_worth_the_same() -> None:
    labels = SampledCodec(SampledConfig(draws=5), num_classes=9).decode({"draws": np.zeros((7, 5), np.uint16)})

    assert np.exp(labels.log_probs) == pytest.approx(np.full((7, 5), 0.2))
    assert not np.exp(labels.log_tail).any()


def stored(values: str, hidden: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[HiddenCodec, Arrays]:
    config = HiddenConfig.model_validate({"head": "head", "width": hidden.shape[-1], "values": values})
    codec = HiddenCodec(config, num_classes=len(bias))
    shared = codec.share({"hidden": hidden[:10]}, weight, bias)
    packed = codec.pack({"hidden": hidden, **shared})
    assert columns_of(packed) == codec.columns(hidden.shape[1:-1])
    assert columns_of(shared) == codec.shared_columns()
    return codec, packed | shared


@pytest.mark.parametrize(("values", "error"), [("float16", 1e-5), ("int8", 5e-3)])
def test_logits_are_those_of_the_head_at_any_temperature(values: str, error: float) -> None:
    rng = np.random.default_rng(0)
    # Channels of very different size, and rows larger than those that the scales were taken from.
    hidden = (rng.standard_normal((30, 2, 16)) * np.geomspace(0.01, 50, 16)).astype(np.float32)
    hidden[20:] *= 3
    weight = (rng.standard_normal((7, 16)) / np.geomspace(0.01, 50, 16) / 4).astype(np.float32)
    bias = rng.standard_normal(7).astype(np.float32)
    codec, arrays = stored(values, hidden, weight, bias)

    logits = codec.logits(arrays, temperature=3.5)

    truth = hidden.astype(np.float64) @ weight.T.astype(np.float64) + bias
    p, q = softmax(truth, axis=-1), softmax(logits.astype(np.float64), axis=-1)
    assert float((p * np.log(p / q)).sum(axis=-1).mean()) < error
    assert np.array_equal(logits, codec.logits(arrays, temperature=1.0))


def test_rows_and_channels_of_nothing_come_back_as_nothing() -> None:
    hidden = np.zeros((3, 4), np.float32)
    hidden[0, 1] = 2.0
    codec, arrays = stored("int8", hidden, np.eye(4, dtype=np.float32), np.zeros(4, np.float32))

    assert codec.unpack(arrays) == pytest.approx(hidden, abs=0.01)


def test_a_channel_that_was_quiet_where_the_scales_were_taken_does_not_drown_the_others() -> None:
    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((30, 16)).astype(np.float32)
    hidden[:10, 3] *= 1e-8
    codec, arrays = stored("int8", hidden, np.eye(16, dtype=np.float32), np.zeros(16, np.float32))

    assert np.abs(codec.unpack(arrays) - hidden).max() < 0.5
