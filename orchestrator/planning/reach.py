"""Whether every node of a cluster reaches the store of a job."""

from cluster.errors import SpecError
from cluster.session import Capacity
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectStore
from orchestrator.spec import ClusterConfig

_CLIENT_SCHEME = "ray://"


class StoreNotSharedError(SpecError):
    """The store is a directory, and processes on other machines would each see one of their own."""

    def __init__(self, store: str, cluster: str) -> None:
        super().__init__(store, cluster)
        self.store, self.cluster = store, cluster

    def __str__(self) -> str:
        return (
            f"store: {self.store} is a directory, and {self.cluster}: every machine may see a directory of its "
            "own there. If all share it, under this path, say so with cluster.store_is_shared: true; else use a store "
            "that all reach, s3://bucket/prefix."
        )


def check_reach(store: ObjectStore, cluster: ClusterConfig, capacity: Capacity) -> None:
    """Refuse a directory on several machines, unless the spec says that they share it.

    Nodes without cores count: a replica that asks for none may run there, and so does the driver.

    Raises:
        StoreNotSharedError: the spec does not say so.
    """
    if cluster.address is None or cluster.store_is_shared or not isinstance(store, DirectoryStore):
        return
    if cluster.address.startswith(_CLIENT_SCHEME):
        raise StoreNotSharedError(store.uri, f"Ray's client at {cluster.address} stands outside of the cluster")
    if len(capacity.nodes) > 1:
        raise StoreNotSharedError(store.uri, f"the cluster at {cluster.address} has {len(capacity.nodes)} nodes")
