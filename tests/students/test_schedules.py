"""Schedules, against their ends, their middles and numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from students.objectives.schedules import Schedule, Temperature, Weight, at

PROGRESS = st.floats(0, 1, exclude_max=True)


def test_a_number_stays_what_it_is() -> None:
    assert [at(3.0, progress) for progress in (0.0, 0.5, 0.99)] == [3.0, 3.0, 3.0]


@given(
    progress=PROGRESS, start=st.floats(-5, 5), end=st.floats(-5, 5), begin=st.floats(0, 0.4), finish=st.floats(0.6, 1)
)
def test_a_line_is_the_interpolation_of_numpy(
    progress: float, start: float, end: float, begin: float, finish: float
) -> None:
    ramp = Schedule(schedule="linear", start=start, end=end, begin=begin, finish=finish)

    assert ramp.at(progress) == pytest.approx(np.interp(progress, [begin, finish], [start, end]), abs=1e-12)


def test_a_cosine_leaves_and_arrives_flat_and_passes_the_middle_half_way() -> None:
    ramp = Schedule(schedule="cosine", start=1.0, end=3.0, begin=0.2, finish=0.6)

    assert [ramp.at(0.1), ramp.at(0.2), ramp.at(0.6), ramp.at(0.9)] == [1.0, 1.0, 3.0, 3.0]
    assert ramp.at(0.4) == pytest.approx(2.0)
    assert ramp.at(0.3) == pytest.approx(1.0 + (1 - math.sqrt(0.5)))


@pytest.mark.parametrize(
    "given",
    [
        0,
        -1.0,
        {"schedule": "linear", "start": 0, "end": 1},
        {"schedule": "linear", "start": 1, "end": 2, "begin": 0.5, "finish": 0.5},
    ],
)
def test_a_temperature_is_above_zero_at_every_moment(given: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Temperature).validate_python(given)


@pytest.mark.parametrize(
    "given", [0, -1.0, {"schedule": "cosine", "start": 1, "end": -0.1}, {"schedule": "linear", "start": 0, "end": 0}]
)
def test_a_weight_is_never_below_zero_nor_always_zero(given: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Weight).validate_python(given)


def test_a_weight_may_rise_from_zero_and_fall_to_it() -> None:
    for ends in ({"start": 0, "end": 1}, {"start": 1, "end": 0}):
        TypeAdapter(Weight).validate_python({"schedule": "linear", **ends})
