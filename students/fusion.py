"""Several calibrated teachers into one target distribution.

With weights w that sum to 1, L_k = log softmax(z_k) and votes v_k = the class of the largest,

    mean_probability   p = Σ_k w_k softmax(z_k)              the arithmetic mean
    mean_logit         p = softmax(Σ_k w_k L_k)              the normalised geometric mean
    vote               p_c = (K Σ_k w_k [v_k = c] + 1/C) / (K + 1)      shares of the votes, and one more teacher that
                                                                        gives every class an equal part of its vote
    dawid_skene        p = softmax(b + Σ_k W_k[v_k])         W_k[v, c] = log P(teacher k says v | the class is c)
    stacking           p = softmax(b + Σ_k max(L_k, -20) W_k)           a softmax regression

A teacher that does not know a class gives it L_kc = -∞: no mass in a mean of probabilities, and nothing that `stacking`
reads. The last two have tables that are learned from held-out rows (students/ensembles/); the weights of the others may
differ from row to row (students/weightings/). The result is log p: logits like any teacher's, which an objective may
temper. Legend: K teachers, N rows, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cluster.shards.codecs.codec import LOWEST
from students.spec import Combine

_FLOOR = -20.0
"""A regression multiplies what it reads: without a floor one class that a teacher rules out would outweigh all else."""


@dataclass(frozen=True)
class Tables:
    """What `dawid_skene` and `stacking` have learned."""

    weights_KCC: torch.Tensor
    """From what a teacher says, second axis, to what that tells of each class, third axis."""
    bias_C: torch.Tensor


def fuse(
    logits_KNC: Sequence[torch.Tensor],
    *,
    combine: Combine,
    weights: Sequence[float] = (),
    tables: Tables | None = None,
) -> torch.Tensor:
    """Return the fused log-probabilities of calibrated logits, float32 `[N, C]`; as `combined`."""
    log_probs_KNC = torch.stack([torch.log_softmax(logits_NC.to(torch.float32), dim=-1) for logits_NC in logits_KNC])
    shares_K1 = shares_of(weights).to(log_probs_KNC)[:, None]
    return combined(log_probs_KNC, shares_K1, combine=combine, tables=tables)


def shares_of(weights: Sequence[float]) -> torch.Tensor:
    """Return positive weights made to sum to 1, float64 `[K]`."""
    total = math.fsum(weights)
    return torch.tensor([weight / total for weight in weights], dtype=torch.float64)


def combined(
    log_probs_KNC: torch.Tensor, shares_KN: torch.Tensor, *, combine: Combine, tables: Tables | None = None
) -> torch.Tensor:
    """Return what teachers say together, log-probabilities `[N, C]`.

    `shares_KN`, `[K, N]` or `[K, 1]`, sum to 1 over the teachers; one with share 0 has no say in a mean. Combinations
    that have `tables` read these in their place.
    """
    if combine in ("dawid_skene", "stacking"):
        assert tables is not None  # noqa: S101 - whoever fuses has read them
        return _looked_up(evidence(log_probs_KNC, combine), tables)
    shares_KN1 = shares_KN[..., None]
    if combine == "mean_probability":
        # Clamped, because a share that has a gradient and is 0 would make it undefined.
        positive_KN1 = shares_KN1.clamp(min=torch.finfo(shares_KN1.dtype).tiny)
        log_shares_KN1 = torch.where(shares_KN1 > 0, positive_KN1.log(), -torch.inf)
        return torch.logsumexp(log_probs_KNC + log_shares_KN1, dim=0).clamp(min=LOWEST)
    if combine == "mean_logit":
        said_KNC = torch.where(shares_KN1 > 0, log_probs_KNC * shares_KN1, 0.0)
        return torch.log_softmax(said_KNC.sum(dim=0), dim=-1).clamp(min=LOWEST)
    num_teachers, _, num_classes = log_probs_KNC.shape
    votes_NC = num_teachers * (evidence(log_probs_KNC, combine) * shares_KN1).sum(dim=0)
    return torch.log((votes_NC + 1 / num_classes) / (num_teachers + 1))


def evidence(log_probs_KNC: torch.Tensor, combine: Combine) -> torch.Tensor:
    """Return what a combination reads of each teacher, `[K, N, C]`: bounded log-probabilities, or votes as 0 and 1.

    Of a class that a teacher does not know a combination reads 0, which changes nothing, whatever its weight.
    """
    if combine == "stacking":
        return torch.where(log_probs_KNC.isneginf(), 0.0, log_probs_KNC.clamp(min=_FLOOR))
    votes_KNC = torch.zeros_like(log_probs_KNC)
    return votes_KNC.scatter_(-1, log_probs_KNC.argmax(dim=-1, keepdim=True), 1.0)


def _looked_up(evidence_KNC: torch.Tensor, tables: Tables) -> torch.Tensor:
    device = evidence_KNC.device
    said_NC = torch.bmm(evidence_KNC, tables.weights_KCC.to(device)).sum(dim=0)
    return torch.log_softmax(said_NC + tables.bias_C.to(device), dim=-1)
