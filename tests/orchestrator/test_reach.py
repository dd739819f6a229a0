"""A directory is no meeting point for machines that do not share it."""

import pickle
from pathlib import Path

import pytest

from cluster.session import Capacity
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectStore
from orchestrator.planning.reach import StoreNotSharedError, check_reach
from orchestrator.spec import ClusterConfig
from tests.fixtures.memory_store import MemoryStore

ONE, THREE = (Capacity.of_nodes([Capacity(2, 0)] * count) for count in (1, 3))


def test_a_directory_on_several_nodes_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    with pytest.raises(StoreNotSharedError) as error:
        check_reach(store, ClusterConfig(address="10.0.0.1:6379"), THREE)
    assert error.value.exit_code == 2
    said = str(pickle.loads(pickle.dumps(error.value)))
    for fact in (store.uri, "10.0.0.1:6379 has 3 nodes", "cluster.store_is_shared: true", "s3://"):
        assert fact in said


def test_a_head_without_cores_is_a_machine_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(StoreNotSharedError):
        check_reach(
            DirectoryStore(tmp_path),
            ClusterConfig(address="auto"),
            Capacity.of_nodes([Capacity(0, 0), Capacity(8, 1)]),
        )


def test_a_driver_outside_of_the_cluster_shares_no_directory_with_its_only_node(tmp_path: Path) -> None:
    with pytest.raises(StoreNotSharedError, match="stands outside"):
        check_reach(DirectoryStore(tmp_path), ClusterConfig(address="ray://head:10001"), ONE)


@pytest.mark.parametrize(
    ("cluster", "capacity"),
    [
        (ClusterConfig(), THREE),
        (ClusterConfig(address="auto"), ONE),
        (ClusterConfig(address="auto", store_is_shared=True), THREE),
        (ClusterConfig(address="ray://head:10001", store_is_shared=True), THREE),
    ],
)
def test_a_directory_that_all_processes_see_is_taken(
    tmp_path: Path, cluster: ClusterConfig, capacity: Capacity
) -> None:
    check_reach(DirectoryStore(tmp_path), cluster, capacity)


def test_a_store_that_is_no_directory_serves_any_cluster() -> None:
    store: ObjectStore = MemoryStore()
    check_reach(store, ClusterConfig(address="auto"), THREE)
