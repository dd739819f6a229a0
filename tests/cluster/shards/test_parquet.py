"""Label shards as Parquet: the same numbers to every reader, whole files or none."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.shards.codecs.dense import LOGITS
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import HiddenConfig
from cluster.shards.commits import Commit
from cluster.shards.dataset import Dataset
from cluster.shards.dtypes import DType
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.parquet import OutputError, export_shard, export_shared
from cluster.shards.schema import columns_of
from cluster.shards.shared import publish_shared
from cluster.shards.verified import ShardCorruptError
from cluster.storage.directory import DirectoryStore
from tests.fixtures.labelled import DATASET, new_store

ROWS = 4


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return new_store(tmp_path / "store")


def committed(store: DirectoryStore, arrays: dict[str, np.ndarray]) -> tuple[LabelSet, Commit]:
    record = LabelSetRecord(teacher="wide", teacher_identity="1" * 16, dataset=DATASET, columns=columns_of(arrays))
    labels = LabelSet.create(store, record)
    return labels, labels.commit(0, labels.encode(arrays), rows=ROWS, statistics={})


def one(store: DirectoryStore) -> tuple[LabelSet, Commit]:
    return committed(store, {LOGITS: np.array([[1.5, -2], [65504, 6e-8], [0, -0.0], [1 / 3, 9]], np.float16)})


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", DType.__args__)  # type: ignore[attr-defined]
def test_every_number_comes_back_and_the_shape_is_told(
    store: DirectoryStore, tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(3)
    array = rng.integers(0, 200, (ROWS, *shape)).astype(dtype) / np.array(7 if "float" in dtype else 1, dtype)
    array = array.astype(dtype)
    labels, commit = committed(store, {"values": array})

    path = export_shard(labels, commit, tmp_path / "out")

    column = pq.read_table(path).column("values")
    expected_type = "float" if "float" in dtype else dtype
    assert expected_type in str(column.type)
    assert np.array_equal(np.array(column.to_pylist()).reshape(array.shape), array.astype(np.float64))
    assert pq.read_schema(path).field("values").metadata[b"shape"] == str(list(shape)).replace(" ", "").encode()
    assert pq.read_schema(path).metadata[b"coffey.digest"] == commit.digest.encode()


def test_labels_and_row_numbers_come_along_if_asked_for(store: DirectoryStore, tmp_path: Path) -> None:
    labels, commit = one(store)

    path = export_shard(labels, commit, tmp_path / "out", inputs=Dataset.open(store, DATASET))

    assert pq.read_table(path).column_names == [LOGITS, "label"]
    assert pq.read_table(path)["label"].to_pylist() == [0] * ROWS


def test_a_file_that_is_there_is_kept_and_a_broken_or_older_one_is_replaced(
    store: DirectoryStore, tmp_path: Path
) -> None:
    labels, commit = one(store)
    path = export_shard(labels, commit, tmp_path / "out")
    first = path.stat().st_mtime_ns

    assert export_shard(labels, commit, tmp_path / "out").stat().st_mtime_ns == first
    path.write_bytes(path.read_bytes()[:100])
    export_shard(labels, commit, tmp_path / "out")
    assert pq.read_table(path).num_rows == ROWS
    export_shard(labels, commit, tmp_path / "out", inputs=Dataset.open(store, DATASET))
    assert "label" in pq.read_table(path).column_names


def test_of_a_damaged_shard_nothing_is_written(store: DirectoryStore, tmp_path: Path) -> None:
    labels, commit = one(store)
    (key,) = (stat.key for stat in store.list(f"{labels.record.prefix}/data/"))
    store.put(key, b"broken")

    with pytest.raises(ShardCorruptError):
        export_shard(labels, commit, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_directory_that_cannot_be_written_is_named(store: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    with pytest.raises(OutputError, match=r"out/00000000\.parquet: cannot be written") as refusal:
        export_shard(*one(store), tmp_path / "out")

    assert refusal.value.exit_code == 3


def test_nothing_unfinished_is_left_behind(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, commit = one(store)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)  # the last step before the file appears
    with pytest.raises(OutputError, match="No space left"):
        export_shard(labels, commit, tmp_path / "out")

    assert list((tmp_path / "out").iterdir()) == []


def test_what_the_shards_were_packed_with_comes_along(store: DirectoryStore, tmp_path: Path) -> None:
    codec = HiddenConfig(head="head", width=2)
    columns = codec_of(codec, 3).columns()
    record = LabelSetRecord(
        teacher="inner", teacher_identity="3" * 16, dataset="d" * 16, columns=columns, codec=codec, num_classes=3
    )
    labels = LabelSet.create(store, record)
    weight = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    publish_shared(labels, {"weight": weight, "bias": np.ones((1, 3), np.float32)})

    path = export_shared(labels, tmp_path / "inner.shared.parquet")

    table = pq.read_table(path)
    assert np.array(table["weight"].to_pylist()).reshape(1, 3, 2).tolist() == weight.tolist()
    assert json.loads(table.schema.metadata[b"coffey.codec"])["codec"] == "hidden"
