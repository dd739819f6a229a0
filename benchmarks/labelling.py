"""Labelling through Ray Serve into the store, against the raw forward of the same model at the same batch size.

Raw and served rounds alternate in one run. The ratio of a round is its served rate over the mean of the raw rates
before and after it; the result is the median. A served round is everything: reading and verifying the input shard, the
forward, the check of the outputs, encoding, writing, fsync, committing, and the progress that streams back.

    python benchmarks/labelling.py [--rows N] [--rounds N] [--batch-size N]
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from statistics import median

import numpy as np
import torch
from ray.serve.handle import DeploymentHandle

from cluster.allocator import keep_freed_memory
from cluster.identity import digest_of
from cluster.models import InputConfig, ModelConfig
from cluster.modules import build_module, in_fast_layout, save_weights
from cluster.session import ray_session
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.dataset import Dataset, write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import LABEL
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from teachers.backends.load import load_backend
from teachers.backends.protocol import Backend
from teachers.deployment import LabelRequest, ReplicaSetup
from teachers.hosting import hosted
from teachers.labelling import label_shards
from teachers.spec import ResourceConfig, TeacherConfig
from teachers.weights import StoredWeights

DATASET = "0" * 16
CLASSES = 10
SHARD_ROWS = 4096
MODEL = ModelConfig(
    factory="examples.models:WideCNN", arguments={"channels": 16}, inputs=InputConfig(shape=(1, 28, 28))
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=12 * SHARD_ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(open_store(folder), rows=options.rows, rounds=options.rounds, batch_size=options.batch_size)
    print(f"raw forward   {result['raw_rows_per_s']:>10,.0f} rows/s")
    print(f"through Serve {result['served_rows_per_s']:>10,.0f} rows/s")
    print(f"ratio         {result['ratio']:>10.3f}   of rounds {result['ratios']}")
    print(json.dumps(result))


def measure(store: ObjectStore, *, rows: int, rounds: int, batch_size: int) -> dict[str, object]:
    """Return the rates of all rounds and the median ratio."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as replicas do: without it the raw forward is half as fast
    draw = np.random.default_rng(0)
    arrays = {
        "image": draw.integers(0, 256, (rows, 28, 28), dtype=np.uint8),
        LABEL: draw.integers(0, CLASSES, rows, dtype=np.int32),
    }
    names = tuple(map(str, range(CLASSES)))
    write_dataset(store, arrays, identity=DATASET, classes=names, shard_rows=SHARD_ROWS, compression="none")
    setup = write_teacher(store, batch_size)
    backend = load_backend(store, setup.config, setup.weights, on=setup.config.resources)
    with ray_session(None), hosted([setup]) as handles:
        label(store, setup, handles, round_number=99, rows=rows)  # warm up, like a raw pass
        raw = [time_raw(store, backend, rows=rows, batch_size=batch_size) for _ in range(2)][1:]
        served: list[float] = []
        for number in range(rounds):
            served.append(label(store, setup, handles, round_number=number, rows=rows))
            raw.append(time_raw(store, backend, rows=rows, batch_size=batch_size))
    ratios = [rate / ((raw[number] + raw[number + 1]) / 2) for number, rate in enumerate(served)]
    return {
        "benchmark": "labelling",
        "rows": rows,
        "batch_size": batch_size,
        "cores": len(os.sched_getaffinity(0)),
        "raw_rows_per_s": round(median(raw), 1),
        "served_rows_per_s": round(median(served), 1),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": round(median(ratios), 3),
    }


def write_teacher(store: ObjectStore, batch_size: int) -> ReplicaSetup:
    """Put the weights of an untrained teacher into the store."""
    torch.manual_seed(0)
    body = save_weights(in_fast_layout(build_module(MODEL)))
    weights = StoredWeights(key="teachers/raw/weights.safetensors", digest=digest_of(body), num_bytes=len(body))
    store.put(weights.key, body)
    config = TeacherConfig(
        name="raw",
        model=MODEL.factory,
        arguments=MODEL.arguments,
        inputs=MODEL.inputs,
        weights="in-the-store.safetensors",
        batch_size=batch_size,
        resources=ResourceConfig(cpu=1),
    )
    return ReplicaSetup(store.uri, config, weights)


def time_raw(store: ObjectStore, backend: Backend, *, rows: int, batch_size: int) -> float:
    """Return rows/s of the forward alone, on rows that are in memory."""
    shards = [{"image": arrays["image"].copy()} for arrays in Dataset.open(store, DATASET)]
    started_s = time.perf_counter()
    for arrays in shards:
        for start in range(0, len(arrays["image"]), batch_size):
            backend.forward({"image": arrays["image"][start : start + batch_size]})
    return rows / (time.perf_counter() - started_s)


def label(
    store: ObjectStore, setup: ReplicaSetup, handles: dict[str, DeploymentHandle], *, round_number: int, rows: int
) -> float:
    """Return rows/s of a label set of its own, from the first request to the last commit."""
    record = LabelSetRecord(
        teacher="raw",
        teacher_identity=f"{round_number:016x}",
        dataset=DATASET,
        columns=codec_of(DenseConfig(), CLASSES).columns(),
    )
    LabelSet.create(store, record)
    requests = [LabelRequest(record, number) for number in range(-(-rows // SHARD_ROWS))]
    started_s = time.perf_counter()
    asyncio.run(label_shards(handles["raw"], setup.config, requests, on_event=lambda event: None))
    return rows / (time.perf_counter() - started_s)


if __name__ == "__main__":
    main()
