"""Checkpoints: the state after a number of steps, named by its digest, and a record of what it was trained from.

Only files that this code wrote are loaded: the record names the digest, and torch is told to unpickle nothing but
tensors.
"""

import io
import pickle
import re
from collections.abc import Iterable
from typing import Any

import torch

from cluster.config import Config
from cluster.errors import TrainingError
from cluster.identity import digest_of
from cluster.shards.records import publish_record, read_record
from cluster.shards.schema import Digest, Identity
from cluster.shards.verified import ShardCorruptError, fetch_verified
from cluster.storage.protocol import ObjectMissingError, ObjectStore
from students.group import Group
from students.task import EpochPoint, TrainingTask

_RECORD = re.compile(r"/([0-9]{12})\.json$")
_KEPT = 2


class CheckpointRecord(Config):
    """What one checkpoint is: the identities it was trained from, the step it stands at, its bytes."""

    identity: Identity
    dataset: Identity
    labels: tuple[Identity, ...]
    step: int
    digest: Digest
    num_bytes: int
    points: tuple[EpochPoint, ...]
    loss_sum: float
    """Loss summed over the steps of the epoch that is not finished."""


class ForeignCheckpointError(TrainingError):
    """A checkpoint that was trained from something else."""

    def __init__(self, where: str, field: str, found: str, expected: str) -> None:
        super().__init__(where, field, found, expected)
        self.where, self.field, self.found, self.expected = where, field, found, expected

    def __str__(self) -> str:
        return (
            f"{self.where}: its {self.field} is {self.found}, this training has {self.expected}. Going on from it "
            "would mix two trainings. Remove the checkpoint and run the job again: training starts anew."
        )


def save_checkpoint(
    store: ObjectStore,
    task: TrainingTask,
    state: dict[str, Any],
    *,
    step: int,
    points: tuple[EpochPoint, ...],
    loss_sum: float,
) -> None:
    """Write the state after `step` steps, then its record, then remove all but the newest few."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    digest = digest_of(body)
    store.put(_data_key(task, step, digest), body)
    record = CheckpointRecord(
        identity=task.identity,
        dataset=task.dataset,
        labels=_labels_of(task),
        step=step,
        digest=digest,
        num_bytes=len(body),
        points=points,
        loss_sum=loss_sum,
    )
    publish_record(store, _record_key(task, step), record)
    keys = _keys(store, task)
    # With ours: another attempt may have cleared them all meanwhile.
    oldest_kept = f"{_folder(task)}{sorted({step, *_steps(keys)})[-_KEPT:][0]:012d}"
    _remove(store, [key for key in keys if key < oldest_kept])


def latest_step(store: ObjectStore, task: TrainingTask) -> int:
    """Return the step of the newest checkpoint, or 0 if there is none."""
    return max(_steps(_keys(store, task)), default=0)


def load_checkpoint(store: ObjectStore, task: TrainingTask, step: int) -> tuple[CheckpointRecord, dict[str, Any]]:
    """Return one checkpoint and its state.

    Raises:
        ForeignCheckpointError: it was trained from other data or other teachers.
        ShardCorruptError: its bytes are not those that were written, or are no checkpoint.
    """
    key = _record_key(task, step)
    record = read_record(store, key, CheckpointRecord)
    for field, found, expected in (
        ("data set", record.dataset, task.dataset),
        ("label sets", ", ".join(record.labels), ", ".join(_labels_of(task))),
        ("identity", record.identity, task.identity),
    ):
        if found != expected:
            raise ForeignCheckpointError(f"{store.uri}/{key}", field, found, expected)
    key = _data_key(task, step, record.digest)
    body = fetch_verified(store, key, digest=record.digest, num_bytes=record.num_bytes)
    try:
        return record, torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ShardCorruptError(f"{store.uri}/{key}", "something that is no checkpoint", "tensors alone") from error


def take_up(store: ObjectStore, task: TrainingTask, group: Group) -> tuple[CheckpointRecord, dict[str, Any]] | None:
    """Return the newest checkpoint and its state, the same on every worker; None if there is none.

    Raises:
        ForeignCheckpointError, ShardCorruptError: as `load_checkpoint`.
        ObjectMissingError: what the newest record names is not there.
    """
    passed_over = 0
    while step := group.from_first(latest_step(store, task)):
        found = None
        try:
            found = load_checkpoint(store, task, step)
        except ObjectMissingError:
            if step == passed_over:
                raise
        if group.sum(torch.tensor([float(found is None)])).item() == 0:
            return found
        passed_over = step  # another attempt at the same training has gone on meanwhile, or come to its end
    return None


def clear_checkpoints(store: ObjectStore, task: TrainingTask) -> None:
    """Remove all checkpoints of a training that is complete, and what attempts that were killed left of theirs."""
    _remove(store, _keys(store, task))


def _remove(store: ObjectStore, keys: Iterable[str]) -> None:
    """Remove some keys, records first, so that none ever names bytes that are gone."""
    for key in sorted(keys, key=lambda key: not key.endswith(".json")):
        store.delete(key)


def _keys(store: ObjectStore, task: TrainingTask) -> list[str]:
    return [stat.key for stat in store.list(_folder(task))]


def _steps(keys: Iterable[str]) -> list[int]:
    return sorted(int(match[1]) for key in keys if (match := _RECORD.search(key)))


def _labels_of(task: TrainingTask) -> tuple[str, ...]:
    return tuple(part.labels.identity for part in task.targets.parts) if task.targets else ()


def _folder(task: TrainingTask) -> str:
    return f"{task.prefix}/checkpoints/"


def _record_key(task: TrainingTask, step: int) -> str:
    return f"{_folder(task)}{step:012d}.json"


def _data_key(task: TrainingTask, step: int, digest: str) -> str:
    # With the step, because two steps may end in the same state, and removing one must not remove the other.
    return f"{_folder(task)}{step:012d}-{digest}.pt"
