"""The one thing that labelling knows about a model."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Backend(Protocol):
    """A loaded model on this process's device. Used by one thread at a time."""

    def forward(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the logits of a batch, float32 `[rows, classes]`, from its stored columns, `[rows, *shape]` each."""
