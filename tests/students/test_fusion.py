"""Fusion against numpy, and why one fused target loses nothing: the gradients of sums of divergences."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from cluster.shards.labelset import LabelSetRecord
from cluster.storage.directory import DirectoryStore
from students.batches import TrainingData
from students.fusion import Tables, fuse
from students.objectives.kl import KLTerm
from students.spec import Combine
from students.task import Execution, Target, Targets
from tests.fixtures.tiny import numbered, task, write_labels, write_rows

WEIGHTS = [0.5, 3.0, 1.5]
TEMPERATURES = [0.7, 1.0, 2.5]
COMBINES: list[Combine] = ["mean_probability", "mean_logit"]


def teachers(seed: int, *, rows: int = 6, classes: int = 5) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(4 * rng.standard_normal((rows, classes))) for _ in WEIGHTS]


def cooled(logits_KNC: list[torch.Tensor]) -> list[torch.Tensor]:
    return [z / t for z, t in zip(logits_KNC, TEMPERATURES, strict=True)]


def expected(logits_KNC: list[torch.Tensor], combine: Combine, temperatures: list[float]) -> np.ndarray:
    """Return the fused probabilities, straight from the definitions of the two means."""
    shares = np.array(WEIGHTS) / np.sum(WEIGHTS)
    p_KNC = [softmax(z.numpy() / t, axis=1) for z, t in zip(logits_KNC, temperatures, strict=True)]
    if combine == "mean_probability":
        arithmetic: np.ndarray = np.average(p_KNC, axis=0, weights=shares)
        return arithmetic
    product = np.prod([p**share for p, share in zip(p_KNC, shares, strict=True)], axis=0)
    geometric: np.ndarray = product / product.sum(axis=1, keepdims=True)
    return geometric


@pytest.mark.parametrize("combine", COMBINES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_the_fused_target_is_the_weighted_mean_of_the_calibrated_distributions(combine: Combine, seed: int) -> None:
    logits = teachers(seed)

    fused = fuse(cooled(logits), combine=combine, weights=WEIGHTS)

    assert fused.dtype == torch.float32
    assert fused.exp().numpy() == pytest.approx(expected(logits, combine, TEMPERATURES), rel=1e-4, abs=1e-7)
    assert fused.exp().sum(dim=1).numpy() == pytest.approx(np.ones(6), abs=1e-6)


@pytest.mark.parametrize("combine", COMBINES)
def test_only_the_ratios_of_the_weights_matter_and_not_the_order_of_the_teachers(combine: Combine) -> None:
    logits, order = teachers(1), [2, 0, 1]
    fused = fuse(cooled(logits), combine=combine, weights=WEIGHTS)

    scaled = fuse(cooled(logits), combine=combine, weights=[1000 * w for w in WEIGHTS])
    permuted = fuse(
        [cooled(logits)[k] for k in order],
        combine=combine,
        weights=[WEIGHTS[k] for k in order],
    )

    assert scaled.numpy() == pytest.approx(fused.numpy(), abs=1e-5)
    assert permuted.numpy() == pytest.approx(fused.numpy(), abs=1e-5)


@pytest.mark.parametrize("combine", COMBINES)
def test_one_teacher_is_its_own_mean(combine: Combine) -> None:
    (logits, *_) = teachers(2)

    fused = fuse([logits / 2.5], combine=combine, weights=[7.0])

    assert fused.numpy() == pytest.approx(log_softmax(logits.numpy() / 2.5, axis=1), abs=1e-6)


@pytest.mark.parametrize("combine", COMBINES)
def test_the_largest_logits_that_labels_can_hold_stay_finite(combine: Combine) -> None:
    logits = [torch.tensor([[65504.0, -65504.0]]).half(), torch.tensor([[-65504.0, 65504.0]]).half()]

    fused = fuse([z.float() / 0.05 for z in logits], combine=combine, weights=[1.0, 1.0])

    assert fused.exp().tolist() == [pytest.approx([0.5, 0.5])]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), num_teachers=st.integers(1, 3))
def test_a_vote_is_counted_and_one_more_teacher_votes_for_every_class(seed: int, num_teachers: int) -> None:
    logits, weights = teachers(seed)[:num_teachers], WEIGHTS[:num_teachers]

    fused = fuse(logits, combine="vote", weights=weights).exp()

    for row, shares in enumerate(fused.tolist()):
        votes = [0.2] * 5
        for teacher, weight in zip(logits, weights, strict=True):
            votes[int(teacher[row].argmax())] += num_teachers * weight / sum(weights)
        assert shares == pytest.approx([count / (num_teachers + 1) for count in votes], abs=1e-6)
    assert fused.sum(dim=1).numpy() == pytest.approx(np.ones(6), abs=1e-6)
    if num_teachers == 1:
        assert torch.equal(fused.argmax(dim=1), logits[0].argmax(dim=1))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_who_votes_in_which_order_and_how_sure_he_is_does_not_matter(seed: int) -> None:
    logits = teachers(seed)

    votes = fuse(logits, combine="vote", weights=WEIGHTS)

    permuted = fuse([cooled(logits)[k] for k in (2, 0, 1)], combine="vote", weights=[WEIGHTS[k] for k in (2, 0, 1)])
    assert permuted.numpy() == pytest.approx(votes.numpy(), abs=1e-6)


def test_a_class_that_a_teacher_rules_out_weighs_no_more_than_the_floor_in_a_regression() -> None:
    tables = Tables(torch.eye(2)[None], torch.zeros(2))

    sure = fuse([torch.tensor([[0.0, -60000.0]])], combine="stacking", tables=tables)

    assert sure[0].tolist() == pytest.approx(log_softmax(np.array([0.0, -20.0])), abs=1e-6)


def gradient(student: torch.Tensor, loss: torch.Tensor) -> np.ndarray:
    (values,) = torch.autograd.grad(loss, student, retain_graph=True)
    return values.numpy()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_a_weighted_sum_of_forward_kls_has_the_gradient_of_the_one_to_the_arithmetic_mean(seed: int) -> None:
    student, logits = teachers(seed + 1)[0].requires_grad_(), teachers(seed)
    log_q = F.log_softmax(student, dim=1)
    log_p = [F.log_softmax(z / t, dim=1) for z, t in zip(logits, TEMPERATURES, strict=True)]

    of_each = [(p.exp() * (p - log_q)).sum() * w / sum(WEIGHTS) for p, w in zip(log_p, WEIGHTS, strict=True)]
    mean = fuse(cooled(logits), combine="mean_probability", weights=WEIGHTS).double()
    of_mean = (mean.exp() * (mean - log_q)).sum()

    assert gradient(student, of_mean) == pytest.approx(gradient(student, torch.stack(of_each).sum()), abs=2e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_a_weighted_sum_of_reverse_kls_has_the_gradient_of_the_one_to_the_geometric_mean(seed: int) -> None:
    student, logits = teachers(seed + 1)[0].requires_grad_(), teachers(seed)
    log_q = F.log_softmax(student, dim=1)
    log_p = [F.log_softmax(z / t, dim=1) for z, t in zip(logits, TEMPERATURES, strict=True)]

    of_each = [(log_q.exp() * (log_q - p)).sum() * w / sum(WEIGHTS) for p, w in zip(log_p, WEIGHTS, strict=True)]
    mean = fuse(cooled(logits), combine="mean_logit", weights=WEIGHTS).double()
    of_mean = (log_q.exp() * (log_q - mean)).sum()

    assert gradient(student, of_mean) == pytest.approx(gradient(student, torch.stack(of_each).sum()), abs=1e-5)


def test_tempering_the_geometric_mean_is_the_mean_of_the_tempered_but_not_so_for_the_arithmetic_one() -> None:
    logits, temperature = teachers(3), 4.0

    def before_and_after(combine: Combine) -> tuple[np.ndarray, np.ndarray]:
        fused = fuse(cooled(logits), combine=combine, weights=WEIGHTS)
        return (
            softmax(fused.double().numpy() / temperature, axis=1),
            expected(logits, combine, [t * temperature for t in TEMPERATURES]),
        )

    after, before = before_and_after("mean_logit")
    assert after == pytest.approx(before, abs=1e-6)
    after, before = before_and_after("mean_probability")
    assert np.abs(after - before).max() > 0.01


def target_probabilities(store: DirectoryStore, targets: Targets, records: list[LabelSetRecord]) -> np.ndarray:
    """Return what a student is given for every row of the first epoch, tempered by 2, in the order of the rows."""
    dataset = write_rows(store, numbered(50), "a")
    training = task(dataset, dataset, targets=targets, objective=(KLTerm(),), epochs=1)
    data = TrainingData(store, training, Execution(), rank=0, world_size=1)
    batches = list(data.batches(first_step=0, device=torch.device("cpu")))
    rows = torch.cat([batch.inputs[:, 0] for batch in batches]).long()
    logits = torch.cat([batch.target_logits_NC for batch in batches if batch.target_logits_NC is not None])
    assert sorted(rows.tolist()) == list(range(50))
    assert records[0].dataset == dataset.identity
    probabilities: np.ndarray = F.softmax(logits[rows.argsort()].double() / 2, dim=1).numpy()
    return probabilities


@pytest.mark.parametrize("combine", COMBINES)
def test_labels_fused_while_reading_and_fused_labels_that_were_written_give_the_same_targets(
    tmp_path: Path, combine: Combine
) -> None:
    store = DirectoryStore(tmp_path)
    dataset = write_rows(store, numbered(50), "a")
    logits = [z.numpy() for z in teachers(4, rows=50, classes=3)]
    records = [write_labels(store, dataset, z, name) for z, name in zip(logits, ("wide", "deep", "tall"), strict=True)]
    parts = tuple(Target(labels=record, weight=w) for record, w in zip(records, WEIGHTS, strict=True))

    stored = [torch.from_numpy(z.astype(np.float16)) for z in logits]
    fused = fuse(stored, combine=combine, weights=WEIGHTS).numpy()
    written = write_labels(store, dataset, fused, "ensemble")

    read_time = target_probabilities(store, Targets(combine=combine, parts=parts), records)
    write_time = target_probabilities(
        store, Targets(combine="mean_logit", parts=(Target(labels=written, weight=1.0),)), records
    )
    # float16 rounds log p by at most 2^-11 of itself, and p |log p| is nowhere above 1/e.
    assert np.abs(read_time - write_time).max() < 2 * 2**-11 / np.e
    assert np.abs(read_time - write_time).max() > 0
