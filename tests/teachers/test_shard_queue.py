"""The queue of shards under any course of events."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from teachers.shard_queue import MAX_ATTEMPTS, MAX_QUARANTINED, ShardQueue


class QueueMachine(RuleBasedStateMachine):
    """Hands out shards, has them succeed or fail in any order, and keeps books of its own."""

    @initialize(shards=st.lists(st.integers(0, 99), unique=True, max_size=12))
    def begin(self, shards: list[int]) -> None:
        self.queue = ShardQueue.of(shards)
        self.shards, self.never_taken = shards, list(shards)
        self.out: list[int] = []
        self.done: set[int] = set()
        self.attempts: Counter[int] = Counter()
        self.failures: dict[int, list[Exception]] = {}

    @property
    def quarantined(self) -> set[int]:
        return {shard for shard, errors in self.failures.items() if len(errors) == MAX_ATTEMPTS}

    @rule()
    def take(self) -> None:
        shard = self.queue.take()
        again = set(self.failures) - set(self.out) - self.done - self.quarantined
        if len(self.quarantined) >= MAX_QUARANTINED:
            assert shard is None
        elif shard is None:
            assert not self.never_taken
            assert not again
        else:
            # What failed is tried before anything new, and what is new comes in order.
            assert shard in again if again else shard == self.never_taken.pop(0)
            self.attempts[shard] += 1
            self.out.append(shard)

    @precondition(lambda self: self.out)
    @rule(place=st.integers(0, 99))
    def succeed(self, place: int) -> None:
        shard = self.out.pop(place % len(self.out))
        self.done.add(shard)
        self.queue.succeeded(shard)

    @precondition(lambda self: self.out)
    @rule(place=st.integers(0, 99))
    def fail(self, place: int) -> None:
        shard, error = self.out.pop(place % len(self.out)), RuntimeError("no")
        self.failures.setdefault(shard, []).append(error)
        self.queue.failed(shard, error)

    @invariant()
    def every_shard_is_in_one_place(self) -> None:
        if not hasattr(self, "queue"):
            return
        queue = self.queue
        places = [*queue.waiting, *queue.out, *queue.done, *queue.quarantined]
        assert sorted(places) == sorted(self.shards)
        assert (queue.out, queue.done, set(queue.quarantined)) == (set(self.out), self.done, self.quarantined)

    @invariant()
    def no_shard_is_tried_too_often_and_the_last_error_is_kept(self) -> None:
        if hasattr(self, "queue"):
            assert all(attempts <= MAX_ATTEMPTS for attempts in self.attempts.values())
            assert all(error is self.failures[shard][-1] for shard, error in self.queue.quarantined.items())

    @invariant()
    def it_is_finished_when_nothing_is_out_and_nothing_comes(self) -> None:
        if hasattr(self, "queue"):
            gives_up = len(self.quarantined) >= MAX_QUARANTINED
            rest = set(self.shards) - self.done - self.quarantined
            assert self.queue.gives_up == gives_up
            assert self.queue.is_finished == (not self.out and (gives_up or not rest))

    def teardown(self) -> None:
        """Let everything succeed from here on: all shards end as done or set aside, unless the queue has given up."""
        if not hasattr(self, "queue"):
            return
        while not self.queue.is_finished:
            while (shard := self.queue.take()) is not None:
                self.out.append(shard)
            self.queue.succeeded(self.out.pop())
        assert self.queue.gives_up or self.queue.done | set(self.queue.quarantined) == set(self.shards)


QueueMachine.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
TestAnyCourseOfEvents = QueueMachine.TestCase


def test_without_failures_shards_come_in_their_order() -> None:
    queue = ShardQueue.of([3, 1, 2])

    assert [queue.take() for _ in range(4)] == [3, 1, 2, None]


def test_a_shard_that_failed_comes_before_all_others() -> None:
    queue = ShardQueue.of([3, 1, 2])
    first = queue.take()
    assert first == 3
    queue.failed(first, RuntimeError("no"))

    assert [queue.take() for _ in range(3)] == [3, 1, 2]


def test_nothing_is_handed_out_once_the_teacher_is_held_to_be_broken() -> None:
    queue = ShardQueue.of(range(10))
    for _ in range(MAX_ATTEMPTS * MAX_QUARANTINED):
        shard = queue.take()
        assert shard is not None
        queue.failed(shard, RuntimeError("no"))

    assert set(queue.quarantined) == {0, 1, 2}
    assert queue.take() is None
    assert queue.gives_up
    assert queue.is_finished


def test_a_queue_of_nothing_is_finished() -> None:
    assert ShardQueue[int].of([]).is_finished
