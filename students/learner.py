"""The student and what its objective learns beside it, as one module, so that the gradients of both are averaged."""

import torch
from torch import nn

from cluster.tapping import Tapped
from students.objectives.objective import Batch, Objective


class Learner(nn.Module):
    """From a batch to its loss."""

    def __init__(self, student: Tapped, objective: Objective, *, is_half: bool) -> None:
        """`is_half`: run the student in bfloat16 by torch's autocast; the loss is computed in float32."""
        super().__init__()
        self.student, self.objective, self._is_half = student, objective, is_half

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
        with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=self._is_half):
            logits, taps = self.student(batch.inputs)
        loss: torch.Tensor = self.objective(
            logits.float(), batch, global_rows=global_rows, progress=progress, student_taps=taps
        )
        return loss
