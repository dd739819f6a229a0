"""Views of rows: pure functions of row, view and spec, with the distributions and the pictures that they promise."""

import re
from typing import Any

import blake3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from cluster.errors import DataError
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import NO_LABEL, Column
from cluster.shards.views.draws import betas_from, bits_of, normals_for, shares_from
from cluster.shards.views.look import OWN_SHARE, PARTNER_LABEL, UnseenColumnError, look
from cluster.shards.views.spec import View, ViewsConfig
from tests.fixtures.plain_order import splitmix64

MASK = 2**64 - 1
KINDS: dict[str, dict[str, Any]] = {
    "crop": {"padding": 2},
    "flip": {"share": 0.5},
    "zoom": {"least": 0.5},
    "rotate": {"degrees": 30.0},
    "noise": {"std": 6.0},
}


def view(*kinds: str, number: int = 0, **options: Any) -> View:
    augment = [{"kind": kind, **KINDS[kind]} for kind in kinds]
    seen = ViewsConfig.model_validate({"augment": augment, **options}).view(number)
    assert seen is not None
    return seen


def rows(count: int, *shape: int, dtype: str = "uint8", first: int = 0) -> dict[str, np.ndarray]:
    images = np.random.default_rng(count).integers(0, 256, (count, *shape)).astype(dtype)
    numbers = np.arange(first, first + count, dtype=np.int32)
    return {"row": numbers, "image": images, "label": (numbers % 10).astype(np.int32)}


def part(arrays: dict[str, np.ndarray], picked: Any) -> dict[str, np.ndarray]:
    return {name: array[picked] for name, array in arrays.items()}


class TestDraws:
    def test_they_are_splitmix64_seeded_by_the_hash_of_key_and_row(self) -> None:
        found = bits_of((3, 1, 0), np.array([5, 70_000]), 4)
        for row, drawn in zip((5, 70_000), found, strict=True):
            state = 0
            for key in (3, 1, 0):
                state = splitmix64(state ^ key)
            seed = splitmix64(state ^ row)
            expected = [splitmix64((seed + step * 0x9E3779B97F4A7C15) & MASK) for step in range(4)]
            assert drawn.tolist() == expected

    def test_shares_are_uniform(self) -> None:
        shares = shares_from(bits_of((0, 0, 0), np.arange(20_000), 1))[:, 0]
        assert stats.kstest(shares, "uniform").pvalue > 0.01

    def test_noise_is_normal_and_independent_from_value_to_value(self) -> None:
        noise = normals_for((0, 0, 0), np.arange(4000), 5)
        assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
        assert np.abs(np.corrcoef(noise.T) - np.eye(5)).max() < 0.06

    @pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
    def test_shares_of_blended_rows_follow_the_beta_distribution(self, concentration: float) -> None:
        parts = betas_from(bits_of((0, 0, 0), np.arange(20_000), 1)[:, 0], concentration)
        # Shares are rounded to a part of 65536: moved by less than that they have no ties, and the law is continuous.
        moved = np.clip((parts + np.random.default_rng(0).uniform(-0.5, 0.5, len(parts))) / 65536, 0, 1)
        inside = (moved > 1e-3) & (moved < 1 - 1e-3)
        law = stats.beta(concentration, concentration)
        low, high = law.cdf([1e-3, 1 - 1e-3])
        assert stats.kstest((law.cdf(moved[inside]) - low) / (high - low), "uniform").pvalue > 0.01
        assert inside.mean() == pytest.approx(high - low, abs=0.01)


