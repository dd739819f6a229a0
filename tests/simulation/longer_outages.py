"""The outage of `outages` at other moments: a training follows labels, a driver watches its replicas, a run ends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from cluster.shards.codecs.dense import LOGITS
from cluster.shards.commits import Commit
from cluster.shards.labelset import LabelSet
from cluster.storage.patience import OUTAGE_S, PatientStore
from orchestrator.events import Event, read_events, read_run
from orchestrator.run_log import RunLog
from students.arrivals import await_shard
from teachers.deployment import REQUESTS_PER_REPLICA, Accepted, Alive, Answer, Labelled, LabelRequest
from teachers.labelling import LabellingEvent, ReplicaReplaced, label_shards
from teachers.spec import TeacherConfig
from tests.fixtures.jumping_clock import run_jumping
from tests.fixtures.memory_store import MemoryStore
from tests.simulation.outages import (
    BEFORE,
    RECORD,
    ROWS,
    SHARD_S,
    Outage,
    OutageResult,
    OutStore,
    count_wrong_rows,
    label_through_an_outage,
    logits_of,
)

NUM_SHARDS = 2 * BEFORE
HEARTBEAT_S = 0.5
ATTEMPT_S = 300.0
"""How long one attempt at an endpoint hangs that takes connections and says nothing."""
LABELS_TIMEOUT_S = 600.0
EVENTS = 4500


@dataclass(frozen=True)
class FollowResult:
    """What became of a training that followed labels."""

    outage_s: float
    labels_timeout_s: float
    lasted_s: float
    rows_lost: int

    @property
    def broken(self) -> int:
        """Promises that were broken; the outage is met only if it is longer than the time-out or as long."""
        return self.rows_lost + (self.lasted_s < self.outage_s) + (self.outage_s < self.labels_timeout_s)


def follow_through_an_outage(outage_s: float) -> FollowResult:
    """Follow labels whose writer meets the same outage, and needs its time after it."""
    start_s = BEFORE * SHARD_S
    writer, follower = (_Followed(start_s, start_s + outage_s) for _ in range(2))
    inner = MemoryStore()
    theirs = LabelSet.create(_patient(MemoryStore(), writer), RECORD)
    for number in range(NUM_SHARDS):
        writer.wait(SHARD_S)
        theirs.commit(number, theirs.encode({LOGITS: logits_of(number)}), rows=ROWS, statistics={})
        follower.arrivals.append((writer.now_s(), number))
    follower.labels = LabelSet.create(inner, RECORD)
    labels = LabelSet(_patient(inner, follower), RECORD)
    for number in range(NUM_SHARDS):
        await_shard(labels, number, timeout_s=LABELS_TIMEOUT_S, clock_s=follower.now_s, pause=follower.wait)
        follower.wait(SHARD_S / 2)  # it learns faster than it is taught
    lost, _ = count_wrong_rows(inner, NUM_SHARDS)
    return FollowResult(outage_s, LABELS_TIMEOUT_S, round(follower.now_s(), 1), lost)


@dataclass
class _Followed(Outage):
    """A clock by which shards are committed as time passes."""

    arrivals: list[tuple[float, int]] = field(default_factory=list)
    labels: LabelSet | None = None

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        while self.labels is not None and self.arrivals and self.arrivals[0][0] <= self.now_s():
            _, number = self.arrivals.pop(0)
            self.labels.commit(number, self.labels.encode({LOGITS: logits_of(number)}), rows=ROWS, statistics={})


@dataclass(frozen=True)
class HangResult:
    """What became of a labelling whose endpoint hung, while one replica hung by itself."""

    outage_s: float
    attempt_s: float
    stall_timeout_s: float
    lasted_s: float
    replaced: tuple[int, ...]
    """Shards that replicas had in hand when they were replaced."""
    replaced_after_s: float
    """From the moment at which the one replica hung."""
    most_shards_held: int
    shards_held_at_most: int
    rows_lost: int
    rows_doubled: int
    hung_shard: int

    @property
    def broken(self) -> int:
        """Promises that were broken: who waits is left alone, who hangs is replaced in time."""
        is_other = self.replaced != (self.hung_shard,)
        is_late = self.replaced_after_s > self.stall_timeout_s + 2 * HEARTBEAT_S
        held = self.most_shards_held > self.shards_held_at_most
        return self.rows_lost + self.rows_doubled + is_other + is_late + held + (self.lasted_s < self.outage_s)


def label_through_a_hang(outage_s: float) -> HangResult:
    """Have the driver's loop label through replicas of which each attempt at the store hangs for minutes."""
    config = TeacherConfig(name="patient", weights="w.onnx", replicas=2)
    replicas, events = _Replicas(outage_s), list[tuple[float, LabellingEvent]]()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        replicas.began_s = loop.time()
        await label_shards(
            replicas,  # type: ignore[arg-type]  # it speaks as Serve's handle does
            config,
            [LabelRequest(RECORD, number) for number in range(NUM_SHARDS)],
            on_event=lambda event: events.append((loop.time(), event)),
            stop_replica=lambda _: None,
        )
        return loop.time() - replicas.began_s

    lasted_s = run_jumping(main())
    lost, doubled = count_wrong_rows(replicas.inner, NUM_SHARDS)
    replaced = [(at_s, event.replica) for at_s, event in events if isinstance(event, ReplicaReplaced)]
    return HangResult(
        outage_s=outage_s,
        attempt_s=ATTEMPT_S,
        stall_timeout_s=config.stall_timeout_s,
        lasted_s=round(lasted_s, 1),
        replaced=tuple(int(replica) for _, replica in replaced),
        replaced_after_s=round(replaced[0][0] - replicas.hung_s, 1) if replaced else float("inf"),
        most_shards_held=replicas.most_held,
        shards_held_at_most=2 * REQUESTS_PER_REPLICA,
        rows_lost=lost,
        rows_doubled=doubled,
        hung_shard=replicas.hung_shard,
    )


