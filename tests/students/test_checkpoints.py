"""Checkpoints: what was saved comes back, what is not ours is refused, and nothing is left or lost on the way."""

import os
import pickle
import shutil
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.identity import digest_of
from cluster.shards.dataset import DatasetRecord
from cluster.shards.records import BadRecordError
from cluster.shards.verified import ShardCorruptError
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError, ObjectStore
from students.checkpoints import (
    CheckpointRecord,
    ForeignCheckpointError,
    clear_checkpoints,
    latest_step,
    load_checkpoint,
    save_checkpoint,
    take_up,
)
from students.group import Alone
from students.task import EpochPoint, TrainingTask
from tests.fixtures.crashing_store import CrashingStore, Killed
from tests.fixtures.tiny import label_record, points, targets, task, write_rows

POINTS = (EpochPoint(epoch=1, loss=0.5, accuracy=0.75, nll=0.625),)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def dataset(store: DirectoryStore) -> DatasetRecord:
    return write_rows(store, points(8, seed=0), "a")


@pytest.fixture
def training(dataset: DatasetRecord) -> TrainingTask:
    return task(dataset, dataset)


def state(value: float = 1.0) -> dict[str, object]:
    """Return the state of a module and of an optimizer that has moved it once."""
    module = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(module.weight, value)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"module": module.state_dict(), "optimizer": optimizer.state_dict()}


def save(store: ObjectStore, training: TrainingTask, step: int, value: float | None = None) -> None:
    save_checkpoint(store, training, state(value or step), step=step, points=POINTS, loss_sum=0.1 + 0.2)


def files(store: DirectoryStore, training: TrainingTask) -> list[str]:
    return [stat.key.rpartition("/")[2] for stat in store.list(f"{training.prefix}/checkpoints/")]


class Overtaken(DirectoryStore):
    """Loses its newest checkpoint, as another attempt would remove it, just before that is read."""

    newer: tuple[int, ...] = ()

    def get(self, key: str) -> memoryview:
        if "/checkpoints/" in key and key.endswith(".json") and self.newer:
            step, *self.newer = self.newer  # type: ignore[assignment]
            self.delete(key)
            if step:
                save(DirectoryStore(Path(self.uri)), self.training, step)
        return super().get(key)

    training: TrainingTask


@pytest.mark.parametrize(("newer", "expected"), [((), 7), ((9,), 9), ((9, 11), 11), ((0,), None)])
def test_the_newest_checkpoint_is_taken_up_though_another_attempt_goes_on_meanwhile(
    store: DirectoryStore, training: TrainingTask, newer: tuple[int, ...], expected: int | None
) -> None:
    save(store, training, 7)
    overtaken = Overtaken(Path(store.uri))
    overtaken.training, overtaken.newer = training, newer

    found = take_up(overtaken, training, Alone())

    assert (found[0].step if found else None) == expected


def test_a_checkpoint_whose_bytes_are_gone_is_an_error(store: DirectoryStore, training: TrainingTask) -> None:
    save(store, training, 7)
    (gone,) = (stat.key for stat in store.list(f"{training.prefix}/checkpoints/") if stat.key.endswith(".pt"))
    store.delete(gone)

    with pytest.raises(ObjectMissingError, match=gone):
        take_up(store, training, Alone())


def test_a_checkpoint_comes_back_bit_for_bit(store: DirectoryStore, training: TrainingTask) -> None:
    saved = state()
    save_checkpoint(store, training, saved, step=7, points=POINTS, loss_sum=0.1 + 0.2)

    record, loaded = load_checkpoint(store, training, latest_step(store, training))

    assert (record.step, record.points, record.loss_sum) == (7, POINTS, 0.1 + 0.2)
    for name, tensor in saved["module"].items():  # type: ignore[attr-defined]
        assert torch.equal(tensor, loaded["module"][name])
    moments, expected = loaded["optimizer"]["state"], saved["optimizer"]["state"]  # type: ignore[index]
    assert all(torch.equal(moments[key]["exp_avg_sq"], expected[key]["exp_avg_sq"]) for key in (0, 1))


def test_without_a_checkpoint_the_latest_step_is_zero(store: DirectoryStore, training: TrainingTask) -> None:
    assert latest_step(store, training) == 0


def test_the_two_newest_checkpoints_are_kept(store: DirectoryStore, training: TrainingTask) -> None:
    for step in (9, 10, 20, 1000):
        save(store, training, step)

    assert [name[:12] for name in files(store, training)] == ["000000000020"] * 2 + ["000000001000"] * 2
    assert latest_step(store, training) == 1000
    assert all(load_checkpoint(store, training, step)[0].step == step for step in (20, 1000))


def test_removing_an_old_checkpoint_leaves_a_newer_one_of_the_same_state(
    store: DirectoryStore, training: TrainingTask
) -> None:
    for step in (1, 2, 3):
        save(store, training, step, value=5.0)

    assert all(load_checkpoint(store, training, step)[0].step == step for step in (2, 3))


def save_four_and_clear(store: CrashingStore, training: TrainingTask, *, saved: list[int]) -> None:
    for step in (1, 2, 3, 4):
        save(store, training, step)
        saved.append(step)
    clear_checkpoints(store, training)


