"""A loop by hand on tensors in memory: with teachers that run beside the student, or asked once before."""

import torch
from torch import nn

from benchmarks.peers.work import Work, loss


def live(work: Work, seed: int) -> nn.Module:
    """Train a student; the teachers run on every batch."""
    return _train(work, seed, cached_NC=None)


def cached(work: Work, seed: int) -> nn.Module:
    """Train a student on the mean logits of teachers that ran once on every row."""
    teachers = work.teachers()
    with torch.inference_mode():
        means = [_mean(teachers, images) for images in work.train.images.split(work.size.batch_size)]
    return _train(work, seed, cached_NC=torch.cat(means).clone())


def _train(work: Work, seed: int, *, cached_NC: torch.Tensor | None) -> nn.Module:
    student, teachers, rows = work.student(seed), work.teachers(), work.train
    optimizer = work.optimizer(student)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, work.num_steps)
    for _ in range(work.size.epochs):
        for batch in torch.randperm(len(rows.labels_N)).split(work.size.batch_size):
            images = rows.images[batch]
            with torch.no_grad():
                target_NC = _mean(teachers, images) if cached_NC is None else cached_NC[batch]
            optimizer.zero_grad()
            loss(student(images), target_NC, rows.labels_N[batch]).backward()
            optimizer.step()
            schedule.step()
    return student


def _mean(teachers: list[nn.Module], images: torch.Tensor) -> torch.Tensor:
    return torch.stack([teacher(images) for teacher in teachers]).mean(dim=0)
