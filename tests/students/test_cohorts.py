"""Methods by which students teach each other: values and gradients against numpy and scipy by another route.

Legend: K members, N rows, C classes, F features.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import brentq
from scipy.special import log_softmax, rel_entr, softmax

from cluster.shards.schema import NO_LABEL
from students.cohorts.catalogue import CohortConfig
from students.cohorts.dml import DMLCohort
from students.cohorts.fused import mean_log_probs
from students.cohorts.kdcl import KDCLCohort
from students.cohorts.method import FIRST, Discussion, MemberConfig, OnlineMethod
from students.cohorts.one import ONECohort
from students.cohorts.simplex import best_mixture
from students.objectives.schedules import Schedule

MEMBERS, ROWS, CLASSES, FEATURES = 3, 10, 5, 4
T = 2.5
LABELS_N = np.array([0, 1, 2, 3, 4, 0, 1, 2, NO_LABEL, NO_LABEL])
SHARE = 0.4
COVARIANCE_KK = np.array([[0.5, 0.1, 0.3], [0.1, 0.4, 0.2], [0.3, 0.2, 0.7]])

DML = DMLCohort(members=3, temperature=T)
KDCLS = [
    KDCLCohort(members=3, temperature=T, variant=variant) for variant in ("naive", "linear", "min_logit", "general")
]
ONE = ONECohort(shared=("stem",), temperature=T)
METHODS: list[OnlineMethod] = [DML, *KDCLS, ONE]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda it: getattr(it, "variant", it.method))
every_kdcl = pytest.mark.parametrize("method", KDCLS, ids=lambda it: it.variant)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)  # on tensors this small others only wait


def drawn(seed: int, *shape: int, scale: float = 2.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(shape)


LOGITS_KNC = drawn(1, MEMBERS, ROWS, CLASSES)
FEATURES_NF = drawn(2, ROWS, FEATURES, scale=1.0)
GATE_KF, BIAS_K = drawn(3, MEMBERS, FEATURES, scale=0.5), drawn(4, MEMBERS, scale=0.5)


def state_of(method: OnlineMethod) -> torch.nn.Module | None:
    """Return what a method has learned: from a covariance, or a gate that is not at its beginning."""
    state = method.build(num_members=MEMBERS, num_features=FEATURES)
    method.learn_of(torch.from_numpy(COVARIANCE_KK), state)
    if isinstance(state, torch.nn.Linear):
        state.double()
        state.load_state_dict({"weight": torch.from_numpy(GATE_KF), "bias": torch.from_numpy(BIAS_K)})
    return state


def discussion_of(method: OnlineMethod, logits_KNC: Any, labels_N: Any = LABELS_N, **changes: Any) -> Discussion:
    options = {
        "labelled_share": SHARE,
        "features_NF": torch.from_numpy(FEATURES_NF)[: len(labels_N)],
        "state": state_of(method),
    }
    return Discussion(torch.as_tensor(logits_KNC), torch.as_tensor(labels_N), **options | changes)


def rows_of(method: OnlineMethod, logits_KNC: Any, labels_N: Any = LABELS_N, **changes: Any) -> np.ndarray:
    return method.rows(discussion_of(method, logits_KNC, labels_N, **changes)).detach().numpy()


def one_target(targets_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each row, and its gradient `[K, N, C]`, when all members learn `targets_NC`."""
    p_NC, q_KNC = softmax(targets_NC / T, axis=-1), softmax(LOGITS_KNC / T, axis=-1)
    return T**2 * rel_entr(p_NC[None], q_KNC).sum(axis=(0, 2)), T * (q_KNC - p_NC)


def dml() -> tuple[np.ndarray, np.ndarray]:
    q_KNC = softmax(LOGITS_KNC / T, axis=-1)
    loss_N, gradient_KNC = np.zeros(ROWS), np.zeros_like(q_KNC)
    for k in range(MEMBERS):
        for peer in set(range(MEMBERS)) - {k}:
            loss_N += T**2 * rel_entr(q_KNC[peer], q_KNC[k]).sum(axis=-1) / (MEMBERS - 1)
            gradient_KNC[k] += T * (q_KNC[k] - q_KNC[peer]) / (MEMBERS - 1)
    return loss_N, gradient_KNC


