"""The term that reads labels as they are stored: against scipy over all classes, and what each treatment promises."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import TopKConfig
from cluster.shards.codecs.topk import TopKCodec
from cluster.shards.schema import ROW
from cluster.storage.directory import DirectoryStore
from students.batches import TrainingData
from students.group import Alone
from students.loop import train
from students.objectives.kl import KLTerm, kl_rows
from students.objectives.objective import Batch, Objective
from students.objectives.sparse_kl import SparseKLTerm, Tail
from students.objectives.sparse_target import SparseTarget
from students.objectives.term import TermInputs
from students.task import Execution
from teachers.selection import select
from tests.fixtures.distributions import top_k_outputs
from tests.fixtures.tiny import points, targets, task, teacher_logits, write_labels, write_rows

ROWS, CLASSES, KEPT, DRAWS = 9, 12, 4, 5
TAILS: tuple[Tail, ...] = get_args(Tail)
EXACT = ("bucket", "uniform", "renormalise")
of_all_tails = pytest.mark.parametrize("tail", TAILS)
at_temperatures = pytest.mark.parametrize("temperature", [1.0, 2.5])


def logits(seed: int, *, rows: int = ROWS, scale: float = 2.0, classes: int = CLASSES) -> np.ndarray:
    drawn: np.ndarray = scale * np.random.default_rng(seed).standard_normal((rows, classes))
    return drawn


def exact_target(teacher: np.ndarray, temperature: float, *, kept: int = KEPT, seed: int = 0) -> SparseTarget:
    """Return the target in float64, with draws of T = 1, by numpy alone."""
    log_p, raw = log_softmax(teacher / temperature, axis=1), softmax(teacher, axis=1)
    order = np.argsort(-teacher, axis=1)
    ids, others = order[:, :kept], order[:, kept:]
    tail = np.take_along_axis(np.exp(log_p), others, axis=1).sum(axis=1)
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(teacher), DRAWS), np.int64)
    masses = np.empty((len(teacher), DRAWS))
    for row, rest in enumerate(others):
        if len(rest) == 0:
            drawn[row], masses[row] = 0, 0
            continue
        chances = raw[row, rest] / raw[row, rest].sum()
        picked = rng.choice(len(rest), size=DRAWS, p=chances)
        drawn[row] = rest[picked]
        masses[row] = np.exp(log_p[row, drawn[row]]) / chances[picked] / DRAWS
    with np.errstate(divide="ignore"):
        parts = ids, np.take_along_axis(log_p, ids, axis=1), np.log(tail)
        drawn_log_probs, log_masses = np.take_along_axis(log_p, drawn, axis=1), np.log(masses)
    return SparseTarget(*map(torch.from_numpy, (*parts, drawn, drawn_log_probs, log_masses)))


def rows_of(tail: Tail, student: torch.Tensor, target: SparseTarget, temperature: float) -> torch.Tensor:
    term = SparseKLTerm(tail=tail, temperature=temperature)
    return term.rows(TermInputs(student, torch.zeros(len(student), dtype=torch.int64), sparse=target))


def oracle(tail: Tail, z: np.ndarray, target: SparseTarget, temperature: float) -> np.ndarray:
    """Return the loss of each row from distributions over classes, all of them written out."""
    found = np.empty(len(z))
    for row, q in enumerate(softmax(z / temperature, axis=1)):
        ids, p = target.ids_NK[row].numpy(), np.exp(target.log_probs_NK[row].numpy())
        others = np.setdiff1d(np.arange(z.shape[1]), ids)
        mass = 1 - p.sum()
        match tail:
            case "renormalise":
                found[row] = rel_entr(p / p.sum(), q[ids]).sum()
            case "bucket":
                found[row] = rel_entr([*p, mass], [*q[ids], q[others].sum()]).sum()
            case "uniform":
                found[row] = rel_entr(p, q[ids]).sum() + rel_entr(mass / len(others), q[others]).sum()
            case "sampled":
                drawn, weights = target.tail_ids_NS[row].numpy(), np.exp(target.tail_log_masses_NS[row].numpy())
                ratios = np.exp(target.tail_log_probs_NS[row].numpy()) / q[drawn]
                found[row] = rel_entr(p, q[ids]).sum() + (weights * np.log(ratios)).sum()
    return temperature**2 * found


def gradient_oracle(tail: Tail, z: np.ndarray, target: SparseTarget, temperature: float) -> np.ndarray:
    """Return T (Σw q - w), where w is what each class weighs; of a bucket, the student's own shares of its mass."""
    q = softmax(z / temperature, axis=1)
    weights = np.zeros_like(q)
    head = np.exp(target.log_probs_NK.numpy())
    np.put_along_axis(weights, target.ids_NK.numpy(), head, axis=1)
    others, mass = weights == 0, 1 - head.sum(axis=1, keepdims=True)
    match tail:
        case "renormalise":
            weights /= head.sum(axis=1, keepdims=True)
        case "bucket":
            weights += mass * np.where(others, q, 0) / np.where(others, q, 0).sum(axis=1, keepdims=True)
        case "uniform":
            weights += mass * others / others.sum(axis=1, keepdims=True)
        case "sampled":
            places = np.arange(len(z))[:, None], target.tail_ids_NS.numpy()
            np.add.at(weights, places, np.exp(target.tail_log_masses_NS.numpy()))
    return temperature * (weights.sum(axis=1, keepdims=True) * q - weights)


