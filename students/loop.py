"""The training loop: plain PyTorch, the same for a teacher that is fitted, a lone student and a distilled one.

The state of a training is its weights, its optimizer and one integer. Batches, learning rate and random numbers
are pure functions of the step, so a training that was killed anywhere ends with the weights of one that was not.
"""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from cluster.identity import digest_of
from cluster.memory import keep_freed_memory
from cluster.models import ModelConfig
from cluster.modules import build_module, check_shapes, in_fast_layout, num_parameters, save_weights
from cluster.optimizers import learning_rate
from cluster.shards.records import publish_record, read_record
from cluster.storage.protocol import ObjectStore
from cluster.tapping import Tapped, blank_rows, shapes_of_taps
from students.batches import TrainingData
from students.blend import step_blend
from students.checkpoints import clear_checkpoints, save_checkpoint, take_up
from students.cohorts.codistillation import CodistillationCohort
from students.divergence import TrainingDivergedError
from students.exchange import Awaited, Exchange
from students.exits import packed_exits
from students.group import Group, chunks, fold_seed, seed_torch
from students.held_out import HeldOut
from students.live import LiveTeachers
from students.members import close_cohort, members_of
from students.objectives.average import average_for, buffers_alike
from students.objectives.objective import Batch, Objective
from students.online import beginnings, learner_of
from students.optimizer import build_optimizer
from students.task import EpochPoint, Execution, ProgressRecord, TrainedRecord, TrainingTask
from students.turns import take_turns

_STEPS_BETWEEN_CHECKS = 10
"""Steps after which the workers agree on whether a checkpoint is due."""

_REPORT_EVERY_S = 1.0


def train(store: ObjectStore, task: TrainingTask, execution: Execution, group: Group) -> TrainedRecord:
    """Carry out a training from wherever it stands, and return its record; rank 0 writes.

    Members of a cohort that exchange weights take turns in this group.

    Raises:
        TrainingDivergedError: the loss is not finite.
        LabelsLateError: labels stopped arriving.
        ForeignCheckpointError: the checkpoint is of another training.
        PeerLateError: another member of the cohort has stopped.
    """
    wait = partial(Awaited.wait, store=store, timeout_s=execution.labels_timeout_s)
    if isinstance(task.cohort, CodistillationCohort):
        take_turns([turns(store, member, execution, group) for member in members_of(task)], wait)
        group.from_first(0)  # nobody looks for the record of the cohort before it is there
    else:
        for awaited in turns(store, task, execution, group):
            wait(awaited)
    return read_record(store, task.record_key, TrainedRecord)


def turns(store: ObjectStore, task: TrainingTask, execution: Execution, group: Group) -> Generator[Awaited]:
    """Carry out a training as `train` does, and yield whatever of its peers is not there when it is needed."""
    if not group.from_first(int(store.exists(task.record_key))):
        yield from _Training(store, task, execution, group).turns()
    elif group.rank == 0:
        clear_checkpoints(store, task)  # of an attempt that was killed after it had published
    if group.rank == 0:
        close_cohort(store, task)


