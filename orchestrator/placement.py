"""What runs at the same time as what, on a cluster of a given size. Pure: it neither asks nor changes a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.errors import EnvironmentFailure
from cluster.session import Capacity
from students.spec import TrainConfig
from teachers.spec import TeacherConfig


class DoesNotFitError(EnvironmentFailure):
    """Something asks for more than the whole cluster has."""

    def __init__(self, what: str, asked: str, found: str) -> None:
        super().__init__(what, asked, found)
        self.what, self.asked, self.found = what, asked, found

    def __str__(self) -> str:
        return (
            f"{self.what} needs {self.asked}; the cluster has {self.found} in all, so it would wait forever. "
            "Ask for less, or give the cluster more (cluster.address, cluster.cpus)."
        )


@dataclass(frozen=True)
class Demand:
    """What something reserves while it runs."""

    cpus: float
    gpus: float

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(self.cpus + other.cpus, self.gpus + other.gpus)

    def fits(self, capacity: Capacity) -> bool:
        """Return whether the cluster could hand out so much."""
        return self.cpus <= capacity.cpus + 1e-9 and self.gpus <= capacity.gpus + 1e-9


@dataclass(frozen=True)
class Placement:
    """Teachers in groups that are up at the same time, and whether the student trains beside the only group."""

    waves: tuple[tuple[TeacherConfig, ...], ...]
    pipelined: bool
    because: str
    members: Literal["side by side", "in turns"] | None = None
    """How students that exchange weights share the cluster; None where there are none that are left."""
    members_because: str = ""


def place(
    teachers: Sequence[TeacherConfig],
    train: TrainConfig | None,
    capacity: Capacity,
    *,
    fused_first: bool = False,
    num_groups: int = 1,
) -> Placement:
    """Decide how teachers that still have to label, and the training that follows (None if it is done), share the
    cluster.

    `fused_first` says that training reads labels which are fused when all teachers have labelled; `num_groups` is the
    number of students that train on workers of their own at the same time, if there is room.

    Raises:
        DoesNotFitError: one of them alone is larger than the cluster.
    """
    check_room(teachers, train, capacity)
    waves = _pack(teachers, capacity)
    if train is None or num_groups == 1:
        return Placement(waves, *_pipeline(waves, train, capacity, fused_first=fused_first))
    demand = demand_of_training(train, num_groups)
    is_room = demand.fits(capacity) and num_groups * train.workers <= _most_workers(train, capacity)
    pipelined, because = _pipeline(
        waves, train, capacity, fused_first=fused_first, num_groups=num_groups if is_room else 1
    )
    each = _shown(demand_of_worker(train))
    of_nodes = f" on {len(capacity.nodes)} nodes, and a worker needs {each} of one" if len(capacity.nodes) > 1 else ""
    members_because = f"together they need {_shown(demand)}, the cluster has {_shown(capacity)}{of_nodes}"
    return Placement(waves, pipelined, because, "side by side" if is_room else "in turns", members_because)


def check_room(teachers: Sequence[TeacherConfig], train: TrainConfig | None, capacity: Capacity) -> None:
    """Raise `DoesNotFitError` if a teacher, or the training, is larger than the cluster and would wait forever."""
    for teacher in teachers:
        _check(f"teacher {teacher.name}", demand_of_teacher(teacher), capacity)
    if train is not None:
        _check(f"training on {train.workers} workers", demand_of_training(train), capacity)


def demand_of_teacher(teacher: TeacherConfig) -> Demand:
    """Return what the replicas of a teacher reserve from the start."""
    count = teacher.replicas if isinstance(teacher.replicas, int) else teacher.replicas.min
    return _times(count, teacher)


def demand_of_training(train: TrainConfig, num_groups: int = 1) -> Demand:
    """Return what all workers of so many groups reserve."""
    num_workers = num_groups * train.workers
    return Demand(num_workers * train.cpus_per_worker, num_workers * train.gpus_per_worker)


def demand_of_worker(train: TrainConfig) -> Demand:
    """Return what a worker reserves, on one node."""
    return Demand(train.cpus_per_worker, train.gpus_per_worker)


def _most_workers(train: TrainConfig, capacity: Capacity) -> int:
    """Return how many workers find room at the same time; of workers that are alike, no order leaves room for more."""
    need = demand_of_worker(train)
    return sum(
        min(int(room / asked + 1e-9) for room, asked in ((node.cpus, need.cpus), (node.gpus, need.gpus)) if asked > 0)
        for node in capacity.nodes or (capacity,)
    )


def _times(count: int, teacher: TeacherConfig) -> Demand:
    return Demand(count * teacher.resources.cpu, count * teacher.resources.gpu)


def _pipeline(
    waves: tuple[tuple[TeacherConfig, ...], ...],
    train: TrainConfig | None,
    capacity: Capacity,
    *,
    fused_first: bool,
    num_groups: int = 1,
) -> tuple[bool, str]:
    if train is None:
        return False, "the training that comes first is done"
    if not waves:
        return False, "no labels of teachers are missing"
    if train.pipelined == "never":
        return False, "train.pipelined is never"
    if fused_first:
        return False, "fusion.when is write: labels are fused before training reads them"
    # At their largest: teachers that grow would take the cores that the workers count on.
    at_most = (_times(teacher.max_replicas, teacher) for wave in waves for teacher in wave)
    together = sum(at_most, demand_of_training(train, num_groups))
    if together.fits(capacity):
        return True, f"teachers and workers together need {_shown(together)} of {_shown(capacity)}"
    return False, f"teachers and workers together need {_shown(together)}, the cluster has {_shown(capacity)}"


def _pack(teachers: Sequence[TeacherConfig], capacity: Capacity) -> tuple[tuple[TeacherConfig, ...], ...]:
    """Fill each wave in the order given."""
    waves: list[list[TeacherConfig]] = []
    used = Demand(0, 0)
    for teacher in teachers:
        demand = demand_of_teacher(teacher)
        if not waves or not (used + demand).fits(capacity):
            waves.append([])
            used = Demand(0, 0)
        waves[-1].append(teacher)
        used = used + demand
    return tuple(map(tuple, waves))


def _check(what: str, demand: Demand, capacity: Capacity) -> None:
    if not demand.fits(capacity):
        raise DoesNotFitError(what, _shown(demand), _shown(capacity))


def _shown(amount: Demand | Capacity) -> str:
    gpus = f" and {amount.gpus:g} GPU" if amount.gpus else ""
    return f"{amount.cpus:g} CPU{gpus}"
