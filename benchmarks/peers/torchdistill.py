"""torchdistill 1.1: its distillation box knows one teacher, so the three are one module that gives their mean."""

import torch
from torch import nn
from torch.utils.data import RandomSampler, TensorDataset

from benchmarks.peers.vision import import_torchvision
from benchmarks.peers.work import LABELS_WEIGHT, Work

import_torchvision()
from torchdistill.core.distillation import get_distillation_box  # noqa: E402


class Mean(nn.Module):
    """Teachers as one."""

    def __init__(self, teachers: list[nn.Module]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean of their logits."""
        return torch.stack([teacher(images) for teacher in self.teachers]).mean(dim=0)


def live(work: Work, seed: int) -> nn.Module:
    """Train a student."""
    student, cpu = work.student(seed), torch.device("cpu")
    rows = {"train": TensorDataset(work.train.images, work.train.labels_N)}
    box = get_distillation_box(Mean(work.teachers()), student, rows, _config(work), cpu, None, False, 1)
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for images, labels_N, more in box.train_data_loader:
            box.post_forward_process(loss=box.forward_process(images, labels_N, more))
        box.post_epoch_process()
    return student


def _config(work: Work) -> dict[str, object]:
    both = {"student_module_path": ".", "student_module_io": "output"}
    both |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    kd = {"key": "KDLoss", "kwargs": {**both, "temperature": 1.0, "alpha": LABELS_WEIGHT}}
    return {
        "num_epochs": work.size.epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": work.size.batch_size, "num_workers": 0},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": work.size.lr, "weight_decay": 0.0}},
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": work.num_steps}, "scheduling_step": 1},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}},
        },
    }
