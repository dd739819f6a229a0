"""What is kept of the output of a teacher's module: means over its axes, and fewer channels.

Legend: N rows, D channels, L tokens, R axes of a row.
"""

import torch
import torch.nn.functional as F

from cluster.shards.codecs.spec import TapConfig
from cluster.shards.taps import channel_axis, signs


def reduced(config: TapConfig, output: torch.Tensor) -> torch.Tensor:
    """Return float32 `[N, *R]` of a vector `[N, D]`, tokens `[N, L, D]` or maps `[N, D, ...]`."""
    axis = 1 + channel_axis(output.dim() - 1)
    channels_last = output.movedim(axis, -1)
    if config.pool is not None:
        channels_last = _averaged(channels_last, config.pool)
    if config.project is not None:
        channels_last = channels_last @ torch.from_numpy(signs(channels_last.shape[-1], config.project)).to(output)
    return channels_last if channels_last.dim() == 2 else channels_last.movedim(-1, axis)


def _averaged(output: torch.Tensor, size: int) -> torch.Tensor:
    """Return means over the axes between the first and the last, as adaptive pooling divides them."""
    for axis in range(1, output.dim() - 1):
        ends = output.movedim(axis, -1)
        shape = (*ends.shape[:-1], size)
        output = F.adaptive_avg_pool1d(ends.reshape(len(ends), -1, ends.shape[-1]), size)
        output = output.reshape(shape).movedim(-1, axis)
    return output.flatten(1) if size == 1 else output
