"""Whether processes find room on the nodes of a cluster. Pure: it neither asks nor changes a cluster.

A replica or a worker stands on one node, so sums over the cluster say too much: two nodes of two cores have no room
for a replica of four. Of processes that are alike each node holds as many as its scarcest resource allows, in whatever
order they come. Where several kinds share nodes, Ray places them as they come, and a large one may find that small ones
have taken a bit of every node. So a kind is said to have room only if it has it after all others stand where they take
the most of it. That is careful: it may say no where luck would say yes, and never yes where somebody would wait.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.resources import NodeConfig, NodeKindConfig, ResourceConfig
from cluster.session import Capacity

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Demand:
    """So many processes that are alike."""

    count: int
    each: ResourceConfig

    @property
    def cpus(self) -> float:
        """Cores of all together."""
        return self.count * self.each.cpu

    @property
    def gpus(self) -> float:
        """GPUs of all together."""
        return self.count * self.each.gpu

    def __str__(self) -> str:
        if self.count == 1:
            return str(self.each)
        total = self.each.model_copy(
            update={
                "cpu": self.cpus,
                "gpu": self.gpus,
                "custom": {name: self.count * amount for name, amount in self.each.custom.items()},
            }
        )
        return str(total)


def have_room(demands: Sequence[Demand], capacity: Capacity) -> bool:
    """Return whether all find room at the same time, in whatever order they are placed."""
    nodes, kinds = nodes_of(capacity), _merged(demands)
    if len(nodes) == 1:
        return _fit_one_node(kinds, nodes[0])
    return all(
        num_places(kind.each, nodes) - sum(_taken(kind.each, other, nodes) for other in kinds if other is not kind)
        >= kind.count
        for kind in kinds
    )


def num_places(each: ResourceConfig, nodes: Sequence[Capacity]) -> int:
    """Return how many processes that are alike find room on empty nodes."""
    return sum(_places_on(node, each) for node in nodes)


def suits(node: Capacity, needs: NodeConfig) -> bool:
    """Return whether a node has the labels, the accelerator and the custom resources that a process needs of it."""
    return needs.labels.items() <= node.labels.items() and _covers(node.amounts, needs.special)


def nodes_of(capacity: Capacity) -> tuple[Capacity, ...]:
    """Return the nodes of a cluster; one whose nodes are not known is taken for a single one."""
    return capacity.nodes or (capacity,)


def grown(capacity: Capacity, kinds: Sequence[NodeKindConfig]) -> Capacity:
    """Return what a cluster can hand out once it has as many nodes of each kind as it may have.

    A node that offers what a kind offers, or more, counts as one of that kind.
    """
    nodes = list(nodes_of(capacity))
    unclaimed = list(nodes)
    for kind in kinds:
        of_kind = [node for node in unclaimed if _offers(node, kind)][: kind.nodes]
        unclaimed = [node for node in unclaimed if not any(node is claimed for claimed in of_kind)]
        one = Capacity(kind.cpus, kind.gpus, special=dict.fromkeys(kind.special, 1.0) | kind.custom, labels=kind.labels)
        nodes += [replace(one) for _ in range(kind.nodes - len(of_kind))]
    return Capacity.of_nodes(nodes)


def _merged(demands: Sequence[Demand]) -> list[Demand]:
    kinds: list[Demand] = []
    for demand in demands:
        alike = [number for number, kind in enumerate(kinds) if kind.each == demand.each]
        if alike:
            kinds[alike[0]] = Demand(kinds[alike[0]].count + demand.count, demand.each)
        elif demand.count:
            kinds.append(demand)
    return kinds


def _fit_one_node(kinds: Sequence[Demand], node: Capacity) -> bool:
    """Return whether all fit one node, where sums are all there is to know."""
    total: dict[str, float] = {}
    for kind in kinds:
        for name, amount in kind.each.amounts.items():
            total[name] = total.get(name, 0.0) + kind.count * amount
    return all(suits(node, kind.each) for kind in kinds) and _covers(node.amounts, total)


def _places_on(node: Capacity, each: ResourceConfig) -> int:
    if not suits(node, each):
        return 0
    there = node.amounts
    return min(math.floor(there.get(name, 0.0) / amount + _ROUNDING) for name, amount in each.amounts.items())


def _taken(each: ResourceConfig, other: Demand, nodes: Sequence[Capacity]) -> int:
    """Return the most places for `each` that others can take, wherever they stand.

    Who takes v of a resource leaves at most ⌈v / u⌉ fewer places for those who take u of it.
    """
    shared = set(each.amounts) & set(other.each.amounts)
    by_one = max(math.ceil(other.each.amounts[name] / each.amounts[name] - _ROUNDING) for name in shared)
    return min(other.count * by_one, num_places(each, [node for node in nodes if _places_on(node, other.each)]))


def _offers(node: Capacity, kind: NodeKindConfig) -> bool:
    return suits(node, kind) and _covers(node.amounts, {"CPU": kind.cpus, "GPU": kind.gpus})


def _covers(there: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(amount <= there.get(name, 0.0) + _ROUNDING for name, amount in asked.items())