def likeliest(logits_KC: np.ndarray, label: int) -> np.ndarray:
    return min(logits_KC, key=lambda logits_C: -log_softmax(logits_C)[label])


def lowest(logits_KC: np.ndarray, label: int) -> np.ndarray:
    return np.array([min(logits_C[c] - logits_C[label] for logits_C in logits_KC) for c in range(CLASSES)])


def mixed(logits_KC: np.ndarray, label: int) -> np.ndarray:
    """Return the mixture with the least cross-entropy: two members trade their shares at a time, till nobody gains."""
    shares_K = np.full(len(logits_KC), 1 / len(logits_KC))

    def slope(moved: float, i: int, j: int) -> float:
        at_K = shares_K.copy()
        at_K[i], at_K[j] = at_K[i] + moved, at_K[j] - moved
        wrong_C = softmax(at_K @ logits_KC) - np.eye(CLASSES)[label]
        return float(wrong_C @ (logits_KC[i] - logits_KC[j]))

    for _ in range(400):
        before_K = shares_K.copy()
        for i, j in combinations(range(len(logits_KC)), 2):
            low, high = -shares_K[i], shares_K[j]
            if low == high:
                continue
            moved = low if slope(low, i, j) >= 0 else high
            if slope(low, i, j) < 0 < slope(high, i, j):
                moved = brentq(slope, low, high, args=(i, j), xtol=1e-15, rtol=1e-14)
            shares_K[i], shares_K[j] = shares_K[i] + moved, shares_K[j] - moved
        if np.abs(shares_K - before_K).max() < 1e-14:
            break
    combined: np.ndarray = shares_K @ logits_KC
    return combined


def weighed() -> np.ndarray:
    """Return the mixture with the least expected error, by its own optimality: all members' errors weigh the same."""
    ridged_KK = COVARIANCE_KK + 1e-6 * np.trace(COVARIANCE_KK) / MEMBERS * np.eye(MEMBERS)
    # Stationarity of wᵀ C w under Σ w = 1, as one linear system with its multiplier.
    system = np.block([[ridged_KK, np.ones((MEMBERS, 1))], [np.ones((1, MEMBERS)), np.zeros((1, 1))]])
    weights_K = np.linalg.solve(system, np.append(np.zeros(MEMBERS), 1.0))[:-1]
    return np.einsum("k,knc->nc", weights_K, LOGITS_KNC)


def kdcl(method: KDCLCohort) -> tuple[np.ndarray, np.ndarray]:
    if method.variant == "general":
        return one_target(weighed())
    choose = {"naive": likeliest, "linear": mixed, "min_logit": lowest}[method.variant]
    targets_NC = [
        LOGITS_KNC[:, row].mean(axis=0) if label == NO_LABEL else choose(LOGITS_KNC[:, row], label)
        for row, label in enumerate(LABELS_N)
    ]
    return one_target(np.stack(targets_NC))


