"""Sources in many files: the same rows from every form, in an order of their own, and bad ones named and left out."""

import json
import pickle
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from orchestrator.resolution.splits import dataset_ids
from orchestrator.sources.errors import (
    ClassesMissingError,
    DatasetReferenceError,
    NoRowsError,
    SourceFormatError,
    SourceMissingError,
    TooManyBadRowsError,
)
from orchestrator.sources.files import SourceFile, digest_of_files
from orchestrator.sources.read import class_names, outgrows_memory, read_source, source_columns, source_digests
from orchestrator.sources.spec import DataConfig
from tests.fixtures import exports
from tests.fixtures.exports import CLASSES, GREY, WRITERS, add, config, digits, png, sorted_by_class
from tests.fixtures.s3_servers import S3Bucket


def written(kind: str, folder: Path, **keys: Any) -> DataConfig:
    return config(WRITERS[kind](folder, digits()), **keys)


def reasons(data: DataConfig) -> list[str]:
    """Return what is said of the rows that are left out."""
    return [str(row) for row in read_source(data.model_copy(update={"max_bad_fraction": 0.9})).bad]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_form_of_a_source_gives_the_same_rows_in_its_own_order(kind: str, tmp_path: Path) -> None:
    source = read_source(written(kind, tmp_path))
    expected = sorted_by_class(digits()) if kind == "images" else digits()
    assert (source.classes, source.bad) == (CLASSES, ())
    for part, rows in (("train", source.train), ("test", source.test)):
        images, labels = expected[part]
        assert list(rows.columns) == ["image"]
        assert rows.columns["image"].dtype == np.uint8
        assert np.array_equal(rows.columns["image"], images)
        assert np.array_equal(rows.labels_N, labels)
        assert np.array_equal(rows.numbers_N, np.arange(len(labels)))


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_are_known_from_the_first_row(kind: str, tmp_path: Path) -> None:
    (column,) = source_columns(written(kind, tmp_path))
    assert (column.name, column.dtype, column.shape) == ("image", "uint8", (8, 8))


def test_folders_and_class_labels_name_the_classes_and_other_sources_need_names(tmp_path: Path) -> None:
    for kind in ("images", "huggingface"):
        assert class_names(written(kind, tmp_path / kind, classes=None)) == CLASSES
    for kind in ("parquet", "csv", "jsonl", "webdataset", "torch"):
        with pytest.raises(ClassesMissingError, match=r"data\.classes: .* does not say which classes"):
            class_names(written(kind, tmp_path / kind, classes=None))


def test_files_are_found_by_directory_by_pattern_and_by_name(tmp_path: Path) -> None:
    whole = written("parquet", tmp_path)
    (tmp_path / "train" / "_SUCCESS.parquet").touch()
    read = whole.read.model_dump()
    for train in (f"{tmp_path}/train/*[01].parquet", [f"{tmp_path}/train/1.parquet", f"{tmp_path}/train/0.parquet"]):
        again = config(read | {"train": train})
        assert source_digests(again) == source_digests(whole)
        assert np.array_equal(read_source(again).train.labels_N, read_source(whole).train.labels_N)
    with pytest.raises(SourceMissingError, match=r"no file here that ends in \.parquet"):
        read_source(config(read | {"test": f"{tmp_path}/none/*.parquet"}))


def test_memory_is_outgrown_by_the_bytes_of_files_or_of_items(tmp_path: Path) -> None:
    for kind in ("csv", "torch"):
        data = written(kind, tmp_path)
        assert not outgrows_memory(data)
        assert outgrows_memory(data.model_copy(update={"in_memory_bytes": 150 * 64 - 1}))
    assert not outgrows_memory(config(exports.write_npz(tmp_path, digits()), in_memory_bytes=0))


