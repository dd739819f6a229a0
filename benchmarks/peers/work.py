"""The work that all do: the same rows, weights of the teachers, student, objective, optimizer and steps.

The target is the mean of the teachers' logits at T = 1, the loss 0.9 KL and 0.1 cross-entropy with the labels; AdamW
with a cosine to zero, step by step.
"""

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from examples.models import DeepCNN, PatchCNN, SmallCNN, WideCNN

KL_WEIGHT, LABELS_WEIGHT = 0.9, 0.1
TEACHERS = {"wide": WideCNN, "deep": DeepCNN, "patch": PatchCNN}


@dataclass(frozen=True)
class Size:
    """How much work it is."""

    rows: int
    channels: int
    """Width of the teachers."""
    epochs: int
    held_out: int = 256
    """Rows that Coffey keeps for choices; nobody trains on them."""
    batch_size: int = 256
    lr: float = 0.004


@dataclass(frozen=True)
class Rows:
    """Images float32 `[N, 1, 28, 28]` in [0, 1], labels int64 `[N]`."""

    images: torch.Tensor
    labels_N: torch.Tensor


class Work:
    """A folder that holds the rows and the teachers."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size = folder, size

    @classmethod
    def open(cls, folder: Path) -> "Work":
        """Return the work that was prepared in `folder`."""
        return cls(folder, Size(**json.loads((folder / "size.json").read_text())))

    def prepare(self, teacher_epochs: int) -> None:
        """Write rows and teachers. Nobody's time."""
        from orchestrator.load import load_spec  # peers are not to wait for what they do not need
        from orchestrator.sources.read import read_source

        source = read_source(load_spec(Path("examples/fashion.yaml")).data)
        for split, rows, count in (("train", source.train, self.size.rows), ("test", source.test, None)):
            image, label = rows.columns["image"][:count], rows.labels_N[:count].astype(np.int32)
            np.savez(self.folder / f"{split}.npz", image=image, label=label)
        (self.folder / "size.json").write_text(json.dumps(asdict(self.size)))
        for name, factory in TEACHERS.items():
            torch.manual_seed(0)
            model = factory(channels=self.size.channels)
            _fit(model, self.train, teacher_epochs)
            safetensors.torch.save_file(model.state_dict(), self.weights(name))

    def weights(self, model: str) -> Path:
        """Return where the weights of a teacher, or of the student, lie."""
        return self.folder / f"{model}.safetensors"

    @functools.cached_property
    def train(self) -> Rows:
        """The rows that a student learns from."""
        rows = self._read("train")
        return Rows(rows.images[self.size.held_out :], rows.labels_N[self.size.held_out :])

    @property
    def num_steps(self) -> int:
        """Updates of a training."""
        return -(-len(self.train.labels_N) // self.size.batch_size) * self.size.epochs

    def teachers(self) -> list[nn.Module]:
        """Return the teachers as they label."""
        models = []
        for name, factory in TEACHERS.items():
            model = factory(channels=self.size.channels)
            model.load_state_dict(safetensors.torch.load_file(self.weights(name)))
            models.append(model.eval().requires_grad_(False))
        return models

    def student(self, seed: int) -> nn.Module:
        """Return a new student."""
        torch.manual_seed(seed)
        return SmallCNN()

    def optimizer(self, student: nn.Module) -> torch.optim.Optimizer:
        """Return what updates it."""
        return torch.optim.AdamW(student.parameters(), lr=self.size.lr, weight_decay=0.0)

    def hand_in(self, student: nn.Module) -> None:
        """Write a trained student."""
        safetensors.torch.save_file(student.state_dict(), self.weights("student"))

    @torch.inference_mode()
    def accuracy(self) -> float:
        """Return the share of the test rows of which the student that was handed in last knows the class."""
        student, rows = self.student(0), self._read("test")
        student.load_state_dict(safetensors.torch.load_file(self.weights("student")))
        found = torch.cat([student.eval()(images).argmax(dim=1) for images in rows.images.split(1024)])
        return (found == rows.labels_N).float().mean().item()

    def _read(self, split: str) -> Rows:
        with np.load(self.folder / f"{split}.npz") as arrays:
            images, labels = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["label"])
        return Rows(images.reshape(-1, 1, 28, 28) / 255.0, labels.long())


def loss(logits_NC: torch.Tensor, target_NC: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return what the student minimises; `target_NC` are logits."""
    kl = F.kl_div(logits_NC.log_softmax(1), target_NC.log_softmax(1), log_target=True, reduction="batchmean")
    return KL_WEIGHT * kl + LABELS_WEIGHT * F.cross_entropy(logits_NC, labels_N)


def _fit(model: nn.Module, rows: Rows, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, weight_decay=0.05)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows.labels_N)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(rows.images[batch]), rows.labels_N[batch]).backward()
            optimizer.step()
