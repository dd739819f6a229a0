"""A store that answers nobody for ten minutes of a clock that jumps, while labels are being written to it.

Nothing really waits: whoever would wait moves the clock on. So the code that waits is the real one, and ten minutes
take as long as the attempts do.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from cluster.shards.codecs.dense import LOGITS
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import Column
from cluster.storage.patience import OUTAGE_S, PatientStore
from cluster.storage.protocol import ObjectStat, ObjectStore, StoreUnreachableError
from teachers.deployment import REQUESTS_PER_REPLICA
from tests.fixtures.memory_store import MemoryStore

NUM_SHARDS, ROWS, CLASSES = 40, 4096, 10
BEFORE = 10
"""Shards that are committed before the store goes."""
SHARD_S = 1.0
"""What a shard takes to compute, by the clock that jumps."""
RECORD = LabelSetRecord(
    teacher="patient",
    teacher_identity="1" * 16,
    dataset="d" * 16,
    columns=(Column(name=LOGITS, dtype="float16", shape=(CLASSES,)),),
)


@dataclass
class Outage:
    """A clock, and between which of its seconds the store does not answer."""

    from_s: float
    until_s: float
    waits: list[float] = field(default_factory=list)
    _now_s: float = 0.0
    _moving: threading.Lock = field(default_factory=threading.Lock)

    def now_s(self) -> float:
        return self._now_s

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        with self._moving:
            self.waits.append(seconds)
            self._now_s += seconds

    @property
    def is_on(self) -> bool:
        return self.from_s <= self._now_s < self.until_s


class OutStore:
    """Another store, out of reach during an outage."""

    uri = "s3://out/there"

    def __init__(self, store: ObjectStore, outage: Outage, *, attempt_s: float = 0.0) -> None:
        """`attempt_s`: how long whoever asks is kept waiting before nothing comes."""
        self._store, self._outage, self._attempt_s = store, outage, attempt_s
        self.num_refused = 0

    def get(self, key: str) -> memoryview:
        self._reach(f"reading {key}")
        return self._store.get(key)

    def put(self, key: str, body: bytes | memoryview) -> None:
        self._reach(f"writing {key}")
        self._store.put(key, body)

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        self._reach(f"writing {key}")
        return self._store.put_if_absent(key, body)

    def exists(self, key: str) -> bool:
        self._reach(f"looking for {key}")
        return self._store.exists(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        self._reach(f"listing {prefix}")
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._reach(f"deleting {key}")
        self._store.delete(key)

    def _reach(self, action: str) -> None:
        if self._outage.is_on:
            self.num_refused += 1
            self._outage.wait(self._attempt_s)
            raise StoreUnreachableError(self.uri, action, "no answer")


@dataclass(frozen=True)
class OutageResult:
    """What became of a labelling that met an outage."""

    outage_s: float
    lasted_s: float
    """From the first shard to the last, by the clock that jumps."""
    refused: int
    """Requests that were not answered."""
    rows_lost: int
    rows_doubled: int
    most_shards_held: int
    """Computed and not committed, at any one time."""
    shards_held_at_most: int
    """What the back-pressure allows."""

    @property
    def broken(self) -> int:
        """Promises that were broken; the outage is met at all only if it took its time."""
        held = self.most_shards_held > self.shards_held_at_most
        return self.rows_lost + self.rows_doubled + held + (self.lasted_s < self.outage_s)


def label_through_an_outage(outage_s: float) -> OutageResult:
    """Label as a replica does, with as many shards in hand, and compare what is there in the end with what was said."""
    outage, inner = Outage(BEFORE * SHARD_S, BEFORE * SHARD_S + outage_s), MemoryStore()
    out = OutStore(inner, outage)
    store = PatientStore(out, outage_s=OUTAGE_S, clock_s=outage.now_s, wait=outage.wait)
    labels, held = LabelSet.create(store, RECORD), _Held()

    def label(number: int) -> None:
        outage.wait(SHARD_S)
        with held:
            labels.commit(number, labels.encode({LOGITS: logits_of(number)}), rows=ROWS, statistics={})

    with ThreadPoolExecutor(REQUESTS_PER_REPLICA) as requests:
        list(requests.map(label, range(NUM_SHARDS)))
    labels.seal(NUM_SHARDS)
    lost, doubled = count_wrong_rows(inner, NUM_SHARDS)
    return OutageResult(
        outage_s=outage_s,
        lasted_s=round(outage.now_s(), 1),
        refused=out.num_refused,
        rows_lost=lost,
        rows_doubled=doubled,
        most_shards_held=held.most,
        shards_held_at_most=REQUESTS_PER_REPLICA,
    )


def count_wrong_rows(store: ObjectStore, num_shards: int) -> tuple[int, int]:
    """Return how many of the rows are lost or wrong, and how many are there twice."""
    there = LabelSet(store, RECORD)
    numbers = [commit.number for commit in there.commits()]
    wrong = sum(not np.array_equal(there.read(number)[LOGITS], logits_of(number)) for number in numbers)
    return ROWS * (wrong + num_shards - len(set(numbers))), ROWS * (len(numbers) - len(set(numbers)))


class _Held:
    """Counts the shards that are in somebody's hands."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self._counting = threading.Lock()

    def __enter__(self) -> None:
        with self._counting:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_error: object) -> None:
        with self._counting:
            self._now -= 1


def logits_of(number: int) -> np.ndarray:
    """Return what the teacher says of a shard, `[ROWS, CLASSES]`."""
    draw = np.random.default_rng(number)
    return draw.standard_normal((ROWS, CLASSES)).astype(np.float16)
