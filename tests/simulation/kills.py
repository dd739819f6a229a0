"""A process that labels is killed at random moments; the next one goes on where it was.

It is a teacher's replica without Ray around it: the real code from the input shard to the commit, one shard at a time.
Legend: N rows, C classes.
"""

import asyncio
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import safetensors.numpy

from cluster.identity import digest_of
from cluster.models import InputConfig
from cluster.shards.codecs.dense import LOGITS, DenseCodec
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.dataset import Dataset, write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import LABEL
from cluster.storage.open import open_store
from cluster.weights import StoredWeights
from teachers.deployment import LabelRequest, ReplicaSetup, TeacherReplica, _Progress
from teachers.spec import TeacherConfig
from tests.fixtures.watched_models import Watched
from tests.simulation.children import forking

NUM_SHARDS = 12
SHARD_ROWS = 32
ROWS = NUM_SHARDS * SHARD_ROWS
CLASSES = 10
DATASET = "d" * 16


@dataclass(frozen=True)
class KillResult:
    """What was left after the kills."""

    kills: int
    label_sets: int
    """Sets that were completed, each of `ROWS` rows."""
    rows_lost: int
    """Rows that were acknowledged or are needed, and are not there as the teacher computed them."""
    rows_doubled: int
    """Rows that are there more than once."""
    rows_needed: int
    rows_computed: int

    @property
    def shards_wasted_per_kill(self) -> float:
        """Work that was done again; the promise is at most one."""
        return (self.rows_computed - self.rows_needed) / SHARD_ROWS / self.kills


def kill_labelling(folder: Path, *, kills: int, seed: int) -> KillResult:
    """Label one set after another until `kills` processes have been killed at work; complete the last set."""
    bench, draw = _Bench(folder), random.Random(seed)
    bench.start().join()  # the first child waits for the server's imports
    bench.next_set()
    started_s = time.monotonic()
    bench.start().join()
    longest_s = time.monotonic() - started_s
    killed = 0
    while killed < kills:
        if bench.is_finished:
            bench.next_set()
        child = bench.start()
        time.sleep(draw.uniform(0, longest_s))
        if child.is_alive():
            child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        assert child.exitcode in {0, -signal.SIGKILL}, f"a labelling process ended with {child.exitcode}"
    if not bench.is_finished:
        bench.start().join()
    lost, doubled = bench.count_wrong_rows()
    return KillResult(killed, bench.num_sets, lost, doubled, bench.num_sets * ROWS, bench.rows_computed)


def label_missing(setup: ReplicaSetup, record: LabelSetRecord, acknowledged: Path) -> None:
    """Label and seal as a driver with one replica does, and note every commit that was acknowledged."""
    labels = LabelSet.create(open_store(setup.store_uri), record)
    replica = TeacherReplica(setup)

    async def label() -> None:
        for number in sorted(set(range(NUM_SHARDS)) - labels.committed_numbers()):
            labelled = await replica._label(LabelRequest(record, number), _Progress())
            labels.remember(labelled.commit)
            with acknowledged.open("a") as file:
                file.write(f"{labelled.commit.labelset} {number} {labelled.commit.digest}\n")

    asyncio.run(label())
    labels.seal(NUM_SHARDS)


class _Bench:
    """A data set, a teacher that can be told apart in every set, and the sets it has labelled."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._store = folder, open_store(str(folder / "store"))
        self._trace, self._acknowledged = folder / "computed.txt", folder / "acknowledged.txt"
        self._acknowledged.touch()
        self._context, self.num_sets = forking(), 1
        draw = np.random.default_rng(0)
        self._images = draw.integers(0, 256, (ROWS, 8, 8), dtype=np.uint8)
        arrays = {"image": self._images, LABEL: np.zeros(ROWS, np.int32)}
        names = tuple(map(str, range(CLASSES)))
        write_dataset(self._store, arrays, identity=DATASET, classes=names, shard_rows=SHARD_ROWS, compression="none")
        self._weight = draw.standard_normal((CLASSES, 64)).astype(np.float32)
        self._bias = draw.standard_normal(CLASSES).astype(np.float32)
        self._setup = self._write_teacher()

    @property
    def is_finished(self) -> bool:
        """Whether the present set is sealed."""
        return LabelSet(self._store, self._record(self.num_sets)).is_sealed()

    @property
    def rows_computed(self) -> int:
        """Rows that went through the teacher, in all processes."""
        return sum(map(int, self._trace.read_text().split()))

    def next_set(self) -> None:
        """Begin with the next label set."""
        self.num_sets += 1

    def start(self) -> BaseProcess:
        """Start a process that labels what is missing."""
        arguments = (self._setup, self._record(self.num_sets), self._acknowledged)
        child = self._context.Process(target=label_missing, args=arguments)
        child.start()
        return child

    def count_wrong_rows(self) -> tuple[int, int]:
        """Return how many rows are lost and how many are there twice, over all sets."""
        pixels = self._images.reshape(ROWS, -1).astype(np.float64) / 255
        logits_NC = pixels @ self._weight.T.astype(np.float64) + self._bias
        acknowledged = set(self._acknowledged.read_text().splitlines())
        lost = doubled = 0
        for number in range(1, self.num_sets + 1):
            labels = LabelSet(self._store, self._record(number))
            commits = labels.load_manifest().commits
            found_NC = np.concatenate([labels.read(commit.number)[LOGITS] for commit in commits]).astype(np.float64)
            doubled += max(0, len(found_NC) - ROWS)
            wrong = ~np.isclose(found_NC[:ROWS], logits_NC[: len(found_NC)], rtol=2e-3, atol=2e-3).all(axis=1)
            lost += int(wrong.sum()) + max(0, ROWS - len(found_NC))
            kept = {f"{commit.labelset} {commit.number} {commit.digest}" for commit in commits}
            ours = {line for line in acknowledged if line.startswith(labels.identity)}
            lost += SHARD_ROWS * len(ours - kept)
        assert len(Dataset.open(self._store, DATASET).record.shards) == NUM_SHARDS
        return lost, doubled

    def _write_teacher(self) -> ReplicaSetup:
        body = safetensors.numpy.save({"layer.weight": self._weight, "layer.bias": self._bias})
        weights = StoredWeights(key="teachers/watched/w.safetensors", digest=digest_of(body), num_bytes=len(body))
        self._store.put(weights.key, body)
        config = TeacherConfig(
            name="watched",
            model=f"{Watched.__module__}:{Watched.__name__}",
            arguments={"trace": str(self._trace)},
            inputs=InputConfig(shape=(1, 8, 8)),
            weights="in-the-store.safetensors",
            batch_size=SHARD_ROWS // 4,
        )
        return ReplicaSetup(self._store.uri, config, weights)

    def _record(self, number: int) -> LabelSetRecord:
        columns = DenseCodec(DenseConfig(), CLASSES).columns()
        return LabelSetRecord(teacher="watched", teacher_identity=f"{number:016x}", dataset=DATASET, columns=columns)
