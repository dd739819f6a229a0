"""From the store to batches on a device: input shards zipped with the label shards of the same number."""

import itertools
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from cluster.modules import input_array, to_inputs
from cluster.shards.ahead import ShardsAhead, prefetched
from cluster.shards.cache import fetch_for, gives_files, readings_until_cheap
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.order import EpochOrder, lanes_of_worker
from cluster.shards.reader import read_batches
from cluster.shards.schema import LABEL, Column
from cluster.shards.views.look import OWN_SHARE, PARTNER_LABEL, look
from cluster.shards.views.spec import View
from cluster.storage.protocol import ObjectStore
from students.arrivals import await_shard
from students.blend import fuse_rows, names_of
from students.ensembles.ensemble import Ensemble
from students.label_columns import ROWS, LabelColumns, Stored
from students.live import LiveTeachers
from students.objectives.catalogue import TermConfig
from students.objectives.objective import Batch
from students.objectives.sparse_target import SparseTarget
from students.objectives.term import Input, Shapes
from students.spec import OrderConfig
from students.task import Execution, TrainingTask

_READ_AHEAD = 2
# Memory for the windows of all lanes, counting input columns alone: another teacher changes no order. The first size
# stays in a processor's cache and below the blocks that glibc always gives back to the kernel. The last one is for rows
# so large that the first would leave next to nothing to shuffle.
_WINDOWS_BYTES = 24 * 1024 * 1024
_SHUFFLED_ROWS, _MOST_SHUFFLED_ROWS = 128, 2048
_LARGEST_WINDOWS_BYTES = 256 * 1024 * 1024


