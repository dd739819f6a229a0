"""Every weighting: its shares against numpy, scipy and scikit-learn by another route, and what all have in common."""

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from sklearn.metrics import log_loss
from sklearn.svm import OneClassSVM

from cluster.shards.calibration import Calibration
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import LABEL, NO_LABEL, Column, columns_of
from students.blend import StepBlend, for_unseen_rows, fuse_rows
from students.ensembles.ensemble import Ensemble
from students.fusion import combined
from students.objectives.kl import KLTerm
from students.objectives.objective import Batch, Objective
from students.spec import Combine
from students.task import Target, Targets
from students.weightings import catalogue, min_norm
from students.weightings.catalogue import WEIGHTINGS, WeightingConfig
from students.weightings.column import WeightingColumnError, check_column
from students.weightings.confidence import ConfidenceWeighting
from students.weightings.entropy import EntropyWeighting
from students.weightings.gate import GateWeighting
from students.weightings.gradient import GradientWeighting
from students.weightings.min_norm import min_norm_shares
from students.weightings.routing import RoutingWeighting
from students.weightings.static import StaticWeighting
from students.weightings.weighting import Panel, Weighting

NAMES = ("wide", "deep", "tall", "thin")
TEACHERS, ROWS, CLASSES, INPUTS = len(NAMES), 12, 5, 7
LABELS = torch.where(torch.arange(ROWS) % 3 > 0, torch.arange(ROWS) % CLASSES, NO_LABEL)
DOMAINS = torch.arange(ROWS) % 3
WEIGHTS = (1.0, 2.0, 0.5, 1.5)
ROUTES = {"wide": (0,), "deep": (0, 1)}
ALL: list[Weighting] = [
    ConfidenceWeighting(),
    EntropyWeighting(),
    GateWeighting(width=6),
    GateWeighting(width=6, sees="inputs"),
    GradientWeighting(cap=0.6, temperature=2.0),
    RoutingWeighting(column="domain", routes=ROUTES),
    StaticWeighting(),
]
FIXED = [weighting for weighting in ALL if not weighting.changes_with_training]
of_all = pytest.mark.parametrize("weighting", ALL, ids=lambda it: it.method)
seeds = settings(deadline=None, max_examples=20)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def built(weighting: Weighting, num_teachers: int = TEACHERS, *, seed: int = 5) -> torch.nn.Module | None:
    """Return what the weighting learns, as if it had learnt something, in float64."""
    state = weighting.build(num_teachers=num_teachers, num_classes=CLASSES, num_inputs=INPUTS)
    if state is not None:
        state.double()
        for number, parameter in enumerate(state.parameters()):
            parameter.data = 0.5 * normal(seed + number, *parameter.shape)
    return state


def panel(seed: int, weighting: Weighting, *, prior: tuple[float, ...] = (1.0,) * TEACHERS, scale: float = 3) -> Panel:
    return Panel(
        teachers=NAMES,
        log_probs_KNC=(scale * normal(seed, TEACHERS, ROWS, CLASSES)).log_softmax(dim=-1),
        prior_K=torch.tensor(prior, dtype=torch.float64) / sum(prior),
        labels_N=LABELS,
        columns={"domain": DOMAINS},
        student_logits_NC=normal(seed + 1000, ROWS, CLASSES),
        inputs=normal(seed + 2000, ROWS, INPUTS),
        global_rows=ROWS,
        state=built(weighting),
    )


def ordered(seen: Panel, order: list[int]) -> Panel:
    """Return the same teachers in another order, or some of them."""
    prior = seen.prior_K[order]
    return replace(
        seen,
        teachers=tuple(seen.teachers[place] for place in order),
        log_probs_KNC=seen.log_probs_KNC[order],
        prior_K=prior / prior.sum(),
    )


def shares(weighting: Weighting, seen: Panel) -> np.ndarray:
    found: np.ndarray = weighting.shares(seen).detach().numpy()
    return found


def numpy_probs(seen: Panel) -> np.ndarray:
    probs: np.ndarray = softmax(seen.log_probs_KNC.numpy(), axis=2)
    return probs


