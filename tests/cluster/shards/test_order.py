"""The order of rows: every row once, in even batches, and a pure function of seed, epoch and step."""

import hashlib
import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from cluster.shards.order import EpochOrder, TooFewRowsError, lanes_of_worker, permutation
from tests.fixtures.plain_order import PlainRow, plain_batches, plain_permutation, splitmix64


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[int], dict[str, int]]:
    """Return the rows of some shards, and the other arguments of an `EpochOrder`."""
    shard_rows = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    return shard_rows, {
        "lanes": draw(st.integers(1, min(9, sum(shard_rows)))),
        "window_rows": draw(st.integers(1, 50)),
        "batch_size": draw(st.integers(1, 60)),
        "seed": draw(st.integers(0, 2**64)),
        "epoch": draw(st.integers(0, 1000)),
    }


def rows_of_lane(order: EpochOrder, lane: int) -> list[PlainRow]:
    """Return the lane's rows as the order's own parts put them together."""
    rows: list[PlainRow] = []
    for window, start in enumerate(range(0, order.lanes[lane].rows, order.window_rows)):
        stop = min(start + order.window_rows, order.lanes[lane].rows)
        parts = list(order.lanes[lane].between(start, stop))
        unshuffled = [(part.shard, row) for part in parts for row in range(part.start, part.stop)]
        assert [part.position for part in parts] == list(
            itertools.accumulate((part.stop - part.start for part in parts[:-1]), initial=start)
        )
        placed = dict(zip(order.window_places(lane, window, stop - start).tolist(), unshuffled, strict=True))
        rows += [placed[place] for place in range(stop - start)]
    return rows


def global_batches(order: EpochOrder) -> list[list[list[PlainRow]]]:
    rows = [rows_of_lane(order, lane) for lane in range(len(order.lanes))]
    return [
        [rows[lane][slice(*order.bounds(lane, step))] for lane in range(len(rows))] for step in range(order.num_steps)
    ]


def test_the_hash_is_splitmix64_as_published() -> None:
    # First outputs of the reference generator for the seeds 0 and 1234567.
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(1234567) == 6457827717110365317


@given(count=st.integers(0, 300), key=st.lists(st.integers(-(2**63), 2**64), max_size=4))
@settings(deadline=None)
def test_a_permutation_sorts_the_hashes_of_the_indices(count: int, key: list[int]) -> None:
    assert permutation(count, *key).tolist() == plain_permutation(count, *key)


def test_permutations_are_those_of_the_first_release() -> None:
    assert permutation(10, 0, 0).tolist() == [0, 9, 1, 6, 3, 5, 4, 2, 8, 7]
    assert permutation(10, 0, 1).tolist() == [8, 3, 0, 1, 5, 2, 7, 4, 9, 6]
    assert permutation(10, 7, 3, 1, 2).tolist() == [4, 0, 5, 1, 6, 9, 7, 2, 8, 3]
    assert (
        hashlib.sha256(permutation(100_000, 42).astype("<i8").tobytes()).hexdigest()
        == "9adecd196d2c74c2c3879202a672d283d6f03d58534ce53b7c3d72946b1b1737"
    )


def test_every_place_is_equally_likely_for_every_item() -> None:
    count, num_keys = 12, 6000
    places = np.stack([permutation(count, seed, 1) for seed in range(num_keys)])
    observed = np.stack([np.bincount(places[:, place], minlength=count) for place in range(count)])
    expected = num_keys / count

    statistic = float(((observed - expected) ** 2 / expected).sum())

    # Rows and columns of the table are fixed sums, so (n - 1)^2 cells are free.
    assert 0.001 < chi2.sf(statistic, (count - 1) ** 2) < 0.999


def test_neighbours_are_as_far_apart_as_chance_puts_them() -> None:
    places = np.argsort(permutation(100_000, 3))
    distances = np.abs(np.diff(places)) / len(places)

    # The distance of two random points in the unit interval has mean 1/3 and variance 1/18.
    assert abs(distances.mean() - 1 / 3) < 4 * np.sqrt(1 / 18 / len(distances))


@given(orders())
@settings(deadline=None)
def test_batches_are_those_of_the_written_description(case: tuple[list[int], dict[str, int]]) -> None:
    shard_rows, arguments = case

    assert global_batches(EpochOrder(shard_rows, **arguments)) == plain_batches(shard_rows, **arguments)


