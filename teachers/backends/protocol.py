"""The one thing that labelling knows about a model."""

from collections.abc import Mapping
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


class Backend(Protocol):
    """A loaded model on this process's device. Used by one thread at a time."""

    def forward(self, arrays: Mapping[str, np.ndarray]) -> Forward:
        """Run a batch of stored columns, `[rows, *shape]` each."""

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight `[classes, width]` and bias `[classes]` of the head that is watched, float32."""