def one(weight: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    shares_NK = softmax(FEATURES_NF @ GATE_KF.T + BIAS_K, axis=-1)
    gated_NC = np.einsum("nk,knc->nc", shares_NK, LOGITS_KNC)
    loss_N, gradient_KNC = (weight * found for found in one_target(gated_NC))
    wrong_NC = np.zeros_like(gated_NC)
    for row, label in enumerate(LABELS_N):
        if label != NO_LABEL:
            loss_N[row] -= log_softmax(gated_NC[row])[label] / SHARE
            wrong_NC[row] = (softmax(gated_NC[row]) - np.eye(CLASSES)[label]) / SHARE
    return loss_N, gradient_KNC + np.einsum("nk,nc->knc", shares_NK, wrong_NC)


def papers(method: OnlineMethod, weight: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    if method is ONE:
        return one(weight)
    loss_N, gradient_KNC = kdcl(method) if isinstance(method, KDCLCohort) else dml()
    return weight * loss_N, weight * gradient_KNC


@every_method
def test_values_and_gradients_are_those_of_the_paper(method: OnlineMethod) -> None:
    expected_N, gradient_KNC = papers(method)
    logits_KNC = torch.from_numpy(LOGITS_KNC).requires_grad_()

    loss_N = method.rows(discussion_of(method, logits_KNC))
    loss_N.sum().backward()

    assert loss_N.detach().numpy() == pytest.approx(expected_N, rel=1e-9, abs=1e-9)
    assert logits_KNC.grad is not None
    assert logits_KNC.grad.numpy() == pytest.approx(gradient_KNC, rel=1e-9, abs=1e-9)


@every_method
def test_the_weight_is_that_of_what_members_learn_of_each_other_and_not_of_a_gate_that_learns_of_labels(
    method: OnlineMethod,
) -> None:
    rising = method.model_copy(update={"weight": Schedule(schedule="linear", start=0, end=0.6)})
    for progress, weight in ((0.0, 0.0), (0.5, 0.3)):
        expected_N, gradient_KNC = papers(method, weight)
        logits_KNC = torch.from_numpy(LOGITS_KNC).requires_grad_()

        loss_N = rising.rows(discussion_of(rising, logits_KNC, progress=progress))
        loss_N.sum().backward()

        assert loss_N.detach().numpy() == pytest.approx(expected_N, rel=1e-9, abs=1e-9)
        assert logits_KNC.grad is not None
        assert logits_KNC.grad.numpy() == pytest.approx(gradient_KNC, rel=1e-9, abs=1e-9)


def test_a_gate_and_what_it_sees_learn_of_the_labels_alone() -> None:
    shares_NK = softmax(FEATURES_NF @ GATE_KF.T + BIAS_K, axis=-1)
    gated_NC = np.einsum("nk,knc->nc", shares_NK, LOGITS_KNC)
    wrong_NC = (softmax(gated_NC, axis=-1) - np.eye(CLASSES)[LABELS_N.clip(0)]) * (LABELS_N != NO_LABEL)[:, None]
    by_score_NK = shares_NK * np.einsum("nc,knc->nk", wrong_NC / SHARE, LOGITS_KNC - gated_NC)
    state, features_NF = state_of(ONE), torch.from_numpy(FEATURES_NF).requires_grad_()
    assert isinstance(state, torch.nn.Linear)

    ONE.rows(discussion_of(ONE, LOGITS_KNC, state=state, features_NF=features_NF)).sum().backward()

    assert state.weight.grad is not None
    assert state.bias.grad is not None
    assert features_NF.grad is not None
    assert state.weight.grad.numpy() == pytest.approx(by_score_NK.T @ FEATURES_NF, rel=1e-9, abs=1e-9)
    assert state.bias.grad.numpy() == pytest.approx(by_score_NK.sum(axis=0), rel=1e-9, abs=1e-9)
    assert features_NF.grad.numpy() == pytest.approx(by_score_NK @ GATE_KF, rel=1e-9, abs=1e-9)


def test_a_gate_begins_with_equal_shares() -> None:
    gate = ONE.build(num_members=3, num_features=4)

    assert gate(torch.randn(5, 4)).softmax(dim=-1).detach().numpy() == pytest.approx(np.full((5, 3), 1 / 3))


@every_kdcl
def test_the_gradient_of_members_that_learn_a_fixed_target_is_that_of_finite_differences(method: KDCLCohort) -> None:
    target_NC = method.target(discussion_of(method, LOGITS_KNC)).detach()

    class Fixed(KDCLCohort):
        def target(self, discussion: Discussion) -> torch.Tensor:
            return target_NC

    fixed, logits_KNC = Fixed(temperature=T), torch.from_numpy(LOGITS_KNC).requires_grad_()

    assert torch.autograd.gradcheck(lambda z_KNC: fixed.rows(discussion_of(fixed, z_KNC)), logits_KNC)


@every_method
def test_members_that_agree_have_nothing_to_learn_of_each_other(method: OnlineMethod) -> None:
    same_KNC = np.repeat(LOGITS_KNC[:1], MEMBERS, axis=0)
    logits_KNC = torch.from_numpy(same_KNC).requires_grad_()
    own_N = -log_softmax(LOGITS_KNC[0], axis=-1)[range(ROWS), LABELS_N] / SHARE * (LABELS_N != NO_LABEL)

    loss_N = method.rows(discussion_of(method, logits_KNC))
    loss_N[-2:].sum().backward()  # without a label

    assert loss_N.detach().numpy() == pytest.approx(own_N if method is ONE else np.zeros(ROWS), abs=1e-12)
    assert logits_KNC.grad is not None
    assert logits_KNC.grad.numpy() == pytest.approx(np.zeros_like(same_KNC), abs=1e-12)


@every_method
def test_each_row_is_judged_by_itself(method: OnlineMethod) -> None:
    some = [7, 2, 9]

    found = rows_of(method, LOGITS_KNC[:, some], LABELS_N[some], features_NF=torch.from_numpy(FEATURES_NF[some]))

    assert found == pytest.approx(rows_of(method, LOGITS_KNC)[some], rel=1e-9)


SHIFTS = st.lists(st.floats(-50, 50), min_size=MEMBERS, max_size=MEMBERS)
SYMMETRIC = [DML, *KDCLS[:3]]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), shifts=SHIFTS, order=st.permutations(range(MEMBERS)))
def test_neither_constants_in_the_logits_nor_the_order_of_members_matter(
    seed: int, shifts: list[float], order: list[int]
) -> None:
    logits_KNC = drawn(seed, MEMBERS, ROWS, CLASSES)

    for method in METHODS:
        shifted = rows_of(method, logits_KNC + np.array(shifts)[:, None, None])
        assert shifted == pytest.approx(rows_of(method, logits_KNC), rel=1e-7, abs=1e-8)
    for method in SYMMETRIC:
        assert rows_of(method, logits_KNC[order]) == pytest.approx(rows_of(method, logits_KNC), rel=1e-7, abs=1e-8)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 30))
