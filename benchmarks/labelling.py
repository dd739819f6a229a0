"""Labelling through Ray Serve into the store, against the raw forward of the same model at the same batch size.

Raw and served rounds alternate in one run. The ratio of a round is its served rate over the mean of the raw rates
before and after it; the result is the median. A served round is everything: reading and verifying the input shard, the
forward, the check of the outputs, encoding, writing, fsync, committing, and the progress that streams back.

With `--free-teachers`, the teachers are models that cost next to nothing, so the rate is what the pipeline itself
sustains: so many teachers at a time, one replica each, label the same rows, and beside the rate stands what the
driver's CPU spent on a shard.

    python benchmarks/labelling.py [--rows N] [--rounds N] [--batch-size N] [--free-teachers 1 2 4 8]
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

from cluster.identity import digest_of
from cluster.memory import keep_freed_memory
from cluster.models import InputConfig, ModelConfig
from cluster.modules import build_module, in_fast_layout, save_weights
from cluster.resources import ResourceConfig
from cluster.session import ray_session
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.dataset import Dataset, write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import LABEL
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from cluster.weights import StoredWeights
from teachers.backends.load import load_backend
from teachers.backends.protocol import Backend
from teachers.deployment import LabelRequest, ReplicaSetup
from teachers.hosting import hosted
from teachers.labelling import label_shards
from teachers.spec import TeacherConfig

DATASET = "0" * 16
CLASSES = 10
SHARD_ROWS = 4096
MODEL = ModelConfig(
    factory="examples.models:WideCNN",
    arguments={"channels": 16},
    inputs=InputConfig(column="image", shape=(1, 28, 28)),
)
FREE_MODEL = ModelConfig(
    factory="torch.nn:Linear",
    arguments={"in_features": CLASSES, "out_features": CLASSES},
    inputs=InputConfig(column="features"),
)
"""A hundred multiplications a row: next to nothing beside reading it."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=12 * SHARD_ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--free-teachers", type=int, nargs="+", metavar="N", help="teachers that cost next to nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_session(None):
        store = open_store(folder)
        write_rows(store, options.rows)
        if options.free_teachers:
            report_free([measure_free(store, count, options) for count in options.free_teachers])
        else:
            report_ratio(measure_ratio(store, rows=options.rows, rounds=options.rounds, batch_size=options.batch_size))


def report_ratio(result: dict[str, object]) -> None:
    print(f"raw forward   {result['raw_rows_per_s']:>10,.0f} rows/s")
    print(f"through Serve {result['served_rows_per_s']:>10,.0f} rows/s")
    print(f"ratio         {result['ratio']:>10.3f}   of rounds {result['ratios']}")
    print(json.dumps(result))


def report_free(results: list[dict[str, float]]) -> None:
    print(f"{'teachers':>8}{'rows/s in all':>15}{'MB/s read':>11}{'shards/s':>10}{'driver ms a shard':>19}")
    for it in results:
        print(f"{it['teachers']:>8}{it['rows_per_s']:>15,.0f}{it['read_mb_per_s']:>11,.0f}", end="")
        print(f"{it['shards_per_s']:>10.1f}{it['driver_ms_per_shard']:>19.2f}")
    print(json.dumps({"benchmark": "free_teachers", "cores": num_cores(), "shard_rows": SHARD_ROWS, "rounds": results}))


def write_rows(store: ObjectStore, rows: int) -> None:
    draw = np.random.default_rng(0)
    arrays = {
        "image": draw.integers(0, 256, (rows, 28, 28), dtype=np.uint8),
        "features": draw.standard_normal((rows, CLASSES), dtype=np.float32),
        LABEL: draw.integers(0, CLASSES, rows, dtype=np.int32),
    }
    names = tuple(map(str, range(CLASSES)))
    write_dataset(store, arrays, identity=DATASET, classes=names, shard_rows=SHARD_ROWS, compression="none")


