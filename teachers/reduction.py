"""What is kept of the output of a teacher's module: means over its axes, and fewer channels. N rows, D channels."""

import torch
import torch.nn.functional as F

from cluster.shards.codecs.spec import TapConfig
from cluster.shards.taps import signs


def reduced(config: TapConfig, output: torch.Tensor) -> torch.Tensor:
    """Return float32 `[N, *R]` of an output `[N, D, ...]`, or `[N, ..., D]` if channels come last."""
    channels_last = output.movedim(1, -1) if config.channels == "first" else output
    if config.pool == "average":
        channels_last = _averaged(channels_last, config.size)
    if config.project is not None:
        channels_last = channels_last @ torch.from_numpy(signs(channels_last.shape[-1], config.project)).to(output)
    return channels_last.movedim(-1, 1) if config.channels == "first" else channels_last


def _averaged(output: torch.Tensor, size: int | None) -> torch.Tensor:
    """Return means over the axes between the first and the last, as adaptive pooling divides them."""
    for axis in range(1, output.dim() - 1):
        ends = output.movedim(axis, -1)
        shape = (*ends.shape[:-1], size or 1)
        output = F.adaptive_avg_pool1d(ends.reshape(len(ends), -1, ends.shape[-1]), size or 1)
        output = output.reshape(shape).movedim(-1, axis)
    return output.flatten(1) if size is None else output
