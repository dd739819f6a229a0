"""Simulated nodes on this machine: Ray's own processes for each, in a cluster of a process of its own.

python -m tests.simulation.nodes '{"folder": "/tmp/x", "labelling": 1, "training": 1, "seed": 1}'
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.session import ray_session
from tests.fixtures.ray_token import TOKEN
from tests.simulation.replicas import ReplicaKills, kill_replicas
from tests.simulation.workers import WorkerKills, kill_workers

NODES, CPUS = 2, 2
"""One replica, or one worker, fills a node."""
HEALTH_CHECKS = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
"""Environment of a cluster that misses a node after three seconds, and not after a quarter of a minute."""
_ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0", **HEALTH_CHECKS}
_STORE_BYTES = 100 * 1024 * 1024
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class NodeKills:
    """What was left after nodes were lost, each with all that ran on it, and others came."""

    labelling: ReplicaKills | None
    training: WorkerKills | None

    @property
    def broken(self) -> int:
        """Promises that were broken."""
        return sum(part.broken for part in (self.labelling, self.training) if part is not None)


class SimulatedNodes:
    """A head, on which drivers run, and nodes that come and go."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        """Of the cluster, where drivers connect."""
        return str(self._cluster.address)

    @property
    def count(self) -> int:
        """Nodes beside the head."""
        return len(self._cluster.worker_nodes)

    def add(self, count: int = 1, *, cpus: int = CPUS) -> None:
        """Let nodes join."""
        for _ in range(count):
            self._cluster.add_node(num_cpus=cpus, object_store_memory=_STORE_BYTES, include_dashboard=False)

    def lose_node_of(self, pid: int) -> None:
        """End the node on which a process runs, without a word."""
        parent = psutil.Process(pid).ppid() if psutil.pid_exists(pid) else None
        for node in self._cluster.worker_nodes:
            (raylet,) = node.all_processes["raylet"]
            if raylet.process.pid == parent:
                self._cluster.remove_node(node, allow_graceful=False)
                return
        raise ProcessLookupError(pid)

    def replace_node_of(self, pid: int) -> None:
        """End the node on which a process runs, without a word, and let another one join."""
        self.lose_node_of(pid)
        self.add()

    def clear(self) -> None:
        """End all nodes but the head."""
        for node in list(self._cluster.worker_nodes):
            self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def simulated_head(*, cpus: int = 0) -> Iterator[SimulatedNodes]:
    """Run a cluster of one node; its token is that of this process."""
    from ray.cluster_utils import Cluster  # reads the environment when it is imported

    # Ray's sockets lie in its folder, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="cf", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": cpus, "object_store_memory": _STORE_BYTES, "temp_dir": f"{folder}/ray"}
        cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
        try:
            yield SimulatedNodes(cluster)
        finally:
            cluster.shutdown()


@contextmanager
def simulated_nodes(count: int = NODES, *, cpus: int = CPUS) -> Iterator[SimulatedNodes]:
    """Run a cluster that this process is connected to, with a head on which there is no room for anything else.

    The environment of the process has to be what `environment` returns.
    """
    with simulated_head() as nodes, ray_session(nodes.address):
        nodes.add(count, cpus=cpus)
        yield nodes


def environment() -> dict[str, str]:
    """Return the environment of a process that simulates nodes."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | _ENVIRONMENT | {"PYTHONPATH": str(_ROOT)}


def kill_nodes(folder: Path, *, labelling: int, training: int, seed: int) -> NodeKills:
    """Lose so many nodes in the middle of labelling, and so many in the middle of training, in a process of its own."""
    told = json.dumps({"folder": str(folder), "labelling": labelling, "training": training, "seed": seed})
    command = [sys.executable, "-m", "tests.simulation.nodes", told]
    done = subprocess.run(command, cwd=_ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the simulation ended with {done.returncode}:\n{done.stderr[-5000:]}")
    # Ray's own processes write to the same place.
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    return NodeKills(
        labelling=ReplicaKills(**found["labelling"]) if found["labelling"] else None,
        training=WorkerKills(**found["training"]) if found["training"] else None,
    )


def _main() -> None:
    told = json.loads(sys.argv[1])
    folder, seed = Path(told["folder"]), int(told["seed"])
    labelled = trained = None
    with simulated_nodes() as nodes:
        if told["labelling"]:
            (folder / "labelling").mkdir()
            labelled = kill_replicas(
                folder / "labelling",
                kills=told["labelling"],
                seed=seed,
                kill=nodes.replace_node_of,
                resources={"cpu": CPUS},
            )
        if told["training"]:
            (folder / "training").mkdir()
            trained = kill_workers(
                folder / "training",
                kills=told["training"],
                seed=seed,
                kill=nodes.replace_node_of,
                cpus_per_worker=CPUS,
            )
    print(json.dumps(asdict(NodeKills(labelled, trained))), flush=True)


if __name__ == "__main__":
    _main()
