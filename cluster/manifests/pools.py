"""How large the nodes for teachers and for students are, what they offer, and how many there may be. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cluster.errors import SpecError
from cluster.resources import NodeKindConfig, ResourceConfig

PoolName = Literal["teachers", "students"]

POOL_LABEL = "coffey.pool"
"""Label of a Ray node that says of which pool it is."""

_ROUNDING = 1e-9


class UnlikeNodesError(SpecError):
    """Two ask for nodes that cannot be alike, and a pool has only one kind."""

    def __init__(self, pool: str, first: str, second: str) -> None:
        super().__init__(pool, first, second)
        self.pool, self.first, self.second = pool, first, second

    def __str__(self) -> str:
        return (
            f"{self.first}, and {self.second}: all nodes that are started for {self.pool} are alike. Ask for the same, "
            "or run the job on a cluster of your own (coffey submit --address), where nodes may differ."
        )


class NodeNotToBeHadError(SpecError):
    """A node would have to offer something that nobody can be asked for."""

    def __init__(self, who: str, needs: str, reason: str) -> None:
        super().__init__(who, needs, reason)
        self.who, self.needs, self.reason = who, needs, reason

    def __str__(self) -> str:
        return (
            f"{self.who} needs {self.needs}, and {self.reason}. Ask for nodes without it, or run the job on a cluster "
            "of your own that has such nodes (coffey submit --address)."
        )


@dataclass(frozen=True)
class Unit:
    """Replicas, or workers, that are alike: what each reserves of one node, and how many there are."""

    who: str
    """As an error calls them."""
    each: ResourceConfig
    least: int
    most: int

    @property
    def per_gpu(self) -> int:
        """How many share a GPU; 1 if none is shared."""
        return int(1 / self.each.gpu + _ROUNDING) if 0 < self.each.gpu < 1 else 1


@dataclass(frozen=True)
class Pool:
    """Nodes that are alike."""

    name: PoolName
    cpus: int
    gpus: int
    least: int
    """Nodes that are there from the beginning."""
    most: int
    custom: Mapping[str, int] = field(default_factory=dict)
    """Amounts of other resources of each, which Ray counts in whole numbers."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the nodes of Ray, beside that of the pool."""
    accelerator: str | None = None
    """Type of their GPUs as Ray names it."""

    @property
    def kind(self) -> NodeKindConfig:
        """As a job is told of nodes that a cluster may have more of."""
        return NodeKindConfig(
            nodes=self.most,
            cpus=self.cpus,
            gpus=self.gpus,
            custom=dict(self.custom),
            labels={POOL_LABEL: self.name, **self.labels},
            accelerator=self.accelerator,
        )

    @property
    def special(self) -> dict[str, int]:
        """What each offers beside cores and GPUs, by the names that Ray has for it."""
        # A node has one of its type of accelerator, of which everybody on it reserves a sliver.
        return {name: self.custom.get(name, 1) for name in self.kind.special}

    def places(self, unit: Unit) -> int:
        """Return how many of a unit the cores and GPUs of a node hold."""
        rooms = [self.cpus / unit.each.cpu, *([self.gpus / unit.each.gpu] if unit.each.gpu else [])]
        return int(min(rooms) + _ROUNDING)

    def num_nodes(self, unit: Unit, count: int) -> int:
        """Return how many nodes hold so many of a unit."""
        return math.ceil(count / self.places(unit))


def pool_of(name: PoolName, units: Sequence[Unit]) -> Pool | None:
    """Return the smallest nodes that hold any of the units, and leave no shared GPU idle for want of cores; None
    without units.

    Raises:
        UnlikeNodesError: units ask for nodes of different kinds.
        NodeNotToBeHadError: one asks for a type of accelerator, and none of them for a GPU.
    """
    if not units:
        return None
    cpus = max(math.ceil(min(unit.per_gpu, unit.most) * unit.each.cpu) for unit in units)
    node = Pool(name, cpus, max(math.ceil(unit.each.gpu) for unit in units), 0, 0)
    least, most = (
        sum(node.num_nodes(unit, count) for unit, count in counted)
        for counted in ([(unit, unit.least) for unit in units], [(unit, unit.most) for unit in units])
    )
    return Pool(
        name,
        node.cpus,
        node.gpus,
        least,
        most,
        custom=_custom(node, units),
        labels=_labels(name, units),
        accelerator=_accelerator(node, units),
    )


def _custom(node: Pool, units: Sequence[Unit]) -> dict[str, int]:
    """Return so much of each resource that it keeps nobody from a node whose cores and GPUs have room."""
    amounts: dict[str, int] = {}
    for unit in units:
        for name, amount in unit.each.custom.items():
            on_a_node = math.ceil(amount * min(node.places(unit), unit.most) - _ROUNDING)
            amounts[name] = max(amounts.get(name, 0), on_a_node)
    return amounts


def _labels(name: PoolName, units: Sequence[Unit]) -> dict[str, str]:
    labels = _agreed(name, ((unit, key, value) for unit in units for key, value in unit.each.labels.items()))
    if (own := labels.pop(POOL_LABEL, name)) != name:
        who = next(unit.who for unit in units if POOL_LABEL in unit.each.labels)
        reason = f"the nodes that are started for it have the label {POOL_LABEL}={name}"
        raise NodeNotToBeHadError(who, f"label {POOL_LABEL}={own}", reason)
    return labels


def _accelerator(node: Pool, units: Sequence[Unit]) -> str | None:
    asked = [(unit, "accelerator", unit.each.accelerator) for unit in units if unit.each.accelerator is not None]
    if asked and not node.gpus:
        unit, _, accelerator = asked[0]
        reason = "the nodes that are started for it have no GPU, because it reserves none"
        raise NodeNotToBeHadError(unit.who, f"accelerator {accelerator}", reason)
    return _agreed(node.name, asked).get("accelerator")


def _agreed(name: PoolName, asked: Iterable[tuple[Unit, str, str]]) -> dict[str, str]:
    """Return what everybody who asks for a key means by it; raises `UnlikeNodesError`."""
    agreed: dict[str, tuple[Unit, str]] = {}
    for unit, key, value in asked:
        first, found = agreed.setdefault(key, (unit, value))
        if value != found:
            raise UnlikeNodesError(name, f"{first.who} needs {key}={found}", f"{unit.who} needs {key}={value}")
    return {key: value for key, (_, value) in agreed.items()}
