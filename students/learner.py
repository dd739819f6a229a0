"""The student and what its objective learns beside it, as one module, so that the gradients of both are averaged."""

import torch
from torch import nn

from students.objectives.objective import Batch, Objective


class Learner(nn.Module):
    """From a batch to its loss."""

    def __init__(self, student: nn.Module, objective: Objective, *, is_half: bool) -> None:
        """`student` is a `Tapped`, compiled or not.

        `is_half`: run it in bfloat16 by torch's autocast; the loss is computed in float32.
        """
        super().__init__()
        self.student, self.objective, self._is_half = student, objective, is_half

    def forward(self, batch: Batch, *, global_rows: int, progress: float) -> torch.Tensor:
        """Return this worker's contribution to the loss of a global batch; a scalar."""
        with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=self._is_half):
            logits, taps = self.student(batch.inputs)
        loss: torch.Tensor = self.objective(
            logits.float(), batch, global_rows=global_rows, progress=progress, student_taps=taps
        )
        return loss
