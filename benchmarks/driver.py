"""What the driver of a labelling costs: shards planned, sent out, committed and sealed, in a store that costs nothing.

The driver's own code runs: the record of the data set is read, the shards are put in the order of training, the loop
that follows replicas sends each one out, every commit is checked and remembered, the set is sealed, and the seal is
read as another process would. Replicas are answers in this process; they commit a few bytes. Numbers of shards double
up to the largest, so that what grows faster than they do shows. The last line is the result as JSON.

    python benchmarks/driver.py [--shards N] [--replicas N]
"""

import argparse
import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.shards.codecs.dense import LOGITS, DenseCodec
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.dataset import Dataset, DatasetRecord, ShardEntry, dataset_key
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.records import publish_record
from cluster.shards.schema import LABEL, Column
from cluster.storage.protocol import ObjectStore
from students.batches import epoch_order
from students.spec import OrderConfig
from teachers.deployment import Accepted, Answer, Labelled, LabelRequest
from teachers.labelling import LabellingEvent, ShardLabelled, label_shards
from teachers.spec import TeacherConfig
from tests.fixtures.memory_store import MemoryStore

DATASET = "0" * 16
SHARD_ROWS, NUM_CLASSES = 4096, 10
BATCH_SIZE = 4096
CODEC = DenseCodec(DenseConfig(), NUM_CLASSES)


@dataclass(frozen=True)
class Handle:
    """What Ray Serve's handle shows of replicas that answer at once."""

    labels: LabelSet
    body: bytes

    def options(self, **_options: Any) -> "Handle":
        """Stream the answers, which is all that is ever asked for."""
        return self

    @property
    def label(self) -> "Handle":
        """The method of the replica."""
        return self

    async def remote(self, request: LabelRequest) -> AsyncIterator[Answer]:
        """Commit a shard as a replica does, and answer."""
        yield Accepted("replica")
        yield Labelled(self.labels.commit(request.number, self.body, rows=SHARD_ROWS, statistics={}), SHARD_ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000, help="the largest number (default: %(default)s)")
    parser.add_argument("--replicas", type=int, default=8, help="replicas that answer (default: %(default)s)")
    arguments = parser.parse_args()
    counts = [arguments.shards // 4, arguments.shards // 2, arguments.shards]
    print(f"{'shards':>8}{'plan s':>9}{'label s':>9}{'seal s':>9}{'read s':>9}{'all s':>9}{'ms a shard':>12}{'MiB':>7}")
    rounds = [measure(count, replicas=arguments.replicas) for count in counts]
    for figures in rounds:
        phases = [figures[name] for name in ("plan_s", "label_s", "seal_s", "read_s", "cpu_s")]
        print(f"{figures['shards']:>8.0f}" + "".join(f"{value:>9.2f}" for value in phases), end="")
        print(f"{1000 * figures['cpu_s'] / figures['shards']:>12.3f}{figures['peak_mib']:>7.0f}")
    small, large = rounds[0], rounds[-1]
    growth = (large["cpu_s"] / large["shards"]) / (small["cpu_s"] / small["shards"])
    print(json.dumps({"benchmark": "driver", "rounds": rounds, "growth": round(growth, 3), "cpu_s": large["cpu_s"]}))


def measure(shards: int, *, replicas: int) -> dict[str, float]:
    """Return CPU seconds of each phase, and the most memory that this process has ever held."""
    store = MemoryStore()
    publish_record(store, dataset_key(DATASET), dataset_record(shards))
    record = LabelSetRecord(teacher="free", teacher_identity="1" * 16, dataset=DATASET, columns=CODEC.columns())
    labels = LabelSet.create(store, record)
    config = TeacherConfig(name="free", weights="w.onnx", replicas=replicas)
    marks_s = [time.process_time()]
    requests = planned(store, record)
    marks_s.append(time.process_time())
    asyncio.run(label_all(store, labels, config, requests))
    marks_s.append(time.process_time())
    labels.seal(shards)
    marks_s.append(time.process_time())
    manifest = LabelSet(store, record).load_manifest()
    marks_s.append(time.process_time())
    assert manifest.rows == shards * SHARD_ROWS
    plan_s, label_s, seal_s, read_s = (round(float(seconds), 3) for seconds in np.diff(marks_s))
    return {
        "shards": shards,
        "plan_s": plan_s,
        "label_s": label_s,
        "seal_s": seal_s,
        "read_s": read_s,
        "cpu_s": round(marks_s[-1] - marks_s[0], 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def dataset_record(shards: int) -> DatasetRecord:
    columns = (Column(name="image", dtype="uint8", shape=(28, 28)), Column(name=LABEL, dtype="int32"))
    entry = {"rows": SHARD_ROWS, "num_bytes": SHARD_ROWS * 788}
    return DatasetRecord(
        identity=DATASET,
        columns=columns,
        classes=tuple(map(str, range(NUM_CLASSES))),
        labelled_rows=0,
        shards=tuple(ShardEntry(digest=f"{number:064x}", **entry) for number in range(shards)),
    )


def planned(store: ObjectStore, record: LabelSetRecord) -> list[LabelRequest]:
    """Return the shards that are missing, in the order in which training needs them."""
    dataset = Dataset.open(store, record.dataset)
    committed = LabelSet(store, record).committed_numbers()
    order = epoch_order(dataset, OrderConfig(), batch_size=BATCH_SIZE, seed=0, epoch=0)
    return [LabelRequest(record, number) for number in order.shards_by_first_use() if number not in committed]


async def label_all(store: ObjectStore, labels: LabelSet, config: TeacherConfig, requests: list[LabelRequest]) -> None:
    # The replicas' own view of the set: the driver learns of a commit from their answers alone.
    theirs = LabelSet(store, labels.record)
    body = theirs.encode(CODEC.pack({LOGITS: np.zeros((1, NUM_CLASSES), np.float32)}))

    def note(event: LabellingEvent) -> None:
        assert isinstance(event, ShardLabelled), event
        labels.remember(event.commit)

    await label_shards(Handle(theirs, body), config, requests, on_event=note)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