class TestWhoLooks:
    @settings(deadline=None, max_examples=25)
    @given(
        kinds=st.lists(st.sampled_from(sorted(KINDS)), max_size=3),
        picked=st.lists(st.integers(0, 39), min_size=1, max_size=12),
        number=st.integers(0, 3),
    )
    def test_a_row_looks_alike_whatever_rows_are_beside_it(
        self, kinds: list[str], picked: list[int], number: int
    ) -> None:
        arrays, seen = rows(40, 6, 5), view(*kinds, number=number)
        assert np.array_equal(look(part(arrays, picked), seen)["image"], look(arrays, seen)["image"][picked])

    def test_shards_larger_than_a_chunk_look_as_small_ones(self) -> None:
        arrays, seen = rows(90, 40, 40), view("crop", "rotate", "noise")  # 40 rows make a chunk
        ones = [look(part(arrays, [place]), seen)["image"] for place in range(90)]
        assert np.array_equal(look(arrays, seen)["image"], np.concatenate(ones))

    def test_views_seeds_and_rows_differ(self) -> None:
        arrays = rows(8, 8, 8)
        arrays["image"][:] = arrays["image"][0]
        views = [view("zoom"), view("zoom", number=1), view("zoom", seed=1), view("rotate", "zoom")]
        pictures = [picture.tobytes() for seen in views for picture in look(arrays, seen)["image"]]
        assert len(set(pictures)) == len(pictures)

    def test_channels_may_stand_first_or_last(self) -> None:
        kinds = ("crop", "flip", "zoom", "rotate")
        first = rows(20, 3, 6, 5)
        last = first | {"image": np.moveaxis(first["image"], 1, -1)}
        mixes = {"mixup": 1.0, "cutmix": 1.0}
        seen = look(last, view(*kinds, channels="last", **mixes))["image"]
        assert np.array_equal(np.moveaxis(seen, -1, 1), look(first, view(*kinds, **mixes))["image"])

    @pytest.mark.parametrize("shape", [(7,), (6, 5), (3, 6, 5)])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
    def test_columns_keep_type_and_shape_and_what_is_stored_is_not_touched(
        self, shape: tuple[int, ...], dtype: str
    ) -> None:
        arrays = rows(9, *shape, dtype=dtype)
        before = arrays["image"].copy()
        arrays["image"].flags.writeable = False
        kinds = ("noise",) if len(shape) == 1 else tuple(KINDS)
        seen = look(arrays, view(*kinds, mixup=0.5))["image"]
        assert (seen.dtype, seen.shape, seen.flags.c_contiguous) == (np.dtype(dtype), (9, *shape), True)
        assert np.array_equal(arrays["image"], before)
        assert not np.array_equal(seen, before)

    def test_without_a_view_rows_are_as_they_are(self) -> None:
        arrays = rows(4, 3, 3)
        assert all(look(arrays, None)[name] is array for name, array in arrays.items())

    def test_the_bytes_are_those_of_every_machine(self) -> None:
        # Written down once: another value is another meaning of the same options, and asks for another `recipe`.
        seen = look(rows(50, 3, 9, 8), view(*KINDS, number=2, seed=7, mixup=0.4, cutmix=1.0))
        body = b"".join(seen[name].tobytes() for name in ("image", "label", PARTNER_LABEL, OWN_SHARE))
        assert blake3.blake3(body).hexdigest()[:16] == "0f465a387edaaceb"


class TestPictures:
    def test_crops_are_all_shifts_equally_often(self) -> None:
        arrays = rows(2500, 5, 6)
        arrays["image"][:] = np.arange(1, 31, dtype=np.uint8).reshape(5, 6)
        shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
        pictures = [ndimage.shift(arrays["image"][0], by, order=0, mode="constant").tobytes() for by in shifts]
        found = [pictures.index(picture.tobytes()) for picture in look(arrays, view("crop"))["image"]]
        assert stats.chisquare(np.bincount(found, minlength=25)).pvalue > 0.01

    def test_flips_mirror_their_share_of_the_rows(self) -> None:
        arrays = rows(20_000, 3, 4)
        seen = look(arrays, view("flip"))["image"]
        is_mirrored = (seen == np.flip(arrays["image"], axis=2)).all(axis=(1, 2))
        assert np.array_equal(seen[~is_mirrored], arrays["image"][~is_mirrored])
        assert stats.binomtest(int(is_mirrored.sum()), 20_000, 0.5).pvalue > 0.01

    def test_rotations_are_those_of_scipy(self) -> None:
        arrays = rows(30, 9, 7, dtype="float32")
        shares = shares_from(bits_of((0, 0, 0), arrays["row"], 1))[:, 0]
        for share, image, seen in zip(shares, arrays["image"], look(arrays, view("rotate"))["image"], strict=True):
            angle = np.deg2rad(30 * (2 * share - 1))
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            middle = (np.array(image.shape) - 1) / 2
            expected = ndimage.affine_transform(
                image.astype(np.float64), turn, middle - turn @ middle, order=1, mode="grid-constant"
            )
            assert np.abs(seen - expected).max() < 1e-3

    def test_zooms_are_those_of_scipy(self) -> None:
        arrays = rows(30, 9, 7, dtype="float32")
        shares = shares_from(bits_of((0, 0, 0), arrays["row"], 3))
        for (size, *place), image, seen in zip(
            shares, arrays["image"], look(arrays, view("zoom"))["image"], strict=True
        ):
            side = 0.5 + 0.5 * size
            start = np.array(place) * (1 - side) * image.shape
            expected = ndimage.affine_transform(
                image.astype(np.float64), [side, side], start + (side - 1) / 2, order=1, mode="nearest"
            )
            assert np.abs(seen - expected).max() < 1e-3

    def test_integers_are_those_of_floats_rounded_and_kept_in_range(self) -> None:
        kinds = ("rotate",), ("zoom",), ("noise",)
        for kind in kinds:
            whole, exact = (look(rows(30, 6, 6, dtype=dtype), view(*kind))["image"] for dtype in ("uint8", "float32"))
            assert np.array_equal(whole, np.clip(np.rint(exact), 0, 255))

    def test_noise_has_the_spread_that_it_is_given(self) -> None:
        arrays = rows(400, 5, 5, dtype="float32")
        noise = look(arrays, view("noise"))["image"] - arrays["image"]
        assert stats.kstest(noise.ravel() / 6, "norm").pvalue > 0.01