@dataclass
class _Replicas:
    """What `handle.options(stream=True).label.remote(request)` leads to."""

    outage_s: float
    began_s: float = 0.0
    hung_shard: int = BEFORE + 1
    """In hand during the outage; whoever computes it first never comes back."""
    hung_s: float = 0.0
    inner: MemoryStore = field(default_factory=MemoryStore)
    attempts: Counter[int] = field(default_factory=Counter)
    held: int = 0
    most_held: int = 0

    def options(self, *, stream: bool) -> "_Replicas":
        return self

    @property
    def label(self) -> "_Replicas":
        return self

    async def remote(self, request: LabelRequest) -> AsyncIterator[Answer]:
        yield Accepted(str(request.number))
        self.attempts[request.number] += 1
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        try:
            if request.number == self.hung_shard and self.attempts[request.number] == 1:
                self.hung_s = asyncio.get_running_loop().time()
                while True:
                    await asyncio.sleep(HEARTBEAT_S)
                    yield Alive(0, 0)
            async for answer in self._answers(request.number):
                yield answer
        finally:
            self.held -= 1

    async def _answers(self, number: int) -> AsyncIterator[Answer]:
        """Play what the request's thread does, with what its replica would say meanwhile; then say it at its times."""
        loop = asyncio.get_running_loop()
        start_s = BEFORE * SHARD_S / (2 * REQUESTS_PER_REPLICA)
        thread = _Thread(start_s, start_s + self.outage_s, _now_s=loop.time() - self.began_s)
        commit = thread.label(number, self.inner)
        for at_s, is_waiting in thread.beats:
            await asyncio.sleep(self.began_s + at_s - loop.time())
            yield Alive(0, 0, awaits_store=is_waiting)
        yield Labelled(commit, ROWS)


@dataclass
class _Thread(Outage):
    """The clock of one request, at whose heartbeats its replica says whether it waits for the store."""

    beats: list[tuple[float, bool]] = field(default_factory=list)
    store: PatientStore | None = None

    def wait(self, seconds: float) -> None:
        until_s = self.now_s() + seconds
        while self.now_s() < until_s:
            super().wait(min(HEARTBEAT_S, until_s - self.now_s()))
            self.beats.append((self.now_s(), self.store is not None and self.store.is_waiting))

    def label(self, number: int, inner: MemoryStore) -> Commit:
        self.store = _patient(inner, self, attempt_s=ATTEMPT_S)
        self.wait(SHARD_S)
        labels = LabelSet.create(self.store, RECORD)
        return labels.commit(number, labels.encode({LOGITS: logits_of(number)}), rows=ROWS, statistics={})


@dataclass(frozen=True)
class EndResult:
    """What is known of a run that ended while the store was out."""

    outage_s: float
    lasted_s: float
    state: str
    events_said: int
    events_lost: int
    """Of those that matter after the run."""
    events_written: int
    events_held_at_most: int = 4000

    @property
    def broken(self) -> int:
        """Promises that were broken."""
        held = self.events_written > self.events_held_at_most
        return self.events_lost + held + (self.state != "done") + (self.lasted_s < self.outage_s)


def end_through_an_outage(outage_s: float) -> EndResult:
    """Let a run go on telling of itself without a store, and end."""
    outage, inner = Outage(1.0, 1.0 + outage_s), MemoryStore()
    out = OutStore(inner, outage)
    log = RunLog(out, "job", lasting=_patient(inner, outage), heartbeat_s=outage_s)
    outage.wait(1.0)
    said = [Event(at=f"{number:08d}", event="said", message=f"{number}") for number in range(0, EVENTS, 100)]
    for number in range(EVENTS):
        how_far = Event(at=f"{number:08d}", event="advanced", step="train:student", message=f"{number}")
        log.append(how_far if number % 100 else said[number // 100])
    log.close("done", report=True)
    written = list(read_events(inner, log.state.run))
    return EndResult(
        outage_s=outage_s,
        lasted_s=round(outage.now_s(), 1),
        state=read_run(inner, "job").state,
        events_said=len(said),
        events_lost=len(said) - len([event for event in written if event in said]),
        events_written=len(written),
    )


@dataclass(frozen=True)
class Outages:
    """The same outage, met by each of them."""

    labelling: OutageResult
    hanging: HangResult
    following: FollowResult
    ending: EndResult

    @property
    def broken(self) -> int:
        """Promises that were broken."""
        return self.labelling.broken + self.hanging.broken + self.following.broken + self.ending.broken


def live_through_outages(outage_s: float) -> Outages:
    """Meet an outage at every moment at which it hurts."""
    return Outages(
        label_through_an_outage(outage_s),
        label_through_a_hang(outage_s),
        follow_through_an_outage(outage_s),
        end_through_an_outage(outage_s),
    )


def _patient(store: MemoryStore, outage: Outage, *, attempt_s: float = 0.0) -> PatientStore:
    out = OutStore(store, outage, attempt_s=attempt_s)
    return PatientStore(out, outage_s=OUTAGE_S, clock_s=outage.now_s, wait=outage.wait)
