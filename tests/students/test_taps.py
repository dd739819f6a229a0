"""Terms over outputs of modules, end to end in one process: stored or live, they are what the models give."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from scipy.special import log_softmax, softmax

from cluster.models import InputConfig, ModelConfig
from cluster.optimizers import OptimizerConfig
from cluster.shards.ahead import SHARDS_AHEAD
from cluster.shards.codecs.spec import TapConfig
from cluster.shards.compression import Compression
from cluster.shards.labelset import LabelSet
from cluster.shards.order import EpochOrder
from cluster.shards.reader import UnequalRowsError, read_batches
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectStore
from students.batches import TrainingData
from students.checkpoints import latest_step, load_checkpoint
from students.group import Alone
from students.live import LiveTeachers
from students.loop import train
from students.objectives.objective import Batch
from students.objectives.srrl import SRRLTerm
from students.objectives.term import RowTerm, TeacherTap, TermInputs
from students.spec import OrderConfig
from students.stored_labels import RowsInPlace, StoredLabels, shards_in_use
from students.task import Execution, LiveTeacher, TrainedRecord, TrainingTask
from tests.fixtures.crashing_store import Killed
from tests.fixtures.memory_store import MemoryStore
from tests.fixtures.taught import HINT, KL, ROWS, WIDTH, Taught
from tests.fixtures.tiny import ROW, Smooth, label_record, numbered, points, targets, task, write_labels, write_rows

CPU = torch.device("cpu")


@pytest.fixture
def taught(tmp_path: Path) -> Taught:
    return Taught(tmp_path / "store")


def run(store: ObjectStore, training: TrainingTask, execution: Execution | None = None) -> TrainedRecord:
    return train(store, training, execution or Execution(), Alone())


def weights(store: ObjectStore, record: TrainedRecord) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(bytes(store.get(record.weights_key)))


def losses(record: TrainedRecord) -> list[float]:
    return [point.loss for point in record.points]


@pytest.mark.parametrize(("values", "of_losses", "of_weights"), [("float16", 2e-4, 2e-3), ("int8", 2e-2, 3e-2)])
def test_stored_and_live_outputs_train_the_same_student(
    tmp_path: Path, values: str, of_losses: float, of_weights: float
) -> None:
    taught = Taught(tmp_path, values)

    stored, live = run(taught.store, taught.stored()), run(taught.store, taught.live())

    assert losses(stored) == pytest.approx(losses(live), rel=of_losses)
    for name, tensor in weights(taught.store, live).items():
        assert weights(taught.store, stored)[name] == pytest.approx(tensor, abs=of_weights)
    assert stored.weights_digest != live.weights_digest
    assert taught.stored().identity != taught.live().identity


class DiesAtOnce:
    """Hands everything to another store, until the first checkpoint is written."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        written = self._store.put_if_absent(key, body)
        if "/checkpoints/" in key:
            raise Killed
        return written


@pytest.mark.parametrize("kind", ["stored", "live"])
def test_the_loss_is_that_of_numpy_and_what_a_term_learns_is_saved_and_not_exported(taught: Taught, kind: str) -> None:
    still = OptimizerConfig(name="sgd", lr=1e-30, momentum=0, schedule="constant")
    training = {"stored": taught.stored, "live": taught.live}[kind](optimizer=still, epochs=2, batch_size=ROWS)

    with pytest.raises(Killed):
        run(DiesAtOnce(taught.store), training, Execution(checkpoint_every_s=0.0))
    _, state = load_checkpoint(taught.store, training, latest_step(taught.store, training))
    record = run(taught.store, training)

    student, adapter = weights(taught.store, record), state["objective"]
    assert set(student) == set(Smooth().state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in state["module"].items()} == {
        name: tensor.shape for name, tensor in student.items()
    }
    hidden = np.tanh(taught.arrays["x"] @ student["0.weight"].T + student["0.bias"])
    log_q = log_softmax(hidden @ student["2.weight"].T + student["2.bias"], axis=1)
    p = softmax(taught.logits.astype(np.float16).astype(np.float64), axis=1)
    shapes = {len(tensor.shape): tensor.double().numpy().squeeze() for tensor in adapter.values()}
    mapped = hidden @ shapes[4].T + shapes.get(1, 0.0) if 4 in shapes else hidden @ shapes[2].T + shapes.get(1, 0.0)
    expected = 0.5 * (p * (np.log(p) - log_q)).sum(axis=1).mean() + 0.5 * ((mapped - taught.hidden) ** 2).mean()
    assert losses(record) == pytest.approx([expected] * 2, rel=1e-3)