class TestFormulas:
    @seeds
    @given(seed=st.integers(0, 1000))
    def test_entropy_is_its_formula_normalised_unlike_the_published_code(self, seed: int) -> None:
        seen = panel(seed, EntropyWeighting())
        entropies = entropy(numpy_probs(seen), axis=2)

        found = shares(EntropyWeighting(), seen)

        # The published code stops at 1 - H / ΣH, whose sum is K - 1.
        published = 1 - entropies / entropies.sum(axis=0)
        assert found == pytest.approx(published / (TEACHERS - 1), rel=1e-9)
        assert published.sum(axis=0) == pytest.approx(np.full(ROWS, TEACHERS - 1))

    @seeds
    @given(seed=st.integers(0, 1000))
    def test_confidence_is_its_formula_on_labelled_rows_and_the_prior_on_the_others(self, seed: int) -> None:
        seen = panel(seed, ConfidenceWeighting())

        found = shares(ConfidenceWeighting(), seen)

        probs = numpy_probs(seen)
        for row, label in enumerate(LABELS.tolist()):
            losses = [
                log_loss([label], probs[k, row][None], labels=range(CLASSES)) if label >= 0 else 0.0
                for k in range(TEACHERS)
            ]
            expected = (1 - softmax(losses)) / (TEACHERS - 1) if label >= 0 else np.full(TEACHERS, 1 / TEACHERS)
            assert found[:, row] == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("weighting", [EntropyWeighting(), ConfidenceWeighting()], ids=lambda it: it.method)
    def test_weights_multiply_what_a_method_finds_on_each_row(self, weighting: Weighting) -> None:
        found = shares(weighting, panel(3, weighting, prior=WEIGHTS))

        product = np.array(WEIGHTS)[:, None] * shares(weighting, panel(3, weighting))
        assert found == pytest.approx(product / product.sum(axis=0), rel=1e-9)

    def test_routing_asks_those_whose_route_names_the_domain_or_else_the_generalists(self) -> None:
        weighting = RoutingWeighting(column="domain", routes=ROUTES)

        found = shares(weighting, panel(1, weighting, prior=WEIGHTS))

        by_domain = {0: [1 / 3, 2 / 3, 0, 0], 1: [0, 1, 0, 0], 2: [0, 0, 0.25, 0.75]}
        for row, domain in enumerate(DOMAINS.tolist()):
            assert found[:, row].tolist() == pytest.approx(by_domain[domain], rel=1e-12)

    def test_without_generalists_all_are_asked_where_nobody_knows_the_domain(self) -> None:
        weighting = RoutingWeighting(column="domain", routes=dict.fromkeys(NAMES, (0,)))

        assert shares(weighting, panel(1, weighting, prior=WEIGHTS))[:, 1] == pytest.approx(np.array(WEIGHTS) / 5)

    @pytest.mark.parametrize("sees", ["student", "inputs"])
    def test_a_gate_is_a_small_network_and_begins_at_the_prior(self, sees: str) -> None:
        weighting = GateWeighting(width=6, sees=sees)
        seen = panel(2, weighting, prior=WEIGHTS)
        assert seen.state is not None
        w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in seen.state.parameters())
        x = log_softmax(seen.student_NC.numpy(), axis=1) if sees == "student" else seen.inputs.numpy()
        scores = np.maximum(x @ w1.T + b1, 0) @ w2.T + b2 + np.log(np.array(WEIGHTS))

        fresh = weighting.build(num_teachers=TEACHERS, num_classes=CLASSES, num_inputs=INPUTS)

        assert shares(weighting, seen) == pytest.approx(softmax(scores, axis=1).T, rel=1e-9)
        at_first = shares(weighting, replace(seen, state=fresh.double()))
        assert at_first == pytest.approx(np.repeat(np.array(WEIGHTS)[:, None] / 5, ROWS, axis=1), rel=1e-9)

    def test_gradients_are_those_of_the_mean_loss_towards_each_teacher_and_their_mix_is_the_shortest(self) -> None:
        weighting = GradientWeighting(cap=0.5, temperature=2.0)
        seen = panel(4, weighting, scale=1)
        student = seen.student_NC.clone().requires_grad_()
        gradients = []
        for log_probs in seen.log_probs_KNC:
            loss = KLTerm(temperature=2.0)
            objective = Objective([loss], labelled_share=1.0)
            value = objective(student, Batch(torch.zeros(ROWS, 1), LABELS, log_probs), global_rows=1)
            gradients.append(torch.autograd.grad(value, student)[0].mean(dim=0).numpy())

        found = shares(weighting, seen)

        assert found == pytest.approx(np.repeat(found[:, :1], ROWS, axis=1))
        check_kkt(np.array(gradients), found[:, 0], cap=0.5)


