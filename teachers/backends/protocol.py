"""The one thing that labelling knows about a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class Forward:
    """What a model says of a batch, on its device."""

    logits: torch.Tensor
    """float32 `[rows, *positions, classes]`."""
    hidden: torch.Tensor | None = None
    """Input of the head `[rows, *positions, width]`, if one is watched."""
    taps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Outputs of the modules that are tapped, float32 `[rows, ...]`."""

    @property
    def num_values(self) -> int:
        """Numbers in all of it."""
        return sum(output.numel() for output in (self.logits, self.hidden, *self.taps.values()) if output is not None)


def joined(parts: Sequence[Forward]) -> Forward:
    """Return what a model says of several batches as if they had been one."""
    if len(parts) == 1:
        return parts[0]
    hidden = [part.hidden for part in parts if part.hidden is not None]
    return Forward(
        torch.cat([part.logits for part in parts]),
        torch.cat(hidden) if hidden else None,
        {module: torch.cat([part.taps[module] for part in parts]) for module in parts[0].taps},
    )


class Backend(Protocol):
    """A loaded model on this process's device. Used by one thread at a time."""

    def forward(self, arrays: Mapping[str, np.ndarray]) -> Forward:
        """Run a batch of stored columns, `[rows, *shape]` each."""

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight `[classes, width]` and bias `[classes]` of the head that is watched, float32."""
