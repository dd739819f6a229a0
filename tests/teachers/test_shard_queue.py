"""The queue of shards under any course of events."""

import random
from collections import Counter
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from teachers.shard_queue import MAX_ATTEMPTS, MAX_LOSSES, MAX_QUARANTINED, ShardQueue


class QueueMachine(RuleBasedStateMachine):
    """Hands out shards, has them succeed, fail or be lost in any order, and keeps books of its own."""

    @initialize(shards=st.lists(st.integers(0, 99), unique=True, max_size=12))
    def begin(self, shards: list[int]) -> None:
        self.queue = ShardQueue.of(shards)
        self.shards, self.never_taken = shards, list(shards)
        self.out: list[int] = []
        self.done: set[int] = set()
        self.attempts: Counter[int] = Counter()
        self.failures: dict[int, list[Exception]] = {}
        self.losses: dict[int, list[Exception]] = {}
        self.of_dead_replicas: set[int] = set()

    @property
    def quarantined(self) -> set[int]:
        failed = {shard for shard, errors in self.failures.items() if len(errors) == MAX_ATTEMPTS}
        return failed | self.of_dead_replicas

    @property
    def gives_up(self) -> bool:
        return len(self.quarantined) >= MAX_QUARANTINED

    @property
    def suspects(self) -> set[int]:
        return {shard for shard, errors in self.losses.items() if len(errors) > 1}

    @rule()
    def take(self) -> None:
        shard = self.queue.take()
        again = (set(self.failures) | set(self.losses)) - set(self.out) - self.done - self.quarantined
        if self.suspects & set(self.out):
            again -= self.suspects
        if self.gives_up:
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

    @precondition(lambda self: self.out)
    @rule(place=st.integers(0, 99))
    def lose(self, place: int) -> None:
        shard, error = self.out.pop(place % len(self.out)), RuntimeError("died")
        self.losses.setdefault(shard, []).append(error)
        if len(self.losses[shard]) >= (MAX_LOSSES if self.done else MAX_ATTEMPTS):
            self.of_dead_replicas.add(shard)
        self.queue.lost(shard, error)

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
            assert all(attempts < MAX_ATTEMPTS + MAX_LOSSES for attempts in self.attempts.values())
            last = {
                shard: (self.failures.get(shard, [])[-1:], self.losses.get(shard, [])[-1:])
                for shard in self.quarantined
            }
            assert all([error] in last[shard] for shard, error in self.queue.quarantined.items())

    @invariant()
    def of_shards_that_were_lost_again_one_is_out_at_a_time(self) -> None:
        if hasattr(self, "queue"):
            handed_out_as_suspects = [shard for shard in self.out if shard in self.suspects]
            assert len(handed_out_as_suspects) <= 1

    @invariant()
    def it_is_finished_when_nothing_is_out_and_nothing_comes(self) -> None:
        if hasattr(self, "queue"):
            rest = set(self.shards) - self.done - self.quarantined
            assert self.queue.gives_up == self.gives_up
            assert self.queue.is_finished == (not self.out and (self.gives_up or not rest))

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


def test_a_shard_of_which_replicas_die_is_set_aside_and_those_beside_it_are_not() -> None:
    queue, deaths = ShardQueue.of(range(20)), 0
    while not queue.is_finished:
        in_hand = [shard for shard in (queue.take(), queue.take()) if shard is not None]
        if 7 in in_hand:
            deaths += 1
        for shard in in_hand:
            if 7 in in_hand:
                queue.lost(shard, RuntimeError("died"))
            else:
                queue.succeeded(shard)

    assert set(queue.quarantined) == {7}
    assert queue.done == set(range(20)) - {7}
    assert deaths == MAX_LOSSES


def test_replicas_that_die_at_random_cost_no_shard() -> None:
    for seed in range(20):
        draw, queue = random.Random(seed), ShardQueue.of(range(300))
        while not queue.is_finished:
            in_hand = [shard for shard in (queue.take(), queue.take()) if shard is not None]
            settle = queue.succeeded if draw.random() > 0.3 else partial(queue.lost, error=RuntimeError("killed"))
            for shard in in_hand:
                settle(shard)
        assert queue.done == set(range(300))


def test_a_teacher_whose_replicas_die_before_they_have_labelled_anything_is_given_up_soon() -> None:
    queue = ShardQueue.of(range(10))
    for _ in range(MAX_ATTEMPTS * MAX_QUARANTINED):
        shard = queue.take()
        assert shard is not None
        queue.lost(shard, RuntimeError("died"))

    assert set(queue.quarantined) == {0, 1, 2}
    assert queue.is_finished


def test_a_queue_of_nothing_is_finished() -> None:
    assert ShardQueue[int].of([]).is_finished
