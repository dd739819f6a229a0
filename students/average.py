"""A moving average of the student's weights, which stands beside it and teaches it."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from students.objectives.mean_teacher import MeanTeacherTerm
from students.objectives.term import Term


class WeightAverage(nn.Module):
    """A copy of the student whose weights follow the student's; no gradient flows through it.

    Buffers, such as the running means of a BatchNorm, are its own, gathered from its own outputs: those of the student
    would belong to other weights.
    """

    def __init__(self, student: nn.Module, *, decay: float, is_exported: bool, is_half: bool) -> None:
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False)
        self.is_exported, self._decay, self._is_half = is_exported, decay, is_half

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return its logits, float32 `[N, C]`."""
        with torch.no_grad(), torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self._is_half):
            logits: torch.Tensor = self.module(inputs)
        return logits.float()

    @torch.no_grad()
    def follow(self, student: nn.Module, *, step: int) -> None:
        """Move towards the student after the update with which it has taken `step` steps."""
        kept = min(1 - 1 / (step + 1), self._decay)
        for average, weight in zip(self.module.parameters(), student.parameters(), strict=True):
            average.lerp_(weight, 1 - kept)


def average_for(objective: Sequence[Term], student: nn.Module, *, is_half: bool) -> WeightAverage | None:
    """Return the average that terms read, if they do; a spec whose terms ask for two different ones is refused."""
    asking = [term for term in objective if isinstance(term, MeanTeacherTerm)]
    if not asking:
        return None
    term = asking[0]
    return WeightAverage(student, decay=term.decay, is_exported=term.export == "average", is_half=is_half)
