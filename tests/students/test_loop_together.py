"""The training loop of several workers: the same training, whatever their number, and whoever dies."""

import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss

from cluster.models import InputConfig, ModelConfig
from cluster.optimizers import OptimizerConfig
from cluster.storage.directory import DirectoryStore
from students.checkpoints import latest_step
from students.group import Alone, chunks, fold_seed
from students.loop import train
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.dist import DISTTerm
from students.objectives.fitnet import FitNetTerm
from students.objectives.kl import KLTerm
from students.objectives.taid import TAIDTerm
from students.objectives.vid import VIDTerm
from students.task import Execution, TrainedRecord, TrainingTask
from students.weightings.gate import GateWeighting
from students.weightings.gradient import GradientWeighting
from students.weightings.weighting import Weighting
from tests.fixtures.taught import Taught
from tests.fixtures.tiny import points, targets, task, teacher_logits, write_labels, write_rows
from tests.fixtures.tiny_workers import exchange, failure_of, gathered, together, train_and_die, train_member

HELD_OUT = points(40, seed=2, spread=0.8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def training_in(root: Path, **changes: object) -> TrainingTask:
    """Write rows of which a third has labels, and what a teacher says of all; the shares of workers are unequal."""
    store = DirectoryStore(root)
    arrays = points(97, seed=1, labelled=30, spread=0.8)
    rows, held_out = write_rows(store, arrays, "a"), write_rows(store, HELD_OUT, "b")
    training = task(
        rows,
        held_out,
        "Smooth",
        targets=targets(write_labels(store, rows, teacher_logits(arrays["x"]))),
        objective=(KLTerm(temperature=2), CrossEntropyTerm(weight=0.3)),
        epochs=3,
        batch_size=10,
        optimizer=OptimizerConfig(lr=0.02, clip_norm=1.0),
    )
    return TrainingTask.model_validate(training.model_dump() | changes)


def train_in(root: Path, training: TrainingTask, workers: int, execution: Execution | None = None) -> TrainedRecord:
    """Train with some workers, and return the record that is in the store."""
    execution = execution or Execution()
    if workers == 1:
        return train(DirectoryStore(root), training, execution, Alone())
    first, *_ = together(root.parent, workers, train_member, root, training, execution)
    return first


def weights(root: Path, record: TrainedRecord) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(bytes(DirectoryStore(root).get(record.weights_key)))


def assert_same_training(one: tuple[Path, TrainedRecord], other: tuple[Path, TrainedRecord]) -> None:
    for name, values in weights(*one).items():
        assert weights(*other)[name] == pytest.approx(values, abs=1e-5)
    for found, expected in zip(other[1].points, one[1].points, strict=True):
        assert found.accuracy == expected.accuracy
        assert (found.loss, found.nll) == pytest.approx((expected.loss, expected.nll), abs=1e-5)


def test_one_two_and_four_workers_end_with_the_same_weights(root: Path, tmp_path: Path) -> None:
    training = training_in(root)
    trained = {}
    for workers, accumulate in ((1, 1), (2, 2), (4, 1)):
        copy = Path(shutil.copytree(root, tmp_path / str(workers)))
        trained[workers] = copy, train_in(copy, training, workers, Execution(accumulate=accumulate))

    assert_same_training(trained[1], trained[2])
    assert_same_training(trained[1], trained[4])


def test_terms_that_compare_rows_or_remember_see_the_same_batches_whatever_the_number_of_workers_and_whoever_dies(
    root: Path, tmp_path: Path
) -> None:
    terms = (DISTTerm(), TAIDTerm(alpha=0.1), CrossEntropyTerm(weight=0.3))
    training = training_in(root, objective=terms)
    trained = {}
    for workers in (1, 3):
        copy = Path(shutil.copytree(root, tmp_path / str(workers)))
        trained[workers] = copy, train_in(copy, training, workers)
    with pytest.raises(BrokenProcessPool):
        together(tmp_path, 2, train_and_die, root, training, Execution(checkpoint_every_s=0.0), 2)

    resumed = root, train_in(root, training, 1)

    assert_same_training(trained[1], trained[3])
    assert_same_training(trained[1], resumed)


@pytest.mark.parametrize("weighting", [GradientWeighting(cap=0.7), GateWeighting(width=4, sees="inputs")])
def test_shares_that_follow_the_student_are_the_same_whatever_the_number_of_workers_and_whoever_dies(
    root: Path, tmp_path: Path, weighting: Weighting
) -> None:
    store, x = DirectoryStore(root), points(97, seed=1, labelled=30, spread=0.8)["x"]
    rows = write_rows(store, points(97, seed=1, labelled=30, spread=0.8), "a")
    labels = [
        write_labels(store, rows, teacher_logits(x[:, order]), name)
        for name, order in (("wide", [0, 1, 2, 3]), ("deep", [1, 0, 2, 3]))
    ]
    blended = targets(*labels).model_copy(update={"weighting": weighting})
    terms = (KLTerm(), KLTerm(weight=0.1, of="deep"))
    training = training_in(root, targets=blended, objective=terms)
    fixed = training_in(root, targets=targets(*labels), objective=terms)
    trained = {}
    for workers in (1, 3):
        copy = Path(shutil.copytree(root, tmp_path / str(workers)))
        trained[workers] = copy, train_in(copy, training, workers)
    with pytest.raises(BrokenProcessPool):
        together(tmp_path, 2, train_and_die, root, training, Execution(checkpoint_every_s=0.0), 2)

    resumed = root, train_in(root, training, 1)

    assert_same_training(trained[1], trained[3])
    assert_same_training(trained[1], resumed)
    assert train_in(root, fixed, 1).weights_digest != resumed[1].weights_digest


@pytest.mark.parametrize("kind", ["stored", "live"])
def test_what_terms_learn_from_modules_is_the_same_whatever_the_number_of_workers(tmp_path: Path, kind: str) -> None:
    taught = Taught(tmp_path / "store")
    objective = (KLTerm(), FitNetTerm(student="1", teacher="wide:1"), VIDTerm(student="0", teacher="wide:1"))
    training = {"stored": taught.stored, "live": taught.live}[kind](objective=objective)
    trained = {}
    for workers, accumulate in ((1, 1), (2, 2)):
        copy = Path(shutil.copytree(tmp_path / "store", tmp_path / str(workers)))
        trained[workers] = copy, train_in(copy, training, workers, Execution(accumulate=accumulate))

    assert_same_training(trained[1], trained[2])


def test_when_a_worker_dies_any_number_of_others_goes_on_from_its_checkpoint(root: Path, tmp_path: Path) -> None:
    training = training_in(root)
    copy = Path(shutil.copytree(root, tmp_path / "whole"))
    whole = copy, train_in(copy, training, 2)
    with pytest.raises(BrokenProcessPool):
        together(tmp_path, 2, train_and_die, root, training, Execution(checkpoint_every_s=0.0), 2)
    assert latest_step(DirectoryStore(root), training) == 20

    for workers in (2, 4, 1):
        copy = Path(shutil.copytree(root, tmp_path / str(workers)))
        resumed = copy, train_in(copy, training, workers)
        assert_same_training(whole, resumed)
        if workers == 2:
            assert resumed[1].weights_digest == whole[1].weights_digest


def test_what_is_scored_is_what_is_saved_though_each_worker_has_running_means_of_its_own(root: Path) -> None:
    training = training_in(root, model=ModelConfig(factory="tests.fixtures.tiny:Normed"))

    record = train_in(root, training, 2)

    found = {name: values.astype(np.float64) for name, values in weights(root, record).items()}
    normed = (HELD_OUT["x"] - found["0.running_mean"]) / np.sqrt(found["0.running_var"] + 1e-5)
    logits = (normed * found["0.weight"] + found["0.bias"]) @ found["1.weight"].T + found["1.bias"]
    assert record.points[-1].accuracy == accuracy_score(HELD_OUT["label"], logits.argmax(axis=1))
    assert record.points[-1].nll == pytest.approx(log_loss(HELD_OUT["label"], softmax(logits, axis=1)), abs=1e-5)


def test_all_workers_stop_when_a_training_diverges(root: Path) -> None:
    training = training_in(
        root,
        model=ModelConfig(factory="tests.fixtures.tiny:Linear", inputs=InputConfig(scale=100)),
        optimizer=OptimizerConfig(lr=1e37),
    )

    found = together(root.parent, 2, failure_of, root, training, Execution(checkpoint_every_s=0.0))

    assert found == ["TrainingDivergedError"] * 2


def test_workers_sum_and_take_from_the_first_exactly_and_keep_what_is_theirs(tmp_path: Path) -> None:
    found = together(tmp_path, 4, exchange)

    assert found == [([6.0, 4.0], [float(rank), 1.0], 2**40) for rank in range(4)]


def test_workers_gather_the_rows_of_all_and_gradients_flow_to_their_own(tmp_path: Path) -> None:
    found = together(tmp_path, 3, gathered)

    everyone = [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [2.0, 2.0], [2.0, 2.0], [2.0, 2.0]]
    assert found == [(everyone, [4.0 * rank] * (rank + 1)) for rank in range(3)]


def test_no_two_steps_or_workers_of_a_training_share_a_stream_of_random_numbers() -> None:
    seeds = {fold_seed(seed, step, rank) for seed in range(5) for step in range(2000) for rank in range(8)}

    assert len(seeds) == 5 * 2000 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.manual_seed(max(seeds))


@settings(deadline=None)
@given(rows=st.integers(0, 200), count=st.integers(1, 50))
def test_the_parts_of_a_batch_cover_it_once_and_differ_by_at_most_one_row(rows: int, count: int) -> None:
    parts = [list(range(rows))[part] for part in chunks(rows, count)]

    assert [row for part in parts for row in part] == list(range(rows))
    assert len(parts) == min(rows, count)
    assert max(map(len, parts), default=0) - min(map(len, parts), default=0) <= 1
