"""What runs at the same time as what, on a cluster of a given size. Pure: it neither asks nor changes a cluster."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.errors import EnvironmentFailure
from cluster.resources import ResourceConfig
from cluster.session import Capacity
from orchestrator.planning.room import Demand, have_room, nodes_of, num_places, suits
from orchestrator.spec import ClusterConfig
from students.spec import TrainConfig
from teachers.spec import TeacherConfig


class DoesNotFitError(EnvironmentFailure):
    """Something asks for more than the whole cluster has."""

    def __init__(self, what: str, asked: str, found: str) -> None:
        super().__init__(what, asked, found)
        self.what, self.asked, self.found = what, asked, found

    def __str__(self) -> str:
        return (
            f"{self.what} needs {self.asked}; the cluster has {self.found}, so it would wait forever. Ask for less, or "
            "give the cluster more (cluster.address, cluster.cpus), or say what it may grow to (cluster.may_grow_to)."
        )


class NoSuchNodeError(DoesNotFitError):
    """Something asks for a kind of node that the cluster has none of."""


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
    is_room = have_room([demand], capacity)
    pipelined, because = _pipeline(
        waves, train, capacity, fused_first=fused_first, num_groups=num_groups if is_room else 1
    )
    nodes = f" on {len(capacity.nodes)} nodes, and a worker needs {demand.each} of one" if _is_spread(capacity) else ""
    members_because = f"together they need {demand}, the cluster has {_shown(capacity)}{nodes}"
    return Placement(waves, pipelined, because, "side by side" if is_room else "in turns", members_because)


def check_room(teachers: Sequence[TeacherConfig], train: TrainConfig | None, capacity: Capacity) -> None:
    """Raise `DoesNotFitError` if a teacher, or the training, is larger than the cluster and would wait forever."""
    for misfit in misfits(teachers, train, capacity):
        raise misfit


def misfits(
    teachers: Sequence[TeacherConfig], train: TrainConfig | None, capacity: Capacity
) -> Iterator[DoesNotFitError]:
    """Yield what has no room even if it has the cluster for itself."""
    demands = {f"teacher {teacher.name}": demand_of_teacher(teacher) for teacher in teachers}
    if train is not None:
        demands |= {f"training on {train.min_workers} workers": demand_of_training(train)}
    for what, demand in demands.items():
        if not have_room([demand], capacity):
            is_suited = any(suits(node, demand.each) for node in nodes_of(capacity))
            kind = DoesNotFitError if is_suited else NoSuchNodeError
            yield kind(what, _asked(demand, capacity), _found(demand.each, capacity))


def unanswered(found: Iterable[DoesNotFitError], cluster: ClusterConfig) -> tuple[str, ...]:
    """Return in words which misfits of this machine say nothing of a job that names no address; raises any other.

    Which accelerators a machine has only Ray tells, and it has no labels; and a job that describes a cluster which is
    started for it, or grows, is not meant for this machine.
    """
    told = []
    for misfit in found:
        if not cluster.is_another and not isinstance(misfit, NoSuchNodeError):
            raise misfit
        told.append(f"{misfit.what} needs {misfit.asked}: whether there is room is seen when the job's cluster answers")
    return tuple(told)


def demand_of_teacher(teacher: TeacherConfig) -> Demand:
    """Return the replicas of a teacher that are there from the start."""
    return Demand(teacher.min_replicas, teacher.resources)


def demand_of_training(train: TrainConfig, num_groups: int = 1) -> Demand:
    """Return the workers of so many groups without which they do not train."""
    return Demand(num_groups * train.min_workers, train.resources)


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
    # At their largest: who grows would take the cores that others count on.
    teachers = [Demand(teacher.max_replicas, teacher.resources) for wave in waves for teacher in wave]
    demands = [*teachers, Demand(num_groups * train.max_workers, train.resources)]
    need = f"teachers and workers together need {_summed(demands)}"
    if have_room(demands, capacity):
        return True, f"{need} of {_shown(capacity)}"
    nodes = f" on {len(capacity.nodes)} nodes" if _is_spread(capacity) else ""
    return False, f"{need}, the cluster has {_shown(capacity)}{nodes}"


def _pack(teachers: Sequence[TeacherConfig], capacity: Capacity) -> tuple[tuple[TeacherConfig, ...], ...]:
    """Fill each wave in the order given."""
    waves: list[list[TeacherConfig]] = []
    for teacher in teachers:
        up = [*(waves[-1] if waves else []), teacher]
        if not waves or not have_room(list(map(demand_of_teacher, up)), capacity):
            waves.append([])
        waves[-1].append(teacher)
    return tuple(map(tuple, waves))


def _is_spread(capacity: Capacity) -> bool:
    return len(capacity.nodes) > 1


def _asked(demand: Demand, capacity: Capacity) -> str:
    if not _is_spread(capacity) or demand.count == 1:
        return str(demand)
    return f"{demand.count} times {demand.each}, each on one node"


def _found(each: ResourceConfig, capacity: Capacity) -> str:
    """Say what there is of what is asked: in all, or on the node that has the most places for it."""
    nodes = nodes_of(capacity)
    suited = [node for node in nodes if suits(node, each)]
    if not suited:
        return f"no node with {each.named}"
    largest = max(suited, key=lambda node: (num_places(each, [node]), node.gpus, node.cpus))
    sizes = ", ".join([_shown(largest), *(f"{largest.special[name]:g} {name}" for name in each.custom)])
    if len(nodes) == 1:
        return f"{sizes} in all"
    return f"room for {num_places(each, nodes)}, the largest of {len(suited)} nodes for it with {sizes}"


def _summed(demands: Sequence[Demand]) -> str:
    return _sizes(sum(demand.cpus for demand in demands), sum(demand.gpus for demand in demands))


def _shown(capacity: Capacity) -> str:
    return _sizes(capacity.cpus, capacity.gpus)


def _sizes(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
