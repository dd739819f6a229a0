"""The labelling loop against replicas that answer, fail, fall silent and die, on a clock that jumps.

The replicas are what Ray Serve's handle shows of them: a stream of answers for each request.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field

import pytest
from ray.exceptions import ActorDiedError

from cluster.errors import TeacherError
from cluster.shards.commits import Commit
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import Column
from cluster.storage.protocol import StoreFullError
from teachers.deployment import REQUESTS_PER_REPLICA, Accepted, Alive, Answer, Labelled, LabelRequest
from teachers.labelling import (
    START_TIMEOUT_S,
    LabellingEvent,
    NoReplicaError,
    ReplicaReplaced,
    ShardFailed,
    ShardLabelled,
    ShardsQuarantinedError,
    label_shards,
)
from teachers.outputs import OutputRefusedError
from teachers.shard_queue import MAX_ATTEMPTS, MAX_LOSSES, MAX_QUARANTINED
from teachers.spec import TeacherConfig
from tests.fixtures.jumping_clock import run_jumping

RECORD = LabelSetRecord(
    teacher="wide",
    teacher_identity="1" * 16,
    dataset="d" * 16,
    columns=(Column(name="logits", dtype="float16", shape=(3,)),),
)
STALL_S = 30.0
BATCH_S = 20.0

Behaviour = Callable[["Replicas", LabelRequest], AsyncIterator[Answer]]


def requests(count: int) -> list[LabelRequest]:
    return [LabelRequest(RECORD, number) for number in range(count)]


def config(replicas: int = 1) -> TeacherConfig:
    return TeacherConfig(name="wide", weights="w.onnx", replicas=replicas, stall_timeout_s=STALL_S)


def commit(number: int) -> Commit:
    return Commit(labelset=RECORD.identity, number=number, rows=8, num_bytes=9, digest="0" * 64, columns=RECORD.columns)


async def answers(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    """Compute three batches, with a sign of life after each."""
    yield Accepted("replica")
    for batch in range(3):
        await asyncio.sleep(BATCH_S)
        yield Alive(batch + 1, 2 * batch)
    yield Labelled(commit(request.number), 8)


async def fails(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    yield Accepted("replica")
    raise ValueError("mat1 and mat2 shapes cannot be multiplied")


async def emits_nan(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    yield Accepted("replica")
    raise OutputRefusedError("wide", request.number, "nan for class 1 in row 2", "finite logits of at most 65504")


async def dies(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    yield Accepted("replica")
    raise ActorDiedError


async def finds_the_store_full(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    yield Accepted("replica")
    raise StoreFullError("/data", "writing labels/x", "No space left on device")


async def waits_for_the_store(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    """Hear nothing from the store for ten minutes, and then be as every other."""
    yield Accepted("replica")
    for _ in range(1200):
        await asyncio.sleep(0.5)
        yield Alive(0, 0, awaits_store=True)
    async for answer in answers(replicas, request):
        if not isinstance(answer, Accepted):
            yield answer


async def falls_silent(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    yield Accepted(f"replica-{request.number}")
    await asyncio.Event().wait()


async def lives_without_progress(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    yield Accepted(f"replica-{request.number}")
    while True:
        await asyncio.sleep(0.5)
        yield Alive(7, 0)


async def works_for_others_first(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    """Be busy for many times the time-out, with batches of another request."""
    yield Accepted("replica")
    for batch in range(20):
        await asyncio.sleep(BATCH_S)
        yield Alive(batch, 0)
    yield Labelled(commit(request.number), 8)


async def ends_early(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    yield Accepted("replica")


async def is_never_taken(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    await asyncio.Event().wait()
    yield Accepted("replica")


async def is_taken_late(replicas: "Replicas", request: LabelRequest) -> AsyncIterator[Answer]:
    await asyncio.sleep(2 * START_TIMEOUT_S)
    async for answer in answers(replicas, request):
        yield answer


@dataclass
class Replicas:
    """What `handle.options(stream=True).label.remote(request)` leads to: by default every shard is labelled."""

    behaviours: dict[int, list[Behaviour]] = field(default_factory=dict)
    """For some shards, what happens at each attempt; afterwards they are labelled."""
    in_flight: int = 0
    most_in_flight: int = 0
    attempts: Counter[int] = field(default_factory=Counter)
    order: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def options(self, *, stream: bool) -> "Replicas":
        assert stream
        return self

    @property
    def label(self) -> "Replicas":
        return self

    async def remote(self, request: LabelRequest) -> AsyncIterator[Answer]:
        left = self.behaviours.get(request.number, [])[self.attempts[request.number] :]
        self.attempts[request.number] += 1
        self.order.append(request.number)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            async for answer in (left[0] if left else answers)(self, request):
                yield answer
        except asyncio.CancelledError:
            self.cancelled.append(request.number)
            raise
        finally:
            self.in_flight -= 1


def labelling(
    replicas: Replicas,
    events: list[LabellingEvent],
    *,
    count: int,
    config: TeacherConfig,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Coroutine[object, object, None]:
    return label_shards(
        replicas,  # type: ignore[arg-type]  # it speaks as Serve's handle does
        config,
        requests(count),
        on_event=events.append,
        start_timeout_s=start_timeout_s,
        stop_replica=replicas.stopped.append,
    )


def label(replicas: Replicas, *, count: int, config: TeacherConfig) -> list[LabellingEvent]:
    events: list[LabellingEvent] = []
    run_jumping(labelling(replicas, events, count=count, config=config))
    return events


def label_until_quarantine(
    replicas: Replicas, *, count: int, config: TeacherConfig
) -> tuple[list[LabellingEvent], ShardsQuarantinedError]:
    events: list[LabellingEvent] = []
    with pytest.raises(ShardsQuarantinedError) as quarantine:
        run_jumping(labelling(replicas, events, count=count, config=config))
    return events, quarantine.value


def labelled(events: list[LabellingEvent]) -> list[int]:
    return [event.request.number for event in events if isinstance(event, ShardLabelled)]


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_every_shard_is_labelled_once_in_order_with_two_requests_for_each_replica(replicas: int) -> None:
    serve = Replicas()

    events = label(serve, count=23, config=config(replicas))

    assert sorted(labelled(events)) == list(range(23))
    assert serve.order == list(range(23))
    assert serve.most_in_flight == REQUESTS_PER_REPLICA * replicas
    assert serve.in_flight == 0
    assert all(isinstance(event, ShardLabelled) and event.commit == commit(event.request.number) for event in events)


def test_a_range_of_replicas_is_kept_busy_up_to_its_largest_number() -> None:
    serve = Replicas()

    label(serve, count=20, config=TeacherConfig.model_validate(config().model_dump() | {"replicas": {"max": 3}}))

    assert serve.most_in_flight == 3 * REQUESTS_PER_REPLICA


def test_nothing_to_label_asks_nobody() -> None:
    serve = Replicas()

    assert label(serve, count=0, config=config()) == []
    assert serve.order == []


@pytest.mark.parametrize("failure", [fails, emits_nan, ends_early, falls_silent])
def test_a_shard_that_fails_is_tried_again_before_new_ones(failure: Behaviour) -> None:
    serve = Replicas({1: [failure] * (MAX_ATTEMPTS - 1)})

    events = label(serve, count=6, config=config())

    assert sorted(labelled(events)) == list(range(6))
    assert serve.attempts == Counter({0: 1, 1: MAX_ATTEMPTS, 2: 1, 3: 1, 4: 1, 5: 1})
    failures = [event for event in events if isinstance(event, ShardFailed)]
    assert [(event.request.number, event.is_quarantined) for event in failures] == [(1, False)] * 2


def test_replicas_that_die_are_not_held_against_a_shard_as_its_own_failures_are() -> None:
    serve = Replicas({4: [dies] * (MAX_LOSSES - 1)})

    events = label(serve, count=6, config=config())

    assert sorted(labelled(events)) == list(range(6))
    assert serve.attempts[4] == MAX_LOSSES


def test_a_shard_of_which_replicas_die_again_and_again_is_set_aside() -> None:
    serve = Replicas({4: [dies] * MAX_LOSSES})

    events, error = label_until_quarantine(serve, count=6, config=config())

    assert sorted(labelled(events)) == [0, 1, 2, 3, 5]
    assert error.shards == (4,)
    assert "died" in error.reason


def test_a_full_store_ends_the_labelling_at_once_with_the_error_of_the_store() -> None:
    serve = Replicas({1: [finds_the_store_full]})

    with pytest.raises(StoreFullError, match="/data: no space is left for writing labels/x") as error:
        label(serve, count=50, config=config())

    assert error.value.exit_code == 4
    assert serve.attempts[1] == 1
    assert serve.in_flight == 0


def test_a_replica_that_waits_for_the_store_is_left_alone() -> None:
    serve = Replicas({0: [waits_for_the_store]})

    events = label(serve, count=3, config=config())

    assert serve.stopped == []
    assert sorted(labelled(events)) == [0, 1, 2]
    assert set(serve.attempts.values()) == {1}


def test_one_bad_shard_is_set_aside_with_its_last_error_and_holds_up_no_other() -> None:
    serve = Replicas({3: [fails, fails, emits_nan]})

    events, error = label_until_quarantine(serve, count=10, config=config(2))

    assert sorted(labelled(events)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert serve.attempts[3] == MAX_ATTEMPTS
    failures = [event for event in events if isinstance(event, ShardFailed)]
    assert [event.is_quarantined for event in failures] == [False, False, True]
    assert failures[0].reason == "ValueError: mat1 and mat2 shapes cannot be multiplied"
    assert isinstance(error, TeacherError)
    assert isinstance(error.__cause__, OutputRefusedError)
    assert (error.teacher, error.shards) == ("wide", (3,))
    assert str(error).startswith(
        "teacher wide: shard 3 failed on every attempt, the last time with: teacher wide, shard 3: found nan for class "
        "1 in row 2, expected finite logits of at most 65504."
    )
    assert ".." not in str(error)
    assert str(error).endswith("run the same command again to try only what is missing.")


def test_a_sentence_is_ended_where_the_reason_ends_without_a_full_stop() -> None:
    _, error = label_until_quarantine(Replicas({0: [fails] * 3}), count=1, config=config())

    assert "ValueError: mat1 and mat2 shapes cannot be multiplied. All other shards" in str(error)


def test_a_teacher_that_fails_everywhere_is_given_up_soon() -> None:
    serve = Replicas(dict.fromkeys(range(1000), [fails] * MAX_ATTEMPTS))

    events, error = label_until_quarantine(serve, count=1000, config=config())

    assert len(error.shards) >= MAX_QUARANTINED
    assert sum(serve.attempts.values()) <= MAX_ATTEMPTS * (MAX_QUARANTINED + REQUESTS_PER_REPLICA)
    assert labelled(events) == []
    assert serve.in_flight == 0


@pytest.mark.parametrize("stall", [falls_silent, lives_without_progress])
def test_a_replica_without_progress_is_stopped_once_the_time_is_up_and_its_shard_tried_elsewhere(
    stall: Behaviour,
) -> None:
    serve = Replicas({2: [stall]})

    events = label(serve, count=5, config=config())

    assert serve.stopped == ["replica-2"]
    assert [event for event in events if isinstance(event, ReplicaReplaced)] == [ReplicaReplaced("wide", "replica-2")]
    (failure,) = (event for event in events if isinstance(event, ShardFailed))
    assert failure.reason.startswith("teacher wide: no progress in 30 s (replica replica-2). It was replaced.")
    assert sorted(labelled(events)) == list(range(5))


def test_a_replica_with_two_requests_in_hand_is_stopped_once() -> None:
    async def falls_silent_for_both(replicas: Replicas, request: LabelRequest) -> AsyncIterator[Answer]:
        yield Accepted("replica")
        await asyncio.Event().wait()

    serve = Replicas({0: [falls_silent_for_both], 1: [falls_silent_for_both]})

    events = label(serve, count=5, config=config())

    assert serve.stopped == ["replica"]
    assert [event for event in events if isinstance(event, ReplicaReplaced)] == [ReplicaReplaced("wide", "replica")]
    assert sorted(labelled(events)) == list(range(5))


def test_a_replica_that_is_slow_or_busy_with_another_request_is_left_alone() -> None:
    serve = Replicas({0: [works_for_others_first]})
    assert 20 * BATCH_S > 10 * STALL_S

    events = label(serve, count=3, config=config())

    assert serve.stopped == []
    assert sorted(labelled(events)) == [0, 1, 2]
    assert set(serve.attempts.values()) == {1}


def test_a_request_waits_as_long_as_the_teacher_is_busy_with_others() -> None:
    serve = Replicas({0: [is_taken_late]})
    assert 100 * 3 * BATCH_S > 2 * START_TIMEOUT_S

    events = label(serve, count=100, config=config())

    assert sorted(labelled(events)) == list(range(100))
    assert set(serve.attempts.values()) == {1}


def test_a_teacher_of_which_no_replica_takes_a_request_for_long_is_given_up_and_no_shard_is_blamed() -> None:
    serve, events = Replicas({number: [is_never_taken] for number in range(2, 9)}), list[LabellingEvent]()

    async def main() -> float:
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(NoReplicaError, match=r"no replica took a request in 90 s.*cluster\.start_timeout_s"):
            await labelling(serve, events, count=9, config=config(), start_timeout_s=90.0)
        return asyncio.get_running_loop().time() - began_s

    assert run_jumping(main()) == pytest.approx(3 * BATCH_S + 90.0, abs=1.0)
    assert sorted(labelled(events)) == [0, 1]
    assert not any(isinstance(event, ShardFailed) for event in events)
    assert set(serve.attempts.values()) == {1}
    assert serve.stopped == []
    assert serve.in_flight == 0


def test_a_teacher_at_one_batch_for_longer_than_a_replica_may_take_to_start_is_not_given_up() -> None:
    async def takes_its_time(replicas: Replicas, request: LabelRequest) -> AsyncIterator[Answer]:
        yield Accepted("replica")
        await asyncio.sleep(0.9 * STALL_S)
        yield Labelled(commit(request.number), 8)

    async def is_taken_after_that(replicas: Replicas, request: LabelRequest) -> AsyncIterator[Answer]:
        await asyncio.sleep(STALL_S)
        yield Accepted("replica")
        yield Labelled(commit(request.number), 8)

    serve, events = Replicas({0: [takes_its_time], 1: [is_taken_after_that]}), list[LabellingEvent]()

    run_jumping(labelling(serve, events, count=2, config=config(), start_timeout_s=STALL_S / 3))

    assert sorted(labelled(events)) == [0, 1]


def test_cancelling_cancels_every_request_that_is_out() -> None:
    serve, events = Replicas(), list[LabellingEvent]()

    async def interrupted() -> None:
        task = asyncio.create_task(labelling(serve, events, count=50, config=config(3)))
        await asyncio.sleep(1.5 * BATCH_S)
        assert serve.in_flight == 6
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Here and not below, where the end of the loop would have cancelled what is left.
        assert sorted(serve.cancelled) == list(range(6))
        assert serve.in_flight == 0

    run_jumping(interrupted())

    assert events == []


def test_an_error_of_the_listener_ends_the_labelling_and_leaves_nothing_running() -> None:
    serve = Replicas()

    def refuse(event: LabellingEvent) -> None:
        raise RuntimeError("the listener is broken")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="the listener is broken"):
            await label_shards(serve, config(2), requests(20), on_event=refuse)
        assert serve.in_flight == 0

    run_jumping(main())