class _Training:
    """One attempt."""

    def __init__(self, store: ObjectStore, task: TrainingTask, execution: Execution, group: Group) -> None:
        torch.set_num_threads(execution.threads)
        keep_freed_memory()
        self._store, self._task, self._execution, self._group = store, task, execution, group
        self._live = LiveTeachers(store, task, group.device)
        self._data = TrainingData(store, task, execution, rank=group.rank, world_size=group.world_size, live=self._live)
        self._held_out = HeldOut(store, task.held_out, task.model.inputs, group)
        modules = [self._built(model, seed) for model, seed in beginnings(task)]
        self._learner = learner_of(
            task,
            modules,
            self._objective,
            sample=self._held_out.sample(),
            labelled_share=self._data.labelled_share,
            is_compiled=execution.compile,
        ).to(group.device)
        self._module = self._learner.module
        remembered = [f"objective.{name}" for name in buffers_alike(self._learner.objective)]
        self._wrapped = group.wrap(self._learner, alike=remembered)
        self._optimizer = build_optimizer(task.optimizer, self._learner)
        self._steps_per_epoch = self._data.order(0).num_steps
        self._num_steps = self._steps_per_epoch * task.epochs
        self._exchange = Exchange(store, task, group, steps_per_epoch=self._steps_per_epoch)
        self._step, self._saved_step, self._rows, self._points = 0, 0, 0, tuple[EpochPoint, ...]()
        self._loss_sum, self._loss_here = 0.0, torch.zeros((), dtype=torch.float64)
        self._waited_s, self._reported_s, self._saved_at_s = 0.0, 0.0, time.monotonic()

    def _built(self, model: ModelConfig, seed: int) -> nn.Module:
        """Build a student, and check that it fits the data."""
        seed_torch(fold_seed(seed), self._group.device)
        module = in_fast_layout(build_module(model)).to(self._group.device)
        check_shapes(module, self._held_out.sample(), num_classes=self._data.num_classes, factory=model.factory)
        return module

    def _objective(self, tapped: Tapped, seed: int) -> Objective:
        """Build what is minimised; what terms learn begins alike on every worker, whatever the student has drawn."""
        shapes = self._data.shapes()
        live = self._live.shapes(blank_rows(self._data.columns))
        shapes = replace(
            shapes,
            student_taps=shapes_of_taps(tapped, self._held_out.sample()),
            teacher_taps={**shapes.teacher_taps, **live},
            heads={head: tuple(weight.shape) for head, (weight, _) in self._live.heads.items()},
        )
        seed_torch(fold_seed(seed, 0), self._group.device)
        return Objective(
            self._task.objective,
            labelled_share=self._data.labelled_share,
            shapes=shapes,
            heads=self._live.heads,
            blend=step_blend(
                self._task.targets,
                num_classes=self._data.num_classes,
                num_inputs=self._held_out.sample()[0].numel(),
                labelled_share=self._data.labelled_share,
                sum_over_workers=self._group.sum,
            ),
            average=average_for(self._task.objective, tapped, is_half=self._task.precision == "bfloat16"),
            gather=self._group.gather_rows,
            world_size=self._group.world_size,
        )

    def turns(self) -> Generator[Awaited]:
        """Resume, train every epoch that is left, and publish."""
        started_s = time.monotonic()
        self._restore()
        with closing(self._data.batches(first_step=self._step, device=self._group.device)) as batches:
            while self._step < self._num_steps:
                yield from self._train_epoch(batches)
                self._close_epoch()
        self._publish(seconds=time.monotonic() - started_s)

    def _train_epoch(self, batches: Iterator[Batch]) -> Generator[Awaited]:
        order = self._data.order(self._step // self._steps_per_epoch)
        self._learner.train()
        for step_in_epoch in range(self._step % self._steps_per_epoch, order.num_steps):
            yield from self._enter_round()
            asked_s = time.monotonic()
            batch = next(batches)
            self._waited_s += time.monotonic() - asked_s
            self._update(batch, global_rows=order.batch_rows(step_in_epoch))
            self._step += 1
            self._learner.follow(step=self._step)
            self._rows += order.batch_rows(step_in_epoch)
            if self._step % _STEPS_BETWEEN_CHECKS == 0 and step_in_epoch + 1 < order.num_steps:
                self._checkpoint_if_due()

    def _enter_round(self) -> Generator[Awaited]:
        """Leave for the peers what a round has ended with, and take in what they have left."""
        self._exchange.show_life()
        if not self._exchange.is_due(self._step):
            return
        if self._exchange.publishes(self._step):
            self._group.share_buffers(self._module)
            self._save()  # first: who has published a round never asks for an earlier one again
            self._exchange.publish(self._step, self._module)
        yield from self._exchange.listen(self._step)

    def _update(self, batch: Batch, *, global_rows: int) -> None:
        """Take one optimizer step on a global batch."""
        seed_torch(fold_seed(self._task.seed, self._step, self._group.rank), self._group.device)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._task.optimizer, step=self._step, num_steps=self._num_steps)
        parts = list(chunks(len(batch), self._execution.accumulate))
        for part in parts[:-1]:
            with self._group.without_exchange(self._wrapped):
                self._backward(batch.part(part), global_rows)
        self._backward(batch.part(parts[-1]), global_rows)
        if self._task.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._learner.parameters(), self._task.optimizer.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _backward(self, batch: Batch, global_rows: int) -> None:
        batch = self._exchange.heard(self._live.watched(batch))
        loss = self._wrapped(batch, global_rows=global_rows, progress=self._step / self._num_steps)
        # DDP averages gradients over the workers; their sum is the gradient of the global batch.
        (loss * self._group.world_size).backward()
        self._loss_here += loss.detach().to("cpu", torch.float64)

    def _gather_loss(self) -> None:
        """Add what every worker has seen since the last time, so that rank 0 alone can save it."""
        self._loss_sum += float(self._group.sum(self._loss_here))
        self._loss_here.zero_()
        self._check(self._loss_sum)

    def _check(self, loss: float) -> None:
        """Refuse to go on, and to save anything, once a loss is no number. All workers see the same, and all stop."""
        if not math.isfinite(loss):
            raise TrainingDivergedError(self._task.name, math.ceil(self._step / self._steps_per_epoch), loss)

    def _close_epoch(self) -> None:
        """Note how the epoch went, on training and held-out rows."""
        self._gather_loss()
        epoch = self._step // self._steps_per_epoch
        loss = self._loss_sum / self._steps_per_epoch
        self._group.share_buffers(self._learner.published)  # so that what is scored is what rank 0 saves
        # The last update of the epoch may have broken the weights.
        self._points += (self._learner.point(self._held_out, epoch=epoch, loss=loss, check=self._check),)
        self._loss_sum = 0.0
        self._report()
        if self._step < self._num_steps:
            self._checkpoint_if_due()

    def _report(self) -> None:
        is_last = self._step == self._num_steps
        if self._group.rank == 0 and (is_last or time.monotonic() - self._reported_s >= _REPORT_EVERY_S):
            self._reported_s = time.monotonic()
            last = self._points[-1]
            progress = ProgressRecord(
                epoch=last.epoch,
                epochs=self._task.epochs,
                loss=last.loss,
                accuracy=last.accuracy,
                members=tuple(member.accuracy for member in last.members),
            )
            self._store.put(self._task.progress_key, progress.model_dump_json().encode())

    def _checkpoint_if_due(self) -> None:
        """Save if rank 0's clock says so; all workers take part, because the loss is spread over them."""
        is_due = time.monotonic() - self._saved_at_s >= self._execution.checkpoint_every_s
        if self._group.from_first(int(is_due)):
            self._save()

    def _save(self) -> None:
        """Save the state, unless it is what was saved last."""
        if self._step == self._saved_step:
            return
        self._gather_loss()
        if self._group.rank == 0:
            state = {
                "module": self._module.state_dict(),
                "objective": self._learner.objective.state_dict(),
                "optimizer": self._optimizer.state_dict(),
            }
            save_checkpoint(
                self._store, self._task, state, step=self._step, points=self._points, loss_sum=self._loss_sum
            )
        self._saved_step, self._saved_at_s = self._step, time.monotonic()

    def _restore(self) -> None:
        found = take_up(self._store, self._task, self._group)
        if found is None:
            return
        record, state = found
        self._module.load_state_dict(state["module"])
        self._learner.objective.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._points, self._loss_sum = record.step, record.points, record.loss_sum
        self._saved_step = record.step

    def _publish(self, *, seconds: float) -> None:
        learnt = self._learner.learnt(self._points)
        body = save_weights(learnt.module)
        digest = digest_of(body)
        exits = packed_exits(self._task.prefix, learnt.heads)
        record = TrainedRecord(
            identity=self._task.identity,
            weights_key=f"{self._task.prefix}/{digest}.safetensors",
            weights_digest=digest,
            num_bytes=len(body),
            parameters=num_parameters(learnt.module),
            points=learnt.points,
            rows=self._rows,
            seconds=seconds,
            waited_s=self._waited_s,
            exits=tuple(found for found, _ in exits),
            exported=learnt.exported,
            members=learnt.members,
        )
        if self._group.rank == 0:
            self._store.put(record.weights_key, body)
            for found, weights in exits:
                self._store.put(found.weights.key, weights)
            publish_record(self._store, self._task.record_key, record)
            clear_checkpoints(self._store, self._task)
        self._group.from_first(0)  # nobody leaves before the record is there