def test_targets_made_with_the_label_are_never_worse_than_the_best_member(seed: int, scale: float) -> None:
    logits_KNC, labels_N = drawn(seed, MEMBERS, ROWS, CLASSES, scale=scale), LABELS_N.clip(0)
    wrongs_KN = -log_softmax(logits_KNC, axis=-1)[:, range(ROWS), labels_N]

    def wrong_N(method: KDCLCohort) -> np.ndarray:
        target_NC = method.target(discussion_of(method, logits_KNC, labels_N)).numpy()
        return -log_softmax(target_NC, axis=-1)[range(ROWS), labels_N]

    naive, linear, min_logit = map(wrong_N, KDCLS[:3])
    assert naive == pytest.approx(wrongs_KN.min(axis=0), rel=1e-12)
    assert (linear <= naive + 1e-8).all()
    assert (min_logit <= naive + 1e-9).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), members=st.integers(2, 6), scale=st.floats(0.001, 5), twins=st.booleans())
def test_no_exchange_of_shares_between_two_members_betters_the_best_mixture(
    seed: int, members: int, scale: float, twins: bool
) -> None:
    logits_KNC, labels_N = drawn(seed, members, ROWS, CLASSES, scale=scale), LABELS_N.clip(0)
    if twins:
        logits_KNC[1] = logits_KNC[0]

    shares_KN = best_mixture(torch.from_numpy(logits_KNC), torch.from_numpy(labels_N)).numpy()

    wrong_NC = softmax(np.einsum("kn,knc->nc", shares_KN, logits_KNC), axis=-1) - np.eye(CLASSES)[labels_N]
    slopes_KN = np.einsum("nc,knc->kn", wrong_NC, logits_KNC)
    assert (shares_KN >= 0).all()
    assert shares_KN.sum(axis=0) == pytest.approx(np.ones(ROWS), rel=1e-12)
    gains_N = (shares_KN * slopes_KN).sum(axis=0) - slopes_KN.min(axis=0)
    assert (gains_N <= 1e-9).all()


