"""Ingest in partitions: the bytes of the direct path in whatever order things happen, and nothing written twice."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.shards.dataset import Dataset, shard_key
from cluster.shards.verified import ShardCorruptError
from cluster.storage.open import open_store
from orchestrator.context import RunContext
from orchestrator.planning.plan import Inspection
from orchestrator.resolution.resolve import Job
from orchestrator.resolution.splits import divide
from orchestrator.sources.errors import SourceChangedError, TooManyBadRowsError
from orchestrator.sources.read import read_source
from orchestrator.steps.ingest_partitions import ingest_partitions
from orchestrator.steps.shuffling import ItemT, ResultT, Scattering, ShardName
from tests.fixtures import exports
from tests.fixtures.exports import WRITERS, digits
from tests.fixtures.ingested import ingested, job_of, objects, spoil
from tests.fixtures.jobs import new_context


class Shuffled:
    """An engine in this process that does everything in the order of a seed, and may end after some shards."""

    def __init__(
        self, seed: int = 0, *, ends_after: int | None = None, before_shuffle: Callable[[], None] = int
    ) -> None:
        self._draw, self._ends_after, self._before_shuffle = random.Random(seed), ends_after, before_shuffle
        self.tasks: list[Any] = []
        self.written: list[ShardName] = []

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[tuple[int, ResultT]]:
        for place in self._draw.sample(range(len(items)), len(items)):
            yield place, function(items[place])

    def shuffle(
        self,
        cut: Callable[[ItemT], Iterator[tuple[ShardName, bytes]]],
        put: Callable[[ShardName, Sequence[bytes]], ResultT],
        items: Sequence[ItemT],
    ) -> Iterator[tuple[ShardName, ResultT]]:
        self._before_shuffle()
        self.tasks = list(items)
        pieces = [piece for item in items for piece in cut(item)]
        self._draw.shuffle(pieces)
        shards = sorted({shard for shard, _ in pieces})
        self._draw.shuffle(shards)
        for shard in shards[: self._ends_after]:
            self.written.append(shard)
            yield shard, put(shard, [piece for name, piece in pieces if name == shard])
        if self._ends_after is not None:
            raise KeyboardInterrupt


def in_partitions(job: Job, engine: Any) -> RunContext:
    context = new_context(job, open_store(job.spec.store))
    with context.step(context.inspect().ingest()) as account:
        ingest_partitions(context, account, engine)
    return context


@pytest.mark.parametrize("kind", ["csv", "images", "torch"])
@pytest.mark.parametrize("seed", [0, 1])
def test_partitions_in_any_order_give_every_byte_of_the_direct_path(kind: str, seed: int, tmp_path: Path) -> None:
    read = WRITERS[kind](tmp_path, digits())
    if kind == "csv":
        spoil(tmp_path)
    here, there = (job_of(read, tmp_path / store, max_bad_fraction=0.2) for store in ("here", "there"))
    expected = objects(ingested(here))
    found = objects(in_partitions(there, Shuffled(seed)))
    assert found == expected
    assert ("quarantine.jsonl" in "".join(found)) == (kind == "csv")
    assert sum(key.endswith("dataset.json") for key in found) == 6


def test_the_rows_of_every_data_set_are_those_of_the_same_rows_in_one_archive(tmp_path: Path) -> None:
    made = job_of(exports.write_parquet(tmp_path, digits()), tmp_path / "store")
    context = in_partitions(made, Shuffled())
    archive = job_of(exports.write_npz(tmp_path, digits()), tmp_path / "other")
    parts = divide(read_source(archive.spec.data), archive.spec.data)
    ids = {"train": made.datasets.train, "labelled": made.datasets.labelled, "held_out": made.datasets.held_out}
    for part, identity in (ids | {"test": made.datasets.test}).items():
        shards = list(Dataset.open(context.store, identity))
        for name, array in parts[part].items():
            assert np.array_equal(np.concatenate([shard[name] for shard in shards]), array)


def test_an_ingest_that_ended_early_goes_on_with_the_shards_that_are_missing(tmp_path: Path) -> None:
    read = exports.write_csv(tmp_path, digits())
    expected = objects(ingested(job_of(read, tmp_path / "whole")))
    made = job_of(read, tmp_path / "store")
    first, second, third = Shuffled(1, ends_after=5), Shuffled(2, ends_after=2), Shuffled(3)
    for engine in (first, second):
        with pytest.raises(KeyboardInterrupt):
            in_partitions(made, engine)
    assert not [key for key in objects(new_context(made, open_store(made.spec.store))) if key.endswith("dataset.json")]
    context = in_partitions(made, third)
    assert objects(context) == expected
    shards = first.written + second.written + third.written
    assert len(set(shards)) == len(shards) == sum(key.endswith(".arrow") for key in expected)
    assert context.results[-1].rows == sum(
        Dataset.open(context.store, identity).record.rows for identity in made.datasets.distinct()
    )


def test_partitions_without_missing_rows_are_not_read_again(tmp_path: Path) -> None:
    made = job_of(exports.write_csv(tmp_path, digits()), tmp_path / "store")
    context = in_partitions(made, Shuffled())
    ids = made.datasets
    for identity in (ids.test, ids.train):
        context.store.delete(f"datasets/{identity}/dataset.json")
    context.store.delete(shard_key(ids.test, 0))  # rows 0 to 15 of the test, whose first file has 20
    engine = Shuffled()
    in_partitions(made, engine)
    assert engine.written == [ShardName(1, 0)]
    (task,) = engine.tasks
    assert isinstance(task, Scattering)
    assert task.partition.paths == (str(tmp_path / "test" / "0.csv"),)


def test_a_shard_of_other_rows_that_lies_in_the_way_is_refused(tmp_path: Path) -> None:
    made = job_of(exports.write_csv(tmp_path, digits()), tmp_path / "store")
    context = in_partitions(made, Shuffled())
    train = made.datasets.train
    context.store.delete(f"datasets/{train}/dataset.json")
    context.store.put(shard_key(train, 0), context.store.get(shard_key(train, 1)))
    with pytest.raises(ShardCorruptError, match="other values in row"):
        in_partitions(made, Shuffled())


def test_a_source_that_changes_between_the_passes_is_refused(tmp_path: Path) -> None:
    made = job_of(exports.write_csv(tmp_path, digits()), tmp_path / "store", max_bad_fraction=0.2)
    with pytest.raises(SourceChangedError, match="its files changed meanwhile"):
        in_partitions(made, Shuffled(before_shuffle=lambda: spoil(tmp_path)))


def test_a_source_that_grows_between_the_passes_is_refused(tmp_path: Path) -> None:
    made = job_of(exports.write_csv(tmp_path, digits()), tmp_path / "store")

    def grow() -> None:
        (path, *_) = sorted((tmp_path / "train").glob("*.csv"))
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines, lines[-1]]))

    with pytest.raises(SourceChangedError, match="its files changed meanwhile"):
        in_partitions(made, Shuffled(before_shuffle=grow))


def test_what_is_left_out_is_listed_in_the_store_and_told_by_the_plan(tmp_path: Path) -> None:
    read = exports.write_csv(tmp_path, digits())
    spoil(tmp_path)
    with pytest.raises(TooManyBadRowsError, match="12 of 150 rows"):
        ingested(job_of(read, tmp_path / "refused"))
    made = job_of(read, tmp_path / "store", max_bad_fraction=0.08)
    context = ingested(made)
    lines = bytes(context.store.get(f"datasets/{made.datasets.train}/quarantine.jsonl")).decode().splitlines()
    bad = [json.loads(line) for line in lines]
    assert [(row["part"], row["partition"], row["row"]) for row in bad[:4]] == [
        ("train", 0, 0),
        ("train", 0, 3),
        ("train", 0, 79),
        ("train", 1, 0),
    ]
    assert bad[0]["reason"] == "it has 2 cells, the first line 65"
    assert Inspection(made, context.store).ingest().note.endswith("rows; 12 left out")
