"""Placement: who is up at the same time as whom. Its oracle adds whole thousandths, so that no sum is rounded."""

import pickle
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.session import Capacity
from orchestrator.planning.placement import DoesNotFitError, Placement, demand_of_teacher, demand_of_training, place
from students.spec import TrainConfig
from teachers.spec import TeacherConfig


@dataclass(frozen=True)
class Need:
    """What something needs, in thousandths."""

    cpus: int
    gpus: int

    def fits(self, room: "Need") -> bool:
        return self.cpus <= room.cpus and self.gpus <= room.gpus


def total(needs: list[Need]) -> Need:
    return Need(sum(need.cpus for need in needs), sum(need.gpus for need in needs))


def teacher(name: str, *, cpu: float = 1.0, gpu: float = 0.0, replicas: int | dict[str, int] = 1) -> TeacherConfig:
    keys = {"resources": {"cpu": cpu, "gpu": gpu}, "replicas": replicas}
    return TeacherConfig.model_validate({"name": name, "weights": f"{name}.onnx", **keys})


def training(
    workers: int | list[int] = 1, *, cpus: float = 1.0, gpus: float = 0.0, pipelined: str = "auto"
) -> TrainConfig:
    keys = {"workers": workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus, "pipelined": pipelined}
    return TrainConfig.model_validate(keys)


def names(placement: Placement) -> list[list[str]]:
    return [[config.name for config in wave] for wave in placement.waves]


thousandths = st.integers(1, 40).map(lambda tenths: 100 * tenths)
maybe_thousandths = st.just(0) | thousandths


@dataclass(frozen=True)
class Sized:
    """A teacher with what it needs when it starts, and when it has grown."""

    config: TeacherConfig
    least: Need
    most: Need


@st.composite
def sized_teachers(draw: st.DrawFn) -> list[Sized]:
    found = []
    for number in range(draw(st.integers(0, 7))):
        cpu, gpu, count = draw(thousandths), draw(maybe_thousandths), draw(st.integers(1, 3))
        most = count + draw(st.sampled_from([0, 2]))
        replicas: int | dict[str, int] = count if most == count else {"min": count, "max": most}
        config = teacher(f"t{number}", cpu=cpu / 1000, gpu=gpu / 1000, replicas=replicas)
        found.append(Sized(config, Need(cpu * count, gpu * count), Need(cpu * most, gpu * most)))
    return found


@st.composite
def trainings_with_needs(draw: st.DrawFn) -> tuple[TrainConfig, Need]:
    workers, cpus, gpus = draw(st.integers(1, 4)), draw(thousandths), draw(maybe_thousandths)
    config = training(workers, cpus=cpus / 1000, gpus=gpus / 1000)
    return config, Need(cpus * workers, gpus * workers)


@settings(deadline=None)
@given(sized_teachers(), st.none() | trainings_with_needs(), thousandths, maybe_thousandths, st.booleans())
def test_every_teacher_has_its_turn_in_order_and_nothing_is_larger_than_the_cluster(
    teachers: list[Sized],
    train: tuple[TrainConfig, Need] | None,
    cpus: int,
    gpus: int,
    fused_first: bool,
) -> None:
    room, capacity = Need(4 * cpus, 4 * gpus), Capacity(4 * cpus / 1000, 4 * gpus / 1000)
    configs, needs = [sized.config for sized in teachers], {sized.config.name: sized.least for sized in teachers}
    training_need = [train[1]] if train else []
    if not all(need.fits(room) for need in [*needs.values(), *training_need]):
        with pytest.raises(DoesNotFitError):
            place(configs, train[0] if train else None, capacity, fused_first=fused_first)
        return

    placement = place(configs, train[0] if train else None, capacity, fused_first=fused_first)
    waves = names(placement)
    assert [name for wave in waves for name in wave] == [config.name for config in configs]
    for place_of_wave, wave in enumerate(waves):
        own = [needs[name] for name in wave]
        assert wave
        assert total(own).fits(room)
        if place_of_wave + 1 < len(waves):
            assert not total([*own, needs[waves[place_of_wave + 1][0]]]).fits(room)
    grown = total([*(sized.most for sized in teachers), *training_need])
    assert placement.pipelined == (bool(train and configs) and not fused_first and grown.fits(room))
    assert placement.because
    if placement.pipelined:
        assert len(waves) == 1