class TestBlends:
    @staticmethod
    def constant(count: int, *shape: int) -> dict[str, np.ndarray]:
        """Rows of one value each, so that a pixel tells whose it is."""
        arrays = rows(count, *shape, dtype="float32")
        arrays["image"][:] = np.arange(count).reshape(-1, *(1 for _ in shape))
        arrays["label"] = np.arange(count, dtype=np.int32)
        return arrays

    def test_labels_say_what_is_in_the_picture(self) -> None:
        for options in ({"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 0.3}):
            seen = look(self.constant(100, 6, 5), view(**options))
            own, other = seen["label"], seen[PARTNER_LABEL]
            expected = seen[OWN_SHARE] * own + (1 - seen[OWN_SHARE]) * other
            assert np.abs(seen["image"].mean(axis=(1, 2)) - expected).max() < 1e-3

    def test_every_row_is_blended_with_another_and_everybody_once(self) -> None:
        seen = look(self.constant(100, 2, 2), view(mixup=1.0))
        assert not (seen["label"] == seen[PARTNER_LABEL]).any()
        assert sorted(seen[PARTNER_LABEL].tolist()) == list(range(100))

    def test_a_row_alone_in_its_shard_is_blended_with_itself(self) -> None:
        arrays = rows(1, 4, 4)
        assert np.array_equal(look(arrays, view(mixup=1.0))["image"], arrays["image"])

    def test_partners_are_the_same_in_whatever_order_rows_lie_and_whatever_else_is_done(self) -> None:
        arrays, order = self.constant(50, 4, 4), np.random.default_rng(0).permutation(50)
        seen, shuffled = look(arrays, view(mixup=1.0)), look(part(arrays, order), view(mixup=1.0))
        assert all(np.array_equal(shuffled[name], seen[name][order]) for name in seen)
        assert np.array_equal(look(arrays, view("flip", mixup=1.0))[PARTNER_LABEL], seen[PARTNER_LABEL])

    def test_mixup_of_integers_is_rounded(self) -> None:
        whole, exact = (look(rows(60, 3, 3, dtype=dtype), view(mixup=1.0))["image"] for dtype in ("uint8", "float32"))
        assert np.abs(whole - exact.astype(np.float64)).max() <= 0.5 + 1e-4

    def test_cutmix_pastes_boxes(self) -> None:
        arrays = self.constant(200, 7, 8)
        seen = look(arrays, view(cutmix=1.0))
        for own, picture in zip(seen["label"], seen["image"], strict=True):
            is_pasted = picture != own
            box = np.ix_(is_pasted.any(axis=1), is_pasted.any(axis=0))
            assert is_pasted[box].all()
            assert all((np.diff(np.flatnonzero(is_pasted.any(axis=axis))) == 1).all() for axis in (0, 1))

    def test_with_both_each_row_gets_one_or_the_other(self) -> None:
        picture = look(self.constant(1000, 6, 6), view(mixup=1.0, cutmix=1.0))["image"].reshape(1000, -1)
        is_cut = (picture != picture[:, :1]).any(axis=1)
        assert 400 < is_cut.sum() < 600

    def test_a_row_blended_with_one_that_nobody_labelled_has_no_label(self) -> None:
        arrays = self.constant(60, 4, 4)
        partners = look(arrays, view(mixup=1.0))[PARTNER_LABEL]
        arrays["label"][::3] = NO_LABEL
        seen = look(arrays, view(mixup=1.0))
        expected = (np.arange(60) % 3 != 0) & (partners % 3 != 0)
        assert np.array_equal(seen["label"] != NO_LABEL, expected)
        assert np.array_equal(seen[PARTNER_LABEL] != NO_LABEL, expected)

    def test_teachers_see_the_same_without_labels(self) -> None:
        arrays, seen = rows(30, 5, 5), view("crop", mixup=1.0, cutmix=1.0)
        unlabelled = {name: array for name, array in arrays.items() if name != "label"}
        assert sorted(look(unlabelled, seen)) == ["image", "row"]
        assert np.array_equal(look(unlabelled, seen)["image"], look(arrays, seen)["image"])


class TestConfig:
    def test_more_views_begin_with_the_same_ones(self) -> None:
        few, many = (ViewsConfig.model_validate({"count": count, "mixup": 1.0}) for count in (2, 5))
        assert many.within(9)[:2] == few.within(9)
        assert few.within(1) == few.within(9)[:1]

    def test_epochs_take_the_views_in_turn(self) -> None:
        views = ViewsConfig.model_validate({"count": 3, "mixup": 1.0})
        assert [views.number_in(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
        assert ViewsConfig.model_validate({"mixup": 1.0}).number_in(6) == 6

    def test_the_first_view_may_be_the_rows_as_they_are(self) -> None:
        views = ViewsConfig.model_validate({"mixup": 1.0, "plain_first": True})
        assert [seen and seen.number for seen in views.within(3)] == [None, 1, 2]

    def test_a_label_set_of_a_view_is_another_and_one_without_is_what_it_was(self) -> None:
        column = Column(name="logits", dtype="float16", shape=(3,))
        record = LabelSetRecord(teacher="wide", teacher_identity="1" * 16, dataset="2" * 16, columns=(column,))
        assert "view" not in record.model_dump(mode="json")
        sets = [record, *(record.seen(view("flip", number=number)) for number in range(3)), record.seen(view("crop"))]
        assert len({it.identity for it in sets}) == 5
        assert record.seen(view("flip")).seen(None).identity == record.identity
        assert LabelSetRecord.model_validate_json(sets[1].model_dump_json()) == sets[1]

    @pytest.mark.parametrize(
        ("options", "column", "reason"),
        [
            ({"augment": [{"kind": "crop"}]}, ("float32", (64,)), r"augment.0: `crop` changes images.*\[64\].*`noise`"),
            ({"augment": [{"kind": "flip"}]}, ("uint8", (2, 3, 4, 5)), r"augment.0: `flip` changes images"),
            ({"augment": [{"kind": "crop", "padding": 8}]}, ("uint8", (8, 9)), r"augment.0: padding is 8.*8 x 9"),
            ({"cutmix": 1.0}, ("float32", (64,)), r"cutmix: .*expected `mixup`"),
            ({"mixup": 1.0}, ("int32", (64,)), r"column: image holds int32"),
        ],
    )
    def test_rows_of_another_shape_are_refused(self, options: Any, column: Any, reason: str) -> None:
        dtype, shape = column
        found = ViewsConfig.model_validate(options).misfit(Column(name="image", dtype=dtype, shape=shape))
        assert found is not None
        assert re.match(reason, found), found

    @pytest.mark.parametrize(
        "options",
        [{"augment": [{"kind": "crop"}]}, {"cutmix": 1.0}, {"augment": [{"kind": "noise", "std": 1.0}], "mixup": 0.2}],
    )
    def test_images_of_whatever_type_are_not(self, options: Any) -> None:
        for dtype in ("uint8", "uint16", "float16", "float32"):
            for shape in ((8, 9), (3, 8, 9)):
                column = Column.model_validate({"name": "image", "dtype": dtype, "shape": shape})
                assert ViewsConfig.model_validate(options).misfit(column) is None

    def test_rows_without_a_number_or_with_several_columns_are_refused(self) -> None:
        arrays = rows(3, 4, 4)
        with pytest.raises(UnseenColumnError, match="needs the column row"):
            look({"image": arrays["image"]}, view("flip"))
        with pytest.raises(DataError, match="needs the column None; the data set has image, text"):
            look(arrays | {"text": arrays["image"]}, view("flip"))
        assert look(arrays | {"text": arrays["image"]}, view("flip", column="text"))["image"] is arrays["image"]
