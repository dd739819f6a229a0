"""A teacher as a Ray Serve application: one request is one shard, read from the store and committed to it.

The compute thread never waits for bytes: while it runs one shard, the I/O threads read the next one and write the
last one. Everything about a request streams back, so that the driver can tell a slow replica from a stuck one.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import ray
import torch
from ray import serve

from cluster.failures import redacting
from cluster.memory import keep_freed_memory
from cluster.shards.commits import Commit
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.schema import LABEL
from cluster.shards.views.look import look
from cluster.storage.patience import PatientStore, open_patiently
from cluster.weights import StoredWeights
from teachers.backends.load import load_backend
from teachers.labeller import Labeller
from teachers.lifeline import LIFELINE_NAMESPACE
from teachers.spec import ReplicaRange, TeacherConfig

REQUESTS_PER_REPLICA = 2
"""One that is computed and one whose bytes are on their way."""

START_TIMEOUT_S = 600.0
"""Longest wait for a replica that is to take requests, such as while a dead one's successor loads its model."""

_HEARTBEAT_S = 0.5


@dataclass(frozen=True)
class ReplicaSetup:
    """What a replica needs to come to life, on whatever node."""

    store_uri: str
    config: TeacherConfig
    weights: StoredWeights
    lifeline: str = ""
    """Name of an actor that lives as long as the driver; a teacher without a driver takes itself down."""


@dataclass(frozen=True)
class LabelRequest:
    """One shard of one label set."""

    record: LabelSetRecord
    number: int


@dataclass(frozen=True)
class Accepted:
    """First answer: which process has the request."""

    replica: str
    """Name of the actor, by which it can be stopped."""


@dataclass(frozen=True)
class Alive:
    """A sign of life: how many batches the replica has computed, for whatever request."""

    batches: int
    rows: int
    """Rows of this request so far."""
    awaits_store: bool = False
    """Whether it waits for a store that does not answer, which it does for a bounded time."""


@dataclass(frozen=True)
class Labelled:
    """Last answer: the commit that counts, and how many rows this request computed (0 if another was first)."""

    commit: Commit
    rows_computed: int


Answer = Accepted | Alive | Labelled


class TeacherReplica:
    """One process that holds the model."""

    def __init__(self, setup: ReplicaSetup) -> None:
        threads = setup.config.resources.num_threads
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._setup = setup
        self._store = open_patiently(setup.store_uri)
        with redacting():
            backend = load_backend(self._store, setup.config, setup.weights, on=setup.config.resources)
        self._labeller = Labeller(setup.config.name, backend, setup.config.batch_size)
        # torch's thread count is one per Python thread: without the initializer every new thread takes all cores.
        self._compute = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
        self._io = ThreadPoolExecutor(2)
        self._batches = 0
        self._datasets: dict[str, Dataset] = {}
        self._label_sets: dict[str, LabelSet] = {}

    async def label(self, request: LabelRequest) -> AsyncIterator[Answer]:
        """Label one shard and commit it; yields `Accepted`, some `Alive`, and `Labelled`."""
        yield Accepted(ray.get_runtime_context().get_actor_name() or "")
        work = asyncio.ensure_future(self._label(request, progress := _Progress()))
        try:
            while not (await asyncio.wait({work}, timeout=_HEARTBEAT_S))[0]:
                yield Alive(self._batches, progress.rows, awaits_store=self._awaits_store)
            yield work.result()
        finally:
            work.cancel()

    @property
    def _awaits_store(self) -> bool:
        return isinstance(self._store, PatientStore) and self._store.is_waiting

    async def check_health(self) -> None:
        """Called by Serve every few seconds: delete the application once its driver is gone.

        Serve's applications outlive the process that deployed them; after a `kill -9` of the driver, teachers
        would hold their machines for ever.
        """
        # Not in the I/O threads: a slow store must not look like a sick replica.
        await asyncio.get_running_loop().run_in_executor(None, self._leave_if_orphaned)

    def _leave_if_orphaned(self) -> None:
        try:
            ray.get_actor(self._setup.lifeline, namespace=LIFELINE_NAMESPACE)
        except ValueError:
            serve.delete(serve.get_replica_context().app_name, _blocking=False)

    async def _label(self, request: LabelRequest, progress: "_Progress") -> Labelled:
        loop = asyncio.get_running_loop()
        with redacting():
            labels, arrays = await loop.run_in_executor(self._io, self._read, request)
            if isinstance(arrays, Commit):
                return Labelled(arrays, 0)
            outputs = await loop.run_in_executor(self._compute, self._forward, request, arrays, progress)
            commit = await loop.run_in_executor(self._io, self._labeller.commit, labels, request.number, outputs)
            return Labelled(commit, progress.rows)

    def _read(self, request: LabelRequest) -> tuple[LabelSet, Mapping[str, np.ndarray] | Commit]:
        """Return the input columns, or the commit if there is one: what is labelled is never computed again."""
        record = request.record
        labels = self._label_sets.setdefault(record.identity, LabelSet(self._store, record))
        if (commit := labels.committed(request.number)) is not None:
            return labels, commit
        if record.dataset not in self._datasets:
            self._datasets[record.dataset] = Dataset.open(self._store, record.dataset)
        arrays = self._datasets[record.dataset].read(request.number)
        return labels, look({name: array for name, array in arrays.items() if name != LABEL}, record.view)

    def _forward(
        self, request: LabelRequest, arrays: Mapping[str, np.ndarray], progress: "_Progress"
    ) -> dict[str, np.ndarray]:
        def advance(rows: int) -> None:
            self._batches += 1
            progress.rows = rows

        return self._labeller.outputs(request.record, request.number, arrays, on_batch=advance)


class _Progress:
    """Rows of one request so far; written by the compute thread, read by the event loop."""

    rows = 0


def application(setup: ReplicaSetup) -> serve.Application:
    """Return the Serve application of one teacher."""
    config = setup.config
    options: dict[str, object] = {
        "name": config.name,
        "max_ongoing_requests": REQUESTS_PER_REPLICA,
        "ray_actor_options": config.resources.ray_options,
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 30.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        "graceful_shutdown_timeout_s": 2.0,
    }
    match config.replicas:
        case int(count):
            options["num_replicas"] = count
        case ReplicaRange(min=low, max=high):
            # A replica that is taken down because little is left to do may be in the middle of a shard.
            options["graceful_shutdown_timeout_s"] = config.stall_timeout_s
            options["autoscaling_config"] = {
                "min_replicas": low,
                "max_replicas": high,
                "target_ongoing_requests": REQUESTS_PER_REPLICA,
                "upscale_delay_s": 2.0,
                "downscale_delay_s": 10.0,
                "metrics_interval_s": 1.0,
                "look_back_period_s": 2.0,
            }
    return serve.deployment(TeacherReplica).options(**options).bind(setup)
