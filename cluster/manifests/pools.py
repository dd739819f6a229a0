"""How large the nodes for teachers and for students are, and how many of them there may be. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PoolName = Literal["teachers", "students"]

POOL_LABEL = "coffey.pool"
"""Label of a Ray node that says of which pool it is."""


@dataclass(frozen=True)
class Unit:
    """Replicas, or workers, that are alike: what each reserves of one node, and how many there are."""

    cpus: float
    gpus: float
    least: int
    most: int

    @property
    def per_gpu(self) -> int:
        """How many share a GPU; 1 if none is shared."""
        return int(1 / self.gpus + 1e-9) if 0 < self.gpus < 1 else 1


@dataclass(frozen=True)
class Pool:
    """Nodes that are alike."""

    name: PoolName
    cpus: int
    gpus: int
    least: int
    """Nodes that are there from the beginning."""
    most: int

    def num_nodes(self, unit: Unit, count: int) -> int:
        """Return how many nodes hold so many of a unit."""
        rooms = [self.cpus / unit.cpus, *([self.gpus / unit.gpus] if unit.gpus else [])]
        return math.ceil(count / int(min(rooms) + 1e-9))


def pool_of(name: PoolName, units: Sequence[Unit]) -> Pool | None:
    """Return the smallest nodes that hold any of the units, and leave no shared GPU idle for want of cores; None
    without units."""
    if not units:
        return None
    cpus = max(math.ceil(min(unit.per_gpu, unit.most) * unit.cpus) for unit in units)
    node = Pool(name, cpus, max(math.ceil(unit.gpus) for unit in units), 0, 0)
    least, most = (
        sum(node.num_nodes(unit, count) for unit, count in counted)
        for counted in ([(unit, unit.least) for unit in units], [(unit, unit.most) for unit in units])
    )
    return Pool(name, node.cpus, node.gpus, least, most)
