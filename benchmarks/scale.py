"""What labelling costs the driver and the store as nodes, replicas and shards grow: simulated nodes on this machine.

Teachers are free and take their time: a forward pass sleeps, so that two cores can stand for many. What is left is what
the cluster, the driver and the store do for each shard. The last line is the result as JSON.

    python benchmarks/scale.py [--sizes 1x1 1x4 2x8 4x16 8x32] [--latency-s S] [--shards-per-replica N]
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from cluster.identity import digest_of
from cluster.models import InputConfig
from cluster.modules import save_weights
from cluster.shards.codecs.dense import DenseCodec
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.dataset import write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import LABEL
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from cluster.weights import StoredWeights
from teachers.deployment import LabelRequest, ReplicaSetup
from teachers.hosting import hosted
from teachers.labelling import LabellingEvent, ShardLabelled, label_shards
from teachers.spec import ResourceConfig, TeacherConfig
from tests.simulation.nodes import environment, simulated_nodes

FEATURES, CLASSES, SHARD_ROWS = 16, 10, 1024
REPLICAS_PER_NODE = 4
SIZES = [(1, 1), (1, 4), (2, 8), (4, 16), (8, 32)]
"""Nodes, and replicas on all of them together."""
CODEC = DenseCodec(DenseConfig(), CLASSES)


class Waiting(nn.Linear):
    """A matrix product of next to nothing, and a forward pass that takes `batch_s` all the same."""

    def __init__(self, batch_s: float) -> None:
        super().__init__(FEATURES, CLASSES)
        self.batch_s = batch_s

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `[N, CLASSES]`."""
        time.sleep(self.batch_s)
        return super().forward(inputs)


def main() -> None:
    """Measure every size in a cluster of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=_size, default=SIZES)
    parser.add_argument("--latency-s", type=float, default=1.0, help="what a forward pass takes (default: %(default)s)")
    parser.add_argument("--shards-per-replica", type=int, default=20, metavar="N")
    options = parser.parse_args()
    if "RAY_health_check_period_ms" not in os.environ:  # Ray reads its environment when it is imported
        os.execve(sys.executable, sys.orig_argv, environment())
    print(f"{'nodes':>5}{'replicas':>9}{'shards':>8}{'rows/s':>9}{'of ideal':>9}{'commits/s':>10}", end="")
    print(f"{'driver ms a shard':>19}{'driver MiB':>11}", flush=True)
    found = []
    for nodes, replicas in options.sizes:
        found.append(it := measure(nodes, replicas, options.latency_s, replicas * options.shards_per_replica))
        print(f"{it['nodes']:>5.0f}{it['replicas']:>9.0f}{it['shards']:>8.0f}{it['rows_per_s']:>9.0f}", end="")
        print(f"{it['of_ideal']:>9.3f}{it['commits_per_s']:>10.1f}", end="")
        print(f"{it['driver_ms_per_shard']:>19.2f}{it['driver_mib']:>11.0f}", flush=True)
    print(json.dumps({"benchmark": "scale", "latency_s": options.latency_s, "shard_rows": SHARD_ROWS, "sizes": found}))


def measure(nodes: int, replicas: int, latency_s: float, shards: int) -> dict[str, float]:
    """Return the rates of one teacher on so many nodes, from its first commit to its last."""
    with tempfile.TemporaryDirectory(prefix="coffey-scale-") as folder, simulated_nodes(nodes, cpus=1):
        store = open_store(folder)
        write_rows(store, shards)
        setup = write_teacher(store, replicas, latency_s)
        record = LabelSetRecord(teacher="free", teacher_identity="1" * 16, dataset="0" * 16, columns=CODEC.columns())
        LabelSet.create(store, record)
        requests, commits_s, cpu_s = [LabelRequest(record, number) for number in range(shards)], [], []

        def note(event: LabellingEvent) -> None:
            assert isinstance(event, ShardLabelled), event
            commits_s.append(time.perf_counter())
            cpu_s.append(time.process_time())

        with hosted([setup]) as handles:
            asyncio.run(label_shards(handles["free"], setup.config, requests, on_event=note))
        # Without the first shards of all replicas, which wait until every one of them has found its way.
        seconds, counted = commits_s[-1] - commits_s[replicas], shards - replicas - 1
        return {
            "nodes": nodes,
            "replicas": replicas,
            "shards": shards,
            "rows_per_s": round(counted * SHARD_ROWS / seconds),
            "of_ideal": round(counted * latency_s / replicas / seconds, 3),
            "commits_per_s": round(counted / seconds, 2),
            "driver_ms_per_shard": round(1000 * (cpu_s[-1] - cpu_s[replicas]) / counted, 2),
            "driver_mib": round(psutil.Process().memory_info().rss / 2**20),
        }


def write_rows(store: ObjectStore, shards: int) -> None:
    draw, rows = np.random.default_rng(0), shards * SHARD_ROWS
    arrays = {"x": draw.standard_normal((rows, FEATURES), dtype=np.float32), LABEL: np.zeros(rows, np.int32)}
    names = tuple(map(str, range(CLASSES)))
    write_dataset(store, arrays, identity="0" * 16, classes=names, shard_rows=SHARD_ROWS, compression="none")


def write_teacher(store: ObjectStore, replicas: int, latency_s: float) -> ReplicaSetup:
    body = save_weights(Waiting(latency_s))
    weights = StoredWeights(key="teachers/free/weights.safetensors", digest=digest_of(body), num_bytes=len(body))
    store.put(weights.key, body)
    config = TeacherConfig(
        name="free",
        model=f"benchmarks.{Path(__file__).stem}:Waiting",
        arguments={"batch_s": latency_s},
        inputs=InputConfig(column="x"),
        weights="in-the-store.safetensors",
        batch_size=SHARD_ROWS,
        replicas=replicas,
        resources=ResourceConfig(cpu=1 / REPLICAS_PER_NODE),
    )
    return ReplicaSetup(store.uri, config, weights)


def _size(text: str) -> tuple[int, int]:
    nodes, _, replicas = text.partition("x")
    return int(nodes), int(replicas)


if __name__ == "__main__":
    main()
