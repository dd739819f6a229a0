"""What a codec keeps of a batch of logits, chosen where the logits are, so that no shard of them is ever held.

Legend: N rows, P positions, M = N P, C classes, K kept classes, S draws.
"""

import numpy as np
import torch

from cluster.shards.codecs.dense import LOGITS
from cluster.shards.codecs.spec import AnyCodecConfig, DenseConfig, HiddenConfig, SampledConfig, TopKConfig

_PART_VALUES = 1 << 24
"""Logits that are handled at once: the intermediate results take some 20 bytes for each."""


def select(
    codec: AnyCodecConfig, logits: torch.Tensor, *, draws: np.ndarray | None = None, hidden: torch.Tensor | None = None
) -> dict[str, np.ndarray]:
    """Return what `codec` packs of logits, float32 `[N, *P, C]`; each result is `[N, *P, ...]`.

    `draws` are uniform numbers in [0, 1), `[N, *P, codec.num_draws]`; `hidden` is the input of the last layer.
    """
    match codec:
        case DenseConfig():
            return {LOGITS: logits.cpu().numpy()}
        case HiddenConfig():
            assert hidden is not None, "the backend was told which layer to watch"  # noqa: S101
            return {"hidden": hidden.float().cpu().numpy()}
    assert draws is not None  # noqa: S101 - whoever labels brings them
    logits_MC = logits.reshape(-1, logits.shape[-1])
    uniform_MS = torch.from_numpy(draws.reshape(len(logits_MC), codec.num_draws)).to(logits.device)
    size = max(1, _PART_VALUES // logits.shape[-1])
    parts = [
        _select(codec, part_MC, part_MS)
        for part_MC, part_MS in zip(logits_MC.split(size), uniform_MS.split(size), strict=True)
    ]
    leading = logits.shape[:-1]
    return {
        name: torch.cat([part[name] for part in parts]).cpu().numpy().reshape(*leading, parts[0][name].shape[-1])
        for name in parts[0]
    }


def _select(codec: AnyCodecConfig, logits_MC: torch.Tensor, uniform_MS: torch.Tensor) -> dict[str, torch.Tensor]:
    match codec:
        case TopKConfig():
            return _top_k(codec, logits_MC, uniform_MS)
        case SampledConfig():
            return {"draws": _drawn(logits_MC, uniform_MS)}
    raise AssertionError(f"nobody selects for {codec}")


def _top_k(codec: TopKConfig, logits_MC: torch.Tensor, uniform_MS: torch.Tensor) -> dict[str, torch.Tensor]:
    log_probs_MC = torch.log_softmax(logits_MC, dim=-1)
    head_MK, ids_MK = log_probs_MC.topk(codec.k, dim=-1)
    others_MC = log_probs_MC.scatter(-1, ids_MK, -torch.inf)
    # Of the tail's own terms: 1 - Σ head loses a small tail to cancellation, and a large T has no other formula at all.
    odds = [
        torch.logsumexp(others_MC / temperature, dim=-1) - torch.logsumexp(head_MK / temperature, dim=-1)
        for temperature in codec.served
    ]
    selected = {"ids": ids_MK.int(), "log_probs": head_MK, "tail": torch.stack(odds, dim=-1)}
    if codec.tail_samples:
        drawn_MS = _drawn(others_MC, uniform_MS)
        selected |= {"tail_ids": drawn_MS, "tail_log_probs": log_probs_MC.gather(-1, drawn_MS.long())}
    return selected


def _drawn(logits_MC: torch.Tensor, uniform_MS: torch.Tensor) -> torch.Tensor:
    """Return the classes at which the cumulative probability passes the given shares of its total, int32 `[M, S]`."""
    # float32 would lose classes whose probability is below the rounding of the sum before them: a bias.
    cumulative_MC = (logits_MC - logits_MC.amax(dim=-1, keepdim=True)).double().exp().cumsum(dim=-1)
    shares_MS = uniform_MS * cumulative_MC[:, -1:]
    return torch.searchsorted(cumulative_MC, shares_MS, right=True, out_int32=True)