@pytest.mark.parametrize(
    ("train", "teachers", "fused_first", "because"),
    [
        (None, [teacher("a")], False, "the training that comes first is done"),
        (training(), [], False, "no labels of teachers are missing"),
        (training(pipelined="never"), [teacher("a")], False, "train.pipelined is never"),
        (training(), [teacher("a")], True, "labels are fused before training reads them"),
        (training(2), [teacher("a", cpu=2.5)], False, "need 4.5 CPU, the cluster has 4 CPU and 1 GPU"),
    ],
)
def test_a_plan_says_why_training_waits(
    train: TrainConfig | None, teachers: list[TeacherConfig], fused_first: bool, because: str
) -> None:
    placement = place(teachers, train, Capacity(4, 1), fused_first=fused_first)
    assert not placement.pipelined
    assert because in placement.because


def test_a_plan_says_why_training_does_not_wait() -> None:
    placement = place([teacher("a", gpu=0.5), teacher("b", cpu=0.5)], training(2, gpus=0.25), Capacity(4, 1))
    assert placement.pipelined
    assert placement.because == "teachers and workers together need 3.5 CPU and 1 GPU of 4 CPU and 1 GPU"


@pytest.mark.parametrize(
    ("teachers", "train", "message"),
    [
        ([teacher("a"), teacher("big", cpu=1.5, replicas=3)], None, "teacher big needs 4.5 CPU; the cluster has 4 CPU"),
        ([teacher("gpu", gpu=1)], training(), "teacher gpu needs 1 CPU and 1 GPU; the cluster has 4 CPU in all"),
        ([teacher("a")], training(5), "training on 5 workers needs 5 CPU; the cluster has 4 CPU in all"),
    ],
)
def test_what_is_larger_than_the_cluster_is_named_with_both_sizes(
    teachers: list[TeacherConfig], train: TrainConfig | None, message: str
) -> None:
    with pytest.raises(DoesNotFitError, match=message) as error:
        place(teachers, train, Capacity(4, 0))
    assert error.value.exit_code == 3
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_training_does_not_count_on_cores_that_a_growing_teacher_may_take() -> None:
    growing = teacher("a", replicas={"min": 1, "max": 3})
    assert not place([growing], training(2), Capacity(4, 0)).pipelined
    assert place([growing], training(1), Capacity(4, 0)).pipelined


def test_a_group_that_may_grow_is_placed_at_its_smallest_and_counted_at_its_largest() -> None:
    assert place([teacher("a")], training([1, 3]), Capacity(4, 0)).pipelined
    placement = place([teacher("a")], training([1, 4]), Capacity(4, 0))
    assert not placement.pipelined
    assert "need 5 CPU" in placement.because
    with pytest.raises(DoesNotFitError, match="training on 5 workers needs 5 CPU"):
        place([], training([5, 6]), Capacity(4, 0))
    assert place([], training([2, 4]), Capacity(4, 0), num_groups=2).members == "side by side"


TWO = Capacity.of_nodes([Capacity(2, 0), Capacity(3, 0, labels={"zone": "a"})])


