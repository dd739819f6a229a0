"""Replicas are killed with requests in flight, again and again, while one job labels on Ray Serve."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ray.serve.handle import DeploymentHandle

from teachers.hosting import hosted
from teachers.labelling import LabellingEvent, ReplicaReplaced, ShardFailed, ShardLabelled, label_shards
from tests.fixtures.watched_models import Busy, HangsOnce
from tests.simulation.oracle import NUM_SHARDS, SHARD_ROWS, LabelledByOne, acknowledgement
from tests.simulation.victims import Kill, kill_one_at_work, kill_process

BATCH_S = 0.05
"""A quarter of what a shard takes."""
LONGEST_PAUSE_S = 1.5
"""Between a commit after one kill and the next kill."""
STALL_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class ReplicaKills:
    """What was left after the kills."""

    kills: int
    label_sets: int
    rows_lost: int
    """Rows that were acknowledged or are needed, and are not there as the teacher computes them."""
    rows_doubled: int
    shards_set_aside: int
    requests_lost: int
    """Requests that were in flight on a replica that died, and were sent again."""
    rows_wasted: int
    """Computed and not committed, or computed twice."""
    rows_wasted_at_most: int
    """One shard for each lost request: what is in flight is all that can be lost."""
    recovery_p50_s: float
    """From a kill to the next commit of the same teacher."""
    recovery_p99_s: float

    @property
    def broken(self) -> int:
        """Promises that were broken."""
        wasted = self.rows_wasted > self.rows_wasted_at_most
        return self.rows_lost + self.rows_doubled + self.shards_set_aside + wasted


def kill_replicas(
    folder: Path,
    *,
    kills: int,
    seed: int,
    kill: Kill = kill_process,
    **config: object,
) -> ReplicaKills:
    """Label one set after another, on the cluster that this process is connected to, until all kills are done.

    `kill` is told the process of a replica that has a request in hand.
    """
    busy = folder / "busy"
    busy.mkdir()
    arguments = {"folder": str(busy), "batch_s": BATCH_S}
    options: dict[str, object] = {"replicas": 2, "resources": {"cpu": 0.5}} | config
    bench = _Bench(LabelledByOne(folder, model=Busy, arguments=arguments, **options))
    killer = _Killer(busy, kills, random.Random(seed), kill)
    with hosted([bench.taught.setup]) as handles:
        asyncio.run(bench.label_until(killer, handles["watched"]))
    lost, doubled = bench.taught.count_wrong_rows(bench.num_sets, bench.acknowledged)
    recoveries = [min(at for at in bench.labelled_s if at > killed) - killed for killed in killer.killed_s]
    return ReplicaKills(
        kills=len(killer.killed_s),
        label_sets=bench.num_sets,
        rows_lost=lost,
        rows_doubled=doubled,
        shards_set_aside=sum(failure.is_quarantined for failure in bench.failures),
        requests_lost=len(bench.failures),
        rows_wasted=bench.taught.rows_computed - bench.num_sets * NUM_SHARDS * SHARD_ROWS,
        rows_wasted_at_most=len(bench.failures) * SHARD_ROWS,
        recovery_p50_s=round(float(np.quantile(recoveries, 0.5)), 2),
        recovery_p99_s=round(float(np.quantile(recoveries, 0.99)), 2),
    )


@dataclass(frozen=True)
class Hang:
    """What became of a replica that never came back from a forward pass."""

    replaced: int
    rows_lost: int
    rows_doubled: int
    replaced_after_s: float
    """From the call that never returned."""
    stall_timeout_s: float = STALL_TIMEOUT_S

    @property
    def broken(self) -> int:
        """Promises that were broken; a heartbeat and a little more may pass after the time-out."""
        is_late = self.replaced_after_s > self.stall_timeout_s + 2.0
        return self.rows_lost + self.rows_doubled + (self.replaced != 1) + is_late


def hang_once(folder: Path) -> Hang:
    """Label with a replica that hangs for ever in its third forward pass."""
    marker = folder / "hung"
    arguments = {"marker": str(marker)}
    config = {"replicas": 1, "resources": {"cpu": 0.5}, "stall_timeout_s": STALL_TIMEOUT_S}
    bench = _Bench(LabelledByOne(folder, model=HangsOnce, arguments=arguments, **config))
    with hosted([bench.taught.setup]) as handles:
        asyncio.run(bench.label_until(None, handles["watched"]))
    lost, doubled = bench.taught.count_wrong_rows(bench.num_sets, bench.acknowledged)
    after_s = bench.replaced_s[0] - marker.stat().st_mtime if bench.replaced_s else float("inf")
    return Hang(len(bench.replaced_s), lost, doubled, round(after_s, 2))


class _Killer:
    """Chooses whom to kill, and when."""

    def __init__(self, busy: Path, kills: int, draw: random.Random, kill: Kill) -> None:
        self._busy, self._kills, self._draw, self._kill = busy, kills, draw, kill
        self.killed_s: list[float] = []
        self._due_s = 0.0

    @property
    def is_done(self) -> bool:
        return len(self.killed_s) == self._kills

    def recovered(self) -> None:
        """Note that the teacher labels again, and fix the next moment."""
        self._due_s = time.time() + self._draw.uniform(0, LONGEST_PAUSE_S)

    def kill_if_due(self) -> bool:
        """Kill a process that is in a forward pass, if there is one and it is time; return whether it was."""
        if self.is_done or time.time() < self._due_s:
            return False
        if not kill_one_at_work(self._busy, self._draw, self._kill):
            return False
        self.killed_s.append(time.time())
        return True


@dataclass
class _Bench:
    """Labelling, and what its driver was told, by the wall clock."""

    taught: LabelledByOne
    num_sets: int = 0
    labelled_s: list[float] = field(default_factory=list)
    replaced_s: list[float] = field(default_factory=list)
    failures: list[ShardFailed] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)

    async def label_until(self, killer: _Killer | None, handle: DeploymentHandle) -> None:
        """Label whole sets, at least one, until the killer has done its work."""
        while self.num_sets == 0 or (killer is not None and not killer.is_done):
            self.num_sets += 1
            requests = self.taught.requests(self.num_sets)
            labelling = asyncio.ensure_future(
                label_shards(handle, self.taught.setup.config, requests, on_event=self._note)
            )
            awaits_recovery, num_labelled = False, 0
            while not labelling.done():
                if killer is not None and awaits_recovery and len(self.labelled_s) > num_labelled:
                    killer.recovered()
                    awaits_recovery = False
                if killer is not None and not awaits_recovery and killer.kill_if_due():
                    awaits_recovery, num_labelled = True, len(self.labelled_s)
                await asyncio.wait({labelling}, timeout=0.02)
            labelling.result()
            labels = self.taught.labels(self.num_sets)
            labels.read_commits(range(NUM_SHARDS))
            labels.seal(NUM_SHARDS)

    def _note(self, event: LabellingEvent) -> None:
        match event:
            case ShardLabelled(commit=commit):
                self.labelled_s.append(time.time())
                self.acknowledged.add(acknowledgement(commit.labelset, commit.number, commit.digest))
            case ShardFailed():
                self.failures.append(event)
            case ReplicaReplaced():
                self.replaced_s.append(time.time())
