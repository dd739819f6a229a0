"""A moving average of the student's weights, which stands beside it and teaches it."""

from collections.abc import Sequence

import torch
from torch import nn

from cluster.tapping import Tapped
from students.objectives.mean_teacher import MeanTeacherTerm
from students.objectives.term import Term


class WeightAverage(nn.Module):
    """A model whose weights follow the student's, from the same beginning; no gradient flows through it.

    Buffers, such as the running means of a BatchNorm, are its own, gathered from its own outputs: those of the student
    would belong to other weights.
    """

    def __init__(self, module: nn.Module, *, decay: float, is_exported: bool, is_half: bool) -> None:
        """`module` is a copy of the student; `is_exported`: it is scored and published in place of the student."""
        super().__init__()
        self.module = module.requires_grad_(False)
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


def average_for(objective: Sequence[Term], student: Tapped, *, is_half: bool) -> WeightAverage | None:
    """Return the average that terms read, if they do; a spec whose terms ask for two different ones is refused."""
    asking = [term for term in objective if isinstance(term, MeanTeacherTerm)]
    if not asking:
        return None
    term, copied = asking[0], student.copy_of_model()
    return WeightAverage(copied, decay=term.decay, is_exported=term.export == "average", is_half=is_half)


def buffers_alike(objective: nn.Module) -> list[str]:
    """Return the names of the buffers that every worker computes by itself, and the same.

    Those of an average come from the rows of one worker, as those of the student do.
    """
    averages = tuple(f"{name}." for name, part in objective.named_modules() if isinstance(part, WeightAverage))
    return [name for name, _ in objective.named_buffers() if not name.startswith(averages)]