@pytest.mark.parametrize(
    ("resources", "replicas", "said"),
    [
        ({"cpu": 4}, 1, "needs 4 CPU; the cluster has room for 0, the largest of 2 nodes for it with 3 CPU"),
        ({"cpu": 2}, 3, "needs 3 times 2 CPU, each on one node; the cluster has room for 2, the largest of 2 nodes"),
        (
            {"cpu": 1, "labels": {"zone": "b"}},
            1,
            "needs 1 CPU, label zone=b; the cluster has no node with label zone=b",
        ),
        (
            {"cpu": 1, "labels": {"zone": "a"}},
            4,
            "4 times 1 CPU, label zone=a, each on one node; the cluster has room for 3, the largest of 1 nodes",
        ),
        ({"gpu": 1, "accelerator": "A100"}, 1, "has no node with accelerator A100"),
        ({"custom": {"licence": 1}}, 1, "has no node with 1 licence"),
    ],
)
def test_what_no_node_has_room_for_is_refused_although_the_cluster_has_enough_in_all(
    resources: dict[str, object], replicas: int, said: str
) -> None:
    keys = {"name": "large", "weights": "large.onnx", "resources": resources, "replicas": replicas}
    with pytest.raises(DoesNotFitError) as error:
        place([TeacherConfig.model_validate(keys)], None, TWO)
    assert said in str(error.value)


def test_teachers_are_up_together_only_if_no_order_of_placing_them_leaves_one_without_room() -> None:
    small, large = teacher("small", replicas=2), teacher("large", cpu=3)
    two = Capacity.of_nodes([Capacity(3, 0)] * 2)
    assert names(place([small, large], None, two)) == [["small"], ["large"]]
    assert names(place([small, large], None, Capacity(6, 0))) == [["small", "large"]]


def test_replicas_that_come_and_go_reserve_their_least_number() -> None:
    demand = demand_of_teacher(teacher("a", cpu=0.5, gpu=0.25, replicas={"min": 2, "max": 8}))
    assert (demand.cpus, demand.gpus) == (1.0, 0.5)
    assert demand_of_training(training(3, cpus=2, gpus=0.5)).cpus == 6


def test_sums_of_tenths_fit_where_they_fit_exactly() -> None:
    tenths = [teacher(f"t{number}", cpu=0.1) for number in range(10)]
    assert len(place(tenths, None, Capacity(1, 0)).waves) == 1
    assert place(tenths[:9], training(cpus=0.1), Capacity(1, 0)).pipelined
    assert 1.1 + 2.2 > 3.3
    assert place([teacher("a", cpu=1.1)], training(cpus=2.2), Capacity(3.3, 0)).pipelined


def fits_somehow(need: Need, count: int, rooms: list[Need]) -> bool:
    """Return whether any way to hand so many workers to nodes leaves none overfull."""
    splits = product(range(count + 1), repeat=len(rooms))
    return any(
        sum(split) == count
        and all(Need(part * need.cpus, part * need.gpus).fits(room) for part, room in zip(split, rooms, strict=True))
        for split in splits
    )


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 20), st.integers(0, 10)),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20)), min_size=1, max_size=3),
    st.integers(1, 2),
    st.integers(2, 3),
)
def test_groups_stand_side_by_side_if_the_nodes_have_room_for_each_of_their_workers(
    asked: tuple[int, int], rooms: list[tuple[int, int]], workers: int, num_groups: int
) -> None:
    train = training(workers, cpus=asked[0] / 10, gpus=asked[1] / 10)
    capacity = Capacity.of_nodes([Capacity(cpus / 10, gpus / 10) for cpus, gpus in rooms])
    if not fits_somehow(Need(*asked), workers, [Need(*room) for room in rooms]):
        return

    placement = place([], train, capacity, num_groups=num_groups)

    is_room = fits_somehow(Need(*asked), workers * num_groups, [Need(*room) for room in rooms])
    assert placement.members == ("side by side" if is_room else "in turns")


def test_two_nodes_of_three_cores_have_no_room_for_three_workers_of_two() -> None:
    placement = place([], training(cpus=2), Capacity.of_nodes([Capacity(3, 0)] * 2), num_groups=3)

    assert placement.members == "in turns"
    assert placement.members_because == (
        "together they need 6 CPU, the cluster has 6 CPU on 2 nodes, and a worker needs 2 CPU of one"
    )
    assert place([], training(cpus=2), Capacity(6, 0), num_groups=3).members == "side by side"