@given(orders())
@settings(deadline=None)
def test_every_row_is_read_exactly_once_an_epoch(case: tuple[list[int], dict[str, int]]) -> None:
    shard_rows, arguments = case

    read = Counter(
        row for batch in global_batches(EpochOrder(shard_rows, **arguments)) for part in batch for row in part
    )

    assert read == Counter((shard, row) for shard, rows in enumerate(shard_rows) for row in range(rows))


@pytest.mark.parametrize("lanes", range(1, 9))
def test_batches_are_even_never_empty_for_a_lane_and_never_too_large(lanes: int) -> None:
    for rows, batch_size in itertools.product(range(lanes, 60), range(1, 30)):
        order = EpochOrder([rows], lanes=lanes, window_rows=16, batch_size=batch_size, seed=0, epoch=0)
        stops = [[order.bounds(lane, step)[1] for lane in range(lanes)] for step in range(order.num_steps)]
        shares = np.diff(np.array([[0] * lanes, *stops]), axis=0)
        sizes = shares.sum(axis=1)

        assert sizes.sum() == rows
        assert sizes.tolist() == [order.batch_rows(step) for step in range(order.num_steps)]
        assert sizes.max() - sizes.min() <= 1
        assert (shares.max(axis=1) - shares.min(axis=1)).max() <= 1
        assert shares.min() >= 1
        if batch_size >= 2 * lanes:
            assert sizes.max() <= batch_size
            assert order.num_steps == -(-rows // batch_size)


def test_a_batch_just_above_the_number_of_lanes_may_have_to_grow() -> None:
    # 15 rows in batches of at most 8 would be 2 steps, of which one has no row for some of the 8 lanes.
    order = EpochOrder([15], lanes=8, window_rows=16, batch_size=8, seed=0, epoch=0)

    assert [order.batch_rows(step) for step in range(order.num_steps)] == [15]


@given(lanes=st.integers(1, 64), world_size=st.integers(1, 64))
@settings(deadline=None)
def test_workers_share_all_lanes_in_order_and_evenly(lanes: int, world_size: int) -> None:
    shares = [lanes_of_worker(rank, world_size, lanes) for rank in range(world_size)]

    assert list(itertools.chain.from_iterable(shares)) == list(range(lanes))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_epochs_and_seeds_give_other_orders_and_the_same_arguments_the_same() -> None:
    def batches(seed: int, epoch: int) -> list[list[list[PlainRow]]]:
        order = EpochOrder([30, 30, 30], lanes=2, window_rows=20, batch_size=8, seed=seed, epoch=epoch)
        return global_batches(order)

    assert batches(0, 0) == batches(0, 0)
    variants = [batches(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(first != second for first, second in itertools.combinations(variants, 2))


def test_a_lane_reads_its_shards_from_their_first_row_to_their_last() -> None:
    order = EpochOrder([7, 5, 9, 4], lanes=3, window_rows=5, batch_size=4, seed=1, epoch=0)

    sequence = [
        (part.shard, row) for lane in order.lanes for part in lane.slices for row in range(part.start, part.stop)
    ]

    shards = [shard for shard, _ in itertools.groupby(shard for shard, _ in sequence)]
    assert sorted(shards) == [0, 1, 2, 3]
    assert [row for _, row in sequence] == [row for shard in shards for row in range((7, 5, 9, 4)[shard])]


@given(orders())
@settings(deadline=None)
def test_steps_between_two_positions_are_all_that_take_one_of_them(case: tuple[list[int], dict[str, int]]) -> None:
    shard_rows, arguments = case
    order = EpochOrder(shard_rows, **arguments)

    for start in range(order.lanes[-1].rows):
        stop = min(start + order.window_rows, order.lanes[-1].rows)
        named = order.steps_between(start, stop)
        for lane, step in itertools.product(range(len(order.lanes)), range(order.num_steps)):
            low, high = order.bounds(lane, step)
            takes_one = max(low, start) < min(high, stop)
            assert not takes_one or step in named
        assert named.stop <= order.num_steps


def test_fewer_rows_than_lanes_are_refused_with_the_largest_number_of_lanes() -> None:
    with pytest.raises(TooFewRowsError, match=r"train\.order\.lanes to at most 5") as refusal:
        EpochOrder([3, 2], lanes=6, window_rows=4, batch_size=2, seed=0, epoch=0)

    assert refusal.value.exit_code == 7
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)
