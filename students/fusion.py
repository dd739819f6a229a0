"""Several teachers into one target distribution.

Each teacher's logits are first divided by its calibrated temperature. Then, with weights w that sum to 1,

    mean_probability   p = Σ_k w_k softmax(z_k)          the arithmetic mean
    mean_logit         p = softmax(Σ_k w_k log softmax(z_k))   the normalised geometric mean

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
    total = math.fsum(weights)
    log_probs_KNC = torch.stack(
        [
            torch.log_softmax(logits_NC.to(torch.float32) / temperature, dim=-1)
            for logits_NC, temperature in zip(logits_KNC, temperatures, strict=True)
        ]
    )
    shares_K11 = torch.tensor([weight / total for weight in weights]).to(log_probs_KNC.device)[:, None, None]
    match combine:
        case "mean_probability":
            return torch.logsumexp(log_probs_KNC + shares_K11.log(), dim=0)
        case "mean_logit":
            return torch.log_softmax((log_probs_KNC * shares_K11).sum(dim=0), dim=-1)
