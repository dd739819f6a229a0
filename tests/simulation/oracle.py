"""Label sets of a linear teacher, and what must be in them, computed without the code under test.

Legend: N rows, C classes.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import safetensors.numpy

from cluster.identity import digest_of
from cluster.models import InputConfig
from cluster.shards.codecs.dense import LOGITS, DenseCodec
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.dataset import write_dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import LABEL
from cluster.storage.open import open_store
from cluster.weights import StoredWeights
from teachers.deployment import LabelRequest, ReplicaSetup
from teachers.spec import TeacherConfig
from tests.fixtures.watched_models import Watched

NUM_SHARDS = 12
SHARD_ROWS = 32
ROWS = NUM_SHARDS * SHARD_ROWS
CLASSES = 10
DATASET = "d" * 16


class LabelledByOne:
    """A data set, one teacher that leaves a trace of every row it computes, and any number of its label sets."""

    def __init__(self, folder: Path, *, model: type[Watched] = Watched, **changes: object) -> None:
        """Write both; `changes` are those of the teacher's config, and `arguments` come beside the trace."""
        self.store = open_store(str(folder / "store"))
        self._trace = folder / "computed.txt"
        draw = np.random.default_rng(0)
        self._images = draw.integers(0, 256, (ROWS, 8, 8), dtype=np.uint8)
        arrays = {"image": self._images, LABEL: np.zeros(ROWS, np.int32)}
        names = tuple(map(str, range(CLASSES)))
        write_dataset(self.store, arrays, identity=DATASET, classes=names, shard_rows=SHARD_ROWS, compression="none")
        self._weight = draw.standard_normal((CLASSES, 64)).astype(np.float32)
        self._bias = draw.standard_normal(CLASSES).astype(np.float32)
        self.setup = self._write_teacher(model, changes)

    @property
    def rows_computed(self) -> int:
        """Rows that went through the teacher, in all processes."""
        return sum(map(int, self._trace.read_text().split()))

    def record(self, number: int) -> LabelSetRecord:
        """Return the description of one of its sets."""
        columns = DenseCodec(DenseConfig(), CLASSES).columns()
        return LabelSetRecord(teacher="watched", teacher_identity=f"{number:016x}", dataset=DATASET, columns=columns)

    def labels(self, number: int) -> LabelSet:
        """Return a set, which may not be described yet."""
        return LabelSet(self.store, self.record(number))

    def requests(self, number: int) -> list[LabelRequest]:
        """Describe a set, and return what is asked of the teacher for it."""
        LabelSet.create(self.store, self.record(number))
        return [LabelRequest(self.record(number), shard) for shard in range(NUM_SHARDS)]

    def count_wrong_rows(self, num_sets: int, acknowledged: Collection[str] = ()) -> tuple[int, int]:
        """Return how many rows are lost and how many are there twice, over the sets from 1 on.

        `acknowledged` are the commits that somebody was told of, as `acknowledgement` writes them.
        """
        pixels = self._images.reshape(ROWS, -1).astype(np.float64) / 255
        logits_NC = pixels @ self._weight.T.astype(np.float64) + self._bias
        lost = doubled = 0
        for number in range(1, num_sets + 1):
            labels = self.labels(number)
            commits = labels.load_manifest().commits
            found_NC = np.concatenate([labels.read(commit.number)[LOGITS] for commit in commits]).astype(np.float64)
            doubled += max(0, len(found_NC) - ROWS)
            wrong = ~np.isclose(found_NC[:ROWS], logits_NC[: len(found_NC)], rtol=2e-3, atol=2e-3).all(axis=1)
            lost += int(wrong.sum()) + max(0, ROWS - len(found_NC))
            kept = {acknowledgement(commit.labelset, commit.number, commit.digest) for commit in commits}
            ours = {line for line in acknowledged if line.startswith(labels.identity)}
            lost += SHARD_ROWS * len(ours - kept)
        return lost, doubled

    def _write_teacher(self, model: type[Watched], changes: dict[str, object]) -> ReplicaSetup:
        body = safetensors.numpy.save({"layer.weight": self._weight, "layer.bias": self._bias})
        weights = StoredWeights(key="teachers/watched/w.safetensors", digest=digest_of(body), num_bytes=len(body))
        self.store.put(weights.key, body)
        arguments = {"trace": str(self._trace)} | dict(changes.pop("arguments", {}))  # type: ignore[call-overload]
        config: dict[str, object] = {
            "name": "watched",
            "model": f"{model.__module__}:{model.__name__}",
            "arguments": arguments,
            "inputs": InputConfig(shape=(1, 8, 8)),
            "weights": "in-the-store.safetensors",
            "batch_size": SHARD_ROWS // 4,
        }
        return ReplicaSetup(self.store.uri, TeacherConfig.model_validate(config | changes), weights)


def acknowledgement(labelset: str, number: int, digest: str) -> str:
    """Return one commit in one line."""
    return f"{labelset} {number} {digest}"
