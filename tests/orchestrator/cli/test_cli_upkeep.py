"""`coffey labels gc`, `verify --rerun` and `repair`: leftovers and damage, put in order from the command line."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.identity import digest_of
from cluster.shards.codecs.dense import LOGITS
from cluster.shards.labelset import LabelSet
from cluster.storage.directory import DirectoryStore
from orchestrator.cli.app import exit_code_of
from orchestrator.load import dump_spec
from tests.fixtures import small_jobs
from tests.fixtures.labelled import SHARDS, answer, label, new_store
from tests.fixtures.labelled_job import SHARD_ROWS, LabelledJob, labelled_job


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return new_store(tmp_path / "store")


def leave_data(labels: LabelSet, body: bytes, *, age_s: float) -> str:
    """Put data that no record names, and let it be so old."""
    key = f"{labels.record.prefix}/data/{digest_of(body)}.arrow"
    labels.store.put(key, body)
    path = Path(labels.store.uri, key)
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    return key


def test_garbage_is_counted_first_and_removed_then(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    labels = label(store, "wide", range(SHARDS))
    labels.seal(SHARDS)
    old, young = (leave_data(labels, body, age_s=age_s) for body, age_s in ((b"old", 90_000), (b"young", 80_000)))

    planned = answer(capsys, "labels", "gc", "--dry-run", "--store", store.uri)
    assert store.exists(old)
    done = answer(capsys, "labels", "gc", "--store", store.uri)

    assert (planned["is_dry_run"], done["is_dry_run"]) == (True, False)
    assert planned["removed"] == done["removed"] == [{"kind": "label data", "key": old, "num_bytes": 3}]
    assert done["num_bytes"] == 3
    assert (store.exists(old), store.exists(young)) == (False, True)
    assert exit_code_of(["labels", "gc", "--older-than", "22h", "--store", store.uri]) == 0
    said = capsys.readouterr().out
    assert young in said
    assert "1 objects of 5 bytes removed." in said
    assert exit_code_of(["labels", "verify", "--store", store.uri]) == 0


def test_what_a_slow_writer_may_commit_stays_and_is_reported(
    store: DirectoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = label(store, "deep", range(1))
    key = leave_data(labels, b"old", age_s=1e6)

    assert exit_code_of(["labels", "gc", "--store", store.uri]) == 0
    assert f"Kept: 1 objects of 3 bytes in {labels.record.prefix}: the set is not complete" in capsys.readouterr().out
    assert store.exists(key)
    answer(capsys, "labels", "gc", "--incomplete", "--store", store.uri)
    assert not store.exists(key)


def test_an_age_is_a_number_with_a_unit(store: DirectoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    error = answer(capsys, "labels", "gc", "--older-than", "soon", "--store", store.uri, code=2)["error"]
    assert "'soon' is no duration, such as 90m, 12h or 1d" in error["message"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> LabelledJob:
    return labelled_job(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def spec_file(sound: LabelledJob, tmp_path: Path) -> Path:
    """Write the spec of the job over a copy of its store."""
    shutil.copytree(sound.store.uri, tmp_path / "copy")
    path = tmp_path / "job.yaml"
    path.write_text(dump_spec(sound.spec.model_copy(update={"store": str(tmp_path / "copy")})))
    return path


def break_shard(folder: Path, sound: LabelledJob, number: int) -> None:
    commit = LabelSet(sound.store, sound.record).commits()[number]
    (folder / "copy" / sound.record.prefix / "data" / f"{commit.digest}.arrow").write_bytes(b"broken")


def test_damage_is_reported_with_both_ways_to_mend_it(
    sound: LabelledJob, spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_shard(spec_file.parent, sound, 1)
    assert exit_code_of(["labels", "verify", "wide", "--spec", str(spec_file)]) == 7
    said = capsys.readouterr().err
    assert "shard 1: " in said
    assert "`coffey labels repair --spec SPEC` to label exactly these again now" in said
    assert f"`coffey labels repair --store {spec_file.parent}/copy` to leave them to the next" in said


def test_a_repair_with_the_spec_makes_the_store_sound_again(
    sound: LabelledJob, spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_shard(spec_file.parent, sound, 1)
    repairs = answer(capsys, "labels", "repair", "--spec", str(spec_file))["sets"]
    assert [(it["put_back"], it["withdrawn"]) for it in repairs if it["put_back"]] == [([1], [])]
    verified = answer(capsys, "labels", "verify", "--spec", str(spec_file), "--rerun", "2")
    assert sum(it["rows"] for it in verified["sets"]) == small_jobs.ROWS
    assert [it["difference"] for it in verified["rerun"]] == [0.0] * 4  # of three, one and one shards
    assert exit_code_of(["labels", "repair", "--spec", str(spec_file)]) == 0
    assert "Nothing was broken." in capsys.readouterr().out


def test_a_repair_without_a_spec_leaves_the_shards_to_the_next_run(
    sound: LabelledJob, spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_shard(spec_file.parent, sound, 1)
    store = str(spec_file.parent / "copy")
    assert exit_code_of(["labels", "repair", "--store", store]) == 0
    assert "The next `coffey run` of the job computes exactly the shards" in capsys.readouterr().out
    plan = {step["name"]: step for step in answer(capsys, "plan", str(spec_file))["steps"]}
    assert (plan["label:wide"]["state"], plan["label:wide"]["rows_done"]) == ("partial", small_jobs.ROWS - SHARD_ROWS)


def test_a_set_that_nobody_can_mend_keeps_no_other_from_being_mended(
    sound: LabelledJob, spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_shard(spec_file.parent, sound, 1)
    store = DirectoryStore(spec_file.parent / "copy")
    store.put("labels/0000000000000000/aaa-0000000000000000/labelset.json", b"{}")

    assert exit_code_of(["labels", "repair", "--store", store.uri]) == 7

    said = capsys.readouterr()
    assert "The next `coffey run` of the job computes exactly the shards" in said.out
    assert "aaa-0000000000000000/labelset.json" in said.err


@pytest.mark.parametrize("command", [["gc"], ["verify"], ["repair"], ["export", "--to", "parquet", "--output", "out"]])
def test_a_directory_that_is_not_there_is_no_sound_store_and_is_not_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "typo"

    error = answer(capsys, "labels", *command, "--store", str(missing), code=4)["error"]

    assert str(missing) in error["message"]
    assert not missing.exists()


def test_a_teacher_that_says_something_else_today_is_found_out(
    sound: LabelledJob, spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = DirectoryStore(spec_file.parent / "copy")
    labels = LabelSet(store, sound.record)
    first = labels.read(0)[LOGITS]
    other = labels.encode({LOGITS: (first * np.float16(1.25)).astype(np.float16)})
    labels.replace(0, other, rows=len(first), statistics={})

    answer(capsys, "labels", "verify", "--spec", str(spec_file))
    error = answer(capsys, "labels", "verify", "--spec", str(spec_file), "--rerun", "9", code=7)["error"]

    assert error["kind"] == "LabelsDifferError"
    assert [it["shard"] for it in error["facts"]["different"]] == [0]
    assert "100.0% of 400 rows have the same first choice" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "which store? Give --store"),
        (["repair"], "which store? Give --store"),
        (["verify", "--rerun", "2", "--store", "s"], "through its job: give --spec"),
    ],
)
def test_what_cannot_be_asked_is_said(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in answer(capsys, "labels", *arguments, code=2)["error"]["message"]
