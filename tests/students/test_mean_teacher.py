"""The mean teacher: its formula by numpy, the average by its recurrence, and trainings that keep one."""

import shutil
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from cluster.optimizers import OptimizerConfig
from cluster.storage.directory import DirectoryStore
from cluster.tapping import Tapped
from students.group import Alone
from students.loop import build_optimizer, train
from students.objectives.average import WeightAverage, average_for
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.mean_teacher import MeanTeacherTerm
from students.objectives.schedules import Schedule
from students.objectives.term import TermInputs
from students.task import Execution, TrainedRecord, TrainingTask
from tests.fixtures.crashing_store import CrashingStore, Killed
from tests.fixtures.tiny import Dropped, Normed, Smooth, Tied, points, task, write_rows
from tests.fixtures.tiny_workers import together, train_and_die, train_member

ROWS, CLASSES = 12, 5
LABELS = torch.full((ROWS,), -1)
BOTH = [MeanTeacherTerm(), MeanTeacherTerm(consistency="kl")]
AVERAGED = MeanTeacherTerm(weight=3.0, decay=0.6, export="average")
TWO_WAYS = pytest.mark.parametrize("export", ["student", "average"])


def logits(seed: int, *, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    drawn = torch.randn(ROWS, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (scale * drawn).to(dtype)


def rows_of(term: MeanTeacherTerm, student: torch.Tensor, average: torch.Tensor) -> torch.Tensor:
    return term.rows(TermInputs(student, LABELS, average_logits_NC=average))


def by_numpy(term: MeanTeacherTerm, z: np.ndarray, average: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each row, and the gradient of their sum, derived by hand."""
    q, p = softmax(z, axis=1), softmax(average, axis=1)
    if term.consistency == "kl":
        return rel_entr(p, q).sum(axis=1), q - p
    through = 2 / CLASSES * (q - p) * q
    return np.mean((p - q) ** 2, axis=1), through - q * through.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("term", BOTH, ids=lambda term: term.consistency)
def test_the_term_and_its_gradient_are_the_formulas(term: MeanTeacherTerm) -> None:
    for seed in range(5):
        student, average = logits(seed).requires_grad_(), logits(100 + seed)

        rows = rows_of(term, student, average)
        (gradient,) = torch.autograd.grad(rows.sum(), student)

        expected, slope = by_numpy(term, student.detach().numpy(), average.numpy())
        assert rows.detach().numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert gradient.numpy() == pytest.approx(slope, rel=1e-9, abs=1e-12)
    assert torch.autograd.gradcheck(lambda z: rows_of(term, z, logits(9)), logits(8).requires_grad_(), atol=1e-7)


@pytest.mark.parametrize("term", BOTH, ids=lambda term: term.consistency)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=st.floats(-30, 30))
def test_a_student_that_says_what_its_average_says_has_nothing_to_learn_and_constants_change_nothing(
    term: MeanTeacherTerm, seed: int, shift: float
) -> None:
    student, average = logits(seed).requires_grad_(), logits(seed + 1)

    same = rows_of(term, student, student.detach() + shift)
    (gradient,) = torch.autograd.grad(same.sum(), student)

    assert same.abs().max().item() < 1e-9
    assert gradient.abs().max().item() < 1e-7
    shifted = rows_of(term, student.detach() + shift, average - shift)
    assert shifted.numpy() == pytest.approx(rows_of(term, student.detach(), average).numpy(), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("term", BOTH, ids=lambda term: term.consistency)
def test_single_precision_is_close_and_underflow_leaves_it_finite(term: MeanTeacherTerm) -> None:
    exact = rows_of(term, logits(3), logits(4))
    single = rows_of(term, logits(3, dtype=torch.float32), logits(4, dtype=torch.float32))
    far = (1e3 * torch.eye(CLASSES)).requires_grad_()
    loss = term.rows(TermInputs(far, LABELS[:CLASSES], average_logits_NC=1e3 * torch.eye(CLASSES).roll(1, dims=0)))
    (gradient,) = torch.autograd.grad(loss.sum(), far)

    assert single.numpy() == pytest.approx(exact.numpy(), rel=1e-4)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": -0.1}, {"consistency": "l1"}, {"export": "both"}])
def test_options_that_make_no_average_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MeanTeacherTerm.model_validate(wrong)


def test_the_average_is_its_recurrence_and_first_the_plain_mean_of_all_weights_there_were() -> None:
    student = nn.Linear(2, 3).double()
    average = WeightAverage(deepcopy(student), decay=0.8, is_exported=False, is_half=False)
    seen, expected = [student.weight.detach().numpy().copy()], student.weight.detach().numpy().copy()
    for step in range(1, 12):
        with torch.no_grad():
            student.weight.add_(torch.randn(3, 2, dtype=torch.float64))
        average.follow(student, step=step)
        seen.append(student.weight.detach().numpy().copy())
        kept = min(1 - 1 / (step + 1), 0.8)
        expected = kept * expected + (1 - kept) * seen[-1]
        found = average.module.get_parameter("weight").numpy()
        assert found == pytest.approx(expected, rel=1e-12)
        if step <= 4:  # 1 - 1/5 is the first that is not less than the decay
            assert found == pytest.approx(np.mean(seen, axis=0), rel=1e-12)


def test_the_average_has_no_gradient_and_no_place_in_the_optimizer_and_tied_weights_stay_one() -> None:
    student = Tied()
    learner = nn.ModuleList([student, WeightAverage(deepcopy(student), decay=0.9, is_exported=False, is_half=False)])

    outputs = learner[1](torch.ones(2, 3))

    optimizer = build_optimizer(OptimizerConfig(), learner)
    assert not outputs.requires_grad
    assert [parameter.data_ptr() for group in optimizer.param_groups for parameter in group["params"]] == [
        student.first.weight.data_ptr()
    ]
    assert learner[1].module.first.weight is learner[1].module.second.weight


def test_the_average_draws_noise_of_its_own_and_gathers_running_means_of_its_own_outputs() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    dropped = Dropped()
    average = average_for((AVERAGED,), Tapped(dropped, ["1"], name="student"), is_half=False)
    assert average is not None
    assert not torch.equal(average(inputs), dropped(inputs))
    assert torch.equal(average.eval()(inputs), dropped.eval()(inputs))

    normed = Normed()
    average = average_for((AVERAGED,), Tapped(normed, [], name="student"), is_half=False)
    assert average is not None
    average(inputs)
    assert average.module.get_buffer("0.running_mean").numpy() == pytest.approx(0.1 * inputs.mean(0).numpy(), abs=1e-6)
    assert normed.get_buffer("0.running_mean").abs().max() == 0
    assert average_for((CrossEntropyTerm(),), Tapped(normed, [], name="student"), is_half=False) is None


def training_in(root: Path, model: str = "Smooth", **changes: object) -> TrainingTask:
    """Write rows of which a third has labels, and nobody else to teach."""
    store = DirectoryStore(root)
    rows = write_rows(store, points(97, seed=1, labelled=30, spread=0.8), "a")
    held_out = write_rows(store, points(40, seed=2, spread=0.8), "b")
    fields = {"objective": (AVERAGED, CrossEntropyTerm()), "epochs": 3, "batch_size": 10} | changes
    return task(rows, held_out, model, **fields)


def run(root: Path, training: TrainingTask, execution: Execution | None = None, workers: int = 1) -> TrainedRecord:
    if workers == 1:
        return train(DirectoryStore(root), training, execution or Execution(), Alone())
    return together(root.parent, workers, train_member, root, training, execution or Execution())[0]


def weights(root: Path, record: TrainedRecord) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(bytes(DirectoryStore(root).get(record.weights_key)))


def assert_same_training(one: tuple[Path, TrainedRecord], other: tuple[Path, TrainedRecord]) -> None:
    for name, values in weights(*one).items():
        assert weights(*other)[name] == pytest.approx(values, abs=1e-5)
    for found, expected in zip(other[1].points, one[1].points, strict=True):
        assert (found.loss, found.nll) == pytest.approx((expected.loss, expected.nll), abs=1e-5)


@TWO_WAYS
def test_a_training_is_that_of_numpy_and_the_weights_that_are_asked_for_are_scored_and_kept(
    tmp_path: Path, export: str
) -> None:
    term = AVERAGED.model_copy(update={"export": export, "weight": Schedule(schedule="linear", start=0.0, end=6.0)})
    training = training_in(
        tmp_path,
        "Linear",
        objective=(term, CrossEntropyTerm()),
        epochs=6,
        batch_size=97,
        optimizer=OptimizerConfig(name="sgd", lr=0.5, momentum=0, schedule="constant"),
    )
    still = OptimizerConfig(name="sgd", lr=1e-30, momentum=0)
    initial = weights(tmp_path, run(tmp_path, training.model_copy(update={"optimizer": still})))

    record = run(tmp_path, training)

    arrays, held_out = points(97, seed=1, labelled=30, spread=0.8), points(40, seed=2, spread=0.8)
    x, onehot = np.c_[arrays["x"], np.ones(97)].astype(np.float64), np.eye(3)[np.maximum(arrays["label"], 0)]
    known = (arrays["label"] >= 0)[:, None] * 97 / 30
    student = np.c_[initial["weight"], initial["bias"]].astype(np.float64)
    average = student
    for step in range(6):
        z = x @ student.T
        rows, slope = _mse(z, x @ average.T)
        losses = 6 * step / 6 * rows.mean() - (known * onehot * log_softmax(z, axis=1)).sum() / 97
        gradient = 6 * step / 6 * slope + known * (softmax(z, axis=1) - onehot)
        student = student - 0.5 * gradient.T @ x / 97
        kept = min(1 - 1 / (step + 2), 0.6)
        average = kept * average + (1 - kept) * student
        published = average if export == "average" else student
        log_q = log_softmax(np.c_[held_out["x"], np.ones(40)] @ published.T, axis=1)
        assert record.points[step].loss == pytest.approx(losses, rel=1e-5)
        assert record.points[step].nll == pytest.approx(-log_q[np.arange(40), held_out["label"]].mean(), rel=1e-5)
    found = weights(tmp_path, record)
    assert np.c_[found["weight"], found["bias"]] == pytest.approx(published, abs=2e-5)


def _mse(z: np.ndarray, average: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q, p = softmax(z, axis=1), softmax(average, axis=1)
    through = 2 / 3 * (q - p) * q
    return np.mean((p - q) ** 2, axis=1), through - q * through.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("model", ["Dropped", "Normed"])
@TWO_WAYS
def test_a_training_that_was_killed_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path, model: str, export: str
) -> None:
    objective = (AVERAGED.model_copy(update={"export": export}), CrossEntropyTerm())
    training = training_in(tmp_path / "rows", model, objective=objective)
    always, whole_root = Execution(checkpoint_every_s=0.0), shutil.copytree(tmp_path / "rows", tmp_path / "whole")
    undisturbed = CrashingStore(DirectoryStore(whole_root))
    whole = train(undisturbed, training, always, Alone())

    for fatal in range(undisturbed.num_operations // 3, undisturbed.num_operations, 9):
        root = shutil.copytree(tmp_path / "rows", tmp_path / str(fatal))
        with pytest.raises(Killed):
            train(CrashingStore(DirectoryStore(root), fatal=fatal), training, always, Alone())
        resumed = run(root, training)
        assert (resumed.weights_digest, resumed.points) == (whole.weights_digest, whole.points)


def test_any_number_of_workers_and_parts_and_whoever_dies_have_the_same_average(tmp_path: Path) -> None:
    root = tmp_path / "store"
    training, trained = training_in(root), {}
    for workers, accumulate in ((1, 1), (2, 3)):
        copy = Path(shutil.copytree(root, tmp_path / str(workers)))
        trained[workers] = copy, run(copy, training, Execution(accumulate=accumulate), workers)
    with pytest.raises(BrokenProcessPool):
        together(tmp_path, 2, train_and_die, root, training, Execution(checkpoint_every_s=0.0), 2)

    resumed = root, run(root, training)

    assert_same_training(trained[1], trained[2])
    assert_same_training(trained[1], resumed)


def test_what_is_scored_is_what_is_saved_though_each_worker_has_running_means_of_its_own(tmp_path: Path) -> None:
    training = training_in(tmp_path / "store", "Normed")

    record = run(tmp_path / "store", training, workers=2)

    held_out, normed = points(40, seed=2, spread=0.8), Normed().eval()
    normed.load_state_dict({name: torch.from_numpy(it) for name, it in weights(tmp_path / "store", record).items()})
    with torch.inference_mode():
        log_q = log_softmax(normed(torch.from_numpy(held_out["x"])).numpy(), axis=1)
    assert record.points[-1].nll == pytest.approx(-log_q[np.arange(40), held_out["label"]].mean(), abs=1e-5)


def test_half_precision_is_that_of_the_forward_passes_alone(tmp_path: Path) -> None:
    single, half = (run(tmp_path, training_in(tmp_path, precision=it)) for it in ("float32", "bfloat16"))

    assert half.points[-1].nll == pytest.approx(single.points[-1].nll, rel=0.05)
    assert half.weights_digest != single.weights_digest
    assert {values.dtype for values in weights(tmp_path, half).values()} == {np.dtype(np.float32)}
    assert set(weights(tmp_path, half)) == set(Smooth().state_dict())
