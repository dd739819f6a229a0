"""The labelling loop: sends shard numbers to replicas, never more than they can hold, and again where one failed.

Serve does not replay the requests of a replica that died, and does not see one that hangs; both are this loop's
business.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import ray
import ray.exceptions
from ray.serve.handle import DeploymentHandle

from cluster.errors import AccessDenied, CoffeyError, StorageError, TeacherError
from cluster.failures import own_error, reason_of
from cluster.shards.commits import Commit
from cluster.storage.protocol import ObjectMissingError
from teachers.deployment import (
    REQUESTS_PER_REPLICA,
    START_TIMEOUT_S,
    Accepted,
    Alive,
    Answer,
    Labelled,
    LabelRequest,
)
from teachers.shard_queue import ShardQueue
from teachers.spec import TeacherConfig


@dataclass(frozen=True)
class ShardLabelled:
    """One shard is committed."""

    teacher: str
    request: LabelRequest
    commit: Commit
    rows_computed: int


@dataclass(frozen=True)
class ShardFailed:
    """One attempt at a shard failed; it is tried again or set aside."""

    teacher: str
    request: LabelRequest
    reason: str
    is_quarantined: bool


@dataclass(frozen=True)
class ReplicaReplaced:
    """A replica made no progress for too long and was stopped; Serve starts another."""

    teacher: str
    replica: str


LabellingEvent = ShardLabelled | ShardFailed | ReplicaReplaced


class ReplicaStalledError(TeacherError):
    """A replica made no progress for `stall_timeout_s`."""

    def __init__(self, teacher: str, replica: str, timeout_s: float) -> None:
        super().__init__(teacher, replica, timeout_s)
        self.teacher, self.replica, self.timeout_s = teacher, replica, timeout_s

    def __str__(self) -> str:
        return (
            f"teacher {self.teacher}: no progress in {self.timeout_s:.0f} s (replica {self.replica}). It was "
            "replaced. If one batch takes longer than that, lower batch_size or raise stall_timeout_s."
        )


class NoReplicaError(TeacherError):
    """No replica took a request, nor had one in hand, for longer than one may take to start."""

    def __init__(self, teacher: str, timeout_s: float) -> None:
        super().__init__(teacher, timeout_s)
        self.teacher, self.timeout_s = teacher, timeout_s

    def __str__(self) -> str:
        return (
            f"teacher {self.teacher}: no replica took a request in {self.timeout_s:g} s. The last one is gone and the "
            "cluster has no room for another (`ray status` says who holds it), or its model takes longer to load. Give "
            "it room, or more time (cluster.start_timeout_s), and run the same command again: it continues."
        )


class ShardsQuarantinedError(TeacherError):
    """Some shards failed on every attempt."""

    def __init__(self, teacher: str, shards: tuple[int, ...], reason: str) -> None:
        super().__init__(teacher, shards, reason)
        self.teacher, self.shards, self.reason = teacher, shards, reason

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.shards))
        return (
            f"teacher {self.teacher}: shard {shown} failed on every attempt, the last time with: "
            f"{self.reason.rstrip('.')}. All other shards that were labelled are kept; run the same command again to "
            "try only what is missing."
        )


_REPLICA_LOST = (ReplicaStalledError, ray.exceptions.RayActorError, ray.exceptions.NodeDiedError)
"""What ends every request that a replica has in hand, whichever of them it was at."""


def stop_replica(replica: str) -> None:
    """Stop one replica's process; Serve's controller starts another in its place."""
    try:
        ray.kill(ray.get_actor(replica, namespace="serve"))
    except ValueError:  # it is gone already, or another request of ours has stopped it
        return


@dataclass
class _Pulse:
    """When a teacher last showed that any of its replicas works, and which were stopped because they did not."""

    at_s: float
    start_timeout_s: float
    """Longest time without one, before it is given up: a replica that is lost needs a successor."""
    num_held: int = 0
    """Requests that replicas have in hand."""
    stopped: set[str] = field(default_factory=set)


async def label_shards(
    handle: DeploymentHandle,
    config: TeacherConfig,
    requests: Sequence[LabelRequest],
    *,
    on_event: Callable[[LabellingEvent], None],
    start_timeout_s: float = START_TIMEOUT_S,
    stop_replica: Callable[[str], None] = stop_replica,
) -> None:
    """Have every request answered, in about the order given.

    Raises:
        NoReplicaError: all replicas are gone, and none has come for `start_timeout_s`.
        ShardsQuarantinedError: some shards could not be labelled; all others are committed.
        StorageError, AccessDenied: the store failed a replica, as it would fail the next one.
    """
    queue, pulse = ShardQueue.of(requests), _Pulse(asyncio.get_running_loop().time(), start_timeout_s)
    label = partial(_label_one, handle, config, on_event=on_event, stop_replica=stop_replica, pulse=pulse)
    tasks: dict[asyncio.Task[Labelled], LabelRequest] = {}
    try:
        while not queue.is_finished:
            while len(tasks) < REQUESTS_PER_REPLICA * config.max_replicas and (request := queue.take()) is not None:
                tasks[asyncio.ensure_future(label(request))] = request
            finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                on_event(_settle(queue, config.name, tasks.pop(task), task))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if queue.quarantined:
        request, error = next(iter(queue.quarantined.items()))
        numbers = tuple(sorted(request.number for request in queue.quarantined))
        raise ShardsQuarantinedError(config.name, numbers, reason_of(error)) from error


def _settle(
    queue: ShardQueue[LabelRequest], teacher: str, request: LabelRequest, task: asyncio.Task[Labelled]
) -> LabellingEvent:
    error = task.exception()
    if error is None:
        queue.succeeded(request)
        answer = task.result()
        return ShardLabelled(teacher, request, answer.commit, answer.rows_computed)
    if not isinstance(error, Exception) or isinstance(error, NoReplicaError):
        raise error
    if (failure := _failure_of_the_store(error)) is not None:
        raise failure from error
    if isinstance(error, _REPLICA_LOST):
        queue.lost(request, error)
    else:
        queue.failed(request, error)
    return ShardFailed(teacher, request, reason_of(error), request in queue.quarantined)


def _failure_of_the_store(error: Exception) -> CoffeyError | None:
    """Return the store's own error: full, refused or out of reach, it is no shard's fault and no other shard's luck."""
    own = own_error(error)
    is_of_the_store = isinstance(own, StorageError | AccessDenied) and not isinstance(own, ObjectMissingError)
    return own if is_of_the_store else None