@of_all_tails
@at_temperatures
def test_each_treatment_of_the_tail_is_its_formula_and_so_is_its_gradient(tail: Tail, temperature: float) -> None:
    for seed in range(5):
        target = exact_target(logits(seed), temperature, seed=seed)
        student = torch.from_numpy(logits(100 + seed)).requires_grad_()
        z = student.detach().numpy()

        found = rows_of(tail, student, target, temperature)
        (gradient,) = torch.autograd.grad(found.sum(), student)

        assert found.detach().numpy() == pytest.approx(oracle(tail, z, target, temperature), rel=1e-9)
        assert gradient.numpy() == pytest.approx(gradient_oracle(tail, z, target, temperature), abs=1e-12)


@of_all_tails
def test_the_gradient_is_that_of_finite_differences(tail: Tail) -> None:
    target = exact_target(logits(1, rows=3), 2.5)
    student = torch.from_numpy(logits(2, rows=3)).requires_grad_()

    assert torch.autograd.gradcheck(lambda values: rows_of(tail, values, target, 2.5), student)


@of_all_tails
@at_temperatures
def test_where_all_classes_are_stored_every_treatment_is_forward_kl(tail: Tail, temperature: float) -> None:
    teacher, student = logits(1), torch.from_numpy(logits(2))
    target = exact_target(teacher, temperature, kept=CLASSES)

    found = rows_of(tail, student, target, temperature)

    expected = kl_rows(student, torch.from_numpy(teacher), temperature=temperature)
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 8), temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_a_bucket_never_exceeds_the_divergence_over_all_classes_and_is_0_at_equality(
    seed: int, scale: float, temperature: float
) -> None:
    teacher, student = logits(seed, scale=scale), torch.from_numpy(logits(seed + 1, scale=scale))
    target = exact_target(teacher, temperature)
    whole = kl_rows(student, torch.from_numpy(teacher), temperature=temperature)

    found = rows_of("bucket", student, target, temperature)

    assert (found >= -1e-9).all()
    assert (found <= whole + 1e-9).all()
    assert rows_of("bucket", torch.from_numpy(teacher), target, temperature).abs().max() < 1e-9


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=st.floats(-30, 30), tail=st.sampled_from(TAILS))
def test_constants_added_to_a_row_change_nothing_and_rows_are_judged_one_by_one(
    seed: int, shift: float, tail: Tail
) -> None:
    target, student = exact_target(logits(seed), 2.0), torch.from_numpy(logits(seed + 1))

    found = rows_of(tail, student, target, 2.0)

    assert rows_of(tail, student + shift, target, 2.0).numpy() == pytest.approx(found.numpy(), rel=1e-8, abs=1e-10)
    assert rows_of(tail, student[3:5], target.part(slice(3, 5)), 2.0).tolist() == found[3:5].tolist()


def with_codec(**settings: object) -> TopKCodec:
    codec = codec_of(TopKConfig.model_validate({"k": KEPT, "temperatures": [2.5]} | settings), CLASSES)
    assert isinstance(codec, TopKCodec)
    return codec


@at_temperatures
def test_a_uniform_tail_is_forward_kl_to_the_stored_labels_made_dense(temperature: float) -> None:
    codec, student = with_codec(tail_samples=0), torch.from_numpy(logits(2).astype(np.float32))
    packed = codec.pack(top_k_outputs(codec.config, logits(1)))
    dense = torch.from_numpy(codec.logits(packed, temperature=temperature))

    found = rows_of("uniform", student, SparseTarget.of(codec.decode(packed, temperature=temperature)), temperature)

    assert found.numpy() == pytest.approx(kl_rows(student, dense, temperature=temperature).numpy(), rel=1e-4)


