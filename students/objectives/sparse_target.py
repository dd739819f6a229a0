"""A teacher's distributions as a sparse loss reads them: some classes, and the mass of the others.

Legend: N rows, K kept classes, S draws.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from cluster.shards.codecs.sparse import SparseLabels

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SparseTarget:
    """One teacher's distributions at the temperature of the terms that read them, in tensors."""

    ids_NK: "torch.Tensor"
    """int64; indices of classes, no class twice."""
    log_probs_NK: "torch.Tensor"
    """Their log-probabilities, nats."""
    log_tail_N: "torch.Tensor"
    """Log of the mass of all other classes."""
    tail_ids_NS: "torch.Tensor"
    """int64; classes drawn from the others, perhaps several times."""
    tail_log_probs_NS: "torch.Tensor"
    """Their log-probabilities, nats."""
    tail_log_masses_NS: "torch.Tensor"
    """Log of the mass that each draw stands for."""

    @classmethod
    def of(cls, labels: SparseLabels) -> "SparseTarget":
        """Return labels of rows without positions as tensors."""
        import torch

        ids, tail_ids = (torch.from_numpy(array.astype(np.int64)) for array in (labels.ids, labels.tail_ids))
        log_probs, log_tail, tail_log_probs, tail_log_masses = (
            torch.from_numpy(np.array(array))  # some are views that repeat a number
            for array in (labels.log_probs, labels.log_tail, labels.tail_log_probs, labels.tail_log_masses)
        )
        return cls(ids, log_probs, log_tail, tail_ids, tail_log_probs, tail_log_masses)

    def part(self, rows: slice) -> "SparseTarget":
        """Return some of the rows."""
        return SparseTarget(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: "torch.device") -> "SparseTarget":
        """Return the same on a device."""
        return SparseTarget(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))
