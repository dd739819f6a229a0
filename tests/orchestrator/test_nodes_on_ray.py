"""Nodes that come and go: a cluster of its own, of one node with one core, and what is placed on it, or is not."""

import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.numpy

from cluster.session import ray_session
from cluster.shards.labelset import LabelSet
from cluster.shards.records import read_record
from cluster.storage.directory import DirectoryStore
from cluster.storage.open import open_store
from orchestrator.reach import StoreNotSharedError
from orchestrator.resolve import Job, resolve
from orchestrator.run import label_job
from orchestrator.spec import JobSpec
from orchestrator.steps.ingest import ingest
from students.group import Alone
from students.loop import train
from students.spec import TrainConfig
from students.task import Execution, TrainedRecord, TrainingTask
from students.together import WorkersLateError, train_side_by_side
from teachers.hosting import ReplicasLateError
from tests.fixtures import small_jobs
from tests.fixtures.jobs import new_context
from tests.fixtures.ray_runs import Listener
from tests.fixtures.small_jobs import changed
from tests.simulation.nodes import HEALTH_CHECKS, SimulatedNodes, simulated_head
from tests.simulation.replicas import kill_replicas
from tests.simulation.victims import kill_one_at_work

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def head() -> Iterator[SimulatedNodes]:
    """A head with one core."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HEALTH_CHECKS.items():
            patch.setenv(name, value)
        with simulated_head(cpus=1) as nodes:
            yield nodes


@pytest.fixture
def nodes(head: SimulatedNodes) -> Iterator[SimulatedNodes]:
    """The head alone, with room for nodes that go when the test ends."""
    yield head
    head.clear()


class Joins(Listener):
    """Adds a node when the first rows are labelled."""

    def __init__(self, nodes: SimulatedNodes) -> None:
        super().__init__()
        self._nodes = nodes

    def advanced(self, step: str, *, rows: int | None, note: str) -> None:
        if step.startswith("label") and not self._nodes.count:
            self._nodes.add(cpus=1)


def taught_by(folder: Path, nodes: SimulatedNodes, **options: object) -> JobSpec:
    """Return a job with one teacher of whom a replica fills a node."""
    weights = small_jobs.write_teacher(folder / "wide.safetensors", rows=slice(0, 300))
    arguments = {"trace": str(folder / "trace")}
    teacher = small_jobs.teacher("wide", weights, "Meets", arguments=arguments, **{"resources": {"cpu": 1}, **options})
    where = {"address": nodes.address, "store_is_shared": True}
    return small_jobs.job(folder, store=str(folder / "store"), teachers=[teacher], baseline=None, cluster=where)


def test_a_node_that_joins_while_teachers_label_gets_a_replica_that_labels_too(
    tmp_path: Path, nodes: SimulatedNodes
) -> None:
    spec = taught_by(tmp_path, nodes, replicas={"min": 1, "max": 2})

    result = label_job(spec, open_store(spec.store), progress=Joins(nodes))

    assert result.teacher_rows == small_jobs.ROWS
    # Neither process goes on before both have come.
    assert len(set((tmp_path / "trace").read_text().split())) == 2
    (teacher,), store = resolve(spec).teachers, open_store(spec.store)
    assert sum(LabelSet(store, record).load_manifest().rows for record in teacher.label_sets) == small_jobs.ROWS
    elsewhere = changed(spec, store=str(tmp_path / "other"), cluster__store_is_shared=False)
    with pytest.raises(StoreNotSharedError, match="has 2 nodes"):
        label_job(elsewhere, open_store(elsewhere.store), progress=Listener())


def test_a_node_that_is_lost_while_teachers_label_takes_no_row_with_it(tmp_path: Path, nodes: SimulatedNodes) -> None:
    nodes.add(cpus=1)

    with ray_session(nodes.address):
        result = kill_replicas(tmp_path, kills=1, seed=1, kill=nodes.lose_node_of, resources={"cpu": 1})

    assert (result.kills, nodes.count) == (1, 0)
    assert (result.rows_lost, result.rows_doubled, result.shards_set_aside) == (0, 0, 0)


def test_a_teacher_whose_node_does_not_come_is_given_up_and_said_to_lack_room(
    tmp_path: Path, nodes: SimulatedNodes
) -> None:
    spec = taught_by(tmp_path, nodes, resources={"cpu": 1, "labels": {"zone": "nowhere"}})
    spec = changed(spec, cluster__start_timeout_s=0.5)
    spec = changed(spec, cluster__may_grow_to=[{"nodes": 1, "cpus": 4, "labels": {"zone": "nowhere"}}])
    listener = Listener()

    with pytest.raises(ReplicasLateError, match=r"0 of 1 replicas started .* label zone=nowhere") as late:
        label_job(spec, open_store(spec.store), progress=listener)

    assert late.value.exit_code == 5
    assert any("teacher wide waits until the cluster has grown" in said for said in listener.messages)


def lone_job(folder: Path, **train: object) -> tuple[Job, DirectoryStore]:
    """Return a job whose student teaches itself, with its rows in the store."""
    spec = small_jobs.job(
        folder,
        store=str(folder / "store"),
        teachers=[],
        objective=[{"term": "teacher_free"}, {"term": "cross_entropy"}],
        student={"model": f"{small_jobs.MODELS}:StopsInCompany", "arguments": {"marks": str(folder / "marks")}},
        train={"epochs": 2, "batch_size": 64, "optimizer": {"lr": 0.01}, **train},
        baseline=None,
    )
    job, store = resolve(spec), DirectoryStore(folder / "store")
    ingest(new_context(job, store))
    return job, store


def trained(store: DirectoryStore, task: TrainingTask) -> dict[str, object]:
    weights = read_record(store, task.record_key, TrainedRecord).weights_key
    return safetensors.numpy.load(bytes(store.get(weights)))


def test_a_group_that_loses_a_node_goes_on_with_fewer_workers_to_the_same_weights(
    tmp_path: Path, nodes: SimulatedNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    job, store = lone_job(tmp_path, workers=[1, 2])
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    marks, ended = tmp_path / "marks", threading.Event()
    marks.mkdir()

    def lose() -> None:
        while len(list(marks.iterdir())) < 2 or not kill_one_at_work(marks, random.Random(0), nodes.lose_node_of):
            if ended.wait(0.05):
                return

    nodes.add(cpus=1)
    loss = threading.Thread(target=lose)
    loss.start()
    try:
        with ray_session(nodes.address):
            train_side_by_side(store.uri, [job.students], Execution(checkpoint_every_s=0.001), job.spec.train)
    finally:
        ended.set()
        loss.join()

    assert nodes.count == 0
    (task,), alone = job.students, DirectoryStore(tmp_path / "copy")
    train(alone, task, Execution(), Alone())
    for name, values in trained(alone, task).items():
        assert trained(store, task)[name] == pytest.approx(values, abs=1e-5)


def test_workers_that_find_no_room_are_given_up_and_said_to_lack_it(tmp_path: Path, nodes: SimulatedNodes) -> None:
    job, store = lone_job(tmp_path)
    config = TrainConfig.model_validate({"workers": [1, 2], "nodes": {"custom": {"licence": 1}}})
    with ray_session(nodes.address), pytest.raises(WorkersLateError, match="1 workers, each with 1 CPU, 1 licence"):
        train_side_by_side(store.uri, [job.students], Execution(start_timeout_s=4), config)