@pytest.mark.parametrize("values", ["float16", "int8"])
@at_temperatures
def test_draws_give_value_and_gradient_of_all_classes_on_average_and_no_other_treatment_does(
    temperature: float, values: str
) -> None:
    # One row for each of many labellings of the same input, through selection, storage and reading.
    codec, times = with_codec(tail_samples=DRAWS, values=values), 40_000
    teacher, student = logits(1, rows=1, scale=1.0), logits(2, rows=1, scale=1.0)
    many = torch.from_numpy(teacher.astype(np.float32)).expand(times, CLASSES)
    uniform = np.random.default_rng(3).random((times, DRAWS))
    labels = codec.decode(codec.pack(select(codec.config, many, draws=uniform)), temperature=temperature)
    z = torch.from_numpy(student.astype(np.float32)).repeat(times, 1).requires_grad_()
    q, p = softmax(student[0] / temperature), softmax(teacher[0] / temperature)
    expected = temperature**2 * rel_entr(p, q).sum(), temperature * (q - p)

    deviations = {}
    for tail in TAILS:
        rows = rows_of(tail, z, SparseTarget.of(labels), temperature)
        (gradient,) = torch.autograd.grad(rows.sum(), z)
        errors = rows.detach().double().mean().item() - expected[0], gradient.double().mean(dim=0).numpy() - expected[1]
        # Five standard errors of the mean, and what float16 takes from the stored values.
        bounds = [5 * float(it.double().std(dim=0).max()) / times**0.5 + 2e-3 for it in (rows.detach(), gradient)]
        deviations[tail] = abs(errors[0]) < bounds[0], float(np.abs(errors[1]).max()) < bounds[1]

    assert deviations["sampled"] == (True, True)
    assert [deviations[tail][1] for tail in EXACT] == [False] * 3


@of_all_tails
@at_temperatures
def test_tails_that_vanish_and_single_precision_leave_losses_and_gradients_as_they_are(
    tail: Tail, temperature: float
) -> None:
    codec = with_codec(tail_samples=DRAWS)
    teacher = 1e3 * np.eye(CLASSES)
    drawn = np.tile(np.arange(CLASSES)[:, None], DRAWS)
    outputs = top_k_outputs(codec.config, teacher, tail_ids=(drawn + KEPT + 1) % CLASSES)
    target = SparseTarget.of(codec.decode(codec.pack(outputs), temperature=temperature))
    student = (1e3 * torch.eye(CLASSES).roll(1, dims=0)).requires_grad_()

    rows = rows_of(tail, student, target, temperature)
    (gradient,) = torch.autograd.grad(rows.sum(), student)

    assert rows.isfinite().all()
    assert gradient.isfinite().all()
    single = SparseTarget.of(codec.decode(codec.pack(top_k_outputs(codec.config, logits(1), tail_ids=drawn[:ROWS]))))
    z = torch.from_numpy(logits(2))
    exact = rows_of(tail, z, single, 1.0)
    assert rows_of(tail, z.float(), single, 1.0).numpy() == pytest.approx(exact.numpy(), rel=1e-4, abs=1e-5)


def test_the_parts_of_a_batch_sum_to_the_whole() -> None:
    student = torch.from_numpy(logits(2))
    labels = torch.zeros(ROWS, dtype=torch.int64)
    batch = Batch(student, labels, sparse=exact_target(logits(1), 1.0))
    objective = Objective([SparseKLTerm()], labelled_share=1.0)

    parts = [objective(student[rows], batch.part(rows), global_rows=ROWS) for rows in (slice(0, 4), slice(4, ROWS))]

    assert sum(parts).item() == pytest.approx(objective(student, batch, global_rows=ROWS).item(), rel=1e-12)


TOP_2 = TopKConfig(k=2, temperatures=(2.0,), tail_samples=0)


def test_batches_hold_the_labels_of_their_rows_at_the_temperature_of_the_term_and_nothing_dense(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    arrays = points(50, seed=1)
    rows = write_rows(store, arrays, "a")
    said = teacher_logits(arrays["x"])
    by_row = {tuple(x): place for place, x in zip(arrays[ROW], arrays["x"].tolist(), strict=True)}
    term = SparseKLTerm(temperature=2.0)
    labels = write_labels(store, rows, said, codec=TOP_2)
    training = task(rows, rows, targets=targets(labels), objective=(term,), epochs=1)

    data = TrainingData(store, training, Execution(), rank=0, world_size=1)
    batches = list(data.batches(first_step=0, device=torch.device("cpu")))

    for batch in batches:
        assert batch.target_logits_NC is None
        assert batch.sparse is not None
        places = [by_row[tuple(x)] for x in batch.inputs.tolist()]
        p = softmax(said[places].astype(np.float64) / 2, axis=1)
        assert batch.sparse.ids_NK.tolist() == np.argsort(-p, axis=1)[:, :2].tolist()
        assert batch.sparse.log_tail_N.exp().numpy() == pytest.approx(p.min(axis=1), abs=1e-3)
    assert sum(map(len, batches)) == 50


def test_a_training_on_sparse_labels_with_a_uniform_tail_is_one_on_the_same_labels_made_dense(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    arrays = points(60, seed=1, spread=0.8)
    rows, held_out = write_rows(store, arrays, "a"), write_rows(store, points(20, seed=2), "b")
    taught = targets(write_labels(store, rows, teacher_logits(arrays["x"]), codec=TOP_2))

    trained = []
    for term in (SparseKLTerm(temperature=2.0, tail="uniform"), KLTerm(temperature=2.0)):
        training = task(rows, held_out, "Smooth", targets=taught, objective=(term,))
        record = train(store, training, Execution(), Alone())
        trained.append(safetensors.numpy.load(bytes(store.get(record.weights_key))))

    for name, values in trained[0].items():
        assert values == pytest.approx(trained[1][name], abs=1e-4)