class TestBuckets:
    @pytest.mark.parametrize("kind", ["parquet", "webdataset"])
    def test_a_bucket_gives_the_rows_of_a_directory(self, kind: str, tmp_path: Path, moto_bucket: S3Bucket) -> None:
        data = written(kind, tmp_path)
        upload(tmp_path, moto_bucket, "some data/v=1")  # names that no key of ours may have
        uri = f"{moto_bucket.uri}/some data/v=1"
        there = config(data.read.model_dump() | {"train": f"{uri}/train", "test": f"{uri}/test/"})
        expected, found = read_source(data), read_source(there)
        assert np.array_equal(found.train.columns["image"], expected.train.columns["image"])
        assert np.array_equal(found.test.labels_N, expected.test.labels_N)

    def test_objects_are_found_by_pattern_and_known_by_their_tags(self, tmp_path: Path, moto_bucket: S3Bucket) -> None:
        data = written("csv", tmp_path)
        upload(tmp_path, moto_bucket, "a")
        upload(tmp_path, moto_bucket, "b")
        first, second = (
            config(data.read.model_dump() | {"train": f"{moto_bucket.uri}/{name}/train/*.csv", "test": test})
            for name, test in (
                ("a", f"{moto_bucket.uri}/a/test"),
                ("b", [f"{moto_bucket.uri}/b/test/{n}.csv" for n in (0, 1)]),
            )
        )
        assert source_digests(first) == source_digests(second)
        moto_bucket.server.admin.put_object(Bucket=moto_bucket.name, Key="b/train/0.csv", Body=b"digit\n")
        assert source_digests(first)[0] != source_digests(second)[0]
        assert source_digests(first)[1] == source_digests(second)[1]
        with pytest.raises(SourceMissingError, match=r"no file here that ends in \.csv"):
            read_source(config(data.read.model_dump() | {"train": f"{moto_bucket.uri}/nowhere"}))


def upload(folder: Path, bucket: S3Bucket, prefix: str) -> None:
    for path in folder.rglob("*.*"):
        key = f"{prefix}/{path.relative_to(folder).as_posix()}"
        bucket.server.admin.put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes())


