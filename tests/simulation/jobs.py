"""What the processes of a simulation do: the code of Coffey's protocol, in the order in which a job calls it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import DataError
from cluster.shards.commits import Commit
from cluster.shards.dataset import Dataset, dataset_key, write_dataset
from cluster.shards.garbage import collect_garbage
from cluster.shards.labelset import LabelSet
from cluster.storage.protocol import ObjectStore, StoreUnreachableError
from tests.simulation.auditor import Auditor
from tests.simulation.teacher import CLASSES, DATASET, NUM_SHARDS, RECORD, ROWS, inputs, outputs

_MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Code:
    """The code under test; a test of the simulation puts broken code in its place."""

    label_set: type[LabelSet] = LabelSet
    collect_garbage: Callable[..., Any] = collect_garbage


@dataclass
class Job:
    """`coffey run` up to the seal, and what it has computed."""

    attempt: int
    auditor: Auditor
    code: Code
    computed: list[int] = field(default_factory=list)
    """Numbers of the shards whose rows went through the teacher, in order."""

    def __call__(self, store: ObjectStore) -> None:
        """Ingest, label what is missing, and seal."""
        label_set, dataset = self.code.label_set, _ingested(store)
        labels = label_set(store, RECORD)
        missing = [] if labels.is_sealed() else sorted(set(range(NUM_SHARDS)) - labels.committed_numbers())
        label_set.create(store, RECORD)
        replica = label_set(store, RECORD)
        for number in missing[self.attempt % 3 :] + missing[: self.attempt % 3]:
            commit = _repeated(lambda number=number: self._label(replica, dataset, number))
            self.auditor.acknowledged(commit)
            labels.remember(commit)
        if not labels.is_sealed():
            self.auditor.sealed(labels.seal(NUM_SHARDS))

    def _label(self, labels: LabelSet, dataset: Dataset, number: int) -> Commit:
        if (commit := labels.committed(number)) is not None:
            return commit
        dataset.read(number)
        self.computed.append(number)
        body = labels.encode(outputs(number, self.attempt))
        return labels.commit(number, body, rows=ROWS, statistics={"attempt": float(self.attempt)})


@dataclass
class Reader:
    """A student that follows a growing label set, or reads a sealed one."""

    auditor: Auditor
    code: Code

    def __call__(self, store: ObjectStore) -> None:
        """Read every shard that is there."""
        labels = self.code.label_set(store, RECORD)
        if labels.is_sealed():
            self.auditor.sealed(labels.load_manifest())
        for number in range(NUM_SHARDS):
            if (commit := labels.committed(number)) is not None:
                self.auditor.acknowledged(commit)
                self.auditor.read(number, labels.read(number))


@dataclass
class Collector:
    """`coffey labels gc` on a machine whose clock may be wrong."""

    now_s: float
    grace_s: float
    code: Code

    def __call__(self, store: ObjectStore) -> None:
        """Remove what nobody can need."""
        self.code.collect_garbage(store, now_s=self.now_s, grace_s=self.grace_s)


def _ingested(store: ObjectStore) -> Dataset:
    if not store.exists(dataset_key(DATASET)):
        write_dataset(store, inputs(), identity=DATASET, classes=CLASSES, shard_rows=ROWS, compression="none")
    return Dataset.open(store, DATASET)


def _repeated(label: Callable[[], Commit]) -> Commit:
    """Try a shard as often as the labelling loop does; what failed may have been labelled all the same."""
    for _ in range(_MAX_ATTEMPTS - 1):
        try:
            return label()
        except (StoreUnreachableError, DataError):
            continue
    return label()
