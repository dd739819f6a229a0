"""`coffey labels` on a store with a sealed set, a growing one, and damage done by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import HiddenConfig, TopKConfig
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.shared import publish_shared
from cluster.storage.directory import DirectoryStore
from orchestrator.cli.app import exit_code_of
from tests.fixtures.labelled import CLASSES, DATASET, ROWS, SHARD_ROWS, SHARDS, answer, label, name_of, new_store


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return new_store(tmp_path / "store")


def test_sets_are_listed_with_how_far_they_are(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    whole, part = label(store, "wide", range(SHARDS)), label(store, "deep", range(1))
    whole.seal(SHARDS)
    sets = answer(capsys, "labels", "ls", "--store", store.uri)["sets"]
    facts = {it["name"]: (it["state"], it["shards"], it["shards_in_all"], it["rows"]) for it in sets}
    assert facts == {
        name_of(whole): ("sealed", SHARDS, SHARDS, ROWS),
        name_of(part): ("partial", 1, SHARDS, SHARD_ROWS),
    }


def test_the_table_says_the_same_to_people(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    part = label(store, "deep", range(1))
    assert exit_code_of(["labels", "ls", "--store", store.uri]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if name_of(part) in line)
    assert line.split()[:6] == [name_of(part), "partial", "1", "of", "3", "4"]


def test_the_codec_is_shown_with_its_settings(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    codec = TopKConfig(k=2, tail_samples=1)
    columns = codec_of(codec, CLASSES).columns()
    record = LabelSetRecord(
        teacher="few", teacher_identity="2" * 16, dataset=DATASET, columns=columns, codec=codec, num_classes=CLASSES
    )
    LabelSet.create(store, record)
    assert exit_code_of(["labels", "show", "few", "--store", store.uri]) == 0
    shown = capsys.readouterr().out
    assert "topk k=2 values=float16 temperatures=[2.0, 4.0] tail_samples=1: ids uint16[2], " in shown


@pytest.mark.parametrize("by", [lambda name: name, lambda name: name.rpartition("-")[2], lambda _: "wide"])
def test_a_set_is_shown_by_its_name_its_identity_or_its_teacher(
    by: Callable[[str], str], store: DirectoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = label(store, "wide", range(2))
    shown = answer(capsys, "labels", "show", by(name_of(labels)), "--store", store.uri)
    assert shown["set"]["name"] == name_of(labels)
    assert shown["set"]["codec"] == "dense"
    assert [(it["number"], it["rows"], it["statistics"]) for it in shown["commits"]] == [
        (0, 4, {"entropy": 1.25}),
        (1, 4, {"entropy": 1.25}),
    ]


def test_a_name_of_several_sets_is_not_guessed(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    first = label(store, "wide", range(1))
    record = first.record.model_copy(update={"teacher_identity": "e" * 16})
    LabelSet.create(store, record)
    error = answer(capsys, "labels", "show", "wide", "--store", store.uri, code=7)["error"]
    assert name_of(first) in error["message"]
    assert record.identity in error["message"]


def test_sound_sets_are_verified_shard_by_shard(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    label(store, "wide", range(SHARDS)).seal(SHARDS)
    label(store, "deep", range(2))
    verified = answer(capsys, "labels", "verify", "--store", store.uri)["sets"]
    assert {(it["name"].partition("-")[0], it["shards"], it["rows"]) for it in verified} == {
        ("wide", 3, 10),
        ("deep", 2, 8),
    }


def test_every_damaged_shard_is_named_and_no_other(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    labels = label(store, "wide", range(SHARDS))
    label(store, "deep", range(SHARDS), value=0.25)
    labels.seal(SHARDS)
    data = [Path(store.uri, labels.record.prefix, "data", f"{labels.committed(n).digest}.arrow") for n in (0, 2)]
    flipped = bytearray(data[0].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    data[0].chmod(0o644)
    data[0].write_bytes(flipped)  # of shards 0 and 1: they hold the same values, so one object
    data[1].unlink()
    error = answer(capsys, "labels", "verify", "--store", store.uri, code=7)["error"]
    damaged = {it["name"]: [found["shard"] for found in it["damages"]] for it in error["facts"]["damaged"]}
    assert damaged == {name_of(labels): [0, 1, 2]}


def test_what_all_shards_share_is_verified_too(store: DirectoryStore) -> None:
    codec = HiddenConfig(head="head", width=2)
    columns = codec_of(codec, CLASSES).columns()
    record = LabelSetRecord(
        teacher="inner", teacher_identity="3" * 16, dataset=DATASET, columns=columns, codec=codec, num_classes=CLASSES
    )
    labels = LabelSet.create(store, record)
    head = {"weight": np.ones((1, CLASSES, 2), np.float32), "bias": np.zeros((1, CLASSES), np.float32)}
    publish_shared(labels, head)
    labels.commit(0, labels.encode({"hidden": np.ones((4, 2), np.float16)}), rows=4, statistics={})
    assert exit_code_of(["labels", "verify", "inner", "--store", store.uri]) == 0

    (data,) = [stat.key for stat in store.list(f"{record.prefix}/shared/")]
    store.put(data, bytes(store.get(data))[:-1] + b"x")
    assert exit_code_of(["labels", "verify", "inner", "--store", store.uri]) == 7


def test_values_that_are_no_numbers_are_damage(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    label(store, "wide", range(1), value=float("nan"))
    error = answer(capsys, "labels", "verify", "wide", "--store", store.uri, code=7)["error"]
    assert "logits holds values that are no numbers" in error["message"]


def test_labels_of_another_teacher_are_noticed(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = label(store, "wide", range(1)), label(store, "deep", range(1))
    stolen = bytes(store.get(f"{theirs.record.prefix}/labelset.json"))
    store.put(f"{ours.record.prefix}/labelset.json", stolen)
    assert "belong to" in answer(capsys, "labels", "verify", "wide", "--store", store.uri, code=7)["error"]["message"]
    states = {it["teacher"]: it["state"] for it in answer(capsys, "labels", "ls", "--store", store.uri)["sets"]}
    assert states == {"wide": "damaged", "deep": "partial"}


def test_an_empty_store_has_no_labels_and_stays_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "labels", "ls", "--store", str(tmp_path / "none")) == {"sets": []}
    assert not (tmp_path / "none").exists()
    assert answer(capsys, "labels", "verify", "--store", str(tmp_path)) == {"sets": []}
    assert not (tmp_path / "none").exists()


def test_sets_are_exported_a_file_for_each_shard(
    store: DirectoryStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = label(store, "wide", range(SHARDS))
    whole.seal(SHARDS)
    part = label(store, "deep", range(1), value=0.25)
    arguments = ["labels", "export", "--store", store.uri, "--output", str(tmp_path / "out"), "--with-rows", "--quiet"]

    sets = answer(capsys, *arguments)["sets"]

    facts = {it["name"]: (it["state"], it["files"], it["rows"]) for it in sets}
    assert facts == {name_of(whole): ("sealed", SHARDS, ROWS), name_of(part): ("partial", 1, SHARD_ROWS)}
    table = pq.read_table(tmp_path / "out" / name_of(whole))
    assert table["logits"].to_pylist() == [[0.5] * 3] * ROWS
    assert table.column_names == ["logits", "label"]
    assert exit_code_of([*arguments, "--to", "csv"]) == 2
