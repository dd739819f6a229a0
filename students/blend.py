"""Teachers weighed and fused: for rows before training, or at every step while shares follow the student.

Legend: K teachers, N rows, C classes.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cluster.shards.schema import LABEL, NO_LABEL
from students.ensembles.ensemble import Ensemble
from students.fusion import combined, shares_of
from students.objectives.objective import Batch
from students.task import Targets
from students.weightings.static import StaticWeighting
from students.weightings.weighting import Panel, Weighting


def fuse_rows(
    ensemble: Ensemble,
    weighting: Weighting,
    teachers: Sequence[str],
    log_probs_KNC: torch.Tensor,
    rows: Mapping[str, np.ndarray],
) -> torch.Tensor:
    """Return the fused log-probabilities `[N, C]` of calibrated teachers; `rows` are columns of the data set.

    `teachers` are the names of those that the ensemble uses.
    """
    panel = Panel(
        teachers=tuple(teachers),
        log_probs_KNC=log_probs_KNC,
        prior_K=ensemble.shares_K.to(log_probs_KNC),
        labels_N=torch.from_numpy(rows[LABEL].astype(np.int64)),
        columns=_columns(weighting, rows),
    )
    return ensemble.combined(log_probs_KNC, weighting.shares(panel))


def names_of(targets: Targets) -> tuple[str, ...]:
    """Return the names of the teachers, in their order."""
    return tuple(part.labels.teacher for part in targets.parts)


def for_unseen_rows(weighting: Weighting) -> Weighting:
    """Return how rows are weighed that nobody trains on: with the prior, where shares need their label or a student."""
    return StaticWeighting() if weighting.reads & {"labels", "student"} else weighting


def step_blend(
    targets: Targets | None,
    *,
    num_classes: int,
    num_inputs: int,
    labelled_share: float,
    sum_over_workers: Callable[[torch.Tensor], torch.Tensor],
) -> "StepBlend | None":
    """Return what fuses the teachers at every step, if they cannot be fused before."""
    if targets is None or not targets.weighting.changes_with_training:
        return None
    return StepBlend(
        targets,
        num_classes=num_classes,
        num_inputs=num_inputs,
        labelled_share=labelled_share,
        sum_over_workers=sum_over_workers,
    )


class StepBlend(nn.Module):
    """Fuses a batch with shares that change with training, and has the weighting learn if it does."""

    def __init__(
        self,
        targets: Targets,
        *,
        num_classes: int,
        num_inputs: int,
        labelled_share: float,
        sum_over_workers: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """`num_inputs` are the numbers in one row of the student's inputs."""
        super().__init__()
        self._targets, self._labelled_share, self._sum = targets, labelled_share, sum_over_workers
        self.state = targets.weighting.build(
            num_teachers=len(targets.parts), num_classes=num_classes, num_inputs=num_inputs
        )

    def forward(
        self, student_logits_NC: torch.Tensor, batch: Batch, *, global_rows: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the target `[N, C]`, a constant, and this worker's contribution to the loss by which it learns."""
        names = names_of(self._targets)
        log_probs_KNC = torch.stack([batch.teacher_logits[name] for name in names])
        panel = Panel(
            teachers=names,
            log_probs_KNC=log_probs_KNC,
            prior_K=shares_of([part.weight for part in self._targets.parts]).to(log_probs_KNC),
            labels_N=batch.labels_N,
            student_logits_NC=student_logits_NC.detach(),
            inputs=batch.inputs,
            global_rows=global_rows,
            sum_over_workers=self._sum,
            state=self.state,
        )
        shares_KN = self._targets.weighting.shares(panel)
        target_NC = combined(log_probs_KNC, shares_KN, combine=self._targets.combine)
        return target_NC.detach(), self._loss(target_NC, batch.labels_N, global_rows)

    def _loss(self, target_NC: torch.Tensor, labels_N: torch.Tensor, global_rows: int) -> torch.Tensor:
        if self.state is None:
            return target_NC.new_zeros(())
        # Divided as the objective divides a term over the labelled rows.
        expected = max(self._labelled_share, 1e-12) * global_rows
        return F.nll_loss(target_NC, labels_N, reduction="sum", ignore_index=NO_LABEL) / expected


def _columns(weighting: Weighting, rows: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    name = weighting.column_read
    return {} if name is None else {name: torch.from_numpy(rows[name].astype(np.int64))}