@pytest.mark.parametrize("kind", ["stored", "live"])
def test_a_training_that_was_killed_ends_bit_for_bit_like_one_that_was_not(tmp_path: Path, kind: str) -> None:
    whole, killed = Taught(tmp_path / "whole"), Taught(tmp_path / "killed")
    training = {"stored": whole.stored, "live": whole.live}[kind](epochs=4)
    expected = run(whole.store, training)

    for _ in range(2):
        with pytest.raises(Killed):
            run(DiesAtOnce(killed.store), training, Execution(checkpoint_every_s=0.0))
    found = run(killed.store, training)

    assert (found.weights_digest, found.points) == (expected.weights_digest, expected.points)


def test_what_terms_learn_changes_nothing_of_what_the_student_starts_from(taught: Taught) -> None:
    still: dict[str, object] = {"optimizer": OptimizerConfig(name="sgd", lr=1e-30), "epochs": 1}

    without = weights(taught.store, run(taught.store, taught.stored(objective=(KL,), stored_taps=(), **still)))
    beside = weights(taught.store, run(taught.store, taught.stored(**still)))

    assert all(np.array_equal(without[name], beside[name]) for name in without)


def test_computing_a_batch_in_parts_or_in_half_precision_changes_nothing_but_rounding(tmp_path: Path) -> None:
    found = {}
    for name, execution, precision in (
        ("whole", Execution(), "float32"),
        ("parts", Execution(accumulate=3), "float32"),
        ("half", Execution(), "bfloat16"),
    ):
        taught = Taught(tmp_path / name)
        found[name] = losses(run(taught.store, taught.live(precision=precision), execution))

    assert found["parts"] == pytest.approx(found["whole"], rel=1e-5)
    assert found["half"] == pytest.approx(found["whole"], rel=0.02)


def test_a_live_teacher_is_given_its_own_inputs_and_hears_of_no_gradient(taught: Taught) -> None:
    model = ModelConfig(factory="tests.fixtures.tiny:Smooth", arguments={"width": WIDTH}, inputs=InputConfig(scale=0.5))
    teacher = LiveTeacher(name="wide", identity="1" * 16, model=model, weights=taught.weights)
    training = taught.stored(stored_taps=(), live_teachers=(teacher,))
    live = LiveTeachers(taught.store, training, CPU)
    data = TrainingData(taught.store, training, Execution(), rank=0, world_size=1, live=live)

    batch = live.watched(next(data.batches(first_step=0, device=CPU)))

    tap = TeacherTap("wide", "1")
    expected = torch.tanh(taught.teacher[0](0.5 * batch.inputs))
    assert torch.allclose(batch.teacher_taps[tap], expected, atol=1e-6)
    assert not batch.teacher_taps[tap].requires_grad
    assert not batch.teacher_taps[tap].is_inference()
    half = batch.part(slice(0, 3))
    assert torch.equal(half.teacher_taps[tap], batch.teacher_taps[tap][:3])
    assert len(half.teacher_inputs["wide"]) == 3


def test_terms_may_read_the_weights_of_a_teachers_layer_though_its_outputs_are_stored(taught: Taught) -> None:
    term = SRRLTerm(student="1", teacher="wide:1", head="wide:2")
    training = taught.live(objective=(KL, term), stored_taps=(taught.labels,))

    live = LiveTeachers(taught.store, training, CPU)
    record = run(taught.store, training)

    weight, bias = live.heads[TeacherTap("wide", "2")]
    assert torch.equal(weight, taught.teacher[2].weight)
    assert torch.equal(bias, taught.teacher[2].bias)
    assert live.inputs(taught.arrays) == {}  # nobody runs it
    assert losses(record)[-1] < losses(record)[0]


class Numbered(RowTerm):
    """A term that reads which rows it is given."""

    needs_rows = True
    reads = frozenset({"labels"})

    def rows(self, seen: TermInputs) -> torch.Tensor:
        raise NotImplementedError