def measure_free(store: ObjectStore, count: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the rate of `count` teachers side by side: the median of the rounds, after one that warms up."""
    share = ResourceConfig(cpu=min(1.0, num_cores() / count))
    setups = [write_teacher(store, f"free{number}", FREE_MODEL, SHARD_ROWS, on=share) for number in range(count)]
    seconds, cpu_s = [], []
    with hosted(setups) as handles:
        for number in range(options.rounds + 1):
            started_s, cpu_started_s = time.perf_counter(), time.process_time()
            asyncio.run(label(store, setups, handles, round_number=1000 * count + number, rows=options.rows))
            seconds.append(time.perf_counter() - started_s)
            cpu_s.append(time.process_time() - cpu_started_s)
    shards = count * num_shards(options.rows)
    rows_per_s = count * options.rows / median(seconds[1:])
    return {
        "teachers": count,
        "rows_per_s": round(rows_per_s),
        "read_mb_per_s": round(rows_per_s * (784 + 4 * CLASSES + 4) / 1e6, 1),
        "shards_per_s": round(shards / median(seconds[1:]), 2),
        "driver_ms_per_shard": round(1000 * median(cpu_s[1:]) / shards, 3),
    }


def measure_ratio(store: ObjectStore, *, rows: int, rounds: int, batch_size: int) -> dict[str, object]:
    """Return the rates of all rounds and the median ratio."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as replicas do: without it the raw forward is half as fast
    setup = write_teacher(store, "raw", MODEL, batch_size, on=ResourceConfig(cpu=1))
    backend = load_backend(store, setup.config, setup.weights, on=setup.config.resources)

    def time_served(round_number: int) -> float:
        started_s = time.perf_counter()
        asyncio.run(label(store, [setup], handles, round_number=round_number, rows=rows))
        return rows / (time.perf_counter() - started_s)

    with hosted([setup]) as handles:
        time_served(99)  # warm up, like a raw pass
        raw = [time_raw(store, backend, rows=rows, batch_size=batch_size) for _ in range(2)][1:]
        served: list[float] = []
        for number in range(rounds):
            served.append(time_served(number))
            raw.append(time_raw(store, backend, rows=rows, batch_size=batch_size))
    ratios = [rate / ((raw[number] + raw[number + 1]) / 2) for number, rate in enumerate(served)]
    return {
        "benchmark": "labelling",
        "rows": rows,
        "batch_size": batch_size,
        "cores": num_cores(),
        "raw_rows_per_s": round(median(raw), 1),
        "served_rows_per_s": round(median(served), 1),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": round(median(ratios), 3),
    }


def write_teacher(
    store: ObjectStore, name: str, model: ModelConfig, batch_size: int, *, on: ResourceConfig
) -> ReplicaSetup:
    """Put the weights of an untrained teacher into the store."""
    torch.manual_seed(0)
    body = save_weights(in_fast_layout(build_module(model)))
    weights = StoredWeights(key=f"teachers/{name}/weights.safetensors", digest=digest_of(body), num_bytes=len(body))
    store.put(weights.key, body)
    config = TeacherConfig(
        name=name,
        model=model.factory,
        arguments=model.arguments,
        inputs=model.inputs,
        weights="in-the-store.safetensors",
        batch_size=batch_size,
        resources=on,
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


async def label(
    store: ObjectStore,
    setups: list[ReplicaSetup],
    handles: dict[str, DeploymentHandle],
    *,
    round_number: int,
    rows: int,
) -> None:
    """Have every teacher label all rows into a label set of its own, from the first request to the last commit."""

    def requests(setup: ReplicaSetup) -> list[LabelRequest]:
        record = LabelSetRecord(
            teacher=setup.config.name,
            teacher_identity=digest_of(f"{setup.config.name} {round_number}".encode())[:16],
            dataset=DATASET,
            columns=codec_of(DenseConfig(), CLASSES).columns(),
        )
        LabelSet.create(store, record)
        return [LabelRequest(record, number) for number in range(num_shards(rows))]

    await asyncio.gather(
        *(
            label_shards(handles[setup.config.name], setup.config, requests(setup), on_event=lambda _event: None)
            for setup in setups
        )
    )


def num_shards(rows: int) -> int:
    return -(-rows // SHARD_ROWS)


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