@pytest.mark.parametrize("after_it", [False, True])
def test_a_crash_at_any_moment_loses_at_most_one_checkpoint_and_leaves_nothing_behind(
    training: TrainingTask, tmp_path: Path, after_it: bool
) -> None:
    undisturbed = CrashingStore(DirectoryStore(tmp_path / "undisturbed"))
    save_four_and_clear(undisturbed, training, saved=[])

    for fatal in range(undisturbed.num_operations):
        store = DirectoryStore(tmp_path / str(fatal))
        saved: list[int] = []
        with pytest.raises(Killed):
            save_four_and_clear(CrashingStore(store, fatal=fatal, after_it=after_it), training, saved=saved)

        assert len(saved) == 4 or latest_step(store, training) in (len(saved), len(saved) + 1)
        for name in files(store, training):  # no record names bytes that are gone
            assert name.endswith(".pt") or load_checkpoint(store, training, int(name[:12]))[0].step == int(name[:12])
        save(store, training, 5)
        assert load_checkpoint(store, training, 5)[0].step == 5
        clear_checkpoints(store, training)
        assert files(store, training) == []


def test_two_attempts_at_the_same_step_agree_on_the_first(store: DirectoryStore, training: TrainingTask) -> None:
    save(store, training, 3, value=1.0)
    save(store, training, 3, value=2.0)

    _, loaded = load_checkpoint(store, training, 3)

    assert torch.equal(loaded["module"]["weight"], state(1.0)["module"]["weight"])  # type: ignore[index]


class ClearedMeanwhile:
    """Hands everything to another store, in which another attempt ends, and clears up, whenever a record is written."""

    def __init__(self, store: DirectoryStore, training: TrainingTask) -> None:
        self._store, self._training = store, training

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        written = self._store.put_if_absent(key, body)
        clear_checkpoints(self._store, self._training)
        return written


def test_another_attempt_may_end_while_this_one_saves(store: DirectoryStore, training: TrainingTask) -> None:
    save(ClearedMeanwhile(store, training), training, 3)

    assert latest_step(store, training) == 0


@pytest.mark.parametrize("field", ["data set", "label sets", "identity"])
def test_a_checkpoint_of_another_training_is_refused_with_the_difference(
    store: DirectoryStore, dataset: DatasetRecord, tmp_path: Path, field: str
) -> None:
    wide, deep = (label_record(dataset, teacher) for teacher in ("wide", "deep"))
    training = task(dataset, dataset, targets=targets(wide))
    other, found, expected = {
        "data set": (training.model_copy(update={"dataset": "b" * 16}), "a" * 16, "b" * 16),
        "label sets": (training.model_copy(update={"targets": targets(deep)}), wide.identity, deep.identity),
        "identity": (other := training.model_copy(update={"seed": 2}), training.identity, other.identity),
    }[field]
    save(store, training, 4)
    shutil.copytree(tmp_path / "store" / training.prefix, tmp_path / "store" / other.prefix)

    with pytest.raises(ForeignCheckpointError) as refusal:
        load_checkpoint(store, other, 4)

    where = f"{other.prefix}/checkpoints/000000000004.json"
    assert f"{where}: its {field} is {found}, this training has {expected}." in str(refusal.value)


def data_file(store: DirectoryStore, training: TrainingTask) -> Path:
    (name,) = (name for name in files(store, training) if name.endswith(".pt"))
    return Path(store.uri) / training.prefix / "checkpoints" / name


def test_any_changed_byte_of_a_checkpoint_is_noticed(store: DirectoryStore, training: TrainingTask) -> None:
    save(store, training, 4)
    path = data_file(store, training)
    body = path.read_bytes()
    for place in range(0, len(body), len(body) // 20):
        damaged = bytearray(body)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ShardCorruptError, match="blake3"):
            load_checkpoint(store, training, 4)

    path.write_bytes(body[:-1])
    with pytest.raises(ShardCorruptError, match=rf"{len(body) - 1} bytes, the record says {len(body)} bytes"):
        load_checkpoint(store, training, 4)


def test_a_damaged_record_and_missing_bytes_are_named(store: DirectoryStore, training: TrainingTask) -> None:
    save(store, training, 4)
    key = f"{training.prefix}/checkpoints/000000000004.json"
    data_file(store, training).unlink()
    with pytest.raises(ObjectMissingError, match=r"000000000004-[0-9a-f]{64}\.pt"):
        load_checkpoint(store, training, 4)

    store.put(key, b'{"step": 4}')
    with pytest.raises(BadRecordError, match=r"000000000004\.json"):
        load_checkpoint(store, training, 4)


class Payload:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def as_pickle(payload: Payload) -> bytes:
    return pickle.dumps({"module": payload}, protocol=2)


def as_torch_file(payload: Payload) -> bytes:
    buffer = BytesIO()
    torch.save({"module": payload}, buffer)
    return buffer.getvalue()


def as_legacy_torch_file(payload: Payload) -> bytes:
    buffer = BytesIO()
    torch.save({"module": payload}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_archive(payload: Payload) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("other/data.pkl", pickle.dumps(payload, protocol=2))
    return buffer.getvalue()


@pytest.mark.parametrize("form", [as_pickle, as_torch_file, as_legacy_torch_file, as_archive])
def test_a_pickle_in_place_of_a_checkpoint_executes_nothing(
    store: DirectoryStore, training: TrainingTask, tmp_path: Path, form: object
) -> None:
    assert callable(form)
    executed = tmp_path / "executed"
    body = form(Payload(executed))
    record = CheckpointRecord(
        identity=training.identity,
        dataset=training.dataset,
        labels=(),
        step=4,
        digest=digest_of(body),
        num_bytes=len(body),
        points=(),
        loss_sum=0,
    )
    folder = f"{training.prefix}/checkpoints"
    store.put(f"{folder}/000000000004-{record.digest}.pt", body)
    store.put(f"{folder}/000000000004.json", record.model_dump_json().encode())

    with pytest.raises(ShardCorruptError, match="something that is no checkpoint"):
        load_checkpoint(store, training, 4)

    assert not executed.exists()
    pickle.loads(pickle.dumps(Payload(executed)))  # the payload is a live one
    assert executed.exists()
