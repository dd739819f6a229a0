"""What goes into the teacher's last linear layer, and that layer once for all rows: z = W h + b, exact for any T.

Where the hidden state is much narrower than the number of classes this is nearly dense quality at a fraction of the
bytes, and whoever reads runs the teacher's head. int8 has one scale for each channel, for all rows, and one for each
position: the channels of language models differ a hundredfold in size. Legend: D channels.
"""

from dataclasses import dataclass

import numpy as np

from cluster.shards.codecs.codec import Arrays, Codec
from cluster.shards.codecs.spec import HiddenConfig
from cluster.shards.schema import Column

_ZERO = 128
_QUIETEST = np.float32(1 / 32)
"""What stands for 0 in a byte."""
_STEPS = 127


@dataclass(frozen=True)
class HiddenCodec(Codec):
    """Hidden states, and the head that makes logits of them."""

    config: HiddenConfig
    num_classes: int

    def columns(self, positions: tuple[int, ...] = ()) -> tuple[Column, ...]:
        """Return `hidden`, and for int8 the `scale` of each position."""
        shape = (*positions, self.config.width)
        if self.config.values == "float16":
            return (Column(name="hidden", dtype="float16", shape=shape),)
        return Column(name="hidden", dtype="uint8", shape=shape), Column(name="scale", dtype="float16", shape=positions)

    def shared_columns(self) -> tuple[Column, ...]:
        """Return the head's `weight` and `bias`, and for int8 the scales `channel` by which all rows are divided."""
        head = (
            Column(name="weight", dtype="float32", shape=(self.num_classes, self.config.width)),
            Column(name="bias", dtype="float32", shape=(self.num_classes,)),
        )
        scales = (Column(name="channel", dtype="float32", shape=(self.config.width,)),)
        return head if self.config.values == "float16" else head + scales

    def share(self, outputs: Arrays, weight_CD: np.ndarray, bias_C: np.ndarray) -> dict[str, np.ndarray]:
        """Return the shared columns, `[1, ...]` each.

        The scales of the channels are their largest values in `outputs`, and at least 1/32 of their median. Other
        rows may hold larger ones: the scale of their position grows with them.
        """
        head = {"weight": weight_CD[None], "bias": bias_C[None]}
        if self.config.values == "float16":
            return head
        largest_D = np.abs(outputs["hidden"]).reshape(-1, self.config.width).max(axis=0).astype(np.float32)
        # A channel that is quiet here may be loud in another shard, whose scale would leave all others no steps.
        typical = np.median(largest_D) or largest_D.max() or np.float32(1)
        channel_D = np.maximum(largest_D, typical * _QUIETEST)
        return head | {"channel": channel_D[None]}

    def pack(self, outputs: Arrays) -> dict[str, np.ndarray]:
        """Pack `hidden`; needs the shared columns too."""
        hidden = outputs["hidden"]
        if self.config.values == "float16":
            return {"hidden": hidden.astype(np.float16)}
        divided = hidden / outputs["channel"][0]
        scale = np.abs(divided).max(axis=-1) / _STEPS
        stored = np.maximum(scale, np.finfo(np.float16).smallest_normal).astype(np.float16)
        steps = np.rint(divided / stored.astype(np.float32)[..., None])
        return {"hidden": (np.clip(steps, -_STEPS, _STEPS) + _ZERO).astype(np.uint8), "scale": stored}

    def logits(self, arrays: Arrays, *, temperature: float) -> np.ndarray:
        """Return W h + b, the same at any temperature; needs the shared columns too."""
        logits: np.ndarray = self.unpack(arrays) @ arrays["weight"][0].T + arrays["bias"][0]
        return logits

    def unpack(self, arrays: Arrays) -> np.ndarray:
        """Return the hidden states, float32 `[N, *P, D]`."""
        if self.config.values == "float16":
            return arrays["hidden"].astype(np.float32)
        steps = arrays["hidden"].astype(np.float32) - _ZERO
        hidden: np.ndarray = steps * arrays["channel"][0] * arrays["scale"].astype(np.float32)[..., None]
        return hidden
