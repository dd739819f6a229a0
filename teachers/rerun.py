"""A teacher in this process, asked again for what it has said before: no cluster, one shard at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import LABEL
from cluster.shards.views.look import look
from cluster.storage.protocol import ObjectStore
from cluster.weights import StoredWeights
from teachers.backends.load import load_backend
from teachers.labeller import Labeller
from teachers.outputs import statistics_of
from teachers.spec import TeacherConfig


@dataclass(frozen=True)
class Answer:
    """What a teacher says of one shard: the columns that are stored, and what its commit tells of them."""

    columns: Mapping[str, np.ndarray]
    rows: int
    statistics: Mapping[str, float]


class Rerun:
    """A loaded teacher, on the GPU if its replicas have one and this machine has one too."""

    def __init__(self, store: ObjectStore, config: TeacherConfig, weights: StoredWeights) -> None:
        on_gpu = config.resources.gpu if torch.cuda.is_available() else 0.0
        backend = load_backend(store, config, weights, on=config.resources.model_copy(update={"gpu": on_gpu}))
        self._store, self._labeller = store, Labeller(config.name, backend, config.batch_size)

    def ask(self, record: LabelSetRecord, number: int) -> Answer:
        """Return what the teacher says of input shard `number`, computed in the batches that its replicas take.

        Raises:
            ShardCorruptError: the input shard is not what was written.
            OutputRefusedError: the teacher says what must not be stored.
        """
        arrays = Dataset.open(self._store, record.dataset).read(number)
        inputs = look({name: array for name, array in arrays.items() if name != LABEL}, record.view)
        outputs = self._labeller.outputs(record, number, inputs)
        columns = self._labeller.columns(LabelSet(self._store, record), outputs)
        return Answer(columns, len(arrays[LABEL]), statistics_of(outputs))