class TestIdentity:
    def ids(self, data: DataConfig) -> set[str]:
        ids = dataset_ids(data, classes=class_names(data), digests=source_digests(data))
        return set(ids.distinct())

    @pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "images", "webdataset", "huggingface"])
    def test_another_place_is_the_same_data_and_another_byte_is_other_data(self, kind: str, tmp_path: Path) -> None:
        here, there = written(kind, tmp_path / "here"), written(kind, tmp_path / "there")
        assert self.ids(here) == self.ids(there)
        largest = max((path for path in (tmp_path / "there").rglob("*.*")), key=lambda path: path.stat().st_size)
        body = bytearray(largest.read_bytes())
        body[len(body) // 2] ^= 1
        largest.write_bytes(body)
        assert not self.ids(here) & self.ids(there)

    def test_the_class_of_a_folder_is_part_of_the_data(self, tmp_path: Path) -> None:
        data = written("images", tmp_path)
        before = self.ids(data)
        (tmp_path / "train" / "3").rename(tmp_path / "train" / "away")
        (tmp_path / "train" / "4").rename(tmp_path / "train" / "3")
        (tmp_path / "train" / "away").rename(tmp_path / "train" / "4")
        assert not self.ids(data) & before

    def test_how_columns_are_made_and_the_revision_matter_and_execution_does_not(self, tmp_path: Path) -> None:
        data = written("csv", tmp_path)
        for change in ({"max_bad_fraction": 0.5}, {"in_memory_bytes": 0}):
            assert self.ids(data.model_copy(update=change)) == self.ids(data)
        read = data.read.model_dump()
        others = [data.model_copy(update={"revision": "second"})]
        others += [config(read | {"inputs": {"image": {"of": "pixel*", "dtype": "float32"}}})]
        for other in others:
            assert not self.ids(other) & self.ids(data)

    def test_a_torch_data_set_is_known_by_its_arguments_and_its_source(self, tmp_path: Path) -> None:
        data = written("torch", tmp_path)
        other = config(data.read.model_dump() | {"train": {"part": "test"}})
        assert not self.ids(other) & self.ids(data)

    def test_of_large_files_lengths_and_ends_are_looked_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.sources.files.WHOLE_BYTES", 100)
        path = tmp_path / "large"
        body = bytearray(random.Random(0).randbytes(3 << 20))

        def digest() -> str:
            path.write_bytes(body)
            return digest_of_files([SourceFile(str(path), len(body))], source="csv")

        before = digest()
        body[len(body) // 2] ^= 1
        assert digest() == before
        for place in (0, -1, -(1 << 20)):
            body[place] ^= 1
            assert digest() != before
            body[place] ^= 1


class TestBadRows:
    def test_more_than_the_share_end_the_job_and_the_first_five_are_named(self, tmp_path: Path) -> None:
        data = written("jsonl", tmp_path)
        path = tmp_path / "train" / "1.jsonl"
        lines = path.read_text().splitlines()
        for place in range(2, 14, 2):
            lines[place] = lines[place][:-5]
        path.write_text("\n".join(lines))
        with pytest.raises(TooManyBadRowsError, match=r"6 of 150 rows cannot be used") as raised:
            read_source(data)
        assert len(raised.value.first) == 5
        assert raised.value.first[1].startswith(f"{path}, row 4: it is no JSON (")
        with pytest.raises(TooManyBadRowsError):
            read_source(data.model_copy(update={"max_bad_fraction": 5 / 150}))

        source = read_source(data.model_copy(update={"max_bad_fraction": 6 / 150}))
        kept = np.setdiff1d(np.arange(120), np.arange(82, 94, 2))  # 80 rows in the first file
        assert np.array_equal(source.train.numbers_N, kept)
        assert np.array_equal(source.train.columns["image"], digits()["train"][0][kept])
        assert [(row.partition, row.row) for row in source.bad] == [(1, place) for place in range(2, 14, 2)]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"image": [[0] * 8] * 7}, r"image has the shape \[7, 8\], expected \[8, 8\]"),
            ({"image": [[0] * 8] * 7 + [[0] * 7]}, "image is not an array of numbers"),
            ({"image": [[256] * 8] * 8}, "image has values that are no uint8"),
            ({"image": [[-1] * 8] * 8}, "image has values that are no uint8"),
            ({"image": [[0.5] * 8] * 8}, "image has values that are no uint8"),
            ({"image": [[float("nan")] * 8] * 8}, "image has values that are no uint8"),
            ({"image": "a" * 64}, "image is not an array of numbers"),
            ({"image": {"x": 1}}, "image is not an array of numbers"),
            ({"image": None}, "it has no image"),
            ({"label": None}, "it has no label"),
            ({"label": 10}, "its label 10 is none of the 10 classes"),
            ({"label": -1}, "its label -1 is none of the 10 classes"),
            ({"label": "ten"}, "its label 'ten' is none of the 10 classes"),
            ({"label": 1.5}, "its label 1.5 is none"),
            ({"label": True}, "its label True is none"),
            ({"label": [1]}, "its label .1. is none"),
        ],
    )
    def test_a_row_of_json_that_does_not_fit_says_why(
        self, change: dict[str, Any], reason: str, tmp_path: Path
    ) -> None:
        data = written("jsonl", tmp_path)
        path = tmp_path / "train" / "0.jsonl"
        first, second, *rest = path.read_text().splitlines()
        path.write_text("\n".join([first, json.dumps(json.loads(second) | change), "[]", "[" * 100_000, *rest]))
        found = reasons(data)
        assert [text.split(": ")[0] for text in found] == [f"{path}, row {row}" for row in (1, 2, 3)]
        with pytest.raises(TooManyBadRowsError, match=reason):
            read_source(data)
        assert "no JSON object" in found[1]
        assert "no JSON (" in found[2]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("1,2,3", "it has 3 cells, the first line 65"),
            (",".join(["1"] * 66), "it has 66 cells, the first line 65"),
            (",".join(["ten", *["1"] * 64]), "its label 'ten' is none of the 10 classes"),
            (",".join(["1"] * 64 + [""]), "is not an array of numbers"),
            (",".join(["1"] * 64 + ["x"]), "is not an array of numbers"),
            (",".join(["1"] * 64 + ["NaN"]), "has values that are no uint8"),
            (",".join(["1"] * 64 + ["1e9"]), "has values that are no uint8"),
            (",".join(["1"] * 64 + ["\udcff"]), "is not an array of numbers"),
        ],
    )
    def test_a_line_of_csv_that_does_not_fit_says_why(self, line: str, reason: str, tmp_path: Path) -> None:
        data = written("csv", tmp_path)
        for name, place in (("0.csv", 1), ("0.csv", 3), ("1.csv", 41)):
            path = tmp_path / "train" / name
            lines = path.read_text(errors="surrogateescape").splitlines()
            lines.insert(place, line)
            path.write_text("\n".join(lines), errors="surrogateescape")
        found = reasons(data)
        places = [f"{tmp_path}/train/{name}, row {row}" for name, row in (("0.csv", 0), ("0.csv", 2), ("1.csv", 40))]
        assert [text.split(": ")[0] for text in found] == places
        assert all(reason in text for text in found), found
        source = read_source(data.model_copy(update={"max_bad_fraction": 0.9}))
        assert np.array_equal(source.train.columns["image"], digits()["train"][0])
        assert np.array_equal(source.train.numbers_N, np.setdiff1d(np.arange(123), [0, 2, 122]))

    def test_ragged_lists_and_missing_values_of_parquet_are_bad_rows(self, tmp_path: Path) -> None:
        rows = [[1.0, 2.0], [1.0], None, [3.0, None], [4.0, float("inf")], [1e300, 0.0], [5.0, 6.0]]
        data = pa.table({"x": rows, "label": [0, 1, 1, 1, 1, 1, 1]})
        pq.write_table(data, tmp_path / "rows.parquet")
        read = {"source": "parquet", "train": str(tmp_path / "rows.parquet"), "test": str(tmp_path / "rows.parquet")}
        source = read_source(config(read, max_bad_fraction=0.9))
        assert source.train.columns["x"].dtype == np.float32
        assert source.train.columns["x"].tolist() == [[1, 2], [5, 6]]
        assert [row.row for row in source.bad] == [1, 2, 3, 4, 5] * 2
        assert "x has the shape [1], expected [2]" in str(source.bad[0])
        assert "x has values that are not finite as float32" in str(source.bad[3])

    @pytest.mark.parametrize(
        "break_it", [lambda body: b"", lambda body: body[: len(body) // 2], lambda body: b"<svg/>"]
    )
    def test_an_image_that_cannot_be_decoded_is_a_bad_row(
        self, break_it: Callable[[bytes], bytes], tmp_path: Path
    ) -> None:
        data = written("images", tmp_path)
        path = sorted((tmp_path / "train" / "3").iterdir())[1]
        path.write_bytes(break_it(path.read_bytes()))
        (reason,) = reasons(data)
        assert reason.startswith(f"{path}: image is no image that can be decoded (")

    def test_a_small_file_that_is_a_huge_image_is_refused_before_it_is_decoded(self, tmp_path: Path) -> None:
        data = written("images", tmp_path)
        Image.new("1", (20_000, 8_000)).save(tmp_path / "train" / "3" / "bomb.png")
        (reason,) = reasons(data)
        assert "20000 x 8000 = 160,000,000 pixels, more than 67,108,864" in reason

    def test_members_that_are_no_files_or_have_no_class_are_bad_rows_and_names_are_no_paths(
        self, tmp_path: Path
    ) -> None:
        data = written("webdataset", tmp_path)
        image = png(digits()["train"][0][0])
        with tarfile.open(tmp_path / "train" / "0.tar", "w") as archive:
            for stem in ("../../etc/outside", "/tmp/absolute", "plain"):
                add(archive, f"{stem}.png", image)
                add(archive, f"{stem}.cls", b"3\n")
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            add(archive, "link.cls", b"3")
            add(archive, "lonely.png", image)
            add(archive, "array.npy", pickle.dumps([1]))
            add(archive, "array.cls", b"3")
        found = reasons(data)
        assert ["link.png is no file" in found[0], "no member .cls, only .png" in found[1]] == [True, True]
        assert "it has no member .jpg or .png, only .npy, .cls" in found[2]
        source = read_source(data.model_copy(update={"max_bad_fraction": 0.9}))
        assert source.train.labels_N[:3].tolist() == [3, 3, 3]
        assert not list(tmp_path.parent.rglob("outside*"))

    def test_a_member_that_says_to_be_larger_than_memory_is_not_read(self, tmp_path: Path) -> None:
        data = written("webdataset", tmp_path)
        with tarfile.open(tmp_path / "train" / "0.tar", "w", format=tarfile.GNU_FORMAT) as archive:
            add(archive, "a.cls", b"3")
            member = tarfile.TarInfo("a.png")
            member.size = 1 << 40
            archive.addfile(member)
        with pytest.raises(SourceFormatError, match=r"a member a\.png of 1,099,511,627,776 bytes"):
            read_source(data)

    def test_an_item_that_raises_is_a_bad_row_whose_reason_tells_no_secret(self, tmp_path: Path) -> None:
        data = config(written("torch", tmp_path).read.model_dump() | {"dataset": f"{__name__}:Broken"})
        hidden = "OSError: no such file at https://***@host"
        assert reasons(data) == [f"train, item 7: {hidden}", f"test, item 7: {hidden}"]


class Broken(exports.Digits):
    def __getitem__(self, item: int) -> tuple[np.ndarray, int]:
        if item == 7:
            raise OSError("no such file at https://me:pass1234@host")
        return super().__getitem__(item)


def no_length(part: str) -> object:
    return iter(())


class TestWholeSourcesThatAreWrong:
    @pytest.mark.parametrize("kind", ["parquet", "webdataset", "huggingface"])
    def test_a_file_that_ends_in_the_middle_is_named(self, kind: str, tmp_path: Path) -> None:
        data = written(kind, tmp_path)
        path = max((tmp_path / "train").iterdir(), key=lambda path: path.stat().st_size)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(SourceFormatError, match=str(path)):
            read_source(data)

    def test_columns_that_are_not_there_are_named_with_those_that_are(self, tmp_path: Path) -> None:
        read = written("csv", tmp_path).read.model_dump()
        for change, message in (
            ({"inputs": {"image": {"of": ["picture"]}}}, r"digit, pixel0.* expected one called 'picture'"),
            ({"inputs": {"row": {"of": ["pixel0"]}}}, "another name in data.read.inputs"),
        ):
            with pytest.raises(SourceFormatError, match=message):
                read_source(config(read | change))
        with pytest.raises(SourceFormatError, match=r"digit, pixel0.* expected one called 'class'"):
            read_source(config(read | {"label": "class"}))

    def test_a_source_of_which_no_row_fits_says_why(self, tmp_path: Path) -> None:
        data = written("jsonl", tmp_path)
        for path in (tmp_path / "train").iterdir():
            path.write_text("[1]\nx\n")
        with pytest.raises(
            NoRowsError, match=r"data\.read\.train: found no row .*it is no JSON object; it is no JSON \("
        ):
            read_source(data)

    def test_a_line_of_names_with_one_twice_is_refused(self, tmp_path: Path) -> None:
        data = written("csv", tmp_path)
        (tmp_path / "train" / "0.csv").write_text("digit,pixel0,pixel0\n1,2,3\n")
        with pytest.raises(SourceFormatError, match="a name for each column, once"):
            read_source(data)

    def test_a_state_that_names_files_elsewhere_is_refused(self, tmp_path: Path) -> None:
        data = written("huggingface", tmp_path)
        state = {"_data_files": [{"filename": "../test/data-00000-of-00002.arrow"}]}
        (tmp_path / "train" / "state.json").write_text(json.dumps(state))
        with pytest.raises(SourceFormatError, match="files of the same directory"):
            read_source(data)

    @pytest.mark.parametrize("factory", ["no.such:thing", f"{__name__}:missing", f"{__name__}:no_length"])
    def test_a_factory_of_no_map_style_data_set_is_named(self, factory: str, tmp_path: Path) -> None:
        data = config(written("torch", tmp_path).read.model_dump() | {"dataset": factory})
        with pytest.raises(DatasetReferenceError, match=factory):
            read_source(data)

    def test_a_picture_with_a_shape_of_its_own_is_refused_in_the_spec(self) -> None:
        inputs = {"image": {"picture": GREY, "shape": [8, 8]}}
        with pytest.raises(ValidationError, match="`picture` decides dtype and shape"):
            config({"source": "parquet", "train": "a", "test": "b", "inputs": inputs})


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_whole_columns_and_row_by_row_give_the_same(kind: str, tmp_path: Path) -> None:
    data = written(kind, tmp_path)
    together = read_source(data).train
    path = next(iter(sorted((tmp_path / "train").iterdir())))
    if kind == "csv":
        path.write_text(path.read_text() + "1,2\nx\n")  # rows that only exist row by row
        path.write_text(path.read_text().replace("\n", "\nten" + ",1" * 64 + "\n", 1))
    else:
        table = pq.read_table(path)
        bad = pa.table({"image": pa.array([[[1]]], table.schema.field("image").type), "label": [1]})
        pq.write_table(pa.concat_tables([table.slice(0, 1), bad.cast(table.schema), table.slice(1)]), path)
    apart = read_source(data.model_copy(update={"max_bad_fraction": 0.9}))
    assert len(apart.bad) > 0
    assert np.array_equal(apart.train.columns["image"], together.columns["image"])
    assert np.array_equal(apart.train.labels_N, together.labels_N)


def test_errors_survive_a_process_boundary() -> None:
    for error in (
        ClassesMissingError("csv"),
        NoRowsError("train", ("this",)),
        TooManyBadRowsError(3, 10, 0.1, ("first",)),
        DatasetReferenceError("a:b", "why"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))