def test_members_that_err_alike_share_their_weight_and_one_that_errs_less_has_more() -> None:
    method, state = KDCLS[3], KDCLS[3].build(num_members=3, num_features=0)
    assert state is not None
    assert state.get_buffer("weights_K").tolist() == [1 / 3] * 3

    method.learn_of(torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64), state)
    assert state.get_buffer("weights_K").numpy() == pytest.approx([1 / 6, 1 / 6, 2 / 3], rel=1e-5)

    method.learn_of(torch.zeros(3, 3, dtype=torch.float64), state)
    assert state.get_buffer("weights_K").numpy() == pytest.approx([1 / 3] * 3)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_low_precision_and_large_size_give_finite_losses(method: OnlineMethod, dtype: torch.dtype) -> None:
    logits_KNC = torch.from_numpy(40 * LOGITS_KNC).to(dtype).float().requires_grad_()
    state, features_NF = state_of(method), torch.from_numpy(FEATURES_NF).float()

    loss_N = method.rows(
        discussion_of(method, logits_KNC, state=state.float() if state else None, features_NF=features_NF)
    )
    loss_N.sum().backward()

    assert logits_KNC.grad is not None
    assert bool(loss_N.isfinite().all() and logits_KNC.grad.isfinite().all())


def test_temperatures_may_follow_a_schedule() -> None:
    cooling = DMLCohort(members=3, temperature=Schedule(schedule="linear", start=T, end=1.0))

    assert rows_of(cooling, LOGITS_KNC, progress=0.0) == pytest.approx(rows_of(DML, LOGITS_KNC))
    warm, cold = rows_of(cooling, LOGITS_KNC, progress=0.5), DMLCohort(members=3, temperature=(1 + T) / 2)
    assert warm == pytest.approx(rows_of(cold, LOGITS_KNC))


def test_all_as_one_say_the_mean_of_the_probabilities() -> None:
    fused_NC = mean_log_probs(torch.from_numpy(LOGITS_KNC)).numpy()

    assert np.exp(fused_NC) == pytest.approx(softmax(LOGITS_KNC, axis=-1).mean(axis=0), rel=1e-12)
    assert np.isfinite(mean_log_probs(torch.from_numpy(1e4 * LOGITS_KNC)).numpy()).all()


class TestOptions:
    def parsed(self, **options: object) -> Any:
        return TypeAdapter(CohortConfig).validate_python({"method": "dml", **options})

    def test_a_count_is_short_for_so_many_students_that_are_alike(self) -> None:
        found = self.parsed(members=3)

        assert found == self.parsed(members=[{"name": "peer-1"}, {"name": "peer-2"}])
        assert found.members == (MemberConfig(name="peer-1"), MemberConfig(name="peer-2"))
        assert TypeAdapter(CohortConfig).validate_json(found.model_dump_json()) == found

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"members": 1}, "found 1, expected a count from 2 to 16"),
            ({"members": True}, "tuple"),
            ({"members": []}, "at least 1"),
            ({"members": [{"name": "a"}, {"name": "a"}]}, "'a' is taken"),
            ({"members": [{"name": FIRST}]}, "'student' is taken"),
            ({"members": [{"name": "a", "arguments": {"width": 1}}]}, "arguments are given and model is not"),
            ({"weight": -1.0}, "weight above 0"),
            ({"temperature": 0.0}, "above 0"),
            ({"method": "one", "shared": ["a", "a.b"]}, "'a.b' is a part of 'a'"),
            ({"method": "one", "shared": ["a", "a"]}, "a module twice"),
            ({"method": "one", "shared": []}, "at least 1"),
            ({"method": "one"}, "shared"),
        ],
    )
    def test_what_makes_no_cohort_is_refused(self, options: dict[str, object], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            self.parsed(**options)
