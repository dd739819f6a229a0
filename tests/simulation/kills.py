"""A process that labels is killed at random moments; the next one goes on where it was.

It is a teacher's replica without Ray around it: the real code from the input shard to the commit, one shard at a time.
"""

import asyncio
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.storage.open import open_store
from teachers.deployment import LabelRequest, ReplicaSetup, TeacherReplica, _Progress
from tests.simulation.children import forking
from tests.simulation.oracle import NUM_SHARDS, ROWS, SHARD_ROWS, LabelledByOne, acknowledgement


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
                file.write(f"{acknowledgement(labelled.commit.labelset, number, labelled.commit.digest)}\n")

    asyncio.run(label())
    labels.seal(NUM_SHARDS)


class _Bench:
    """The sets that one teacher labels, and what its processes have been told."""

    def __init__(self, folder: Path) -> None:
        self._taught, self._acknowledged = LabelledByOne(folder), folder / "acknowledged.txt"
        self._acknowledged.touch()
        self._context, self.num_sets = forking(), 1

    @property
    def is_finished(self) -> bool:
        """Whether the present set is sealed."""
        return self._taught.labels(self.num_sets).is_sealed()

    @property
    def rows_computed(self) -> int:
        """Rows that went through the teacher, in all processes."""
        return self._taught.rows_computed

    def next_set(self) -> None:
        """Begin with the next label set."""
        self.num_sets += 1

    def start(self) -> BaseProcess:
        """Start a process that labels what is missing."""
        arguments = (self._taught.setup, self._taught.record(self.num_sets), self._acknowledged)
        child = self._context.Process(target=label_missing, args=arguments)
        child.start()
        return child

    def count_wrong_rows(self) -> tuple[int, int]:
        """Return how many rows are lost and how many are there twice, over all sets."""
        return self._taught.count_wrong_rows(self.num_sets, set(self._acknowledged.read_text().splitlines()))
