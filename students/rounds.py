"""What a member of a cohort leaves for its peers at the end of a round: its weights, named by their digest."""

import re
import time

from cluster.config import Config
from cluster.identity import digest_of
from cluster.shards.records import publish_record, read_record
from cluster.shards.schema import Identity
from cluster.storage.protocol import ObjectStore
from cluster.weights import StoredWeights
from students.task import TrainingTask

_RECORD = re.compile(r"/([0-9]{8})\.json$")


class RoundRecord(Config):
    """The end of one round of one member."""

    identity: Identity
    """Of its training."""
    round: int
    weights: StoredWeights


def publish_round(store: ObjectStore, task: TrainingTask, number: int, body: bytes) -> RoundRecord:
    """Write the weights (safetensors) with which a round ends, then their record, unless it is there.

    An attempt that comes here again has the same weights, or on other processors weights that differ in rounding; what
    stands there is what peers may have learned from.
    """
    digest = digest_of(body)
    # With the round, because two may end with the same weights, and removing one must not remove the other.
    key = f"{_folder(task)}{number:08d}-{digest}.safetensors"
    store.put(key, body)
    weights = StoredWeights(key=key, digest=digest, num_bytes=len(body))
    record = RoundRecord(identity=task.identity, round=number, weights=weights)
    return publish_record(store, _record_key(task, number), record)


def has_round(store: ObjectStore, task: TrainingTask, number: int) -> bool:
    """Return whether a member has published the end of a round."""
    return store.exists(_record_key(task, number))


def read_round(store: ObjectStore, task: TrainingTask, number: int) -> RoundRecord:
    """Return the record of a round.

    Raises:
        ObjectMissingError: there is none.
    """
    return read_record(store, _record_key(task, number), RoundRecord)


def rounds_there(store: ObjectStore, task: TrainingTask) -> list[int]:
    """Return the rounds of which there are records."""
    return sorted(int(match[1]) for stat in store.list(_folder(task)) if (match := _RECORD.search(stat.key)))


def show_life(store: ObjectStore, task: TrainingTask) -> None:
    """Tell the peers that a member is being trained."""
    store.put(_life_key(task), str(time.time()).encode())


def forget_life(store: ObjectStore, task: TrainingTask) -> None:
    """Remove what an earlier attempt has told of life, before a new one waits for its workers."""
    store.delete(_life_key(task))


def has_begun(store: ObjectStore, task: TrainingTask) -> bool:
    """Return whether a member has got workers, or needs none any more."""
    return store.exists(_life_key(task)) or store.exists(task.record_key)


def clear_rounds(store: ObjectStore, task: TrainingTask, *, before: int | None = None) -> None:
    """Remove what a member has left of the rounds before number `before`, or of all: records first."""
    keys = [stat.key for stat in store.list(_folder(task))]
    end = None if before is None else f"{_folder(task)}{before:08d}"
    for key in sorted(keys, key=lambda key: not key.endswith(".json")):
        if end is None or key < end:
            store.delete(key)


def _folder(task: TrainingTask) -> str:
    assert task.membership is not None, "others have no rounds"  # noqa: S101
    # With the cohort, by whose record whoever collects garbage sees that nobody needs a round any more.
    return f"{task.prefix}/rounds/{task.membership.cohort.identity}/"


def _life_key(task: TrainingTask) -> str:
    return f"{_folder(task)}alive"


def _record_key(task: TrainingTask, number: int) -> str:
    return f"{_folder(task)}{number:08d}.json"
