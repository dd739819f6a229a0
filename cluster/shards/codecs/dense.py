"""Every logit, float16: any temperature and any fusion later. Two bytes a class; for few classes nothing is smaller.

float16 costs 1e-7 nats where bfloat16 costs 70 times as much.
"""

from dataclasses import dataclass

import numpy as np

from cluster.shards.codecs.codec import Arrays, Codec
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.schema import Column

LOGITS = "logits"


@dataclass(frozen=True)
class DenseCodec(Codec):
    """Raw logits."""

    config: DenseConfig
    num_classes: int

    def columns(self, positions: tuple[int, ...] = ()) -> tuple[Column, ...]:
        """Return the one column `logits`."""
        return (Column(name=LOGITS, dtype="float16", shape=(*positions, self.num_classes)),)

    def pack(self, outputs: Arrays) -> dict[str, np.ndarray]:
        """Return `logits`, which have been checked to fit into float16."""
        return {LOGITS: outputs[LOGITS].astype(np.float16)}

    def logits(self, arrays: Arrays, *, temperature: float) -> np.ndarray:
        """Return the stored logits, which are the same at any temperature."""
        return arrays[LOGITS].astype(np.float32)
