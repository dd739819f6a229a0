"""Simulated nodes on this machine: Ray's own processes for each, in a cluster of a process of its own.

python -m tests.simulation.nodes '{"folder": "/tmp/x", "labelling": 1, "training": 1, "seed": 1}'
"""

import json
import os
import subprocess
import sys
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
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that is gone is missed after three seconds, and not after a quarter of a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
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
    """A head that runs nothing but Ray and the driver, and nodes that come and go."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def add(self, count: int = 1, *, cpus: int = CPUS) -> None:
        """Let nodes join."""
        for _ in range(count):
            self._cluster.add_node(num_cpus=cpus, object_store_memory=_STORE_BYTES, include_dashboard=False)

    def replace_node_of(self, pid: int) -> None:
        """End the node on which a process runs, without a word, and let another one join."""
        parent = psutil.Process(pid).ppid() if psutil.pid_exists(pid) else None
        for node in self._cluster.worker_nodes:
            (raylet,) = node.all_processes["raylet"]
            if raylet.process.pid == parent:
                self._cluster.remove_node(node, allow_graceful=False)
                self.add()
                return
        raise ProcessLookupError(pid)


@contextmanager
def simulated_nodes(count: int = NODES, *, cpus: int = CPUS) -> Iterator[SimulatedNodes]:
    """Run a cluster that this process is connected to; its environment has to be what `environment` returns."""
    from ray.cluster_utils import Cluster  # reads the environment when it is imported

    head = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        # While there is only the head: a driver may join any node of its machine, and has to outlive the others.
        with ray_session(str(cluster.address)):
            nodes = SimulatedNodes(cluster)
            nodes.add(count, cpus=cpus)
            yield nodes
    finally:
        cluster.shutdown()


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
