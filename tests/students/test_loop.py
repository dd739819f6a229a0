"""The training loop of one worker: against numpy, killed and resumed, following labels that arrive, and diverging."""

import contextlib
import queue
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, log_loss

from cluster.identity import digest_of
from cluster.models import InputConfig, ModelConfig
from cluster.modules import ModelShapeError
from cluster.optimizers import OptimizerConfig
from cluster.shards.dataset import DatasetRecord
from cluster.shards.labelset import LabelSet
from cluster.shards.records import read_record
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError, ObjectStore
from students.arrivals import LabelsLateError
from students.checkpoints import ForeignCheckpointError, latest_step
from students.group import Alone
from students.loop import TrainingDivergedError, train
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm
from students.task import Execution, ProgressRecord, TrainedRecord, TrainingTask
from tests.fixtures.crashing_store import CrashingStore, Killed
from tests.fixtures.plain_order import plain_batches
from tests.fixtures.tiny import (
    commit_shard,
    label_record,
    points,
    targets,
    task,
    teacher_logits,
    write_labels,
    write_rows,
)

ROWS, SHARD_ROWS = 96, 16
ALWAYS = Execution(checkpoint_every_s=0.0)
"""A checkpoint at every step at which there may be one: every tenth, and the last one of an epoch."""


class Rows:
    """A store with training and held-out rows."""

    def __init__(self, root: Path, *, labelled: int | None = None, spread: float = 0.3) -> None:
        self.root, self.store = root, DirectoryStore(root)
        self.arrays = points(ROWS, seed=1, labelled=labelled, spread=spread)
        self.held_out_arrays = points(40, seed=2, spread=spread)
        self.train: DatasetRecord = write_rows(self.store, self.arrays, "a", shard_rows=SHARD_ROWS)
        self.held_out: DatasetRecord = write_rows(self.store, self.held_out_arrays, "b", shard_rows=SHARD_ROWS)

    def task(self, model: str | ModelConfig = "Linear", **changes: object) -> TrainingTask:
        return task(self.train, self.held_out, model, **changes)

    def copy(self, root: Path) -> "Rows":
        shutil.copytree(self.root, root)
        copied = Rows.__new__(Rows)
        copied.__dict__ = self.__dict__ | {"root": root, "store": DirectoryStore(root)}
        return copied


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path / "store")


def run(store: ObjectStore, training: TrainingTask, execution: Execution | None = None) -> TrainedRecord:
    return train(store, training, execution or Execution(), Alone())


def weights(store: ObjectStore, record: TrainedRecord) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(bytes(store.get(record.weights_key)))


def names_below(store: ObjectStore, training: TrainingTask) -> list[str]:
    return [stat.key.removeprefix(f"{training.prefix}/") for stat in store.list(f"{training.prefix}/")]


