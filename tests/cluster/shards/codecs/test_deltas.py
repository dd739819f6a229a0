"""Steps in a closed loop: no value is off by more than half a step, however many went before it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from cluster.shards.codecs.deltas import Bits, pack_deltas, packed_bytes, unpack_deltas


def descending(values: np.ndarray) -> np.ndarray:
    return -np.sort(-values, axis=-1)


@st.composite
def values(draw: st.DrawFn) -> np.ndarray:
    shape = draw(numpy_st.array_shapes(min_dims=2, max_dims=4, max_side=9))
    elements = st.floats(-60000, 0, width=32) | st.sampled_from([0.0, -1.0, -1e-30, -3.25])
    return descending(draw(numpy_st.arrays(np.float32, shape, elements=elements)))


def slowly(packed: np.ndarray, scale: float, count: int, bits: Bits) -> list[float]:
    """Decode one row as the page of the format says, number by number."""
    steps = list(packed) if bits == 8 else [half for byte in packed for half in (int(byte) >> 4, int(byte) & 15)]
    sums = np.cumsum([int(step) ** 2 for step in steps[: count - 1]], dtype=object)
    return [0.0, *(-int(total) * float(scale) / (2**bits - 1) ** 2 for total in sums)]


@pytest.mark.parametrize("bits", [4, 8])
@given(values=values())
@settings(deadline=None, max_examples=60)
def test_any_shape_comes_back_within_half_of_the_largest_step_and_descending(values: np.ndarray, bits: Bits) -> None:
    count = values.shape[-1]
    packed, scales = pack_deltas(values, bits=bits)

    decoded = unpack_deltas(packed, scales, count=count, bits=bits)

    assert packed.shape == (*values.shape[:-1], packed_bytes(count, bits))
    assert decoded.dtype == np.float32
    exact = values.astype(np.float64) - values[..., :1]
    m = 2**bits - 1
    largest_step = scales.astype(np.float64) * (m**2 - (m - 1) ** 2) / m**2
    assert (np.abs(decoded - exact) <= 0.5 * largest_step[..., None] + 1e-6 * np.abs(exact)).all()
    assert (np.diff(decoded, axis=-1) <= 0).all()
    assert (decoded[..., 0] == 0).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("count", [2, 3, 4, 33, 34])
def test_the_decoder_is_the_formula_of_the_page(bits: Bits, count: int) -> None:
    drawn = descending(-np.random.default_rng(count).exponential(2, (20, count)).astype(np.float32))
    packed, scales = pack_deltas(drawn, bits=bits)

    decoded = unpack_deltas(packed, scales, count=count, bits=bits)

    expected = [slowly(row, scale, count, bits) for row, scale in zip(packed, scales, strict=True)]
    assert decoded == pytest.approx(np.array(expected), rel=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_errors_do_not_add_up_over_a_thousand_steps(bits: Bits) -> None:
    drawn = descending(-np.random.default_rng(0).exponential(3, (50, 1000)).astype(np.float32))
    packed, scales = pack_deltas(drawn, bits=bits)

    errors = np.abs(unpack_deltas(packed, scales, count=1000, bits=bits) - (drawn - drawn[:, :1]))

    assert errors[:, -100:].max() <= scales.max() / (2**bits - 1)


def test_equal_values_take_no_steps() -> None:
    packed, scales = pack_deltas(np.full((2, 5), -1.5, np.float32), bits=8)

    assert not packed.any()
    assert not unpack_deltas(packed, scales, count=5, bits=8).any()
