"""Room on the nodes of a cluster, against a scheduler that may place processes in any order on any node with room."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.resources import NodeKindConfig, ResourceConfig
from cluster.session import Capacity
from orchestrator.planning.room import Demand, grown, have_room, num_places

Amounts = tuple[int, int]
"""Whole tenths of cores and of GPUs."""


@dataclass(frozen=True)
class Kind:
    """So many processes that each need the same."""

    count: int
    need: Amounts

    @property
    def demand(self) -> Demand:
        return Demand(self.count, ResourceConfig(cpu=self.need[0] / 10, gpu=self.need[1] / 10))


def capacity(nodes: Sequence[Amounts]) -> Capacity:
    return Capacity.of_nodes([Capacity(cpus / 10, gpus / 10) for cpus, gpus in nodes])


def left(node: Amounts, need: Amounts) -> Amounts | None:
    rest = node[0] - need[0], node[1] - need[1]
    return rest if min(rest) >= 0 else None


@cache
def may_get_stuck(nodes: tuple[Amounts, ...], kinds: tuple[Kind, ...]) -> bool:
    """Return whether some order of placing all processes one by one ends with one that has room nowhere."""
    for number, kind in enumerate(kinds):
        if kind.count == 0:
            continue
        fewer = (*kinds[:number], Kind(kind.count - 1, kind.need), *kinds[number + 1 :])
        places = [(at, rest) for at, node in enumerate(nodes) if (rest := left(node, kind.need)) is not None]
        if not places:
            return True
        if any(may_get_stuck((*nodes[:at], rest, *nodes[at + 1 :]), fewer) for at, rest in places):
            return True
    return False


amounts = st.tuples(st.integers(1, 20), st.sampled_from([0, 0, 5, 10]))
kinds = st.builds(Kind, st.integers(1, 3), amounts)
nodes = st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0, 10, 20])), min_size=1, max_size=3)


@settings(deadline=None)
@given(nodes, st.lists(kinds, min_size=1, max_size=2))
def test_who_is_said_to_have_room_has_it_in_whatever_order_processes_are_placed(
    rooms: list[Amounts], asked: list[Kind]
) -> None:
    if have_room([kind.demand for kind in asked], capacity(rooms)):
        assert not may_get_stuck(tuple(rooms), tuple(asked))


@settings(deadline=None)
@given(nodes, kinds)
def test_of_processes_that_are_alike_it_is_known_exactly(rooms: list[Amounts], asked: Kind) -> None:
    splits = product(range(asked.count + 1), repeat=len(rooms))
    fits = any(
        sum(split) == asked.count
        and all(
            part * asked.need[0] <= cpus and part * asked.need[1] <= gpus
            for part, (cpus, gpus) in zip(split, rooms, strict=True)
        )
        for split in splits
    )
    assert have_room([asked.demand], capacity(rooms)) == fits
    assert have_room([asked.demand, Demand(0, ResourceConfig(cpu=99))], capacity(rooms)) == fits
    halves = [Demand(part, asked.demand.each) for part in (asked.count // 2, asked.count - asked.count // 2)]
    assert have_room(halves, capacity(rooms)) == fits


@settings(deadline=None)
@given(st.tuples(st.integers(1, 80), st.integers(0, 40)), st.lists(kinds, max_size=4))
def test_on_one_node_sums_are_all_there_is_to_know(room: Amounts, asked: list[Kind]) -> None:
    fits = all(sum(kind.count * kind.need[at] for kind in asked) <= room[at] for at in (0, 1))
    assert have_room([kind.demand for kind in asked], capacity([room])) == fits
    assert have_room([kind.demand for kind in asked], Capacity(room[0] / 10, room[1] / 10)) == fits


def test_small_replicas_may_leave_no_node_to_a_large_worker() -> None:
    small, large = Demand(2, ResourceConfig(cpu=1)), Demand(1, ResourceConfig(cpu=4))
    two = Capacity.of_nodes([Capacity(4, 0)] * 2)
    assert two.cpus >= small.cpus + large.cpus
    assert not have_room([small, large], two)
    assert have_room([small, large], Capacity.of_nodes([Capacity(4, 0)] * 3))


GPUS = Capacity(8, 2, special={"accelerator_type:A100": 1.0, "licence": 3.0}, labels={"zone": "a", "market": "spot"})
PLAIN = Capacity(8, 2, labels={"zone": "b"})
CLUSTER = Capacity.of_nodes([GPUS, PLAIN])


@pytest.mark.parametrize(
    ("needs", "places"),
    [
        ({}, 16),
        ({"gpu": 1}, 4),
        ({"gpu": 0.25, "accelerator": "A100"}, 8),
        ({"accelerator": "H100"}, 0),
        ({"custom": {"licence": 1}}, 3),
        ({"custom": {"licence": 4}}, 0),
        ({"labels": {"zone": "b"}}, 8),
        ({"labels": {"zone": "a", "market": "spot"}}, 8),
        ({"labels": {"zone": "b", "market": "spot"}}, 0),
    ],
)
def test_a_node_has_places_only_for_those_that_it_suits(needs: dict[str, object], places: int) -> None:
    each = ResourceConfig.model_validate(needs)
    assert num_places(each, CLUSTER.nodes) == places
    assert have_room([Demand(places, each)], CLUSTER)
    assert not have_room([Demand(places + 1, each)], CLUSTER)


def test_those_on_nodes_of_their_own_take_no_places_from_others() -> None:
    here, there = (Demand(8, ResourceConfig(labels={"zone": zone})) for zone in ("a", "b"))
    assert have_room([here, there], CLUSTER)
    assert not have_room([here, there, Demand(1, ResourceConfig())], CLUSTER)


def test_a_single_node_is_asked_for_labels_too() -> None:
    assert have_room([Demand(1, ResourceConfig(labels={"zone": "b"}))], PLAIN)
    assert not have_room([Demand(1, ResourceConfig(labels={"zone": "a"}))], PLAIN)


@pytest.mark.parametrize(
    ("kinds", "cpus"),
    [
        ([], [8, 8]),
        ([{"nodes": 2, "cpus": 8}], [8, 8]),
        ([{"nodes": 3, "cpus": 4}], [8, 8, 4]),
        ([{"nodes": 1, "cpus": 16}], [8, 8, 16]),
        ([{"nodes": 2, "cpus": 8, "gpus": 2, "accelerator": "A100"}], [8, 8, 8]),
        ([{"nodes": 2, "cpus": 8, "labels": {"zone": "b"}}, {"nodes": 2, "cpus": 2}], [8, 8, 8, 2]),
    ],
)
def test_nodes_that_are_there_count_among_those_that_there_may_be(
    kinds: list[dict[str, object]], cpus: list[int]
) -> None:
    later = grown(CLUSTER, [NodeKindConfig.model_validate(kind) for kind in kinds])
    assert [node.cpus for node in later.nodes] == cpus
    assert later.cpus == sum(cpus)


def test_what_a_cluster_may_grow_to_suits_those_who_wait_for_it() -> None:
    asked = ResourceConfig.model_validate(
        {"gpu": 2, "accelerator": "H100", "custom": {"licence": 1}, "labels": {"zone": "c"}}
    )
    kind = {"nodes": 1, "cpus": 4, "gpus": 4, "accelerator": "H100", "custom": {"licence": 2}, "labels": {"zone": "c"}}
    assert not have_room([Demand(1, asked)], CLUSTER)
    later = grown(CLUSTER, [NodeKindConfig.model_validate(kind)])
    assert have_room([Demand(2, asked)], later)
    assert not have_room([Demand(3, asked)], later)


def test_nodes_are_read_from_what_ray_says_of_them() -> None:
    listed = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 5.0, "licence": 2.0}, "Labels": {"zone": "a"}},
        {"Alive": False, "Resources": {"CPU": 64.0}, "Labels": {}},
        {"Alive": True, "Resources": {"memory": 5.0}, "Labels": None},
    ]
    found = Capacity.of_ray(listed)
    assert (found.cpus, found.gpus, len(found.nodes)) == (4, 1, 2)
    assert found.nodes[0].special["licence"] == 2
    assert found.nodes[0].labels == {"zone": "a"}
    assert num_places(ResourceConfig(cpu=2, custom={"licence": 1}), found.nodes) == 2
