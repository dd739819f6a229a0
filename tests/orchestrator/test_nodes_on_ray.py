"""Nodes that come and go: a cluster of its own, of one node with one core, and what is placed on it, or is not."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.numpy
from ray.cluster_utils import Cluster

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

pytestmark = pytest.mark.ray

NODE = {"num_cpus": 1, "object_store_memory": 100 * 1024 * 1024, "node_ip_address": "127.0.0.1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with one core."""
    # Ray's sockets lie in its folder, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="cf", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = {**NODE, "include_dashboard": False, "temp_dir": f"{folder}/ray"}
        running = Cluster(initialize_head=True, head_node_args=head)
        yield running
        running.shutdown()


class Joins(Listener):
    """Adds a node when the first rows are labelled."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster

    def advanced(self, step: str, *, rows: int | None, note: str) -> None:
        if not self._cluster.worker_nodes:
            self._cluster.add_node(**NODE)


def taught_by(folder: Path, cluster: Cluster, **options: object) -> JobSpec:
    """Return a job with one teacher of whom a replica fills a node."""
    weights = small_jobs.write_teacher(folder / "wide.safetensors", rows=slice(0, 300))
    arguments = {"trace": str(folder / "trace")}
    teacher = small_jobs.teacher("wide", weights, "Meets", arguments=arguments, **{"resources": {"cpu": 1}, **options})
    where = {"address": cluster.address, "store_is_shared": True}
    return small_jobs.job(folder, store=str(folder / "store"), teachers=[teacher], baseline=None, cluster=where)


def test_a_node_that_joins_while_teachers_label_gets_a_replica_that_labels_too(
    tmp_path: Path, cluster: Cluster
) -> None:
    spec = taught_by(tmp_path, cluster, replicas={"min": 1, "max": 2})
    try:
        result = label_job(spec, open_store(spec.store), progress=Joins(cluster))

        assert result.teacher_rows == small_jobs.ROWS
        # Neither process goes on before both have come.
        assert len(set((tmp_path / "trace").read_text().split())) == 2
        (teacher,), store = resolve(spec).teachers, open_store(spec.store)
        assert sum(LabelSet(store, record).load_manifest().rows for record in teacher.label_sets) == small_jobs.ROWS
        assert label_job(spec, store, progress=Listener()).teacher_rows == 0
        elsewhere = changed(spec, store=str(tmp_path / "other"), cluster__store_is_shared=False)
        with pytest.raises(StoreNotSharedError, match="has 2 nodes"):
            label_job(elsewhere, open_store(elsewhere.store), progress=Listener())
    finally:
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node, allow_graceful=False)


def test_a_teacher_whose_node_does_not_come_is_given_up_and_said_to_lack_room(tmp_path: Path, cluster: Cluster) -> None:
    spec = taught_by(tmp_path, cluster, resources={"cpu": 1, "labels": {"zone": "nowhere"}})
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
        student={"model": f"{small_jobs.MODELS}:StopsInCompany", "arguments": {"marker": str(folder / "stopped")}},
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
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    job, store = lone_job(tmp_path, workers=[1, 2])
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    node = cluster.add_node(**NODE)
    stopped = tmp_path / "stopped"
    stopped.mkdir()

    def lose() -> None:
        while len(list(stopped.iterdir())) < 2:
            ended.wait(0.05)
        cluster.remove_node(node)

    ended = threading.Event()
    loss = threading.Thread(target=lose, daemon=True)
    with ray_session(cluster.address):
        loss.start()
        train_side_by_side(store.uri, [job.students], Execution(checkpoint_every_s=0.001), job.spec.train)
    loss.join()

    (task,), alone = job.students, DirectoryStore(tmp_path / "copy")
    train(alone, task, Execution(), Alone())
    for name, values in trained(alone, task).items():
        assert trained(store, task)[name] == pytest.approx(values, abs=1e-5)


def test_workers_that_find_no_room_are_given_up_and_said_to_lack_it(tmp_path: Path, cluster: Cluster) -> None:
    job, store = lone_job(tmp_path)
    config = TrainConfig.model_validate({"workers": [1, 2], "nodes": {"custom": {"licence": 1}}})
    with ray_session(cluster.address), pytest.raises(WorkersLateError, match="1 workers, each with 1 CPU, 1 licence"):
        train_side_by_side(store.uri, [job.students], Execution(start_timeout_s=4), config)
