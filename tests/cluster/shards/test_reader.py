"""Batches as they arrive: the rows that the order names, whoever reads them, from wherever the reading starts."""

import hashlib
import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DataError
from cluster.shards.dataset import Dataset, write_dataset
from cluster.shards.order import EpochOrder, lanes_of_worker
from cluster.shards.reader import UnequalRowsError, read_batches
from cluster.storage.directory import DirectoryStore
from tests.fixtures.plain_order import plain_batches

Arrays = dict[str, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], dict[str, int]]:
    """Return the rows of some shards and the other arguments of an `EpochOrder`: windows may be far smaller than a
    batch, and far larger than a lane.
    """
    shard_rows = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    return shard_rows, {
        "lanes": draw(st.integers(1, min(9, sum(shard_rows)))),
        "window_rows": draw(st.sampled_from([1, 2, 3, 7, 16, 50, 10_000])),
        "batch_size": draw(st.integers(1, 80)),
        "seed": draw(st.integers(0, 1000)),
        "epoch": draw(st.integers(0, 1000)),
    }


def shards_of(shard_rows: list[int]) -> list[Arrays]:
    """Return shards whose every value tells from which shard and row it is."""
    return [
        {
            "row": np.stack([np.full(rows, shard), np.arange(rows)], axis=1).astype(np.int32),
            "image": (np.arange(rows * 6) * 7 + shard).astype(np.uint8).reshape(rows, 2, 3),
            "label": (np.arange(rows) - shard * 1000).astype(np.int32),
            "logits": (np.arange(rows * 5) / 8 + shard).astype(np.float16).reshape(rows, 5),
        }
        for shard, rows in enumerate(shard_rows)
    ]


def taken(shards: list[Arrays], rows: list[tuple[int, int]]) -> Arrays:
    return {name: np.stack([shards[shard][name][row] for shard, row in rows]) for name in shards[0]}


def assert_equal(batches: list[Arrays], expected: list[Arrays]) -> None:
    for batch, arrays in zip(batches, expected, strict=True):
        assert list(batch) == list(arrays)
        for name, array in arrays.items():
            assert batch[name].dtype == array.dtype
            assert np.array_equal(batch[name], array)


@given(case=cases(), data=st.data())
@settings(deadline=None)
def test_batches_hold_the_rows_that_the_written_description_names(
    case: tuple[list[int], dict[str, int]], data: st.DataObject
) -> None:
    shard_rows, arguments = case
    shards, order = shards_of(shard_rows), EpochOrder(shard_rows, **arguments)
    world_size = data.draw(st.integers(1, arguments["lanes"]))
    lanes = lanes_of_worker(data.draw(st.integers(0, world_size - 1)), world_size, arguments["lanes"])
    first_step = data.draw(st.integers(0, order.num_steps))

    batches = list(read_batches(shards.__getitem__, order, lanes=lanes, first_step=first_step))

    steps = plain_batches(shard_rows, **arguments)[first_step:]
    assert_equal(batches, [taken(shards, [row for lane in lanes for row in step[lane]]) for step in steps])


def worker_batches(world_size: int, *, first_step: int = 0, epoch: int = 5) -> list[list[Arrays]]:
    """Return the batches of every worker of a group, over an epoch whose windows and batches cross shards."""
    shard_rows = [100, 3, 250, 41, 99, 180, 77]
    shards = shards_of(shard_rows)
    order = EpochOrder(shard_rows, lanes=8, window_rows=30, batch_size=37, seed=11, epoch=epoch)
    return [
        list(read_batches(shards.__getitem__, order, lanes=lanes_of_worker(rank, world_size, 8), first_step=first_step))
        for rank in range(world_size)
    ]


def digests(workers: list[list[Arrays]]) -> list[str]:
    """Return one digest of the row numbers of each global batch."""
    steps = zip(*workers, strict=True)
    return [hashlib.sha256(np.concatenate([part["row"] for part in parts]).tobytes()).hexdigest() for parts in steps]


@pytest.mark.parametrize("world_size", [2, 3, 4, 5, 8])
def test_any_number_of_workers_sees_the_same_global_batches(world_size: int) -> None:
    assert digests(worker_batches(world_size)) == digests(worker_batches(1))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_no_worker_ever_faces_an_empty_batch(world_size: int) -> None:
    assert all(len(batch["row"]) > 0 for batches in worker_batches(world_size) for batch in batches)


def test_an_epoch_resumed_at_any_step_ends_like_the_uninterrupted_one() -> None:
    whole = digests(worker_batches(1))

    assert all(digests(worker_batches(3, first_step=step)) == whole[step:] for step in range(len(whole) + 1))


def test_each_epoch_has_an_order_of_its_own() -> None:
    assert not set(digests(worker_batches(1, epoch=0))) & set(digests(worker_batches(1, epoch=1)))


@given(case=cases(), data=st.data())
@settings(deadline=None, max_examples=50)
def test_shards_by_first_use_are_in_the_order_in_which_workers_come_to_need_them_give_or_take_a_step(
    case: tuple[list[int], dict[str, int]], data: st.DataObject
) -> None:
    shard_rows, arguments = case
    shards, order = shards_of(shard_rows), EpochOrder(shard_rows, **arguments)
    world_size = data.draw(st.integers(1, arguments["lanes"]))
    needed: dict[int, int] = {}

    for rank in range(world_size):
        step = 0

        def read(number: int) -> Arrays:
            needed[number] = min(step, needed.get(number, step))  # noqa: B023  # called within this turn of the loop
            return shards[number]

        for batch in read_batches(read, order, lanes=lanes_of_worker(rank, world_size, arguments["lanes"])):
            step += len(batch) > 0

    by_first_use = order.shards_by_first_use()
    assert sorted(by_first_use) == list(range(len(shard_rows)))
    steps = [needed[number] for number in by_first_use]
    # Shares differ by one row, so one worker may take a position a step before another takes the same.
    assert all(step >= latest - 1 for step, latest in zip(steps, itertools.accumulate(steps, max), strict=True))


