"""`coffey labels gc` and `repair`: a store with leftovers and damage, put in order from the command line."""

import os
from pathlib import Path

import pytest

from cluster.identity import digest_of
from cluster.shards.labelset import LabelSet
from cluster.storage.directory import DirectoryStore
from orchestrator.cli.app import exit_code_of
from tests.fixtures.labelled import SHARDS, answer, label, new_store


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
