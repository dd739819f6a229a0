"""Accuracy and likelihood on the held-out rows while training goes on, shared among the workers."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cluster.models import InputConfig
from cluster.modules import input_array, to_inputs
from cluster.shards.dataset import Dataset
from cluster.shards.schema import LABEL
from cluster.storage.protocol import ObjectStore
from students.group import Group

_BATCH_ROWS = 1024


class HeldOut:
    """The held-out rows in memory, this worker's share of them."""

    def __init__(self, store: ObjectStore, dataset: str, inputs: InputConfig, group: Group) -> None:
        self._group, self._sample = group, torch.empty(0)
        self._batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        for number, arrays in enumerate(Dataset.open(store, dataset)):
            if number == 0:
                self._sample = to_inputs(input_array(arrays, inputs)[:2], inputs)
            if number % group.world_size == group.rank:
                rows = to_inputs(input_array(arrays, inputs), inputs).split(_BATCH_ROWS)
                labels = torch.from_numpy(arrays[LABEL].astype(np.int64)).split(_BATCH_ROWS)
                self._batches.extend(zip(rows, labels, strict=True))

    def sample(self) -> torch.Tensor:
        """Return the inputs of up to two rows, the same on every worker."""
        return self._sample.to(self._group.device)

    def score(self, module: nn.Module) -> tuple[float, float]:
        """Return accuracy and mean NLL (nats) over the rows of all workers."""
        module.eval()

        def judged(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            logits = module(inputs).float().cpu()
            hits = (logits.argmax(dim=1) == labels).sum().double()
            return torch.stack([hits, F.cross_entropy(logits, labels, reduction="sum").double()])

        accuracy, nll = self.means(judged, size=2).tolist()
        return accuracy, nll

    def means(self, judged: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *, size: int) -> torch.Tensor:
        """Return the mean over the rows of all workers, float64 `[size]`, of what `judged` sums over some rows.

        It is given inputs on the device of the group, and labels.
        """
        totals = torch.zeros(size + 1, dtype=torch.float64)
        with torch.inference_mode():
            for inputs, labels in self._batches:
                totals[:-1] += judged(inputs.to(self._group.device), labels)
                totals[-1] += len(labels)
        totals = self._group.sum(totals)
        return totals[:-1] / totals[-1]
