"""TextBrewer 0.2: its distiller for several teachers, which run on every batch or whose logits it keeps in memory.

Logits that are kept belong to whole batches: these are shuffled from epoch to epoch, and not their rows.
"""

import tempfile

import torch
from textbrewer import DistillationConfig, MultiTeacherDistiller, TrainingConfig
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.work import KL_WEIGHT, LABELS_WEIGHT, Work


class OfBatch(nn.Module):
    """A model that is called with everything that a batch holds, as the library does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, _labels_N: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits_NC: torch.Tensor = self.model(images)
        return logits_NC


def live(work: Work, seed: int) -> nn.Module:
    """Train a student; the teachers run on every batch."""
    return _train(work, seed, is_caching=False)


def cached(work: Work, seed: int) -> nn.Module:
    """Train a student on logits that are computed once."""
    return _train(work, seed, is_caching=True)


def _train(work: Work, seed: int, *, is_caching: bool) -> nn.Module:
    student, rows = OfBatch(work.student(seed)), TensorDataset(work.train.images, work.train.labels_N)
    weights = {"kd_loss_weight": KL_WEIGHT, "hard_label_weight": LABELS_WEIGHT}
    with tempfile.TemporaryDirectory() as folder:
        distiller = MultiTeacherDistiller(
            TrainingConfig(device="cpu", output_dir=folder),
            DistillationConfig(temperature=1, is_caching_logits=is_caching, **weights),
            model_T=[OfBatch(teacher) for teacher in work.teachers()],
            model_S=student,
            adaptor_T=lambda batch, logits_NC: {"logits": (logits_NC,)},
            adaptor_S=lambda batch, logits_NC: {
                "logits": (logits_NC,),
                "losses": (F.cross_entropy(logits_NC, batch[1]),),
            },
        )
        with distiller:
            distiller.train(
                work.optimizer(student),
                DataLoader(rows, batch_size=work.size.batch_size, shuffle=True),
                num_epochs=work.size.epochs,
                scheduler_class=torch.optim.lr_scheduler.CosineAnnealingLR,
                scheduler_args={"T_max": work.num_steps},
            )
    return student.model
