"""The student and what its objective learns beside it, as one module, so that the gradients of both are averaged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from cluster.tapping import Tapped
from students.cohorts.codistillation import CodistillationCohort
from students.held_out import HeldOut
from students.objectives.objective import Batch, Objective
from students.objectives.schedules import at
from students.task import EpochPoint, MemberRecord


@dataclass(frozen=True)
class Learnt:
    """What a training leaves behind."""

    module: nn.Module
    points: tuple[EpochPoint, ...]
    exported: str | None = None
    """Which member of a cohort, or what is made of all, `module` is."""
    members: tuple[MemberRecord, ...] = ()
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    """What makes logits of outputs of modules of the student, by their paths."""


class Learner(nn.Module):
    """From a batch to its loss."""

    def __init__(
        self, student: Tapped, objective: Objective, method: CodistillationCohort | None = None, *, is_half: bool
    ) -> None:
        """`is_half`: run the student in bfloat16 by torch's autocast; the loss is computed in float32.

        `method` says what a member of a cohort learns from peers that train on workers of their own.
        """
        super().__init__()
        self.student, self.objective, self._method, self._is_half = student, objective, method, is_half

    @property
    def module(self) -> nn.Module:
        """The student itself: what is saved and resumed."""
        return self.student.model

    @property
    def published(self) -> nn.Module:
        """What is scored and exported: the student, or the average of its weights."""
        average = self.objective.average
        return self.module if average is None or not average.is_exported else average.module

    def follow(self, *, step: int) -> None:
        """Let the average of the weights follow an update, the `step`th."""
        if self.objective.average is not None:
            self.objective.average.follow(self.module, step=step)

    def forward(self, batch: Batch, *, global_rows: int, progress: float) -> torch.Tensor:
        """Return this worker's contribution to the loss of a global batch; a scalar."""
        logits_NC, loss = outcome(
            self.student, self.objective, batch, global_rows=global_rows, progress=progress, is_half=self._is_half
        )
        if self._method is None or not batch.peer_logits:
            return loss
        rows_N = self._method.rows(logits_NC, batch.peer_logits, progress=progress)
        return loss + at(self._method.weight, progress) * rows_N.sum() / global_rows

    def point(self, held_out: HeldOut, *, epoch: int, loss: float, check: Callable[[float], None]) -> EpochPoint:
        """Return how an epoch went; `check` refuses an NLL that is no number."""
        accuracy, nll = held_out.score(self.published)
        check(nll)
        return EpochPoint(epoch=epoch, loss=round(loss, 9), accuracy=accuracy, nll=round(nll, 9))

    def learnt(self, points: tuple[EpochPoint, ...]) -> Learnt:
        """Return the student, or the average of its weights."""
        return Learnt(self.published, points, heads=self.objective.heads())


def outcome(
    student: Tapped, objective: Objective, batch: Batch, *, global_rows: int, progress: float, is_half: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a student's logits, float32 `[N, C]`, and this worker's contribution to the loss of a global batch."""
    with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=is_half):
        logits, taps = student(batch.inputs)
    logits = logits.float()
    loss: torch.Tensor = objective(logits, batch, global_rows=global_rows, progress=progress, student_taps=taps)
    return logits, loss
