"""Several teachers into one target distribution.

Each teacher's logits are first divided by its calibrated temperature. Then, with weights w that sum to 1,

    mean_probability   p = Σ_k w_k softmax(z_k)          the arithmetic mean
    mean_logit         p = softmax(Σ_k w_k log softmax(z_k))   the normalised geometric mean

The weights may differ from row to row: `students.weightings` finds them.
The result is log p: logits like any teacher's, which an objective may temper. Legend: K teachers, N rows, C classes.
"""

import math
from collections.abc import Sequence

import torch

from students.spec import Combine


def fuse(
    logits_KNC: Sequence[torch.Tensor], *, combine: Combine, weights: Sequence[float], temperatures: Sequence[float]
) -> torch.Tensor:
    """Return the fused log-probabilities, float32 `[N, C]`.

    `weights` are positive and are made to sum to 1; `temperatures` divide each teacher's logits.
    """
    log_probs_KNC = calibrated(logits_KNC, temperatures)
    return combined(log_probs_KNC, shares_of(weights).to(log_probs_KNC)[:, None], combine=combine)


def calibrated(logits_KNC: Sequence[torch.Tensor], temperatures: Sequence[float]) -> torch.Tensor:
    """Return the log-probabilities of teachers whose logits `temperatures` divide, float32 `[K, N, C]`."""
    return torch.stack(
        [
            torch.log_softmax(logits_NC.to(torch.float32) / temperature, dim=-1)
            for logits_NC, temperature in zip(logits_KNC, temperatures, strict=True)
        ]
    )


def shares_of(weights: Sequence[float]) -> torch.Tensor:
    """Return positive weights made to sum to 1, float64 `[K]`."""
    total = math.fsum(weights)
    return torch.tensor([weight / total for weight in weights], dtype=torch.float64)


def combined(log_probs_KNC: torch.Tensor, shares_KN: torch.Tensor, *, combine: Combine) -> torch.Tensor:
    """Return the mean that `combine` names as log-probabilities, `[N, C]`.

    `shares_KN` sum to 1 over the teachers; a teacher with share 0 has no say.
    """
    shares_KN1 = shares_KN[..., None]
    match combine:
        case "mean_probability":
            # Clamped, because a share that has a gradient and is 0 would make it undefined.
            positive_KN1 = shares_KN1.clamp(min=torch.finfo(shares_KN1.dtype).tiny)
            log_shares_KN1 = torch.where(shares_KN1 > 0, positive_KN1.log(), -torch.inf)
            return torch.logsumexp(log_probs_KNC + log_shares_KN1, dim=0)
        case "mean_logit":
            said_KNC = torch.where(shares_KN1 > 0, log_probs_KNC * shares_KN1, 0.0)
            return torch.log_softmax(said_KNC.sum(dim=0), dim=-1)
