"""Accuracy and likelihood on the held-out rows while training goes on, shared among the workers."""

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
        totals = torch.zeros(3, dtype=torch.float64)
        module.eval()
        with torch.inference_mode():
            for inputs, labels in self._batches:
                logits = module(inputs.to(self._group.device)).float().cpu()
                hits = (logits.argmax(dim=1) == labels).sum().double()
                nll = F.cross_entropy(logits, labels, reduction="sum").double()
                totals += torch.stack([hits, nll, torch.tensor(len(labels), dtype=torch.float64)])
        hits, nll, rows = self._group.sum(totals).tolist()
        return hits / rows, nll / rows
