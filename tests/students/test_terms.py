"""Every term of an objective: its values against numpy and scipy by another route, and what all have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import pearsonr

from cluster.shards.schema import NO_LABEL
from students.objectives import catalogue
from students.objectives.adaptive_kl import AdaptiveKLTerm
from students.objectives.catalogue import TERMS, TermConfig
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.dist import DISTTerm
from students.objectives.dkd import DKDTerm
from students.objectives.jsd import JSDTerm
from students.objectives.kl import KLTerm
from students.objectives.mse import MSETerm
from students.objectives.restricted_kl import RestrictedKLTerm
from students.objectives.reverse_kl import ReverseKLTerm
from students.objectives.skew_kl import SkewKLTerm
from students.objectives.standardised_kl import StandardisedKLTerm
from students.objectives.taid import TAIDTerm
from students.objectives.teacher_free import TeacherFreeTerm
from students.objectives.term import BatchTerm, RowTerm, Shapes, Term, TermInputs
from students.objectives.tvd import TVDTerm

ROWS, CLASSES = 24, 6
LABELS = torch.arange(ROWS) % CLASSES
T = 2.5
SHAPED: list[Term] = [
    AdaptiveKLTerm(temperature=T, mu=0.4),
    CrossEntropyTerm(label_smoothing=0.1),
    DISTTerm(temperature=T, beta=0.7, gamma=1.3),
    DKDTerm(temperature=T, alpha=0.5, beta=3),
    JSDTerm(temperature=T, beta=0.3),
    KLTerm(temperature=T),
    MSETerm(),
    MSETerm(centred=False),
    RestrictedKLTerm(temperature=T),
    ReverseKLTerm(temperature=T),
    SkewKLTerm(temperature=T, alpha=0.2),
    SkewKLTerm(temperature=T, alpha=0.2, reverse=True),
    StandardisedKLTerm(temperature=T),
    TAIDTerm(temperature=T, start=0.3),
    TeacherFreeTerm(temperature=T, correct=0.9),
    TVDTerm(temperature=T),
]
OF_TEACHERS = [term for term in SHAPED if "target" in term.reads]
COMPARING_MODULES = {"feature-based", "relation-based"}
"""Families with test files of their own; so have the terms that read more than labels and what is fused."""
PARTLY_CONSTANT = (AdaptiveKLTerm, TAIDTerm)
"""Formulas of which a part is taken for a constant; a test of their own tells their gradients."""
all_terms = pytest.mark.parametrize("term", SHAPED, ids=lambda term: f"{term.term}")


def logits(seed: int, *, rows: int = ROWS, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    drawn = torch.randn(rows, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (scale * drawn).to(dtype)


def value(
    term: Term, student: torch.Tensor, target: torch.Tensor, labels: torch.Tensor = LABELS, progress: float = 0.0
) -> torch.Tensor:
    """Return the mean over the rows."""
    state = term.build(Shapes())
    seen = TermInputs(student, labels, target, progress=progress, state=state.eval() if state else None)
    match term:
        case RowTerm():
            return term.rows(seen).mean()
        case BatchTerm():
            return term.loss(seen)
    raise TypeError(term)


def mean_kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(rel_entr(p, q).sum(axis=-1).mean())


def dkd(z: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for row, own in enumerate(LABELS.tolist()):
        p, q = softmax(y[row] / T), softmax(z[row] / T)
        first = rel_entr([p[own], 1 - p[own]], [q[own], 1 - q[own]]).sum()
        rest = [c for c in range(CLASSES) if c != own]
        second = rel_entr(p[rest] / p[rest].sum(), q[rest] / q[rest].sum()).sum()
        total += T**2 * (0.5 * first + 3 * second)
    return total / ROWS


def dist(z: np.ndarray, y: np.ndarray) -> float:
    q, p = softmax(z / T, axis=1), softmax(y / T, axis=1)
    rows = np.mean([1 - pearsonr(q[i], p[i]).statistic for i in range(ROWS)])
    columns = np.mean([1 - pearsonr(q[:, c], p[:, c]).statistic for c in range(CLASSES)])
    return float(T**2 * (0.7 * rows + 1.3 * columns))


def jsd(z: np.ndarray, y: np.ndarray) -> float:
    q, p = softmax(z / T, axis=1), softmax(y / T, axis=1)
    mixture = 0.3 * p + 0.7 * q
    return T**2 * (0.3 * mean_kl(p, mixture) + 0.7 * mean_kl(q, mixture))


def adaptive(z: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for q, p in zip(softmax(z / T, axis=1), softmax(y / T, axis=1), strict=True):
        tail, mass = set(), 0.0
        for c in sorted(range(CLASSES), key=lambda c: p[c]):
            mass += p[c]
            if mass <= 0.4:
                tail.add(c)
        gaps = [sum(abs(p[c] - q[c]) for c in range(CLASSES) if (c in tail) == wanted) for wanted in (False, True)]
        total += T**2 * (gaps[0] * rel_entr(p, q).sum() + gaps[1] * rel_entr(q, p).sum()) / sum(gaps)
    return total / ROWS


def standardised(z: np.ndarray, y: np.ndarray) -> float:
    z, y = ((v - v.mean(axis=1, keepdims=True)) / v.std(axis=1, ddof=1, keepdims=True) for v in (z, y))
    return T**2 * mean_kl(softmax(y / T, axis=1), softmax(z / T, axis=1))


def skew(first: np.ndarray, second: np.ndarray) -> float:
    return T**2 * mean_kl(first, 0.2 * first + 0.8 * second)


def teacher_free(z: np.ndarray, _: np.ndarray) -> float:
    virtual = np.full((ROWS, CLASSES), 0.1 / (CLASSES - 1))
    virtual[np.arange(ROWS), LABELS] = 0.9
    return T**2 * mean_kl(softmax(virtual / T, axis=1), softmax(z / T, axis=1))


def smoothed_cross_entropy(z: np.ndarray, _: np.ndarray) -> float:
    wanted = 0.9 * np.eye(CLASSES)[LABELS] + 0.1 / CLASSES
    return float(-(wanted * log_softmax(z, axis=1)).sum(axis=1).mean())


def p_of(values: np.ndarray) -> np.ndarray:
    return softmax(values / T, axis=1)


# In the order of SHAPED.
ORACLES: list[Callable[[np.ndarray, np.ndarray], float]] = [
    adaptive,
    smoothed_cross_entropy,
    dist,
    dkd,
    jsd,
    lambda z, y: T**2 * mean_kl(p_of(y), p_of(z)),
    lambda z, y: float(np.var(z - y, axis=1).mean()),
    lambda z, y: float(((z - y) ** 2).mean()),
    lambda z, y: T**2 * mean_kl(p_of(y), p_of(z)),
    lambda z, y: T**2 * mean_kl(p_of(z), p_of(y)),
    lambda z, y: skew(p_of(y), p_of(z)),
    lambda z, y: skew(p_of(z), p_of(y)),
    standardised,
    lambda z, y: T**2 * mean_kl(p_of(0.7 * z + 0.3 * y), p_of(z)),
    teacher_free,
    lambda z, y: T**2 * float(np.abs(p_of(z) - p_of(y)).sum(axis=1).mean()) / 2,
]


@pytest.mark.parametrize(
    ("term", "oracle"), list(zip(SHAPED, ORACLES, strict=True)), ids=lambda it: getattr(it, "term", "")
)
def test_a_term_is_its_formula(term: Term, oracle: Callable[[np.ndarray, np.ndarray], float]) -> None:
    for seed in range(5):
        student, target = logits(seed), logits(100 + seed)
        assert value(term, student, target).item() == pytest.approx(oracle(student.numpy(), target.numpy()), rel=1e-9)


def test_every_term_of_the_catalogue_has_a_file_of_its_own_and_is_tried_here() -> None:
    listed = {term for term in TERMS if term.family not in COMPARING_MODULES and term.reads <= {"target", "labels"}}
    folder = Path(catalogue.__file__).parent
    without_a_term = {
        "__init__",
        "average",
        "catalogue",
        "divergences",
        "exit_head",
        "maps",
        "objective",
        "pair",
        "relations",
        "schedules",
        "sparse_target",
        "term",
    }

    assert {term.model_fields["term"].default for term in TERMS} == {
        path.stem for path in folder.glob("*.py") if path.stem not in without_a_term
    }
    assert {type(term) for term in SHAPED} == listed


@pytest.mark.parametrize(
    "term", [term for term in SHAPED if not isinstance(term, PARTLY_CONSTANT)], ids=lambda it: it.term
)
def test_the_gradient_of_a_term_is_that_of_finite_differences(term: Term) -> None:
    student, target = logits(1, rows=5).requires_grad_(), logits(2, rows=5)

    assert torch.autograd.gradcheck(lambda values: value(term, values, target, LABELS[:5]), student, atol=1e-7)


def test_the_weights_of_adaptive_kl_and_the_target_of_taid_carry_no_gradient() -> None:
    student, target = logits(1).requires_grad_(), logits(2)
    q, p = p_of(student.detach().numpy()), p_of(target.numpy())

    (gradient,) = torch.autograd.grad(value(TAIDTerm(temperature=T, start=0.3), student, target), student)

    mixed = p_of(0.7 * student.detach().numpy() + 0.3 * target.numpy())
    assert gradient.numpy() == pytest.approx(T * (q - mixed) / ROWS, abs=1e-12)

    # Where the whole mass is tail or head, one of the two divergences has weight 1, and the gradient is its own.
    (gradient,) = torch.autograd.grad(value(AdaptiveKLTerm(temperature=T, mu=1e-9), student, target), student)
    assert gradient.numpy() == pytest.approx(T * (q - p) / ROWS, abs=1e-12)


@pytest.mark.parametrize("term", OF_TEACHERS, ids=lambda term: term.term)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 8))
def test_a_student_that_says_what_the_teachers_say_has_nothing_to_learn(term: Term, seed: int, scale: float) -> None:
    same = logits(seed, scale=scale).requires_grad_()

    loss = value(term, same, same.detach())
    (gradient,) = torch.autograd.grad(loss, same)

    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert gradient.abs().max().item() < (1 if isinstance(term, TVDTerm) else 1e-7)  # TVD has a corner there


@pytest.mark.parametrize("term", OF_TEACHERS, ids=lambda term: term.term)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=st.floats(-30, 30))
def test_constants_added_to_the_logits_of_a_row_change_nothing(term: Term, seed: int, shift: float) -> None:
    if term == MSETerm(centred=False):
        return
    student, target = logits(seed), logits(seed + 1)

    assert value(term, student + shift, target - shift).item() == pytest.approx(
        value(term, student, target).item(), rel=1e-7, abs=1e-9
    )


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_standardised_kl_leaves_the_student_its_scale(scale: float) -> None:
    student, target = logits(1), logits(2)

    found = value(StandardisedKLTerm(temperature=T), scale * student, target)

    assert found.item() == pytest.approx(value(StandardisedKLTerm(temperature=T), student, target).item(), rel=1e-6)


@pytest.mark.parametrize("term", [term for term in SHAPED if "labels" in term.reads], ids=lambda term: term.term)
def test_rows_without_a_label_count_nothing_and_move_nothing_where_labels_are_read(term: Term) -> None:
    assert isinstance(term, RowTerm)
    student, target = logits(1).requires_grad_(), logits(2)
    labels = torch.where(torch.arange(ROWS) < 10, LABELS, NO_LABEL)

    rows = term.rows(TermInputs(student, labels, target))
    (gradient,) = torch.autograd.grad(rows.sum(), student)

    assert rows[10:].tolist() == [0.0] * (ROWS - 10)
    assert gradient[10:].abs().max() == 0
    assert rows[:10].tolist() == term.rows(TermInputs(student, LABELS, target))[:10].tolist()


@all_terms
def test_losses_and_gradients_are_finite_where_probabilities_underflow(term: Term) -> None:
    student = (1e3 * torch.eye(CLASSES)).requires_grad_()
    target = 1e3 * torch.eye(CLASSES).roll(1, dims=0)

    loss = value(term, student, target, torch.arange(CLASSES))
    (gradient,) = torch.autograd.grad(loss, student)

    assert loss.isfinite()
    assert gradient.isfinite().all()


@all_terms
def test_single_precision_is_close_to_double(term: Term) -> None:
    exact = value(term, logits(3), logits(4)).item()

    assert value(term, logits(3, dtype=torch.float32), logits(4, dtype=torch.float32)).item() == pytest.approx(
        exact, rel=1e-4
    )


def test_the_ends_of_jsd_are_forward_and_reverse_kl_and_its_middle_is_the_jensen_shannon_divergence_of_scipy() -> None:
    student, target = logits(1), logits(2)

    ends = [value(JSDTerm(beta=beta), student, target).item() for beta in (0.0, 1.0)]
    middle = value(JSDTerm(beta=0.5), student, target).item()

    assert ends == pytest.approx([value(term, student, target).item() for term in (KLTerm(), ReverseKLTerm())])
    p, q = softmax(target.numpy(), axis=1), softmax(student.numpy(), axis=1)
    assert middle == pytest.approx(float((jensenshannon(p, q, axis=1) ** 2).mean()), rel=1e-9)


def test_dkd_with_the_weights_of_the_paper_is_kl() -> None:
    student, target = logits(1, rows=1), logits(2, rows=1)
    others = 1 - softmax(target.numpy()[0] / T)[0]

    found = value(DKDTerm(temperature=T, alpha=1, beta=others), student, target, LABELS[:1])

    assert found.item() == pytest.approx(value(KLTerm(temperature=T), student, target).item(), rel=1e-9)


def test_the_target_of_taid_moves_as_the_paper_says_and_from_a_saved_state_goes_on_alike() -> None:
    term = TAIDTerm(start=0.2, alpha=0.5, beta=0.9)
    state = term.build(Shapes())
    t, average, last = 0.2, 0.0, None
    for step in range(12):
        if step == 6:
            saved, state = state.state_dict(), term.build(Shapes())
            state.load_state_dict(saved)
        student, target, progress = (1 + step) * logits(1) / 12, logits(2), step / 12
        mixed = (1 - t) * student.numpy() + t * target.numpy()
        expected = mean_kl(softmax(mixed, axis=1), softmax(student.numpy(), axis=1))
        found = term.loss(TermInputs(student, LABELS, target, progress=progress, state=state)).item()
        assert found == pytest.approx(expected, rel=1e-9), step
        if last is not None:
            average = 0.9 * average + 0.1 * (last - expected) / last
            t = min(1.0, max(0.2 + 0.8 * progress, t + 0.5 / (1 + np.exp(-average)) * (1 - t)))
        last = expected


def test_terms_are_found_by_name_and_refuse_options_that_are_not_theirs() -> None:
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(TermConfig)

    assert adapter.validate_python({"term": "jsd", "beta": 0.2}) == JSDTerm(beta=0.2)
    for wrong in (
        {"term": "jsd", "alpha": 0.2},
        {"term": "js"},
        {"term": "skew_kl", "alpha": 0},
        {"term": "dkd", "beta": -1},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
