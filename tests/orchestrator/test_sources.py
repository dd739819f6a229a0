"""Readers of data that others wrote: right files come through, wrong ones are named, and nothing in them is run."""

import gzip
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

from cluster.errors import DataError
from orchestrator.sources.digits import read_digits
from orchestrator.sources.errors import SourceFormatError, SourceMissingError, TooFewLabelsError
from orchestrator.sources.idx import read_idx_labels, read_idx_rows
from orchestrator.sources.npz import read_npz_rows
from orchestrator.sources.read import class_names, read_source, source_digests
from orchestrator.sources.spec import DataConfig, IdxFiles

IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 250, 251, 252, 253, 254, 255])
"""Two images of two rows and three columns."""
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 0])
ZIPPED_LABELS = gzip.compress(LABELS, mtime=0)
"""Without the time: the processes of a run of tests have to agree on the names of its cases."""


@pytest.fixture
def idx(tmp_path: Path) -> IdxFiles:
    (tmp_path / "images").write_bytes(IMAGES)
    (tmp_path / "labels").write_bytes(LABELS)
    return IdxFiles(images=str(tmp_path / "images"), labels=str(tmp_path / "labels"))


def idx_config(files: IdxFiles, **more: Any) -> DataConfig:
    return DataConfig.model_validate({"read": {"source": "idx", "train": files, "test": files}, **more})


def npz_config(train: Path, test: Path, **more: Any) -> DataConfig:
    return DataConfig.model_validate({"read": {"source": "npz", "train": str(train), "test": str(test)}, **more})


class TestIdx:
    def test_images_and_labels_are_the_bytes_of_the_files(self, idx: IdxFiles) -> None:
        rows = read_idx_rows(idx)
        assert rows.columns["image"].tolist() == [[[1, 2, 3], [4, 5, 6]], [[250, 251, 252], [253, 254, 255]]]
        assert rows.columns["image"].dtype == np.uint8
        assert rows.labels_N.tolist() == [7, 0]
        assert rows.labels_N.dtype == np.int32

    def test_gzipped_files_hold_the_same_rows(self, idx: IdxFiles) -> None:
        plain = read_idx_rows(idx)
        Path(idx.images).write_bytes(gzip.compress(IMAGES))
        Path(idx.labels).write_bytes(gzip.compress(LABELS[:4]) + gzip.compress(LABELS[4:]))
        zipped = read_idx_rows(idx)
        assert np.array_equal(zipped.columns["image"], plain.columns["image"])
        assert np.array_equal(zipped.labels_N, plain.labels_N)

    @settings(deadline=None)
    @given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3)))
    def test_any_array_of_bytes_is_read_back(
        self, tmp_path_factory: pytest.TempPathFactory, images: np.ndarray
    ) -> None:
        folder = tmp_path_factory.mktemp("idx")
        header = b"\0\0\x08\x03" + b"".join(length.to_bytes(4, "big") for length in images.shape)
        (folder / "images").write_bytes(header + images.tobytes())
        (folder / "labels").write_bytes(b"\0\0\x08\x01" + len(images).to_bytes(4, "big") + bytes(len(images)))
        rows = read_idx_rows(IdxFiles(images=str(folder / "images"), labels=str(folder / "labels")))
        assert np.array_equal(rows.columns["image"], images)

    @pytest.mark.parametrize(
        ("body", "found"),
        [
            (b"", "first bytes"),
            (LABELS[:3], "first bytes 000008"),
            (b"\x01" + LABELS[1:], "first bytes 01000801"),
            (b"\0\0\x0d" + LABELS[3:], "first bytes 00000d01"),
            (b"not an IDX file at all", "first bytes 6e6f7420"),
            (LABELS[:6], "6 bytes and 1 axes"),
            (LABELS[:-1], "9 bytes and 1 axes"),
            (LABELS + b"\0", "11 bytes and 1 axes"),
            (b"\0\0\x08\x00\x05", "0 axes"),
            (b"\0\0\x08\xff" + bytes(4 * 255), "255 axes"),
            (b"\0\0\x08\x03" + b"\xff" * 12, "3 axes"),
            (b"\0\0\x08\x01\0\0\0\0", r"labels of uint8 \[0\]"),
            (IMAGES, r"labels of uint8 \[2, 2, 3\]"),
            (ZIPPED_LABELS[:-9], "damaged gzip"),
            (ZIPPED_LABELS[:5], "damaged gzip"),
            (ZIPPED_LABELS[:12] + b"\xff\xff\xff" + ZIPPED_LABELS[15:], "damaged gzip"),
            (ZIPPED_LABELS + b"more", "damaged gzip"),
        ],
    )
    def test_a_file_of_labels_that_is_none_is_named_with_what_was_found(
        self, idx: IdxFiles, body: bytes, found: str
    ) -> None:
        Path(idx.labels).write_bytes(body)
        with pytest.raises(SourceFormatError, match=f"{idx.labels}: found .*{found}.*, expected .+"):
            read_idx_labels(idx.labels)

    @settings(deadline=None)
    @given(st.integers(0, len(IMAGES) - 1), st.integers(0, 7))
    def test_a_flipped_bit_changes_pixels_or_is_refused(
        self, tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
    ) -> None:
        folder = tmp_path_factory.mktemp("flipped")
        body = bytearray(IMAGES)
        body[place] ^= 1 << bit
        (folder / "images").write_bytes(body)
        (folder / "labels").write_bytes(LABELS)
        files = IdxFiles(images=str(folder / "images"), labels=str(folder / "labels"))
        if place >= 16:
            assert read_idx_rows(files).columns["image"].tobytes() == bytes(body[16:])
        else:
            with pytest.raises(SourceFormatError, match="images: found"):
                read_idx_rows(files)

    def test_images_and_labels_of_different_number_are_refused(self, idx: IdxFiles) -> None:
        Path(idx.labels).write_bytes(b"\0\0\x08\x01\0\0\0\x03\1\2\3")
        with pytest.raises(SourceFormatError, match=r"labels: found 3 labels, expected 2, one for each image"):
            read_idx_rows(idx)

    @pytest.mark.parametrize("body", [LABELS, b"\0\0\x08\x03\0\0\0\2\0\0\0\0\0\0\0\1"])
    def test_images_without_pixels_or_axes_are_refused(self, idx: IdxFiles, body: bytes) -> None:
        Path(idx.images).write_bytes(body)
        with pytest.raises(SourceFormatError, match="images: found an array"):
            read_idx_rows(idx)

    @pytest.mark.parametrize("missing", ["images", "labels"])
    def test_a_missing_file_is_named_with_the_package_that_has_it(self, idx: IdxFiles, missing: str) -> None:
        path = getattr(idx, missing)
        Path(path).unlink()
        for read in (lambda: read_idx_rows(idx), lambda: source_digests(idx_config(idx))):
            with pytest.raises(SourceMissingError) as error:
                read()
            assert str(error.value).startswith(f"{path}: No such file or directory; expected a file of source 'idx'.")
            assert "apt-get install dataset-fashion-mnist" in str(error.value)

    def test_what_is_there_and_cannot_be_read_is_not_called_missing(self, idx: IdxFiles, tmp_path: Path) -> None:
        with pytest.raises(SourceMissingError, match="Is a directory"):
            read_idx_labels(str(tmp_path))

    def test_classes_are_as_many_numbers_as_the_labels_need(self, idx: IdxFiles) -> None:
        assert class_names(idx_config(idx)) == tuple("01234567")

    def test_a_label_beyond_the_named_classes_is_refused(self, idx: IdxFiles) -> None:
        with pytest.raises(SourceFormatError, match="training labels up to 7, expected at most 1"):
            read_source(idx_config(idx, classes=("no", "yes")))

    def test_test_rows_of_another_shape_are_refused_before_anything_is_trained(
        self, idx: IdxFiles, tmp_path: Path
    ) -> None:
        (tmp_path / "tall").write_bytes(IMAGES[:11] + b"\3\0\0\0\2" + IMAGES[16:])
        test = {"images": str(tmp_path / "tall"), "labels": idx.labels}
        config = DataConfig.model_validate({"read": {"source": "idx", "train": idx, "test": test}})
        with pytest.raises(
            SourceFormatError, match=r"test rows of image uint8 \[3, 2\], expected image uint8 \[2, 3\]"
        ):
            read_source(config)