@given(case=cases(), data=st.data())
@settings(deadline=None)
def test_a_worker_opens_the_shards_that_the_order_announces(
    case: tuple[list[int], dict[str, int]], data: st.DataObject
) -> None:
    shard_rows, arguments = case
    shards, order = shards_of(shard_rows), EpochOrder(shard_rows, **arguments)
    world_size = data.draw(st.integers(1, arguments["lanes"]))
    lanes = lanes_of_worker(data.draw(st.integers(0, world_size - 1)), world_size, arguments["lanes"])
    first_step = data.draw(st.integers(0, order.num_steps - 1))
    opened: list[int] = []

    def read(number: int) -> Arrays:
        opened.append(number)
        return shards[number]

    for _batch in read_batches(read, order, lanes=lanes, first_step=first_step):
        pass

    assert opened == order.openings(lanes, first_step)


@given(case=cases())
@settings(deadline=None, max_examples=50)
def test_each_lane_opens_each_of_its_shards_once(case: tuple[list[int], dict[str, int]]) -> None:
    shard_rows, arguments = case
    order = EpochOrder(shard_rows, **arguments)

    for lane in order.lanes:
        assert order.openings([lane.number]) == [part.shard for part in lane.slices]
    assert Counter(order.openings(range(len(order.lanes)))) == Counter(
        part.shard for lane in order.lanes for part in lane.slices
    )


def test_batches_belong_to_the_caller() -> None:
    shards = shards_of([40, 30])
    for array in itertools.chain.from_iterable(shard.values() for shard in shards):
        array.flags.writeable = False
    order = EpochOrder([40, 30], lanes=2, window_rows=10, batch_size=7, seed=0, epoch=0)
    untouched = list(read_batches(shards.__getitem__, order, lanes=range(2)))

    overwritten = []
    for batch in read_batches(shards.__getitem__, order, lanes=range(2)):
        overwritten.append({name: array.copy() for name, array in batch.items()})
        for array in batch.values():
            array[:] = 0

    assert_equal(overwritten, untouched)
    pairs = itertools.combinations([batch["image"] for batch in untouched], 2)
    assert not any(np.shares_memory(first, second) for first, second in pairs)


def test_columns_that_are_not_contiguous_are_read_too() -> None:
    whole = np.arange(600, dtype=np.uint8).reshape(30, 4, 5)
    order = EpochOrder([30], lanes=3, window_rows=4, batch_size=6, seed=0, epoch=0)

    batches = list(read_batches(lambda _: {"part": whole[:, ::2, 1:4]}, order, lanes=range(3)))

    rows = [row for step in plain_batches([30], lanes=3, window_rows=4, batch_size=6, seed=0, epoch=0) for row in step]
    expected = [whole[row, ::2, 1:4] for part in rows for _, row in part]
    assert np.array_equal(np.concatenate([batch["part"] for batch in batches]), np.stack(expected))


def test_the_reader_follows_the_store(tmp_path: Path) -> None:
    store, rows = DirectoryStore(tmp_path), np.arange(100, dtype=np.int32)
    arrays = {"image": np.random.default_rng(0).random((100, 3), np.float32), "label": rows % 10, "row": rows}
    write_dataset(store, arrays, identity="a" * 16, classes=("x",) * 10, shard_rows=9, compression="zstd")
    dataset = Dataset.open(store, "a" * 16)
    shard_rows = [shard.rows for shard in dataset.record.shards]
    order = EpochOrder(shard_rows, lanes=4, window_rows=8, batch_size=10, seed=0, epoch=0)

    batches = list(read_batches(dataset.read, order, lanes=range(4)))

    read = np.concatenate([batch["row"] for batch in batches])
    assert sorted(read) == list(range(100))
    for name, array in arrays.items():
        assert np.array_equal(np.concatenate([batch[name] for batch in batches]), array[read])


class UnreadableError(DataError):
    """Stands for whatever a shard's reader raises."""


def test_an_error_of_the_shard_reader_arrives_with_the_first_batch_that_needs_the_shard() -> None:
    shards = shards_of([20] * 5)
    order = EpochOrder([20] * 5, lanes=1, window_rows=10, batch_size=10, seed=0, epoch=0)
    third = order.shards_by_first_use()[2]

    def read(number: int) -> Arrays:
        if number == third:
            raise UnreadableError(number)
        return shards[number]

    batches = read_batches(read, order, lanes=range(1))

    assert len(list(itertools.islice(batches, 4))) == 4
    with pytest.raises(UnreadableError):
        next(batches)


@pytest.mark.parametrize("found", [0, 19, 21])
def test_a_column_with_more_or_fewer_rows_than_its_shard_is_refused(found: int) -> None:
    order = EpochOrder([20], lanes=2, window_rows=10, batch_size=10, seed=0, epoch=0)

    with pytest.raises(
        UnequalRowsError, match=f"shard 0: column logits has {found} rows, the input shard has 20"
    ) as refusal:
        next(read_batches(lambda _: {"row": np.zeros(20), "logits": np.zeros((found, 3))}, order, lanes=range(2)))

    assert refusal.value.exit_code == 7
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)
