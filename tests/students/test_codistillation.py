"""Codistillation: its loss against numpy by another route, the rounds, and what members leave for each other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.special import rel_entr, softmax

from students.cohorts.codistillation import CodistillationCohort
from students.cohorts.rounds import Rounds
from students.objectives.schedules import Schedule

ROWS, CLASSES, PEERS = 12, 5, 3
T = 2.5


def logits(seed: int, *, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(ROWS, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def peer_logits() -> list[torch.Tensor]:
    return [logits(seed) for seed in range(1, PEERS + 1)]


def oracle(own: NDArray[np.float64], peers: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the loss of each row: relative entropies of scipy, peer by peer."""
    kls = [rel_entr(softmax(peer / T, axis=1), softmax(own / T, axis=1)).sum(axis=1) for peer in peers]
    found: NDArray[np.float64] = T**2 * np.mean(kls, axis=0)
    return found


def test_the_loss_is_the_mean_of_relative_entropies_to_the_peers_as_scipy_has_them() -> None:
    own, peers = logits(0), peer_logits()

    rows = CodistillationCohort(temperature=T).rows(own, peers, progress=0.0)

    assert rows.numpy() == pytest.approx(oracle(own.numpy(), [p.numpy() for p in peers]), rel=1e-9)


def test_its_gradient_is_that_of_the_papers_cross_entropy_to_the_mean_of_the_peers() -> None:
    own, peers = logits(0).requires_grad_(), peer_logits()

    (found,) = torch.autograd.grad(CodistillationCohort().rows(own, peers, progress=0.0).sum(), own)

    mean = np.mean([softmax(peer.numpy(), axis=1) for peer in peers], axis=0)
    assert found.numpy() == pytest.approx(softmax(own.detach().numpy(), axis=1) - mean, abs=1e-12)


def test_its_gradient_is_that_of_the_formula_at_any_temperature() -> None:
    own, peers = logits(0).requires_grad_(), peer_logits()
    method = CodistillationCohort(temperature=T)

    (found,) = torch.autograd.grad(method.rows(own, peers, progress=0.0).sum(), own)

    mean = np.mean([softmax(peer.numpy() / T, axis=1) for peer in peers], axis=0)
    assert found.numpy() == pytest.approx(T * (softmax(own.detach().numpy() / T, axis=1) - mean), abs=1e-12)
    assert torch.autograd.gradcheck(lambda z: method.rows(z, peers, progress=0.0), own)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50), temperature=st.floats(0.5, 10))
def test_members_that_agree_lose_nothing_whatever_is_added_to_their_logits(
    seed: int, shift: float, temperature: float
) -> None:
    own = logits(seed)

    rows = CodistillationCohort(temperature=temperature).rows(own, [own + shift, own - shift], progress=0.0)

    assert rows.abs().max() < 1e-9


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_peers_does_not_matter_and_the_loss_is_never_negative(seed: int) -> None:
    own, peers = logits(seed), [logits(seed + 1), logits(seed + 2)]
    method = CodistillationCohort(temperature=T)

    rows = method.rows(own, peers, progress=0.0)

    assert torch.allclose(rows, method.rows(own, peers[::-1], progress=0.0), atol=1e-12)
    assert rows.min() > -1e-12


def test_the_loss_is_finite_where_probabilities_underflow() -> None:
    own = logits(0, scale=1e4).to(torch.float32).requires_grad_()

    rows = CodistillationCohort().rows(own, [logits(1, scale=1e4).to(torch.float32)], progress=0.0)
    rows.sum().backward()

    assert own.grad is not None
    assert torch.isfinite(rows).all()
    assert torch.isfinite(own.grad).all()


def test_the_temperature_follows_its_schedule() -> None:
    own, peers = logits(0), peer_logits()
    method = CodistillationCohort(temperature=Schedule(schedule="linear", start=1, end=4))

    found = method.rows(own, peers, progress=0.5)

    assert torch.equal(found, CodistillationCohort(temperature=T).rows(own, peers, progress=0.0))


def test_a_round_is_as_many_steps_or_epochs_as_the_spec_says() -> None:
    epochs = CodistillationCohort(exchange_every=2).rounds(steps_per_epoch=7, epochs=5)
    steps = CodistillationCohort(exchange_every=2, unit="steps").rounds(steps_per_epoch=7, epochs=5)

    assert (epochs.steps_per_round, epochs.count) == (14, 3)
    assert (steps.steps_per_round, steps.count) == (2, 18)


@settings(deadline=None, max_examples=50)
@given(num_steps=st.integers(1, 60), steps_per_round=st.integers(1, 70), burn_in=st.integers(1, 8))
def test_what_is_heard_has_been_exchanged_and_what_is_exchanged_is_heard(
    num_steps: int, steps_per_round: int, burn_in: int
) -> None:
    rounds = Rounds(num_steps=num_steps, steps_per_round=steps_per_round, burn_in=burn_in)

    walked = [rounds.at(step) for step in range(num_steps)]
    starts = [step for step in range(num_steps) if step == 0 or walked[step] != walked[step - 1]]

    assert [step for step in range(num_steps) if rounds.begins(step)] == starts
    assert sorted(set(walked)) == list(range(rounds.count))
    heard = [rounds.heard_in(number) for number in range(rounds.count)]
    assert all((number < burn_in) == (found is None) for number, found in enumerate(heard))
    assert [n for n in range(rounds.count) if rounds.is_exchanged(n)] == [n for n in heard if n is not None]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"exchange_every": 0}, "exchange_every"), ({"burn_in": 0}, "burn_in"), ({"unit": "hours"}, "unit")],
)
def test_a_round_without_steps_and_peers_before_there_are_any_are_refused(
    options: dict[str, object], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        CodistillationCohort.model_validate(options)
