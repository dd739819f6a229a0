"""All members as one model, whose probabilities are the mean of theirs. K members, N rows, C classes."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from students.cohorts.sharing import Sharing


class Fused(nn.Module):
    """The members of a cohort side by side; what they share is there once."""

    def __init__(self, members: Sequence[nn.Module], sharing: Sharing) -> None:
        super().__init__()
        self.members, self._sharing = nn.ModuleList(members), sharing

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the mean of the members' probabilities, `[N, C]`."""
        return mean_log_probs(self.each(inputs))

    def each(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of every member, `[K, N, C]`."""
        with self._sharing.once():
            return torch.stack([member(inputs) for member in self.members])


def mean_log_probs(logits_KNC: torch.Tensor) -> torch.Tensor:
    """Return log (1/K) Σ_k softmax(z_k), `[N, C]`."""
    return logits_KNC.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits_KNC))
