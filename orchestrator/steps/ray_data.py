"""Ray Data as the engine of an ingest: it moves opaque pieces, and has tasks of lost nodes repeated.

Its own readers of formats are not used: how they cut files into blocks depends on the size of the cluster, and they
lose the number of a row in its file, by which shards are the same everywhere.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data
import ray.exceptions
from ray.data.context import DataContext, ShuffleStrategy

from cluster.failures import own_error, reason_of, redacting
from cluster.tasks import TaskLostError
from orchestrator.steps.shuffling import ItemT, ResultT, ShardName

_NUMBER_BITS = 32


class RayData:
    """An `Engine` on the cluster that this process is connected to: one task for each item, and for each shard."""

    def __init__(self) -> None:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True  # ours, which speaks for itself, in place of one around it
        # Pieces wait for their shard as objects of Ray, which go to disk when they are many. The hash shuffle holds
        # them in the memory of actors, which has to grow with the data.
        context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[tuple[int, ResultT]]:
        """See `Engine`.

        Raises:
            TaskLostError: a task's process died more often than it is repeated.
        """

        def apply(row: dict[str, Any]) -> dict[str, Any]:
            with redacting():
                return {"place": row["place"], "result": _packed(function(_unpacked(row["item"])))}

        for row in _results(_dataset(items).map(apply)):
            yield row["place"], _unpacked(row["result"])

    def shuffle(
        self,
        cut: Callable[[ItemT], Iterator[tuple[ShardName, bytes]]],
        put: Callable[[ShardName, Sequence[bytes]], ResultT],
        items: Sequence[ItemT],
    ) -> Iterator[tuple[ShardName, ResultT]]:
        """See `Engine`.

        Raises:
            TaskLostError: a task's process died more often than it is repeated.
        """

        def pieces(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
            with redacting():
                for (target, number), piece in cut(_unpacked(row["item"])):
                    yield {"shard": (target << _NUMBER_BITS) + number, "piece": piece}

        def together(group: pa.Table) -> dict[str, list[Any]]:
            shard = group["shard"][0].as_py()
            with redacting():
                return {"shard": [shard], "result": [_packed(put(_name(shard), group["piece"].to_pylist()))]}

        if items:
            shards = _dataset(items).flat_map(pieces).groupby("shard").map_groups(together, batch_format="pyarrow")
            for row in _results(shards):
                yield _name(row["shard"]), _unpacked(row["result"])


def _name(shard: int) -> ShardName:
    return ShardName(shard >> _NUMBER_BITS, shard & ((1 << _NUMBER_BITS) - 1))


def _dataset(items: Sequence[object]) -> ray.data.Dataset:
    """Return a data set of Ray with one block, and so one task, for each item."""
    rows = [{"place": place, "item": _packed(item)} for place, item in enumerate(items)]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _results(dataset: ray.data.Dataset) -> Iterator[Mapping[str, Any]]:
    """Yield rows as they come, with the errors of tasks out of Ray's wrapping."""
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        raise own_error(error) or TaskLostError(reason_of(error)) from error


def _packed(value: object) -> bytes:
    return pickle.dumps(value)


def _unpacked(body: bytes) -> Any:
    return pickle.loads(body)  # noqa: S301 - of another process of this job