def initial_weights(rows: Rows, training: TrainingTask) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and biases that a training starts from: those of one that moves nothing."""
    still = training.model_copy(update={"optimizer": OptimizerConfig(name="sgd", lr=1e-30), "epochs": 1})
    start = weights(rows.store, run(rows.store, still))
    return start["weight"].astype(np.float64), start["bias"].astype(np.float64)


def plain_sgd(
    rows: Rows, training: TrainingTask, teacher_NC: np.ndarray | None, clip_norm: float | None
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return weights, biases and the mean loss of each epoch of softmax regression by SGD, in plain numpy.

    The objective is 0.7 KL at T = 2 (if there is a teacher) plus 0.3 cross-entropy; the learning rate falls linearly.
    """
    (weight, bias), losses = initial_weights(rows, training), []
    x, labels = rows.arrays["x"].astype(np.float64), rows.arrays["label"]
    labelled, share = labels >= 0, np.mean(labels >= 0)
    shards = [SHARD_ROWS] * (ROWS // SHARD_ROWS)
    epochs = [
        plain_batches(shards, lanes=4, window_rows=8, batch_size=training.batch_size, seed=training.seed, epoch=epoch)
        for epoch in range(training.epochs)
    ]
    num_steps, step = sum(map(len, epochs)), 0
    for batches in epochs:
        losses.append(0.0)
        for batch in batches:
            picked = [shard * SHARD_ROWS + row for lane in batch for shard, row in lane]
            inputs, known = x[picked], labelled[picked]
            logits = inputs @ weight.T + bias
            onehot = np.eye(3)[np.where(known, labels[picked], 0)]
            gradient = 0.3 * known[:, None] * (softmax(logits, axis=1) - onehot) / share
            loss = 0.3 * -(known[:, None] * onehot * log_softmax(logits, axis=1)).sum() / share
            if teacher_NC is not None:
                p, q = softmax(teacher_NC[picked] / 2, axis=1), softmax(logits / 2, axis=1)
                gradient += 0.7 * 2 * (q - p)
                loss += 0.7 * 4 * (p * (np.log(p) - np.log(q))).sum()
            gradient /= len(picked)
            losses[-1] += loss / len(picked) / len(batches)
            by_weight, by_bias = gradient.T @ inputs, gradient.sum(axis=0)
            norm = np.sqrt((by_weight**2).sum() + (by_bias**2).sum())
            rate = training.optimizer.lr * (1 - step / num_steps) * (min(1, clip_norm / norm) if clip_norm else 1)
            weight, bias, step = weight - rate * by_weight, bias - rate * by_bias, step + 1
    return weight, bias, losses


@pytest.mark.parametrize(("labelled", "taught", "clip_norm"), [(ROWS, False, None), (30, True, None), (30, True, 0.1)])
def test_training_is_softmax_regression_as_plain_numpy_does_it(
    tmp_path: Path, labelled: int, taught: bool, clip_norm: float | None
) -> None:
    rows = Rows(tmp_path, labelled=labelled, spread=0.8)
    logits = teacher_logits(rows.arrays["x"]).astype(np.float16).astype(np.float64)
    objective = (KLTerm(temperature=2, weight=0.7), CrossEntropyTerm(weight=0.3)) if taught else None
    training = rows.task(
        targets=targets(write_labels(rows.store, rows.train, logits)) if taught else None,
        objective=objective or (CrossEntropyTerm(weight=0.3),),
        epochs=3,
        batch_size=20,
        optimizer=OptimizerConfig(name="sgd", lr=0.5, momentum=0, schedule="linear", clip_norm=clip_norm),
    )

    record = run(rows.store, training)

    weight, bias, losses = plain_sgd(rows, training, logits if taught else None, clip_norm)
    found = weights(rows.store, record)
    assert found["weight"] == pytest.approx(weight, abs=2e-5)
    assert found["bias"] == pytest.approx(bias, abs=2e-5)
    assert [point.loss for point in record.points] == pytest.approx(losses, rel=1e-5)


def test_the_record_tells_the_accuracy_and_likelihood_of_the_final_weights_on_the_held_out_rows(rows: Rows) -> None:
    record = run(rows.store, rows.task("Dropped", epochs=3))

    found = {name: values.astype(np.float64) for name, values in weights(rows.store, record).items()}
    hidden = np.tanh(rows.held_out_arrays["x"] @ found["0.weight"].T + found["0.bias"])
    logits = hidden @ found["3.weight"].T + found["3.bias"]  # nothing is dropped
    labels, last = rows.held_out_arrays["label"], record.points[-1]
    assert [point.epoch for point in record.points] == [1, 2, 3]
    assert last.accuracy == accuracy_score(labels, logits.argmax(axis=1))
    assert last.nll == pytest.approx(log_loss(labels, softmax(logits, axis=1)), abs=1e-6)
    assert record.parameters == (4 * 16 + 16) + (16 * 3 + 3)


def test_a_linear_student_learns_what_its_teacher_knows_without_a_single_label(tmp_path: Path) -> None:
    rows = Rows(tmp_path, labelled=0)
    record = write_labels(rows.store, rows.train, teacher_logits(rows.arrays["x"]))
    training = rows.task(targets=targets(record), objective=(KLTerm(),), epochs=20, optimizer=OptimizerConfig(lr=0.1))

    student = run(rows.store, training).points[-1]

    of_teacher = teacher_logits(rows.held_out_arrays["x"]).argmax(axis=1)
    assert student.accuracy == accuracy_score(rows.held_out_arrays["label"], of_teacher) == 1.0


def test_weights_lie_under_their_digest_and_a_finished_training_leaves_no_checkpoint(rows: Rows) -> None:
    training = rows.task("Dropped", epochs=3, batch_size=8)

    record = run(rows.store, training, ALWAYS)

    assert digest_of(rows.store.get(record.weights_key)) == record.weights_digest
    assert names_below(rows.store, training) == sorted(
        [f"{record.weights_digest}.safetensors", "progress.json", "trained.json"]
    )
    progress = read_record(rows.store, training.progress_key, ProgressRecord)
    assert (progress.epoch, progress.epochs, progress.accuracy) == (3, 3, record.points[-1].accuracy)


def test_a_finished_training_is_not_repeated(rows: Rows) -> None:
    training = rows.task()
    record = run(rows.store, training)
    counting = CrashingStore(rows.store)

    again = run(counting, training)

    assert again == record
    assert counting.num_operations == 3  # is it there, is anything to be cleaned up, and what does it say


def test_a_training_is_a_function_of_its_seed_and_not_of_its_name(rows: Rows) -> None:
    seeds = {
        name: weights(rows.store, run(rows.store, rows.task("Dropped", name=name, seed=seed)))["0.weight"].tobytes()
        for name, seed in (("first", 1), ("second", 1), ("third", 2))
    }

    assert seeds["first"] == seeds["second"] != seeds["third"]


class DiesAfterCheckpoint:
    """Hands everything to another store, until the record of checkpoint number `fatal` (from 0) has been written."""

    def __init__(self, store: ObjectStore, fatal: int) -> None:
        self._store, self._left = store, fatal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        written = self._store.put_if_absent(key, body)
        if "/checkpoints/" in key:
            self._left -= 1
            if self._left < 0:
                raise Killed
        return written


CHECKPOINTS = [10, 12, 20, 24, 30]
"""Steps at which 3 epochs of 12 steps may save: every tenth, and the last one of an epoch that is not the last."""

RESUMED = {
    "draws random numbers": ("Dropped", OptimizerConfig(lr=0.05, warmup=0.2, clip_norm=1.0)),
    "has running means": ("Normed", OptimizerConfig(name="sgd", lr=0.05)),
    "lies in channels_last": (
        ModelConfig(factory="tests.fixtures.tiny:Convolved", inputs=InputConfig(shape=(1, 1, 4))),
        OptimizerConfig(name="adam", lr=0.02, schedule="constant"),
    ),
}


def killable(rows: Rows, kind: str) -> TrainingTask:
    model, optimizer = RESUMED[kind]
    return rows.task(model, epochs=3, batch_size=8, optimizer=optimizer)


@pytest.mark.parametrize("kind", RESUMED)
def test_resuming_from_any_checkpoint_ends_bit_for_bit_like_a_training_that_was_never_killed(
    rows: Rows, tmp_path: Path, kind: str
) -> None:
    training = killable(rows, kind)
    whole = run(rows.copy(tmp_path / "whole").store, training)

    for number, step in enumerate(CHECKPOINTS):
        store = rows.copy(tmp_path / str(number)).store
        with pytest.raises(Killed):
            run(DiesAfterCheckpoint(store, number), training, ALWAYS)
        assert latest_step(store, training) == step

        resumed = run(store, training)

        assert resumed.weights_digest == whole.weights_digest
        assert resumed.points == whole.points


def test_a_training_that_is_killed_after_each_of_its_checkpoints_still_ends_the_same(
    rows: Rows, tmp_path: Path
) -> None:
    training = killable(rows, "draws random numbers")
    whole = run(rows.copy(tmp_path / "whole").store, training)

    for step in CHECKPOINTS:
        with pytest.raises(Killed):
            run(DiesAfterCheckpoint(rows.store, 0), training, ALWAYS)
        assert latest_step(rows.store, training) == step
    resumed = run(rows.store, training, ALWAYS)

    assert (resumed.weights_digest, resumed.points) == (whole.weights_digest, whole.points)


@pytest.mark.parametrize("after_it", [False, True])
def test_a_training_killed_at_any_operation_of_the_store_ends_the_same_and_cleans_up(
    rows: Rows, tmp_path: Path, after_it: bool
) -> None:
    training = killable(rows, "draws random numbers")
    undisturbed = CrashingStore(rows.copy(tmp_path / "whole").store)
    whole = run(undisturbed, training, ALWAYS)
    left = names_below(DirectoryStore(tmp_path / "whole"), training)

    for fatal in range(int(after_it), undisturbed.num_operations, 7):
        store = rows.copy(tmp_path / str(fatal)).store
        with contextlib.suppress(Killed):
            run(CrashingStore(store, fatal=fatal, after_it=after_it), training, ALWAYS)

        resumed = run(store, training, ALWAYS)

        assert (resumed.weights_digest, resumed.points) == (whole.weights_digest, whole.points)
        assert names_below(store, training) == left


def test_a_model_that_does_not_fit_the_data_is_refused_before_the_first_step(rows: Rows) -> None:
    too_many = ModelConfig(factory="tests.fixtures.tiny:Linear", arguments={"classes": 4})
    training = rows.task(too_many)

    with pytest.raises(
        ModelShapeError, match=r"found outputs of shape \[2, 4\]; expected outputs of shape \[rows, 3\]"
    ):
        run(rows.store, training, ALWAYS)

    assert names_below(rows.store, training) == []


def test_a_checkpoint_of_another_training_is_refused_and_the_data_set_that_differs_named(rows: Rows) -> None:
    training = killable(rows, "draws random numbers")
    with pytest.raises(Killed):
        run(DiesAfterCheckpoint(rows.store, 0), training, ALWAYS)
    other = training.model_copy(update={"dataset": rows.held_out.identity})
    shutil.copytree(rows.root / training.prefix, rows.root / other.prefix)

    with pytest.raises(ForeignCheckpointError, match="its data set is aaaaaaaaaaaaaaaa, this training has bbbbbbbbbbb"):
        run(rows.store, other)


@pytest.mark.parametrize("labelled", [ROWS, 30])
def test_computing_a_batch_in_parts_changes_nothing_but_rounding(tmp_path: Path, labelled: int) -> None:
    rows = Rows(tmp_path / "store", labelled=labelled)
    record = write_labels(rows.store, rows.train, teacher_logits(rows.arrays["x"]))
    training = rows.task(
        "Smooth", targets=targets(record), objective=(KLTerm(), CrossEntropyTerm(weight=0.2)), batch_size=10
    )

    one, *others = (
        weights(store, run(store, training, Execution(accumulate=parts)))
        for parts in (1, 2, 3, 100)
        for store in [rows.copy(tmp_path / str(parts)).store]
    )

    for found in others:
        for name, values in one.items():
            assert found[name] == pytest.approx(values, abs=1e-5)


def test_half_precision_is_that_of_the_forward_pass_alone(rows: Rows) -> None:
    record = run(rows.store, rows.task("Smooth", precision="bfloat16", epochs=10))

    assert {values.dtype for values in weights(rows.store, record).values()} == {np.dtype("float32")}
    assert record.points[-1].accuracy > 0.9


class Asking:
    """Hands everything to another store, and tells which label shards were asked for before they were there."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.asked: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str) -> memoryview:
        try:
            return self._store.get(key)
        except ObjectMissingError:
            if "/commits/" in key:
                self.asked.put(int(Path(key).stem))
            raise


def test_following_labels_as_they_arrive_gives_the_weights_of_a_training_that_finds_them_all(
    rows: Rows, tmp_path: Path
) -> None:
    logits = teacher_logits(rows.arrays["x"])
    record, complete = label_record(rows.train), rows.copy(tmp_path / "complete").store
    write_labels(complete, rows.train, logits)
    training = rows.task("Dropped", targets=targets(record), objective=(KLTerm(),))
    asking, labels = Asking(rows.store), LabelSet.create(rows.store, record)
    committed: list[int] = []

    def label_what_is_asked_for() -> None:
        for number in iter(asking.asked.get, None):
            if labels.committed(number) is None:
                commit_shard(labels, rows.train, number, logits)
                committed.append(number)

    teacher = threading.Thread(target=label_what_is_asked_for)
    teacher.start()
    try:
        following = run(asking, training)
    finally:
        asking.asked.put(None)
        teacher.join()

    finding = run(complete, training)
    assert sorted(committed) == list(range(ROWS // SHARD_ROWS))  # training has waited for each of them
    assert following.weights_digest == finding.weights_digest
    assert following.points == finding.points


def test_when_labels_stop_training_says_so_and_goes_on_once_they_are_there(rows: Rows, tmp_path: Path) -> None:
    logits = teacher_logits(rows.arrays["x"])
    record = label_record(rows.train)
    training = rows.task(targets=targets(record), objective=(KLTerm(),))
    labels = LabelSet.create(rows.store, record)
    for number in (0, 2, 4, 5):
        commit_shard(labels, rows.train, number, logits)

    with pytest.raises(LabelsLateError, match=r"shard [13] was not committed"):
        run(rows.store, training, Execution(labels_timeout_s=0.01))

    for number in (1, 3):
        commit_shard(labels, rows.train, number, logits)
    complete = rows.copy(tmp_path / "complete").store
    assert run(rows.store, training).weights_digest == run(complete, training).weights_digest


@pytest.mark.parametrize(
    ("batch_size", "epochs", "epoch"),
    [
        pytest.param(8, 2, 1, id="in the middle of an epoch, where a checkpoint is due"),
        pytest.param(48, 2, 1, id="at the end of an epoch"),
        pytest.param(ROWS, 1, 1, id="in the very last update, after the last loss was computed"),
    ],
)
def test_a_training_that_diverges_says_so_and_saves_nothing(
    rows: Rows, batch_size: int, epochs: int, epoch: int
) -> None:
    # One update makes weights of 1e37, and they make logits that no float32 can hold.
    model = ModelConfig(factory="tests.fixtures.tiny:Linear", inputs=InputConfig(scale=100))
    training = rows.task(model, batch_size=batch_size, epochs=epochs, optimizer=OptimizerConfig(lr=1e37))

    with pytest.raises(TrainingDivergedError) as divergence:
        run(rows.store, training, ALWAYS)

    assert (divergence.value.name, divergence.value.epoch) == ("tiny", epoch)
    assert not np.isfinite(divergence.value.loss)
    assert "Lower optimizer.lr" in str(divergence.value)
    assert names_below(rows.store, training) == []
