"""The batches of a training: which rows they hold, and that inputs, labels and targets are of the same rows."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from cluster.errors import TrainingError
from cluster.models import InputConfig, ModelConfig
from cluster.modules import InputColumnError
from cluster.shards.calibration import CalibrationRecord
from cluster.shards.codecs.spec import TopKConfig
from cluster.shards.dataset import DatasetRecord
from cluster.shards.labelset import LabelSet
from cluster.shards.reader import UnequalRowsError
from cluster.shards.records import publish_record
from cluster.shards.schema import NO_LABEL, Column
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError
from students.arrivals import LabelsLateError
from students.batches import TrainingData, default_window_rows, target_temperature
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm
from students.objectives.objective import Batch
from students.spec import OrderConfig
from students.task import Execution, Target, Targets, TrainingTask
from tests.fixtures.plain_order import plain_batches
from tests.fixtures.tiny import commit_shard, label_record, numbered, targets, task, write_labels, write_rows

ROWS, SHARD_ROWS, BATCH = 101, 16, 20
CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def write_numbered(store: DirectoryStore) -> DatasetRecord:
    return write_rows(store, numbered(ROWS, labelled=40), "a", shard_rows=SHARD_ROWS)


def numbered_task(store: DirectoryStore, **changes: object) -> TrainingTask:
    dataset = write_numbered(store)
    return task(dataset, dataset, batch_size=BATCH, epochs=3, seed=5, **changes)


def read(
    store: DirectoryStore, task: TrainingTask, *, rank: int = 0, world_size: int = 1, first_step: int = 0
) -> list[Batch]:
    data = TrainingData(store, task, Execution(), rank=rank, world_size=world_size)
    return list(data.batches(first_step=first_step, device=CPU))


def rows_of(batch: Batch) -> list[int]:
    return [int(number) for number in batch.inputs[:, 0].tolist()]


def expected_rows(task: TrainingTask) -> list[list[int]]:
    """Return the row numbers of every global batch of all epochs, from the description of the order alone."""
    shards = [SHARD_ROWS] * (ROWS // SHARD_ROWS) + [ROWS % SHARD_ROWS]
    epochs = (
        plain_batches(shards, lanes=4, window_rows=8, batch_size=task.batch_size, seed=task.seed, epoch=epoch)
        for epoch in range(task.epochs)
    )
    return [
        [shard * SHARD_ROWS + row for lane in batch for shard, row in lane]
        for batch in itertools.chain.from_iterable(epochs)
    ]


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_any_number_of_workers_reads_the_same_global_batches(store: DirectoryStore, workers: int) -> None:
    training = numbered_task(store)

    shares = [read(store, training, rank=rank, world_size=workers) for rank in range(workers)]

    found = [[row for part in parts for row in rows_of(part)] for parts in zip(*shares, strict=True)]
    assert found == expected_rows(training)
    assert all(len(part) > 0 for share in shares for part in share)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 7)), min_size=1, max_size=5))
def test_a_group_that_shrinks_and_grows_reads_what_a_group_that_stays_reads(
    store: DirectoryStore, lives: list[tuple[int, int]]
) -> None:
    training, found = numbered_task(store), list[list[int]]()

    for workers, num_steps in [*lives, (1, 18)]:
        shares = [
            itertools.islice(read(store, training, rank=rank, world_size=workers, first_step=len(found)), num_steps)
            for rank in range(workers)
        ]
        found += [[row for part in parts for row in rows_of(part)] for parts in zip(*shares, strict=True)]

    assert found == expected_rows(training)


def test_every_epoch_holds_every_row_once_in_an_order_of_its_own(store: DirectoryStore) -> None:
    training = numbered_task(store)
    batches = [rows_of(batch) for batch in read(store, training)]

    epochs = [list(itertools.chain.from_iterable(batches[start : start + 6])) for start in (0, 6, 12)]

    assert len(batches) == 18
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert {len(batch) for batch in batches} <= {16, 17}


@pytest.mark.parametrize("first_step", [0, 1, 5, 6, 7, 13, 17, 18])
def test_reading_from_any_step_gives_what_reading_from_the_start_gives(store: DirectoryStore, first_step: int) -> None:
    training = numbered_task(store)

    resumed = read(store, training, first_step=first_step)

    assert [rows_of(batch) for batch in resumed] == expected_rows(training)[first_step:]


def test_labels_and_targets_are_those_of_the_row_they_stand_beside(store: DirectoryStore) -> None:
    dataset = write_numbered(store)
    numbers = np.arange(ROWS)
    wide = write_labels(store, dataset, np.stack([numbers / 10, -numbers / 20, 0 * numbers], axis=1), "wide")
    deep = write_labels(store, dataset, np.stack([0 * numbers, numbers / 30, -numbers / 10], axis=1), "deep")
    training = numbered_task(store, targets=targets(wide, deep, weights=[3, 1]), objective=(KLTerm(),))

    for batch in read(store, training):
        assert batch.target_logits_NC is not None
        rows = np.array(rows_of(batch))
        assert batch.labels_N.tolist() == [row % 3 if row < 40 else NO_LABEL for row in rows]
        first = np.stack([rows / 10, -rows / 20, 0 * rows], axis=1).astype(np.float16).astype(np.float64)
        second = np.stack([0 * rows, rows / 30, -rows / 10], axis=1).astype(np.float16).astype(np.float64)
        mean = 0.75 * np.exp(log_softmax(first, axis=1)) + 0.25 * np.exp(log_softmax(second, axis=1))
        assert batch.target_logits_NC.exp().numpy() == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_the_fitted_temperature_divides_its_teachers_logits(store: DirectoryStore) -> None:
    dataset = write_numbered(store)
    logits = np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float16).astype(np.float32)
    record = write_labels(store, dataset, logits)
    fitted = CalibrationRecord(teacher="wide", temperature=2.5, rows=10, nll_before=1, nll_after=0.5)
    publish_record(store, "calibrations/wide.json", fitted)
    part = Target(labels=record, weight=1, calibration="calibrations/wide.json")
    training = numbered_task(store, targets=Targets(combine="mean_logit", parts=(part,)), objective=(KLTerm(),))

    batch = read(store, training)[0]

    assert batch.target_logits_NC is not None
    expected = log_softmax(logits[rows_of(batch)] / 2.5, axis=1)
    assert batch.target_logits_NC.numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_targets_of_few_classes_are_exact_at_the_temperature_of_the_term(
    store: DirectoryStore, temperature: float
) -> None:
    dataset = write_numbered(store)
    logits = np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32)
    config = TopKConfig(k=2, temperatures=(2.0,), tail_samples=0)
    record = write_labels(store, dataset, logits, codec=config)
    training = numbered_task(store, targets=targets(record), objective=(KLTerm(temperature=temperature),))

    batch = read(store, training)[0]

    assert batch.target_logits_NC is not None
    found = softmax(batch.target_logits_NC.double().numpy() / temperature, axis=1)
    assert found == pytest.approx(softmax(logits[rows_of(batch)] / temperature, axis=1), abs=1e-3)


def test_terms_that_disagree_are_read_at_one_which_labels_of_few_classes_refuse_elsewhere() -> None:
    assert target_temperature([KLTerm(temperature=3.0), CrossEntropyTerm()]) == 3.0
    assert target_temperature([KLTerm(temperature=3.0), KLTerm(temperature=3.0)]) == 3.0
    assert target_temperature([KLTerm(temperature=3.0), KLTerm()]) == 1.0
    assert target_temperature([CrossEntropyTerm()]) == 1.0


def test_without_teachers_there_are_no_targets(store: DirectoryStore) -> None:
    assert {batch.target_logits_NC for batch in read(store, numbered_task(store))} == {None}


def test_the_share_of_labelled_rows_is_that_of_the_data_set(store: DirectoryStore) -> None:
    data = TrainingData(store, numbered_task(store), Execution(), rank=0, world_size=1)

    assert data.labelled_share == 40 / 101


def test_another_teacher_changes_no_order(store: DirectoryStore) -> None:
    order = OrderConfig(lanes=4)
    dataset = write_numbered(store)
    records = [write_labels(store, dataset, np.zeros((ROWS, 3)), name) for name in ("wide", "deep")]

    orders = [
        [rows_of(batch) for batch in read(store, numbered_task(store, order=order, targets=given))]
        for given in (None, targets(records[0]), targets(*records))
    ]

    assert orders[0] == orders[1] == orders[2]


def test_labels_that_stop_arriving_are_named_with_the_shard_and_the_time_waited(store: DirectoryStore) -> None:
    dataset = write_numbered(store)
    record = label_record(dataset)
    labels = LabelSet.create(store, record)
    for number in (0, 1, 2, 4, 5, 6):
        commit_shard(labels, dataset, number, np.zeros((ROWS, 3)))
    data = TrainingData(
        store,
        numbered_task(store, targets=targets(record), objective=(KLTerm(),)),
        Execution(labels_timeout_s=0.01),
        rank=0,
        world_size=1,
    )

    with pytest.raises(LabelsLateError, match=r"shard 3 was not committed, nor any other within 0 s") as late:
        list(data.batches(first_step=0, device=CPU))

    assert record.prefix in str(late.value)
    assert isinstance(late.value, TrainingError)


class ArrivesLast:
    """Hands everything to another store; whoever finds that one object is missing has another one arrive before it."""

    def __init__(self, store: DirectoryStore, key: str, arrivals: Iterator[None]) -> None:
        self._store, self._key, self._arrivals = store, key, arrivals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str) -> memoryview:
        try:
            return self._store.get(key)
        except ObjectMissingError:
            if key == self._key:
                next(self._arrivals)
            raise


def test_labels_that_still_arrive_are_waited_for_however_late_the_one_that_is_read_next(store: DirectoryStore) -> None:
    dataset = write_numbered(store)
    record = label_record(dataset)
    labels = LabelSet.create(store, record)
    training = numbered_task(store, targets=targets(record), objective=(KLTerm(),))
    first = expected_rows(training)[0][0] // SHARD_ROWS
    others = [number for number in range(7) if number != first]
    arrivals = (commit_shard(labels, dataset, number, np.zeros((ROWS, 3))) for number in (*others, first))
    late = ArrivesLast(store, f"{record.prefix}/commits/{first:08d}.json", arrivals)

    data = TrainingData(late, training, Execution(labels_timeout_s=0.01), rank=0, world_size=1)

    assert len(list(data.batches(first_step=0, device=CPU))) == len(expected_rows(training))
    assert list(arrivals) == []


def test_labels_of_another_number_of_rows_are_refused(store: DirectoryStore) -> None:
    dataset = write_numbered(store)
    record = label_record(dataset)
    labels = LabelSet.create(store, record)
    for number in range(7):
        body = labels.encode({"logits": np.zeros((3, 3), dtype=np.float16)})
        labels.commit(number, body, rows=3, statistics={})
    training = numbered_task(store, targets=targets(record), objective=(KLTerm(),))

    with pytest.raises(UnequalRowsError, match=r"has 3 rows, the input shard has"):
        read(store, training)


def test_a_model_is_given_the_column_it_names_and_no_other(store: DirectoryStore) -> None:
    arrays = numbered(ROWS) | {"y": 1000 + np.arange(ROWS, dtype=np.float32)[:, None]}
    dataset = write_rows(store, arrays, "b")
    model = ModelConfig(factory="tests.fixtures.tiny:Linear", inputs=InputConfig(column="y"))

    batches = read(store, task(dataset, dataset, model, epochs=1))

    assert sorted(int(x) for batch in batches for x in batch.inputs[:, 0]) == list(range(1000, 1000 + ROWS))
    with pytest.raises(InputColumnError, match=r"inputs\.column is None; the data set has x, y"):
        read(store, task(dataset, dataset))


@pytest.mark.parametrize(
    ("side", "lanes", "rows"),
    [(8, 8, 2048), (32, 8, 24 * 2**20 // (8 * 3 * 32 * 32)), (128, 8, 128), (512, 8, 2**28 // (8 * 3 * 512 * 512))],
)
def test_windows_shuffle_what_fits_in_a_cache_and_of_large_rows_more(side: int, lanes: int, rows: int) -> None:
    image = (Column(name="image", dtype="uint8", shape=(3, side, side)),)

    assert default_window_rows(image, lanes=lanes) == rows


def test_a_window_has_at_least_one_row() -> None:
    image = (Column(name="image", dtype="uint8", shape=(3, 8192, 8192)),)

    assert default_window_rows(image, lanes=4096) == 1
