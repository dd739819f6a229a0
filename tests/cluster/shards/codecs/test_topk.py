"""The codec `topk` against float64: head and mass of the tail at every served temperature, and what draws stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st
from pydantic import ValidationError
from scipy.special import softmax

from cluster.errors import SpecError
from cluster.shards.codecs.codec import LOWEST, CodecMisfitError
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import TopKConfig
from cluster.shards.codecs.topk import TopKCodec
from cluster.shards.schema import columns_of
from tests.fixtures.distributions import top_k_outputs

CLASSES = 50
LOGITS = 3 * np.random.default_rng(0).standard_normal((40, CLASSES))
ERRORS = {"float16": 4e-3, "int8": 2e-2, "int4": 0.15}
"""Of a log-probability, nats."""


def with_codec(classes: int = CLASSES, **settings: object) -> TopKCodec:
    codec = codec_of(TopKConfig.model_validate({"tail_samples": 0} | settings), classes)
    assert isinstance(codec, TopKCodec)
    return codec


def exact(logits: np.ndarray, temperature: float) -> np.ndarray:
    probabilities: np.ndarray = softmax(logits.astype(np.float64) / temperature, axis=-1)
    return probabilities


@pytest.mark.parametrize("values", ERRORS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_head_and_mass_of_the_tail_are_those_of_the_teacher(values: str, temperature: float) -> None:
    codec = with_codec(k=8, values=values)
    outputs = top_k_outputs(codec.config, LOGITS)

    logits = codec.logits(codec.pack(outputs), temperature=temperature)

    decoded, truth = exact(logits, temperature), exact(LOGITS, temperature)
    heads = [np.take_along_axis(part, outputs["ids"], axis=-1) for part in (decoded, truth)]
    assert heads[0].sum(axis=-1) == pytest.approx(heads[1].sum(axis=-1), abs=2e-4)
    assert np.log(heads[0]) == pytest.approx(np.log(heads[1]), abs=ERRORS[values])
    others = np.ones_like(decoded, bool)
    np.put_along_axis(others, outputs["ids"], False, axis=-1)
    tails = np.where(others, decoded, np.nan)
    assert np.nanmin(tails, axis=-1) == pytest.approx(np.nanmax(tails, axis=-1), rel=1e-5)
    assert logits.dtype == np.float32
    assert logits.shape == LOGITS.shape


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_sparse_labels_sum_to_one_and_tell_the_normaliser(temperature: float) -> None:
    codec = with_codec(k=8)

    labels = codec.decode(codec.pack(top_k_outputs(codec.config, LOGITS)), temperature=temperature)

    total = np.exp(labels.log_probs.astype(np.float64)).sum(axis=-1) + np.exp(labels.log_tail.astype(np.float64))
    assert total == pytest.approx(1, abs=1e-6)
    expected = np.log((exact(LOGITS, 1.0) ** (1 / temperature)).sum(axis=-1))
    assert labels.log_normaliser == pytest.approx(expected, abs=3e-3)
    assert labels.tail_ids.shape == labels.tail_log_masses.shape == (40, 0)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_what_draws_are_expected_to_stand_for_is_the_tail(temperature: float) -> None:
    # One row for every class that may be drawn, weighted by how often it is: the expectation, without drawing.
    codec = with_codec(classes=9, k=3, tail_samples=2)
    logits = 2 * np.random.default_rng(1).standard_normal(9)
    order = np.argsort(-logits)
    pairs = np.array([(first, second) for first in order[3:] for second in order[3:]])
    tail = exact(logits, 1.0)[pairs] / exact(logits, 1.0)[order[3:]].sum()
    many = np.tile(logits, (len(pairs), 1))

    labels = codec.decode(codec.pack(top_k_outputs(codec.config, many, tail_ids=pairs)), temperature=temperature)

    expectation = np.zeros(9)
    np.add.at(expectation, pairs, tail.prod(axis=1)[:, None] * np.exp(labels.tail_log_masses.astype(np.float64)))
    expectation[order[:3]] = np.exp(labels.log_probs[0].astype(np.float64))
    assert expectation == pytest.approx(exact(logits, temperature), rel=5e-3)


@st.composite
def cases(draw: st.DrawFn) -> tuple[TopKCodec, np.ndarray]:
    shape = draw(numpy_st.array_shapes(min_dims=2, max_dims=3, max_side=7))
    elements = st.floats(-30, 30, width=16) | st.sampled_from([0.0, 1.5])
    logits = draw(numpy_st.arrays(np.float64, shape, elements=elements))
    if draw(st.booleans()):
        logits[..., 0] = -np.inf if shape[-1] > 1 else 0.0
    values = draw(st.sampled_from(list(ERRORS)))
    return with_codec(classes=shape[-1], k=draw(st.integers(1, shape[-1])), values=values), logits


@given(case=cases())
@settings(deadline=None, max_examples=150)
def test_any_shape_ties_impossible_classes_and_all_classes_come_back(case: tuple[TopKCodec, np.ndarray]) -> None:
    codec, logits = case
    outputs = top_k_outputs(codec.config, logits)
    packed = codec.pack(outputs)

    assert columns_of(packed) == codec.columns(logits.shape[1:-1])
    assert all(np.isfinite(array).all() for array in packed.values())
    for temperature in codec.config.served:
        decoded = codec.logits(packed, temperature=temperature)
        assert np.isfinite(decoded).all()
        mass = np.take_along_axis(exact(decoded, temperature), outputs["ids"], axis=-1).sum(axis=-1)
        truth = np.take_along_axis(exact(logits, temperature), outputs["ids"], axis=-1).sum(axis=-1)
        assert mass == pytest.approx(truth, abs=1e-3)
        if codec.config.k == codec.num_classes and codec.config.values == "float16":
            assert exact(decoded, temperature) == pytest.approx(exact(logits, temperature), abs=1e-2)


@pytest.mark.parametrize(
    ("settings", "classes", "expected"),
    [
        ({"tail_samples": 8}, 49152, 64 + 64 + 6 + 32),
        ({"k": 33, "values": "int8", "temperatures": ()}, 49152, 102),
        ({"k": 44, "values": "int4", "temperatures": ()}, 49152, 114),
        ({"k": 44, "values": "int4", "temperatures": ()}, 1 << 16, 114),
        ({"k": 44, "values": "int4", "temperatures": ()}, (1 << 16) + 1, 114 + 88),
        ({"k": 1, "values": "int4", "temperatures": ()}, 2, 4),
    ],
)
def test_a_position_takes_the_bytes_that_are_promised(settings: dict[str, object], classes: int, expected: int) -> None:
    columns = with_codec(classes=classes, **settings).columns((3, 5))

    assert sum(column.row_bytes for column in columns) == 15 * expected
    assert all(column.shape[:2] == (3, 5) for column in columns)


@pytest.mark.parametrize(
    ("settings", "field", "expected"),
    [({"k": 51}, "labels.k is 51", "at most 50"), ({"k": 50, "tail_samples": 1}, "labels.tail_samples is 1", "0")],
)
def test_too_few_classes_are_refused_with_the_field(settings: dict[str, object], field: str, expected: str) -> None:
    with pytest.raises(CodecMisfitError, match=f"{field} and there are 50 classes; expected {expected}") as refusal:
        with_codec(**settings)

    assert isinstance(refusal.value, SpecError)


@pytest.mark.parametrize("temperatures", [(1.0,), (4.0, 2.0), (2.0, 2.0), (0.0,), (-1.0,)])
def test_temperatures_are_ascending_positive_and_not_one(temperatures: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="temperatures"):
        TopKConfig(temperatures=temperatures)


def test_a_tail_of_nothing_is_nothing() -> None:
    codec = with_codec(classes=4, k=1)
    outputs = top_k_outputs(codec.config, np.array([[0.0, -60000.0, -60000.0, -60000.0]]))

    logits = codec.logits(codec.pack(outputs), temperature=1.0)

    assert logits[0, 1:].tolist() == pytest.approx([LOWEST] * 3, rel=0.2)
    assert exact(logits, 1.0)[0].tolist() == [1.0, 0.0, 0.0, 0.0]
