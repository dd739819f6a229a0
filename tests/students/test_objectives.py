"""What a student minimises, against scipy, closed forms and finite differences."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from cluster.shards.order import EpochOrder
from cluster.shards.schema import NO_LABEL
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm, kl_rows
from students.objectives.objective import Batch, Objective
from students.objectives.term import BatchTerm, TermInputs

TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


def random_logits(rows: int, classes: int, *, seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cross_entropy_rows(logits_NC: torch.Tensor, labels_N: torch.Tensor, *, label_smoothing: float) -> torch.Tensor:
    return CrossEntropyTerm(label_smoothing=label_smoothing).rows(TermInputs(logits_NC, labels_N))


def batch_of(labels: list[int], target_logits_NC: torch.Tensor | None = None) -> Batch:
    return Batch(torch.zeros(len(labels), 1), torch.tensor(labels), target_logits_NC)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_forward_kl_is_the_square_of_the_temperature_times_the_relative_entropy_of_scipy(temperature: float) -> None:
    student, teacher = random_logits(50, 7, seed=1), random_logits(50, 7, seed=2)

    p, q = softmax(teacher.numpy() / temperature, axis=1), softmax(student.numpy() / temperature, axis=1)
    expected = temperature**2 * rel_entr(p, q).sum(axis=1)

    assert kl_rows(student, teacher, temperature=temperature).numpy() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_of_forward_kl_is_that_of_finite_differences(temperature: float) -> None:
    student, teacher = random_logits(4, 5, seed=3).requires_grad_(), random_logits(4, 5, seed=4)

    assert torch.autograd.gradcheck(lambda logits: kl_rows(logits, teacher, temperature=temperature), student)


def test_the_gradient_of_forward_kl_is_the_temperature_times_the_difference_of_the_distributions() -> None:
    student, teacher = random_logits(6, 5, seed=5).requires_grad_(), random_logits(6, 5, seed=6)

    (gradient,) = torch.autograd.grad(kl_rows(student, teacher, temperature=4.0).sum(), student)

    q, p = (softmax(logits.detach().numpy() / 4.0, axis=1) for logits in (student, teacher))
    assert gradient.numpy() == pytest.approx(4.0 * (q - p), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.1, 50), shift=st.floats(-100, 100))
def test_forward_kl_is_never_negative_and_zero_for_equal_distributions(
    seed: int, temperature: float, shift: float
) -> None:
    student, teacher = random_logits(8, 6, seed=seed), random_logits(8, 6, seed=seed + 1)

    assert kl_rows(student, teacher, temperature=temperature).min() >= -1e-12
    assert kl_rows(teacher + shift, teacher, temperature=temperature).abs().max() < 1e-7 * temperature**2


def test_forward_kl_is_finite_where_probabilities_underflow() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]])

    loss = kl_rows(student, teacher, temperature=1.0)
    loss.sum().backward()

    assert loss.item() == pytest.approx(2e4)
    assert student.grad is not None
    assert student.grad.tolist() == [[1.0, -1.0, 0.0]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_is_the_formula_with_smoothed_labels(smoothing: float) -> None:
    logits, labels = random_logits(40, 5, seed=7), torch.arange(40) % 5

    smoothed = (1 - smoothing) * np.eye(5)[labels.numpy()] + smoothing / 5
    expected = -(smoothed * log_softmax(logits.numpy(), axis=1)).sum(axis=1)

    found = cross_entropy_rows(logits, labels, label_smoothing=smoothing)
    assert found.numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_rows_without_a_label_add_nothing_to_cross_entropy_and_move_nothing(smoothing: float) -> None:
    logits = random_logits(4, 3, seed=8).requires_grad_()
    labels = torch.tensor([2, NO_LABEL, 0, NO_LABEL])

    losses = cross_entropy_rows(logits, labels, label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)

    assert losses[[1, 3]].tolist() == [0.0, 0.0]
    assert gradient[[1, 3]].abs().max() == 0
    assert gradient[[0, 2]].abs().min() > 0
    assert torch.autograd.gradcheck(
        lambda values: cross_entropy_rows(values, labels, label_smoothing=smoothing), logits
    )


def test_an_objective_is_the_weighted_sum_of_its_terms() -> None:
    logits, teacher = random_logits(10, 4, seed=9), random_logits(10, 4, seed=10)
    labels = [0, 1, 2, 3, 0, NO_LABEL, NO_LABEL, NO_LABEL, NO_LABEL, NO_LABEL]
    objective = Objective(
        [KLTerm(temperature=2.0, weight=0.7), CrossEntropyTerm(weight=0.3, label_smoothing=0.1)], labelled_share=0.5
    )

    loss = objective(logits, batch_of(labels, teacher), global_rows=10)

    p, q = softmax(teacher.numpy() / 2, axis=1), softmax(logits.numpy() / 2, axis=1)
    kl = 4 * rel_entr(p, q).sum(axis=1).mean()
    smoothed = 0.9 * np.eye(4)[labels[:5]] + 0.025
    cross_entropy = -(smoothed * log_softmax(logits.numpy()[:5], axis=1)).sum(axis=1).mean()
    assert loss.item() == pytest.approx(0.7 * kl + 0.3 * cross_entropy, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 100), cuts=st.sets(st.integers(1, 23), max_size=8), labelled=st.integers(0, 24))
def test_the_parts_of_a_global_batch_sum_to_the_whole_however_it_is_split(
    seed: int, cuts: set[int], labelled: int
) -> None:
    logits, teacher = random_logits(24, 4, seed=seed), random_logits(24, 4, seed=seed + 1)
    whole = batch_of([row % 4 if row < labelled else NO_LABEL for row in range(24)], teacher)
    objective = Objective([KLTerm(temperature=3.0), CrossEntropyTerm(weight=0.5)], labelled_share=0.3)
    edges = [0, *sorted(cuts), 24]

    parts = [
        objective(logits[start:stop], whole.part(slice(start, stop)), global_rows=24)
        for start, stop in itertools.pairwise(edges)
    ]

    assert sum(parts).item() == pytest.approx(objective(logits, whole, global_rows=24).item(), rel=1e-12)


def weights_over_an_epoch(rows: int, *, labelled: int, batch_size: int) -> np.ndarray:
    """Return the weight of each row's own cross-entropy in the sum of the losses of all batches.

    At zero logits of two classes, the gradient of one row's cross-entropy has the entries -1/2 and 1/2.
    """
    objective = Objective([CrossEntropyTerm()], labelled_share=labelled / rows)
    order = EpochOrder([rows], lanes=1, window_rows=rows, batch_size=batch_size, seed=3, epoch=0)
    shuffled = np.random.default_rng(0).permutation(rows)
    weights, start = np.zeros(rows), 0
    for step in range(order.num_steps):
        batch_rows = shuffled[start : start + order.batch_rows(step)]
        logits = torch.zeros(len(batch_rows), 2, dtype=torch.float64, requires_grad=True)
        batch = batch_of([0 if row < labelled else NO_LABEL for row in batch_rows])
        (gradient,) = torch.autograd.grad(objective(logits, batch, global_rows=len(batch_rows)), logits)
        weights[batch_rows] += 2 * gradient[:, 1].numpy()
        start += len(batch_rows)
    assert start == rows
    return weights


def test_over_an_epoch_of_equal_batches_every_labelled_row_weighs_the_same() -> None:
    # 10 of 60 rows are labelled and 5 batches hold 12 rows each: 5 mean losses, spread over 10 rows.
    weights = weights_over_an_epoch(60, labelled=10, batch_size=12)

    assert weights[:10] == pytest.approx(np.full(10, 5 / 10), rel=1e-12)
    assert weights[10:].tolist() == [0.0] * 50


def test_over_an_epoch_of_unequal_batches_no_labelled_row_weighs_more_than_one_row_of_a_batch_more() -> None:
    weights = weights_over_an_epoch(61, labelled=10, batch_size=12)[:10]

    assert weights.max() / weights.min() <= 11 / 10
    assert weights.mean() == pytest.approx(6 / 10, rel=0.05)


def test_without_any_label_cross_entropy_is_zero_and_not_undefined() -> None:
    objective = Objective([CrossEntropyTerm()], labelled_share=0.0)

    loss = objective(random_logits(3, 2, seed=1), batch_of([NO_LABEL] * 3), global_rows=3)

    assert loss.item() == 0.0


class Spread(BatchTerm):
    """How far the rows of a batch are from each other: nothing that a worker can tell from its own rows."""

    def loss(self, seen: TermInputs) -> torch.Tensor:
        return torch.cdist(seen.student_logits_NC, seen.target_NC).mean()


def test_a_term_over_a_batch_has_one_value_and_one_gradient_however_the_rows_are_spread_over_workers() -> None:
    logits, teacher = random_logits(7, 3, seed=1).requires_grad_(), random_logits(7, 3, seed=2)
    expected = torch.cdist(logits, teacher).mean()
    (expected_gradient,) = torch.autograd.grad(expected, logits)

    losses = []
    for own in (slice(0, 3), slice(3, 7)):  # what each of two workers would compute

        def gather(rows: torch.Tensor, own: slice = own) -> torch.Tensor:
            everyone = logits if rows.requires_grad else teacher if rows.dim() == 2 else torch.zeros(7)
            return torch.cat([everyone[: own.start].detach(), rows, everyone[own.stop :].detach()])

        objective = Objective([Spread(weight=0.5)], labelled_share=1.0, gather=gather, world_size=2)
        batch = batch_of([0] * len(logits[own]), teacher[own])
        losses.append(objective(logits[own], batch, global_rows=7))
    (gradient,) = torch.autograd.grad(sum(losses), logits)

    assert sum(losses).item() == pytest.approx(0.5 * expected.item(), rel=1e-12)
    assert gradient.numpy() == pytest.approx(0.5 * expected_gradient.numpy(), rel=1e-10)


def test_weights_and_temperatures_follow_their_schedules() -> None:
    logits, teacher = random_logits(5, 3, seed=3), random_logits(5, 3, seed=4)
    term = KLTerm(
        temperature={"schedule": "linear", "start": 4.0, "end": 1.0, "begin": 0.5},
        weight={"schedule": "linear", "start": 0.0, "end": 2.0, "finish": 0.5},
    )
    objective = Objective([term], labelled_share=1.0)

    for progress, weight, temperature in ((0.0, 0.0, 4.0), (0.25, 1.0, 4.0), (0.75, 2.0, 2.5), (0.999999, 2.0, 1.0)):
        found = objective(logits, batch_of([0] * 5, teacher), global_rows=5, progress=progress)
        expected = weight * kl_rows(logits, teacher, temperature=temperature).mean()
        assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-12)