async def _label_one(
    handle: DeploymentHandle,
    config: TeacherConfig,
    request: LabelRequest,
    *,
    on_event: Callable[[LabellingEvent], None],
    stop_replica: Callable[[str], None],
    pulse: _Pulse,
) -> Labelled:
    """Follow one request to its end; stop the replica that has it if that makes no progress."""
    answers = aiter(handle.options(stream=True).label.remote(request))
    replica = (await _accepted(answers, config.name, pulse)).replica
    pulse.num_held += 1
    try:
        return await _answered(answers, config.stall_timeout_s, pulse)
    except TimeoutError:
        if replica not in pulse.stopped:  # its other request is as late as this one
            pulse.stopped.add(replica)
            stop_replica(replica)
            on_event(ReplicaReplaced(config.name, replica))
        raise ReplicaStalledError(config.name, replica, config.stall_timeout_s) from None
    finally:
        pulse.num_held -= 1
        pulse.at_s = asyncio.get_running_loop().time()


async def _answered(answers: AsyncIterator[Answer], stall_timeout_s: float, pulse: _Pulse) -> Labelled:
    """Wait for the last answer; raises `TimeoutError` if there is no progress."""
    loop = asyncio.get_running_loop()
    batches, progress_at_s = -1, loop.time()
    while True:
        match await _next(answers, progress_at_s + stall_timeout_s - loop.time()):
            case Labelled() as answer:
                return answer
            case Alive(batches=count, awaits_store=waits) if count != batches or waits:
                batches, progress_at_s = count, loop.time()
                pulse.at_s = progress_at_s


async def _accepted(answers: AsyncIterator[Answer], teacher: str, pulse: _Pulse) -> Accepted:
    """Wait until a replica has the request: as long as the teacher answers others, or has them in hand, it is busy."""
    loop = asyncio.get_running_loop()
    asked_at_s = loop.time()  # a request that is sent again has its time too, however long nobody has answered
    first = asyncio.ensure_future(anext(answers))
    try:
        while not first.done():
            since_s = loop.time() if pulse.num_held else max(pulse.at_s, asked_at_s)
            left_s = since_s + pulse.start_timeout_s - loop.time()
            if left_s <= 0:
                raise NoReplicaError(teacher, pulse.start_timeout_s)
            await asyncio.wait({first}, timeout=left_s)
    finally:
        first.cancel()
    pulse.at_s = loop.time()
    answer = first.result()
    assert isinstance(answer, Accepted), answer  # noqa: S101
    return answer


async def _next(answers: AsyncIterator[Answer], timeout_s: float) -> Answer:
    return await asyncio.wait_for(anext(answers), max(0.0, timeout_s))
