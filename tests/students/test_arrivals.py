"""Waiting for a label shard that others write, on a clock that jumps."""

import numpy as np
import pytest

from cluster.shards.labelset import LabelSet
from cluster.storage.patience import PatientStore
from students.arrivals import LabelsLateError, await_shard
from tests.fixtures.memory_store import MemoryStore
from tests.fixtures.tiny import commit_shard, label_record, numbered, write_rows
from tests.simulation.outages import Outage, OutStore

ROWS, TIMEOUT_S = 101, 600.0


class Follower:
    """A label set that is written at some times, and is read through a store that may be out."""

    def __init__(self, *, commits_s: dict[int, float], outage: Outage) -> None:
        inner = MemoryStore()
        self.outage, self._commits_s = outage, commits_s
        self._dataset = write_rows(inner, numbered(ROWS), "a", shard_rows=16)
        self._theirs = LabelSet.create(inner, label_record(self._dataset))
        patient = PatientStore(OutStore(inner, outage), outage_s=900.0, clock_s=outage.now_s, wait=self.wait)
        self.labels = LabelSet(patient, self._theirs.record)

    def wait(self, seconds: float) -> None:
        self.outage.wait(seconds)
        for number in [number for number, at_s in self._commits_s.items() if at_s <= self.outage.now_s()]:
            del self._commits_s[number]
            commit_shard(self._theirs, self._dataset, number, np.zeros((ROWS, 3)))

    def await_shard(self, number: int) -> None:
        await_shard(self.labels, number, timeout_s=TIMEOUT_S, clock_s=self.outage.now_s, pause=self.wait)


def test_a_shard_that_comes_after_an_outage_longer_than_the_time_out_is_waited_for() -> None:
    follower = Follower(commits_s={0: 50.0, 3: 1250.0}, outage=Outage(300.0, 960.0))

    follower.await_shard(3)

    assert 1250.0 <= follower.outage.now_s() < 1251.0


def test_an_outage_that_begins_when_the_time_is_nearly_up_uses_up_none_of_it() -> None:
    follower = Follower(commits_s={3: 1700.0}, outage=Outage(599.95, 1199.0))

    follower.await_shard(3)

    assert follower.outage.now_s() >= 1700.0


@pytest.mark.parametrize("outage", [Outage(0.0, 0.0), Outage(100.0, 500.0)])
def test_a_shard_that_never_comes_is_given_up_when_no_other_came_for_the_time_out(outage: Outage) -> None:
    follower = Follower(commits_s={0: 50.0, 1: 550.0}, outage=outage)

    with pytest.raises(LabelsLateError, match=r"shard 3 was not committed, nor any other within 600 s"):
        follower.await_shard(3)

    assert 550.0 + TIMEOUT_S <= follower.outage.now_s() < 550.0 + 2 * TIMEOUT_S + 15.0
