"""Outputs of modules as columns: what is read is what was written, within the steps of the type."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.shards.codecs.codec import Codec
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import DenseConfig, HiddenConfig, SampledConfig, TapConfig, TopKConfig
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import columns_of
from cluster.shards.taps import (
    TapMisfitError,
    names_of_tap,
    pack_tap,
    reduced_shape,
    signs,
    tap_columns,
    tap_shapes,
    unpack_tap,
)

TAPS = {"layer.2": TapConfig(values="int8"), "features": TapConfig()}
SHAPES = {"layer.2": (4, 3), "features": (6,)}
RECORD = LabelSetRecord(
    teacher="wide",
    teacher_identity="1" * 16,
    dataset="d" * 16,
    columns=(*codec_of(DenseConfig(), 3).columns(), *tap_columns(TAPS, SHAPES)),
    taps=TAPS,
)


def outputs(rows: int, shape: tuple[int, ...], *, seed: int, size: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = size * 10.0 ** rng.uniform(-2, 2, (rows, *(1,) * len(shape)))
    values: np.ndarray = (sizes * rng.standard_normal((rows, *shape))).astype(np.float32)
    return values


def stored(module: str, output: np.ndarray) -> np.ndarray:
    return unpack_tap(TAPS, module, pack_tap(TAPS, module, output))


def test_columns_are_named_by_the_place_of_the_path_whatever_the_order_in_the_spec() -> None:
    columns = tap_columns(TAPS, SHAPES)

    assert [(column.name, column.dtype, column.shape) for column in columns] == [
        ("tap_0", "float16", (6,)),
        ("tap_1", "uint8", (4, 3)),
        ("tap_1_scale", "float32", ()),
    ]
    assert columns == tap_columns(dict(reversed(TAPS.items())), SHAPES)
    assert tap_shapes(TAPS, RECORD.columns) == SHAPES
    assert names_of_tap(TAPS, "layer.2") == ("tap_1", "tap_1_scale")


@pytest.mark.parametrize(
    "config", [DenseConfig(), TopKConfig(k=2), SampledConfig(), HiddenConfig(head="a", width=2, values="int8")]
)
def test_no_codec_has_a_column_of_such_a_name(config: DenseConfig) -> None:
    codec: Codec = codec_of(config, 5)

    assert not [column.name for column in codec.columns() if column.name.startswith("tap_")]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), size=st.floats(1e-3, 1e2))
def test_what_is_stored_is_off_by_half_a_step_at_most(seed: int, size: float) -> None:
    maps, vectors = outputs(7, (4, 3), seed=seed, size=size), outputs(7, (6,), seed=seed, size=size)

    of_maps, of_vectors = stored("layer.2", maps), stored("features", vectors)

    steps = np.abs(maps).reshape(7, -1).max(axis=1)[:, None, None] / 127
    assert np.all(np.abs(of_maps - maps) <= 0.5001 * steps)
    assert np.array_equal(of_vectors, vectors.astype(np.float16).astype(np.float32))
    assert of_maps.dtype == of_vectors.dtype == np.float32


def test_the_columns_that_are_packed_are_those_of_the_record() -> None:
    packed = {
        name: array
        for module in sorted(TAPS)
        for name, array in pack_tap(TAPS, module, outputs(3, SHAPES[module], seed=1, size=1.0)).items()
    }

    assert columns_of(packed) == RECORD.columns[1:]


@pytest.mark.parametrize("module", TAPS)
def test_rows_of_zeros_stay_zeros(module: str) -> None:
    assert not stored(module, np.zeros((2, *SHAPES[module]), np.float32)).any()


def test_random_signs_keep_scalar_products_on_the_average() -> None:
    matrix = signs(200, 128).astype(np.float64)

    assert set(np.unique(np.abs(matrix)).round(6)) == {round(1 / np.sqrt(128), 6)}
    products = matrix @ matrix.T
    assert np.diag(products) == pytest.approx(1.0, abs=1e-5)
    others = products[~np.eye(200, dtype=bool)]
    assert abs(others.mean()) < 0.005
    assert others.std() == pytest.approx(1 / np.sqrt(128), rel=0.05)


def test_random_signs_are_the_same_wherever_they_are_drawn() -> None:
    assert np.sign(signs(3, 4)).astype(int).tolist() == [[1, 1, -1, 1], [1, 1, -1, -1], [-1, 1, -1, -1]]


@pytest.mark.parametrize(
    ("config", "shape", "left"),
    [
        ({}, (8, 5, 6), (8, 5, 6)),
        ({"pool": 1}, (8, 5, 6), (8,)),
        ({"pool": 2}, (8, 5, 6), (8, 2, 2)),
        ({"pool": 2, "project": 3}, (8, 5, 6), (3, 2, 2)),
        ({"pool": 1}, (5, 8), (8,)),
        ({"pool": 2, "project": 3}, (5, 8), (2, 3)),
        ({"project": 3}, (5, 8), (5, 3)),
        ({"pool": 2, "project": 3}, (8,), (3,)),
    ],
)
def test_maps_have_their_channels_first_and_tokens_last(
    config: dict[str, object], shape: tuple[int, ...], left: tuple[int, ...]
) -> None:
    assert reduced_shape(TapConfig.model_validate(config), shape, field="taps.a") == left


def test_what_does_not_fit_is_refused_with_the_place_in_the_spec() -> None:
    with pytest.raises(TapMisfitError, match=r"taps\.a: project is 9, .* shape \[8, 5, 6\]; expected at most its 8"):
        reduced_shape(TapConfig(project=9), (8, 5, 6), field="teachers.wide.taps.a")
    with pytest.raises(TapMisfitError, match=r"shape \[\]; expected another module"):
        reduced_shape(TapConfig(), (), field="teachers.wide.taps.a")


def test_taps_are_part_of_the_identity_of_a_label_set_and_sets_without_any_are_what_they_were() -> None:
    fields = RECORD.model_dump(exclude={"taps"}) | {"columns": RECORD.columns[:1]}
    bare = LabelSetRecord.model_validate(fields)
    finer = {**TAPS, "features": TapConfig(pool=1)}

    assert "taps" not in bare.model_dump_json()
    assert len({bare.identity, RECORD.identity, RECORD.model_copy(update={"taps": finer}).identity}) == 3
    again = LabelSetRecord.model_validate_json(RECORD.model_dump_json())
    assert again == RECORD
    assert {again, RECORD, bare} == {RECORD, bare}