class Marked:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


GOOD: dict[str, Any] = {"image": np.arange(12, dtype=np.uint8).reshape(3, 2, 2), "label": np.array([1, 0, 2])}


class TestNpz:
    def test_every_column_and_the_labels_come_through(self, tmp_path: Path) -> None:
        draw = np.random.default_rng(0)
        columns: dict[str, Any] = {
            "image": draw.integers(0, 256, (5, 4, 3), dtype=np.uint8),
            "count": draw.integers(-9, 9, 5, dtype=np.int32),
            "feature": draw.normal(size=(5, 2)).astype(np.float32),
            "small": draw.normal(size=(5, 2)).astype(np.float16),
        }
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "rows.npz", **columns, label=np.array([4, 0, 2, 2, 1], dtype=np.int64))
            rows = read_npz_rows(str(tmp_path / "rows.npz"))
            assert rows.columns.keys() == columns.keys()
            assert all(np.array_equal(rows.columns[name], columns[name]) for name in columns)
            assert rows.labels_N.tolist() == [4, 0, 2, 2, 1]
            assert rows.labels_N.dtype == np.int32

    @pytest.mark.parametrize("where", ["image", "label"])
    def test_objects_are_refused_and_nothing_in_them_is_run(self, tmp_path: Path, where: str) -> None:
        trap = np.array([Marked(tmp_path / "ran")] * 3, dtype=object)
        np.savez(tmp_path / "rows.npz", **GOOD | {where: trap})
        with pytest.raises(SourceFormatError, match=r"rows\.npz: found .*[Oo]bject arrays"):
            read_npz_rows(str(tmp_path / "rows.npz"))
        assert not (tmp_path / "ran").exists()

    def test_a_pickle_under_the_name_of_an_archive_is_not_run(self, tmp_path: Path) -> None:
        (tmp_path / "rows.npz").write_bytes(pickle.dumps(Marked(tmp_path / "ran")))
        with pytest.raises(SourceFormatError, match=r"expected a \.npz archive"):
            read_npz_rows(str(tmp_path / "rows.npz"))
        assert not (tmp_path / "ran").exists()

    def test_a_missing_archive_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SourceMissingError, match=r"no\.npz: No such file or directory; .* Check data\.read"):
            read_npz_rows(str(tmp_path / "no.npz"))

    def test_what_is_no_archive_of_arrays_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.npz"
        np.savez_compressed(path, **GOOD)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[60:90] = b"\xff" * 30
        np.save(tmp_path / "one.npy", GOOD["image"])
        with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
            archive.writestr("label.npy", "no array")
        contents = [b"", b"text", whole[:-30], whole[:40], bytes(damaged)]
        contents += [(tmp_path / name).read_bytes() for name in ("one.npy", "text.zip")]
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(SourceFormatError, match=r"rows\.npz: found .+, expected a \.npz archive"):
                read_npz_rows(str(path))
        with pytest.raises(SourceFormatError, match="directory"):
            read_npz_rows(str(tmp_path))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"label": None}, "the arrays image, expected 'label' and another one"),
            ({"image": None}, "the arrays label, expected 'label' and another one"),
            ({"label": np.zeros((3, 1), np.int32)}, r"labels of int32 \[3, 1\]"),
            ({"label": np.zeros(3, np.float32)}, "labels of float32"),
            ({"label": np.zeros(0, np.int32), "image": GOOD["image"][:0]}, r"labels of int32 \[0\]"),
            ({"label": np.array([0, -1, 1])}, "labels from -1 to 1, expected 0 to"),
            ({"label": np.array([0, 2**32, 1])}, "labels from 0 to 4294967296"),
            ({"label": np.array([0, 1, 2**64 - 1], np.uint64)}, "labels from 0 to 18446744073709551615"),
            ({"image": GOOD["image"][:2]}, r"image: found uint8 \[2, 2, 2\], expected 3 rows"),
            ({"image": np.uint8(1)}, r"image: found uint8 \[\], expected 3 rows"),
            ({"image": GOOD["image"].astype(np.float64)}, "image: found float64 .* expected uint8, int32"),
            ({"image": GOOD["image"].astype(">f4")}, "image: found >f4"),
            ({"image": np.array(["a", "b", "c"])}, "image: found <U1"),
            ({"image": np.zeros((3, 0), np.uint8)}, r"image: found uint8 \[3, 0\]"),
            ({"Image": GOOD["image"]}, "Image: found uint8 .* small letters"),
            ({"row": np.zeros(3, np.int32)}, "a column called 'row', expected another name"),
        ],
    )
    def test_arrays_that_make_no_rows_are_named(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        arrays = {name: array for name, array in (GOOD | change).items() if array is not None}
        np.savez(tmp_path / "rows.npz", **arrays)
        with pytest.raises(SourceFormatError, match=message):
            read_npz_rows(str(tmp_path / "rows.npz"))
        with pytest.raises(DataError):
            class_names(npz_config(tmp_path / "rows.npz", tmp_path / "rows.npz"))

    def test_test_rows_need_the_columns_of_the_training_rows(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "train.npz", **GOOD)
        np.savez(tmp_path / "test.npz", picture=GOOD["image"], label=GOOD["label"])
        with pytest.raises(SourceFormatError, match=r"test rows of picture .* expected image uint8 \[2, 2\]"):
            read_source(npz_config(tmp_path / "train.npz", tmp_path / "test.npz"))


class TestDigits:
    def test_the_rows_are_those_of_scikit_learn_each_once(self) -> None:
        train, test = read_digits(360, seed=0)
        assert (len(train), len(test)) == (1437, 360)
        images = np.concatenate([train.columns["image"], test.columns["image"]])
        labels = np.concatenate([train.labels_N, test.labels_N])
        assert images.dtype == np.uint8
        assert images.max() == 240

        digits = load_digits()
        expected = sorted(zip((digits.images * 15).reshape(-1, 64).tolist(), digits.target.tolist(), strict=True))
        assert sorted(zip(images.reshape(-1, 64).tolist(), labels.tolist(), strict=True)) == expected

    def test_a_seed_gives_one_division_and_another_seed_another(self) -> None:
        first, again, other = (read_digits(100, seed=seed)[1].columns["image"] for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    @pytest.mark.parametrize("test_rows", [1797, 5000])
    def test_a_test_that_leaves_nothing_to_train_on_is_refused(self, test_rows: int) -> None:
        with pytest.raises(TooFewLabelsError, match=rf"data\.read\.test asks for {test_rows} rows, there are 1796"):
            read_digits(test_rows, seed=0)


def test_errors_of_sources_survive_a_process_boundary() -> None:
    for error in (
        SourceMissingError("path", "idx", "No such file or directory"),
        SourceFormatError("path", "this", "that"),
        TooFewLabelsError("data.labelled", 3, 2),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.exit_code == 7