def check_kkt(vectors: np.ndarray, found: np.ndarray, *, cap: float) -> None:
    """Assert what is true of the minimum alone: no trade between two shares makes the mix shorter."""
    slopes = vectors @ (found @ vectors) / np.square(vectors).sum(axis=1).mean()
    may_grow, may_shrink = slopes[found < cap - 1e-9], slopes[found > 1e-9]
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert found.min() >= 0
    assert found.max() <= cap
    if len(may_grow) and len(may_shrink):
        assert may_shrink.max() - may_grow.min() < 1e-9


class TestShortestMixture:
    @settings(deadline=None, max_examples=100)
    @given(
        seed=st.integers(0, 10_000),
        count=st.integers(1, 8),
        size=st.integers(1, 10),
        cap=st.sampled_from([0.2, 0.34, 0.6, 1.0]),
        exponent=st.integers(-6, 4),
        shared=st.sampled_from([0.0, 10.0]),
    )
    def test_no_trade_between_two_shares_makes_it_shorter(
        self, seed: int, count: int, size: int, cap: float, exponent: int, shared: float
    ) -> None:
        rng = np.random.default_rng(seed)
        vectors = 10.0**exponent * (rng.standard_normal((count, size)) + shared * rng.standard_normal(size))

        found = min_norm_shares(vectors, cap=cap)

        check_kkt(vectors, found, cap=max(cap, 1 / count))

    @pytest.mark.parametrize("cap", [0.4, 0.6, 1.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_as_short_as_that_of_scipy_and_of_the_one_class_machine_of_the_reference(
        self, seed: int, cap: float
    ) -> None:
        vectors = np.random.default_rng(seed).standard_normal((4, 6)) + 0.5
        gram = vectors @ vectors.T

        found = min_norm_shares(vectors, cap=cap)

        by_scipy = minimize(
            lambda w: w @ gram @ w / 2,
            np.full(4, 0.25),
            jac=lambda w: gram @ w,
            bounds=[(0, cap)] * 4,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-16, "maxiter": 500},
        ).x
        machine = OneClassSVM(kernel="precomputed", nu=1 / (cap * 4), tol=1e-10).fit(gram)
        by_machine = np.zeros(4)
        by_machine[machine.support_] = machine.dual_coef_[0]
        assert found @ gram @ found <= by_scipy @ gram @ by_scipy + 1e-9
        assert found == pytest.approx(by_scipy, abs=1e-6)
        assert found == pytest.approx(by_machine / by_machine.sum(), abs=1e-6)

    def test_of_two_vectors_it_is_the_foot_of_the_perpendicular(self) -> None:
        first, second = np.array([3.0, 1.0]), np.array([-1.0, 2.0])
        foot = (second - first) @ second / np.square(first - second).sum()

        assert min_norm_shares(np.array([first, second]), cap=1.0) == pytest.approx([foot, 1 - foot], rel=1e-12)
        assert min_norm_shares(np.array([first, 100 * second]), cap=0.6).tolist() == pytest.approx([0.6, 0.4])

    def test_equal_vectors_and_those_of_length_0_have_equal_shares(self) -> None:
        for vectors in (np.ones((3, 4)), np.zeros((3, 4))):
            assert min_norm_shares(vectors, cap=0.6) == pytest.approx(np.full(3, 1 / 3), abs=1e-12)

    def test_vectors_that_are_not_finite_have_equal_shares_so_that_the_loss_tells_of_them(self) -> None:
        for bad in (math.nan, math.inf):
            vectors = np.array([[1.0, bad], [2.0, 0.0], [0.0, 1.0]])
            assert min_norm_shares(vectors, cap=0.6).tolist() == [1 / 3] * 3

    def test_teachers_that_are_all_but_equal_to_the_student_take_few_steps(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        faces = []
        once = min_norm._minimum_on_face
        monkeypatch.setattr(min_norm, "_minimum_on_face", lambda *given: faces.append(1) or once(*given))
        for seed in range(30):
            rng = np.random.default_rng(seed)
            vectors = rng.standard_normal((12, 40)) * np.repeat([1.0, 1e-6], 6)[:, None]

            shares = min_norm_shares(vectors, cap=0.3)

            trades = (vectors @ (vectors.T @ shares))[:, None] - (vectors @ (vectors.T @ shares))[None]
            allowed = (shares < 0.3 - 1e-9)[None] & (shares > 1e-9)[:, None]
            assert trades[allowed].max() < 1e-9
        assert len(faces) < 30 * 12 * 10


class TestInvariants:
    @of_all
    @seeds
    @given(seed=st.integers(0, 1000), scale=st.floats(0.01, 200))
    def test_shares_are_not_negative_and_sum_to_1_on_every_row(
        self, weighting: Weighting, seed: int, scale: float
    ) -> None:
        found = shares(weighting, panel(seed, weighting, prior=WEIGHTS, scale=scale))

        assert found.shape == (TEACHERS, ROWS)
        assert found.min() >= 0
        assert found.sum(axis=0) == pytest.approx(np.ones(ROWS), abs=1e-12)

    @pytest.mark.parametrize("weighting", [it for it in ALL if it.method != "gate"], ids=lambda it: it.method)
    @seeds
    @given(seed=st.integers(0, 1000), order=st.permutations(range(TEACHERS)))
    def test_the_order_of_the_teachers_is_nothing(self, weighting: Weighting, seed: int, order: list[int]) -> None:
        seen = panel(seed, weighting, prior=WEIGHTS)

        assert shares(weighting, ordered(seen, order)) == pytest.approx(shares(weighting, seen)[order], abs=1e-9)

    @of_all
    def test_one_teacher_has_all_of_it(self, weighting: Weighting) -> None:
        alone = replace(ordered(panel(1, weighting), [2]), state=built(weighting, 1))

        assert shares(weighting, alone) == pytest.approx(np.ones((1, ROWS)), abs=1e-12)

    @pytest.mark.parametrize(
        "weighting", [it for it in ALL if it.method not in {"gate", "routing"}], ids=lambda it: it.method
    )
    def test_teachers_that_say_the_same_have_equal_shares(self, weighting: Weighting) -> None:
        seen = panel(1, weighting)
        seen = replace(seen, log_probs_KNC=seen.log_probs_KNC[:1].expand(TEACHERS, -1, -1))

        assert shares(weighting, seen) == pytest.approx(np.full((TEACHERS, ROWS), 1 / TEACHERS), abs=1e-9)

    @of_all
    def test_teachers_that_are_entirely_sure_have_finite_shares(self, weighting: Weighting) -> None:
        seen = panel(1, weighting, scale=1e5)

        assert np.isfinite(shares(weighting, seen)).all()

    @pytest.mark.parametrize("weighting", [it for it in ALL if it.method != "gate"], ids=lambda it: it.method)
    def test_single_precision_is_close_to_double(self, weighting: Weighting) -> None:
        seen = panel(6, weighting)
        single = replace(
            seen,
            log_probs_KNC=seen.log_probs_KNC.float(),
            prior_K=seen.prior_K.float(),
            student_logits_NC=seen.student_NC.float(),
        )

        assert shares(weighting, single) == pytest.approx(shares(weighting, seen), abs=1e-5)


def targets(weighting: Weighting, combine: str = "mean_probability", names: tuple[str, ...] = NAMES) -> Targets:
    parts = tuple(
        Target(
            labels=LabelSetRecord(
                teacher=name,
                teacher_identity=f"{place:016x}",
                dataset="a" * 16,
                columns=(Column(name="logits", dtype="float16", shape=(CLASSES,)),),
            ),
            weight=weight,
        )
        for place, (name, weight) in enumerate(zip(names, WEIGHTS, strict=False))
    )
    return Targets.model_validate({"combine": combine, "parts": parts, "weighting": weighting})


def ensemble(combine: Combine = "mean_probability") -> Ensemble:
    return Ensemble.weighted(combine, WEIGHTS, [Calibration()] * len(WEIGHTS))


def blend_of(weighting: Weighting, **changes: Any) -> StepBlend:
    options: dict[str, Any] = {
        "num_classes": CLASSES,
        "num_inputs": INPUTS,
        "labelled_share": 2 / 3,
        "sum_over_workers": lambda values: values,
    }
    blend = StepBlend(targets(weighting), **options | changes)
    blend.state = built(weighting)
    return blend


def batch_of(seen: Panel) -> Batch:
    assert seen.inputs is not None
    each = dict(zip(NAMES, seen.log_probs_KNC, strict=True))
    return Batch(seen.inputs, LABELS, teacher_logits=each)


class TestFusedBefore:
    @pytest.mark.parametrize("weighting", FIXED, ids=lambda it: it.method)
    def test_the_fused_target_has_the_gradient_of_the_weighed_sum_of_what_each_teacher_asks(
        self, weighting: Weighting
    ) -> None:
        seen = panel(7, weighting, prior=WEIGHTS)
        student = seen.student_NC.clone().requires_grad_()
        rows = {LABEL: LABELS.numpy().astype(np.int32), "domain": DOMAINS.numpy().astype(np.int32)}

        target = fuse_rows(ensemble(), weighting, seen.teachers, seen.log_probs_KNC, rows)
        log_q = student.log_softmax(dim=-1)
        fused = (target.exp() * (target - log_q)).sum()
        each = (seen.log_probs_KNC.exp() * (seen.log_probs_KNC - log_q)).sum(dim=-1)
        weighed = (weighting.shares(seen) * each).sum()

        (of_fused,) = torch.autograd.grad(fused, student, retain_graph=True)
        (of_weighed,) = torch.autograd.grad(weighed, student)
        assert of_fused.numpy() == pytest.approx(of_weighed.numpy(), abs=1e-9)

    @pytest.mark.parametrize("weighting", FIXED, ids=lambda it: it.method)
    def test_reverse_kl_has_it_too_with_the_geometric_mean(self, weighting: Weighting) -> None:
        seen = panel(8, weighting, prior=WEIGHTS)
        student = seen.student_NC.clone().requires_grad_()
        rows = {LABEL: LABELS.numpy().astype(np.int32), "domain": DOMAINS.numpy().astype(np.int32)}

        target = fuse_rows(ensemble("mean_logit"), weighting, seen.teachers, seen.log_probs_KNC, rows)
        log_q = student.log_softmax(dim=-1)
        each = (log_q.exp() * (log_q - seen.log_probs_KNC)).sum(dim=-1)

        (of_fused,) = torch.autograd.grad((log_q.exp() * (log_q - target)).sum(), student, retain_graph=True)
        (of_weighed,) = torch.autograd.grad((weighting.shares(seen) * each).sum(), student)
        assert of_fused.numpy() == pytest.approx(of_weighed.numpy(), abs=1e-9)

    def test_a_teacher_with_share_0_has_no_say_even_if_it_finds_a_class_impossible(self) -> None:
        log_probs = torch.tensor([[[0.5, 0.5, 0.0]], [[0.2, 0.3, 0.5]]]).log()
        shares_KN = torch.tensor([[0.0], [1.0]])

        for combine in ("mean_probability", "mean_logit"):
            found = combined(log_probs, shares_KN, combine=combine)
            assert found.exp().tolist() == [pytest.approx([0.2, 0.3, 0.5])]

    def test_rows_that_nobody_trains_on_are_fused_with_the_prior_where_shares_need_labels_or_the_student(self) -> None:
        found = {it.method: for_unseen_rows(it).method for it in ALL}

        assert found == {
            "confidence": "static",
            "gate": "static",
            "gradient": "static",
            "entropy": "entropy",
            "routing": "routing",
            "static": "static",
        }


class TestAtEveryStep:
    @pytest.mark.parametrize("weighting", [it for it in ALL if it.changes_with_training], ids=lambda it: it.method)
    def test_the_student_sees_the_blend_as_a_constant_target(self, weighting: Weighting) -> None:
        seen = panel(9, weighting, prior=WEIGHTS)
        student = seen.student_NC.clone().requires_grad_()
        objective = Objective([KLTerm()], labelled_share=2 / 3, blend=blend_of(weighting))

        loss = objective(student, batch_of(seen), global_rows=ROWS)

        (found,) = torch.autograd.grad(loss, student)
        mixed = (weighting.shares(seen).detach()[..., None] * seen.log_probs_KNC.exp()).sum(dim=0)
        expected = (student.detach().softmax(dim=-1) - mixed) / ROWS
        assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-9)

    def test_a_gate_learns_by_the_cross_entropy_of_its_target_on_the_labelled_rows(self) -> None:
        weighting = GateWeighting(width=6)
        seen, blend = panel(10, weighting, prior=WEIGHTS), blend_of(weighting)
        assert blend.state is not None

        target, loss = blend(seen.student_NC, batch_of(seen), global_rows=ROWS)

        labelled = LABELS.numpy() >= 0
        expected = log_loss(LABELS.numpy()[labelled], target.exp().numpy()[labelled], labels=range(CLASSES))
        assert loss.item() == pytest.approx(expected, rel=1e-9)
        assert not target.requires_grad
        names, values = zip(*blend.state.named_parameters(), strict=True)

        def loss_of(*parameters: torch.Tensor) -> torch.Tensor:
            state = dict(zip(names, parameters, strict=True))
            moved = replace(seen, state=lambda x: torch.func.functional_call(blend.state, state, (x,)))
            fused = combined(seen.log_probs_KNC, weighting.shares(moved), combine="mean_probability")
            return torch.nn.functional.nll_loss(fused, LABELS, ignore_index=NO_LABEL)

        assert torch.autograd.gradcheck(loss_of, [value.detach().requires_grad_() for value in values], atol=1e-7)
        of_blend = torch.autograd.grad(loss, values)
        for found, wanted in zip(of_blend, torch.autograd.grad(loss_of(*values), values), strict=True):
            assert found.numpy() == pytest.approx(wanted.numpy(), abs=1e-9)

    def test_without_a_labelled_row_a_gate_learns_nothing_and_has_a_gradient_all_the_same(self) -> None:
        blend = blend_of(GateWeighting(width=6))
        seen = panel(11, GateWeighting())
        nobody = replace(batch_of(seen), labels_N=torch.full((ROWS,), NO_LABEL))

        blend(seen.student_NC, nobody, global_rows=ROWS)[1].backward()

        assert [parameter.grad.abs().max().item() for parameter in blend.parameters()] == [0.0] * 4

    def test_a_gate_learns_whom_to_ask(self) -> None:
        blend = StepBlend(
            targets(GateWeighting(width=8, sees="inputs"), names=NAMES[:2]),
            num_classes=2,
            num_inputs=1,
            labelled_share=1.0,
            sum_over_workers=lambda values: values,
        )
        inputs = torch.linspace(-1, 1, 40)[:, None]
        labels = torch.arange(40) % 2
        right = torch.nn.functional.one_hot(labels, 2) * 0.8 + 0.1
        knows = inputs < 0  # the first teacher is right there and wrong elsewhere, the second the other way round
        each = {"wide": torch.where(knows, right, 1 - right).log(), "deep": torch.where(knows, 1 - right, right).log()}
        parameters = list(blend.parameters())
        for _ in range(200):
            target, loss = blend(torch.zeros(40, 2), Batch(inputs, labels, teacher_logits=each), global_rows=40)
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.data -= gradient

        assert (target.argmax(dim=1) == labels).float().mean() > 0.9

    def test_two_workers_find_the_shares_and_gradients_of_one(self) -> None:
        weighting = GradientWeighting(cap=0.6)
        seen = panel(12, weighting, prior=WEIGHTS, scale=1)
        student = seen.student_NC.clone().requires_grad_()
        whole = Objective([KLTerm()], labelled_share=1.0, blend=blend_of(weighting))
        expected = whole(student, batch_of(seen), global_rows=ROWS)
        (expected_gradient,) = torch.autograd.grad(expected, student)
        sums: list[torch.Tensor] = []

        def noted(values: torch.Tensor) -> torch.Tensor:
            sums.append(values)
            return values

        parts, losses = (slice(0, 5), slice(5, ROWS)), []
        for part in parts:
            blend_of(weighting, sum_over_workers=noted)(
                student[part].detach(), batch_of(seen).part(part), global_rows=ROWS
            )
        for part in parts:
            blend = blend_of(weighting, sum_over_workers=lambda _: sums[0] + sums[1])
            objective = Objective([KLTerm()], labelled_share=1.0, blend=blend, world_size=2)
            losses.append(objective(student[part], batch_of(seen).part(part), global_rows=ROWS))

        (gradient,) = torch.autograd.grad(sum(losses), student)
        assert sum(losses).item() == pytest.approx(expected.item(), rel=1e-9)
        assert gradient.numpy() == pytest.approx(expected_gradient.numpy(), abs=1e-9)

    def test_a_term_of_one_teacher_matches_it_alone_beside_terms_of_all(self) -> None:
        seen = panel(13, StaticWeighting())
        fused = combined(seen.log_probs_KNC, seen.prior_KN, combine="mean_probability")
        batch = replace(batch_of(seen), target_logits_NC=fused)
        terms = [KLTerm(weight=0.25, of="deep"), KLTerm(weight=0.75)]

        found = Objective(terms, labelled_share=1.0)(seen.student_NC, batch, global_rows=ROWS)

        def alone(target: torch.Tensor) -> torch.Tensor:
            only = Batch(batch.inputs, LABELS, target)
            return Objective([KLTerm()], labelled_share=1.0)(seen.student_NC, only, global_rows=ROWS)

        expected = 0.25 * alone(seen.log_probs_KNC[1]) + 0.75 * alone(fused)
        assert found.item() == pytest.approx(expected.item(), rel=1e-9)

    def test_what_a_gate_has_learnt_is_saved_with_the_objective(self) -> None:
        weighting = GateWeighting(width=6)
        first, second = (Objective([KLTerm()], labelled_share=1.0, blend=blend_of(weighting)) for _ in range(2))
        for parameter in first.parameters():
            parameter.data += 1
        second.load_state_dict(first.state_dict())
        seen = panel(14, weighting)

        values = [it(seen.student_NC, batch_of(seen), global_rows=ROWS).item() for it in (first, second)]

        assert len(first.state_dict()) == 4
        assert values[0] == values[1]


def test_every_weighting_of_the_catalogue_has_a_file_of_its_own_and_is_tried_here() -> None:
    without_one = {"__init__", "catalogue", "column", "weighting", "min_norm"}
    files = {path.stem for path in Path(catalogue.__file__).parent.glob("*.py")} - without_one

    assert {weighting.model_fields["method"].default for weighting in WEIGHTINGS} == files
    assert {type(weighting) for weighting in ALL} == set(WEIGHTINGS)


def test_weightings_are_found_by_name_and_refuse_options_that_are_not_theirs() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(WeightingConfig)

    assert adapter.validate_python({"method": "gradient", "cap": 0.5}) == GradientWeighting(cap=0.5)
    for wrong in (
        {"method": "gradient", "cap": 0},
        {"method": "entropy", "cap": 0.5},
        {"method": "router"},
        {"method": "routing", "column": "domain", "routes": {}},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ({LABEL: np.zeros(3, np.int32), "x": np.zeros((3, 2), np.float32)}, "the data set has label, x"),
        ({"domain": np.zeros(3, np.float32)}, r"the data set has it as float32 \[\]"),
        ({"domain": np.zeros((3, 1), np.int32)}, r"the data set has it as int32 \[1\]"),
    ],
)
def test_a_column_that_is_not_there_or_no_whole_number_is_refused(rows: dict[str, np.ndarray], found: str) -> None:
    with pytest.raises(WeightingColumnError, match=found):
        check_column(RoutingWeighting(column="domain", routes=ROUTES), columns_of(rows))


def test_a_column_of_whole_numbers_is_not_and_others_ask_for_none() -> None:
    check_column(RoutingWeighting(column="domain", routes=ROUTES), columns_of({"domain": np.zeros(3, np.uint8)}))
    check_column(EntropyWeighting(), ())


def test_the_error_survives_the_way_between_processes() -> None:
    error = WeightingColumnError("domain", "label")

    assert str(pickle.loads(pickle.dumps(error))) == str(error)
