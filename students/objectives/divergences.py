"""Divergences of two distributions given by their log-probabilities; terms differ in what they hand in.

Legend: N rows, C classes. All return nats, `[N]`, and are finite where probabilities underflow.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def log_probs(logits_NC: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Return log softmax(z / T), `[N, C]`."""
    return (logits_NC / temperature).log_softmax(dim=-1)


def kl(log_p_NC: "torch.Tensor", log_q_NC: "torch.Tensor") -> "torch.Tensor":
    """Return KL(p || q)."""
    import torch.nn.functional as F

    return F.kl_div(log_q_NC, log_p_NC, reduction="none", log_target=True).sum(dim=-1)


def log_mix(log_p_NC: "torch.Tensor", log_q_NC: "torch.Tensor", share: float) -> "torch.Tensor":
    """Return log(share p + (1 - share) q); `share` in (0, 1)."""
    import math

    import torch

    return torch.logaddexp(log_p_NC + math.log(share), log_q_NC + math.log1p(-share))