def test_rows_are_numbered_through_the_shards_and_only_where_a_term_asks(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    dataset = write_rows(store, numbered(50), "a")
    plain = task(dataset, dataset, ModelConfig(factory="tests.fixtures.tiny:Linear"), epochs=2)

    def batches(training: TrainingTask, first_step: int = 0) -> list[Batch]:
        data = TrainingData(store, training, Execution(), rank=0, world_size=1)
        return list(data.batches(first_step=first_step, device=CPU))

    asked = plain.model_copy(update={"objective": (Numbered(),)})
    for batch in batches(asked) + batches(asked, first_step=3):
        assert batch.rows_N is not None
        assert batch.rows_N.dtype == torch.int64
        assert batch.rows_N.tolist() == batch.inputs[:, 0].tolist()
        assert torch.equal(batch.part(slice(1, 3)).rows_N, batch.rows_N[1:3])
    assert {batch.rows_N for batch in batches(plain)} == {None}


def test_a_teacher_that_no_term_matches_is_read_for_its_modules_alone(taught: Taught) -> None:
    training = taught.stored(objective=(HINT,))
    unlearned = training.targets.model_copy(update={"ensemble": "ensembles/nobody-learned-it.json"})
    data = TrainingData(
        taught.store, training.model_copy(update={"targets": unlearned}), Execution(), rank=0, world_size=1
    )

    assert set(data._read_shard(0)) == {"x", "label", "0.tap_0"}
    assert data._is_labelled(0)
    labels = task(taught.train, taught.held_out, targets=targets(label_record(taught.train, "unborn")))
    assert set(TrainingData(taught.store, labels, Execution(), rank=0, world_size=1)._read_shard(0)) == {"x", "label"}


class CountsReadings:
    """Hands everything to another store, and counts the times that each object is fetched."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self.readings = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str) -> memoryview:
        self.readings[key] += 1
        return self._store.get(key)


def test_a_shard_with_distributions_and_outputs_is_opened_once(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COFFEY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COFFEY_CACHE_BYTES", "0")
    store = CountsReadings(taught.store)

    data = TrainingData(store, taught.stored(), Execution(), rank=0, world_size=1)
    assert set(data._read_shard(0)) == {"x", "label", "0.logits", "0.tap_0"}

    assert [count for key, count in store.readings.items() if "/data/" in key] == [1]


@pytest.mark.parametrize(("rank", "world_size", "first_step"), [(0, 1, 0), (1, 2, 2), (2, 3, 5)])
def test_labels_too_large_for_the_windows_wait_in_their_shards_and_batches_are_the_same(
    taught: Taught, rank: int, world_size: int, first_step: int
) -> None:
    def data(window_rows: int) -> TrainingData:  # beyond the rows of a lane its size changes no order
        training = taught.stored(order=OrderConfig(lanes=4, window_rows=window_rows))
        return TrainingData(taught.store, training, Execution(), rank=rank, world_size=world_size)

    small, large = data(ROWS), data(10**9)
    tap = TeacherTap("wide", "1")
    found, expected = ([*it.batches(first_step=first_step, device=CPU)] for it in (large, small))

    assert set(large._read_shard(0)) == {"x", "label", ".rows"}
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.target_logits_NC, other.target_logits_NC)
        assert torch.equal(one.teacher_taps[tap], other.teacher_taps[tap])
        assert one.rows_N is None


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("cache_bytes", ["0", "1000000"])
def test_labels_stay_in_their_shards_only_where_these_are_mapped_files(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: Compression, cache_bytes: str
) -> None:
    monkeypatch.setenv("COFFEY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COFFEY_CACHE_BYTES", cache_bytes)
    labels = taught.written({"1": TapConfig()}, compression=compression)
    order = OrderConfig(lanes=4, window_rows=10**9)
    training = taught.stored(stored_taps=(labels,), targets=targets(labels), order=order)

    data = TrainingData(CountsReadings(taught.store), training, Execution(), rank=0, world_size=1)

    is_mapped = compression == "none" and cache_bytes != "0"
    assert set(data._read_shard(0)) == {"x", "label", *([".rows"] if is_mapped else ["0.logits", "0.tap_0"])}


def test_labels_in_more_shards_than_a_process_may_open_are_copied_to_the_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COFFEY_CACHE_DIR", str(tmp_path))
    store = MemoryStore()
    arrays = numbered(600)
    dataset, held_out = write_rows(store, arrays, "a", shard_rows=1), write_rows(store, numbered(8), "b")
    labels = write_labels(store, dataset, np.zeros((600, 3)))
    order = OrderConfig(lanes=4, window_rows=10**9)
    training = task(dataset, held_out, objective=(KL,), targets=targets(labels), order=order)
    data = TrainingData(store, training, Execution(), rank=0, world_size=1)
    assert "0.logits" in data._read_shard(0)


@pytest.mark.parametrize(
    ("lanes", "num_lanes", "shard_rows", "window_rows", "batch_size"),
    [
        (8, 8, 16, 16, 64),
        (8, 3, 16, 16, 64),
        (8, 8, 4, 32, 64),
        (8, 3, 4, 32, 64),
        (8, 8, 16, 4, 128),
        (1, 1, 32, 4, 4),
    ],
)
def test_a_shard_is_opened_for_a_window_and_never_again_for_a_row(
    lanes: int, num_lanes: int, shard_rows: int, window_rows: int, batch_size: int
) -> None:
    store, rows = CountsReadings(MemoryStore()), 59 * shard_rows - 1
    dataset = write_rows(store, numbered(rows), "a", shard_rows=shard_rows)
    logits = np.arange(3 * rows, dtype=np.float16).reshape(rows, 3)
    record = write_labels(store, dataset, logits)
    labels = StoredLabels(LabelSet(store, record), with_logits=True, modules=())
    order = EpochOrder(
        [shard.rows for shard in dataset.shards],
        lanes=lanes,
        window_rows=window_rows,
        batch_size=batch_size,
        seed=7,
        epoch=0,
    )
    in_place = RowsInPlace([labels], order.shard_rows, open_shards=shards_in_use(order, num_lanes=num_lanes))
    openings = iter(order.openings(range(num_lanes)))

    def read_shard(number: int) -> dict[str, np.ndarray]:
        in_place.open(next(openings, number))
        return {ROW: np.arange(number * shard_rows, min(rows, (number + 1) * shard_rows))}

    for ahead in itertools.islice(openings, SHARDS_AHEAD):
        in_place.open(ahead)
    for batch in read_batches(read_shard, order, lanes=range(num_lanes)):
        opened = store.readings.total()
        found = in_place.rows(0, batch[ROW])
        assert store.readings.total() == opened
        np.testing.assert_array_equal(found["logits"], logits[batch[ROW]])


def test_labels_that_wait_in_their_shards_are_refused_too_if_they_have_other_rows(taught: Taught) -> None:
    dataset = write_rows(taught.store, points(40, seed=3), "c", shard_rows=20)
    labels = LabelSet(taught.store, taught.labels.model_copy(update={"dataset": dataset.identity}))
    arrays = LabelSet(taught.store, taught.labels).read(0)
    for number in range(2):
        labels.commit(number, labels.encode(arrays), rows=16, statistics={})
    order = OrderConfig(lanes=4, window_rows=10**9)
    training = taught.stored(stored_taps=(labels.record,), targets=targets(labels.record), order=order)
    training = training.model_copy(update={"dataset": dataset.identity})

    with pytest.raises(UnequalRowsError, match=r"shard [01]: column logits has 16 rows, the input shard has 20"):
        list(TrainingData(taught.store, training, Execution(), rank=0, world_size=1).batches(first_step=0, device=CPU))


def test_columns_that_no_term_reads_are_not_read(taught: Taught) -> None:
    training = taught.stored(objective=(KL,), stored_taps=())
    data = TrainingData(taught.store, training, Execution(), rank=0, world_size=1)

    assert set(data._read_shard(0)) == {"x", "label", "0.logits"}
    data = TrainingData(taught.store, taught.stored(), Execution(), rank=0, world_size=1)
    assert set(data._read_shard(0)) == {"x", "label", "0.logits", "0.tap_0"}


def test_taps_are_part_of_the_identity_of_a_training_and_trainings_without_any_are_what_they_were(
    taught: Taught,
) -> None:
    stored, live = taught.stored(), taught.live()
    teacher = live.live_teachers[0]
    other = live.model_copy(update={"live_teachers": (teacher.model_copy(update={"identity": "2" * 16}),)})
    elsewhere = stored.model_copy(update={"objective": (KL, HINT.model_copy(update={"student": "0"}))})

    assert len({it.identity for it in (stored, live, other, elsewhere)}) == 4
    plain = stored.model_copy(update={"stored_taps": ()}).model_dump()
    assert not plain.keys() & {"stored_taps", "live_teachers"}


def test_gradients_reach_the_student_through_taps_alone(taught: Taught) -> None:
    training = taught.live(objective=(HINT,), targets=None)

    student = weights(taught.store, run(taught.store, training))
    still = training.model_copy(update={"optimizer": OptimizerConfig(name="sgd", lr=1e-30), "seed": training.seed})
    start = weights(taught.store, run(taught.store, still))

    assert np.abs(student["0.weight"] - start["0.weight"]).max() > 1e-3
    assert np.array_equal(student["2.weight"], start["2.weight"])
