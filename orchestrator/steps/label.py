"""Label: teachers on Ray Serve answer for every shard that is not committed, and every complete label set is sealed."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from ray.serve.handle import DeploymentHandle

from cluster.daemons import aside
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from orchestrator.context import RunContext
from orchestrator.planning.planned import PlannedStep
from orchestrator.resolution.labellers import ResolvedTeacher
from orchestrator.resolution.weights import put_weights, weights_of
from students.batches import epoch_order
from teachers.deployment import LabelRequest, ReplicaSetup
from teachers.labelling import LabellingEvent, ReplicaReplaced, ShardFailed, ShardLabelled, label_shards


class Labelling:
    """One teacher's part of the label step."""

    def __init__(self, context: RunContext, teacher: ResolvedTeacher) -> None:
        self.teacher = teacher
        self.planned: PlannedStep = context.inspect().label(teacher)
        self._context = context
        self._records = context.inspect().needed(teacher)
        self._datasets = {record.identity: Dataset.open(context.store, record.dataset) for record in self._records}
        self._label_sets = {record.identity: LabelSet(context.store, record) for record in self._records}
        self._missing = self._find_missing()
        self.held_out_labelled = asyncio.Event()
        """Set once the held-out rows are labelled, on which calibration waits."""
        self._rows_done, self._rows_computed = self.planned.rows_done or 0, 0
        self._sealing: list[asyncio.Task[None]] = []

    @property
    def needs_teacher(self) -> bool:
        """Whether a shard is missing; a set may also merely lack its seal."""
        return any(self._missing.values())

    @property
    def requests(self) -> list[LabelRequest]:
        """The missing shards in the order in which calibration and training need them."""
        requests = []
        for record in self._records:
            missing = self._missing[record.identity]
            requests += [LabelRequest(record, number) for number in self._in_order(record) if number in missing]
        return requests

    def prepare(self) -> ReplicaSetup:
        """Write what replicas need into the store: descriptions of the label sets, and the weights."""
        for record in self._records:
            LabelSet.create(self._context.store, record)
        put_weights(self._context.store, self.teacher)
        return ReplicaSetup(self._context.store.uri, self.teacher.config, weights_of(self._context.store, self.teacher))

    def seal_complete(self) -> None:
        """Seal every set of which no shard is missing."""
        for record in self._records:
            self._seal_if_complete(record)

    def _seal_if_complete(self, record: LabelSetRecord) -> None:
        labels = self._label_sets[record.identity]
        if not self._missing[record.identity] and not labels.is_sealed():
            num_shards = len(self._datasets[record.identity].record.shards)
            labels.read_commits(range(num_shards))
            labels.seal(num_shards)

    async def run(self, handle: DeploymentHandle) -> None:
        """Have the missing shards labelled."""
        started_s = time.monotonic()
        self._context.started(self.planned)
        self._announce()
        await label_shards(
            handle,
            self.teacher.config,
            self.requests,
            on_event=self._note,
            start_timeout_s=self._context.job.spec.cluster.start_timeout_s,
        )
        await asyncio.gather(*self._sealing)
        self._context.finished(self.planned, seconds=time.monotonic() - started_s, rows=self._rows_computed)

    def _announce(self) -> None:
        if not self._missing[self.teacher.held_out.identity]:
            self.held_out_labelled.set()

    def _note(self, event: LabellingEvent) -> None:
        match event:
            case ShardLabelled(request=request, commit=commit, rows_computed=rows):
                self._rows_done += commit.rows
                self._rows_computed += rows
                self._context.teacher_rows += rows
                self._missing[request.record.identity].discard(request.number)
                self._label_sets[request.record.identity].remember(commit)
                if not self._missing[request.record.identity]:
                    self._sealing.append(asyncio.ensure_future(aside(partial(self._seal_if_complete, request.record))))
                self._announce()
                self._context.advanced(self.planned.name, self._rows_done)
            case ShardFailed(request=request, reason=reason, is_quarantined=True):
                self._context.said(f"{self.planned.name}: shard {request.number} is set aside: {reason}")
            case ShardFailed(request=request, reason=reason):
                self._context.said(f"{self.planned.name}: shard {request.number} is tried again: {reason}")
            case ReplicaReplaced(replica=replica):
                self._context.said(f"{self.planned.name}: replica {replica} made no progress and was replaced")

    def _find_missing(self) -> dict[str, set[int]]:
        inspection = self._context.inspect()
        return {record.identity: set(inspection.missing(record)) for record in self._records}

    def _in_order(self, record: LabelSetRecord) -> Sequence[int]:
        dataset, first = self._datasets[record.identity], self._context.job.trainings[0]
        if record not in self.teacher.views:
            return range(len(dataset.record.shards))
        epoch = self.teacher.views.index(record)  # the first that sees the view
        order = epoch_order(dataset, first.order, batch_size=first.batch_size, seed=first.seed, epoch=epoch)
        return order.shards_by_first_use()