class TrainingData:
    """One worker's share of a task's batches."""

    def __init__(
        self,
        store: ObjectStore,
        task: TrainingTask,
        execution: Execution,
        *,
        rank: int,
        world_size: int,
        live: LiveTeachers | None = None,
    ) -> None:
        self._store, self._task, self._execution, self._live = store, task, execution, live
        self._fetch = fetch_for(store)
        self._dataset = Dataset.open(store, task.dataset, fetch=self._fetch)
        self._lanes = lanes_of_worker(rank, world_size, task.order.lanes)
        self._reads = frozenset[Input]().union(*(term.reads for term in task.objective))
        self._read_at = target_temperature(task.objective)
        # A target that no term reads needs no labels, and nothing that is learned of them.
        self._targets = task.targets if self._reads & {"target", "sparse"} else None
        self._ensemble = Ensemble.open(store, self._targets) if self._targets else None
        self._labels = dict[int, LabelColumns]()
        """Of the view that is read, and those that are read ahead, by number."""
        self._needs_rows = any(term.needs_rows for term in task.objective)
        record = self._dataset.record
        self._first_rows = [0, *itertools.accumulate(shard.rows for shard in record.shards)]
        self.columns = record.columns
        self.labelled_share = record.labelled_rows / record.rows
        self.num_classes = len(record.classes)

    def shapes(self) -> Shapes:
        """Return what is known of the rows, and of outputs that are stored with them."""
        taps = self._labels_of(0).shapes()
        return Shapes(num_rows=self._dataset.record.rows, num_classes=self.num_classes, teacher_taps=taps)

    def order(self, epoch: int) -> EpochOrder:
        """Return the order of one epoch."""
        return epoch_order(
            self._dataset, self._task.order, batch_size=self._task.batch_size, seed=self._task.seed, epoch=epoch
        )

    def batches(self, *, first_step: int, device: torch.device) -> Generator[Batch]:
        """Yield this worker's part of every global batch from `first_step` of the whole training on, read ahead."""
        return prefetched(self._converted(self._read_from(first_step), device), depth=_READ_AHEAD)

    def _read_from(self, first_step: int) -> Iterator[tuple[LabelColumns, dict[str, np.ndarray]]]:
        # One stream over all epochs: the first batch of an epoch is read while the last one is learnt from.
        first_epoch, step = divmod(first_step, self.order(0).num_steps)
        starts = [(epoch, step if epoch == first_epoch else 0) for epoch in range(first_epoch, self._task.epochs)]
        shards = ShardsAhead(
            self._read_shard,
            (
                self._place(epoch, number)
                for epoch, step in starts
                for number in self.order(epoch).openings(self._lanes, step)
            ),
            is_ready=self._is_labelled,
            readings_until_cheap=lambda: math.inf if self._task.views else readings_until_cheap(self._fetch),
        )
        for epoch, step in starts:
            read, view = partial(self._shard_in, epoch, shards), self._view_in(epoch)
            for arrays in read_batches(read, self.order(epoch), lanes=self._lanes, first_step=step):
                yield self._labels_of(view), arrays
            if self._view_in(epoch + 1) != view:
                # Its shards may be open still, and a process may open so many files and no more.
                self._labels.pop(view, None)

    def _converted(
        self, read: Iterator[tuple[LabelColumns, dict[str, np.ndarray]]], device: torch.device
    ) -> Iterator[Batch]:
        # This body runs in the read-ahead thread, where torch would take every core for itself.
        torch.set_num_threads(1)
        for labels, arrays in read:
            yield self._batch(labels, arrays, device)

    def _batch(self, labels: LabelColumns, arrays: Mapping[str, np.ndarray], device: torch.device) -> Batch:
        config = self._task.model.inputs
        inputs = to_inputs(input_array(arrays, config), config)
        stored, is_mixed = labels.stored(arrays), PARTNER_LABEL in arrays
        target, each = self._of_teachers(labels, stored, arrays)
        taps = {tap: output.to(device, non_blocking=True) for tap, output in labels.taps(stored).items()}
        teacher_inputs = {} if self._live is None else self._live.inputs(arrays)
        return Batch(
            inputs.to(device, non_blocking=True),
            _class_indices(arrays[LABEL]).to(device, non_blocking=True),
            None if target is None else target.to(device, non_blocking=True),
            torch.from_numpy(arrays[ROWS]).to(device, non_blocking=True) if self._needs_rows else None,
            taps,
            teacher_logits={name: logits.to(device, non_blocking=True) for name, logits in each.items()},
            teacher_inputs={name: given.to(device, non_blocking=True) for name, given in teacher_inputs.items()},
            sparse=self._sparse_target(labels, stored, device),
            partner_labels_N=_class_indices(arrays[PARTNER_LABEL]).to(device, non_blocking=True) if is_mixed else None,
            own_shares_N=torch.from_numpy(arrays[OWN_SHARE]).to(device, non_blocking=True) if is_mixed else None,
        )

    def _sparse_target(self, labels: LabelColumns, stored: Stored, device: torch.device) -> SparseTarget | None:
        if "sparse" not in self._reads:
            return None
        return SparseTarget.of(labels.sparse(stored, temperature=self._read_at)).to(device)

    def _of_teachers(
        self, labels: LabelColumns, stored: Stored, arrays: Mapping[str, np.ndarray]
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """Return what the teachers say as one, if that is known before the step, and each by itself, if asked for."""
        targets = self._targets
        if targets is None or self._ensemble is None or "target" not in self._reads:
            return None, {}
        logits = labels.logits(stored, temperature=self._read_at)
        log_probs_KNC = self._ensemble.calibrated(logits)
        names = self._ensemble.used(names_of(targets))
        is_blended = targets.weighting.changes_with_training
        fused = None if is_blended else fuse_rows(self._ensemble, targets.weighting, names, log_probs_KNC, arrays)
        return fused, dict(zip(names, log_probs_KNC, strict=True)) if self._task.needs_each_teacher else {}

    def _view(self, number: int) -> View | None:
        return None if self._task.views is None else self._task.views.view(number)

    def _view_in(self, epoch: int) -> int:
        return 0 if self._task.views is None else self._task.views.number_in(epoch)

    def _place(self, epoch: int, number: int) -> int:
        """Return a number of its own for a shard in the view that an epoch sees."""
        return self._view_in(epoch) * len(self._dataset.record.shards) + number

    def _shard_in(self, epoch: int, shards: ShardsAhead, number: int) -> Mapping[str, np.ndarray]:
        return shards(self._place(epoch, number))

    def _labels_of(self, view: int) -> LabelColumns:
        # Two threads may open the same view at once; either result will do.
        labels = self._labels.get(view)
        if labels is None:
            parts = self._ensemble.used(self._targets.parts) if self._targets and self._ensemble else []
            labels = LabelColumns(self._task, parts, partial(self._open_labels, self._view(view)))
            labels.keep_within(self.order(0), num_lanes=len(self._lanes), are_files=gives_files(self._fetch))
            self._labels[view] = labels
        return labels

    def _open_labels(self, view: View | None, record: LabelSetRecord) -> LabelSet:
        labels = LabelSet(self._store, record.seen(view), fetch=self._fetch)
        if labels.is_sealed():
            labels.load_manifest()
        return labels

    def _read_shard(self, place: int) -> dict[str, np.ndarray]:
        view, number = divmod(place, len(self._dataset.record.shards))
        arrays = look(self._dataset.read(number), self._view(view))
        inputs = input_array(arrays, self._task.model.inputs)
        labels, of_weighting = self._labels_of(view), self._targets.weighting.column_read if self._targets else None
        kept = {LABEL, PARTNER_LABEL, OWN_SHARE, of_weighting}
        columns = {name: array for name, array in arrays.items() if name in kept or array is inputs}
        columns |= {} if self._live is None else self._live.columns(arrays)
        if self._needs_rows or labels.needs_rows:
            columns[ROWS] = np.arange(*self._first_rows[number : number + 2], dtype=np.int64)
        for label_set in labels.label_sets:
            await_shard(label_set, number, timeout_s=self._execution.labels_timeout_s)
        return columns | labels.read(number)

    def _is_labelled(self, place: int) -> bool:
        view, number = divmod(place, len(self._dataset.record.shards))
        return all(labels.committed(number) is not None for labels in self._labels_of(view).label_sets)


def epoch_order(dataset: Dataset, config: OrderConfig, *, batch_size: int, seed: int, epoch: int) -> EpochOrder:
    """Return the order of one epoch over a data set."""
    return EpochOrder(
        [shard.rows for shard in dataset.record.shards],
        lanes=config.lanes,
        window_rows=config.window_rows or default_window_rows(dataset.record.columns, lanes=config.lanes),
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
    )


def default_window_rows(columns: tuple[Column, ...], *, lanes: int) -> int:
    """Return the rows of a lane's window when the windows of all lanes are held in memory."""
    row_bytes = lanes * sum(column.row_bytes for column in columns)
    least = min(_SHUFFLED_ROWS, _LARGEST_WINDOWS_BYTES // row_bytes)
    return max(1, least, min(_MOST_SHUFFLED_ROWS, _WINDOWS_BYTES // row_bytes))


def target_temperature(objective: Sequence[TermConfig]) -> float:
    """Return the temperature at which targets are read: that of the terms that match the teachers, if they agree.

    Where they don't, only codecs that serve any temperature are read, and their logits are the same at all.
    """
    found = {term.target_temperature for term in objective if term.reads & {"target", "sparse"}}
    return (found.pop() or 1.0) if len(found) == 1 else 1.0


def _class_indices(labels_N: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(labels_N.astype(np.int64))
