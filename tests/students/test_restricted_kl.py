"""The KL to a specialist against scipy on its classes alone, row by row, and the chain rule that it is a part of."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from cluster.shards.schema import NO_LABEL
from students.objectives.kl import KLTerm
from students.objectives.restricted_kl import RestrictedKLTerm
from students.objectives.term import TermInputs

ROWS, CLASSES, T = 12, 6, 2.5
KNOWN = [1, 4, 5]
OTHERS = [0, 2, 3]
LABELS = torch.tensor([0, 1, 2, 3, 4, 5] + [NO_LABEL] * 6)
Trust = Literal["own", "all"]


def logits(seed: int, *, rows: int = ROWS) -> torch.Tensor:
    return 2 * torch.randn(rows, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def of_specialist(seed: int, known: list[int] = KNOWN, *, rows: int = ROWS) -> torch.Tensor:
    target = torch.full((rows, CLASSES), -torch.inf, dtype=torch.float64)
    target[:, known] = logits(seed, rows=rows)[:, known]
    return target


def rows(term: RestrictedKLTerm, student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return term.rows(TermInputs(student, LABELS[: len(student)], target))


def mass(z: np.ndarray, label: int, trust: Trust) -> float:
    if trust == "all":
        return 1.0
    return float(softmax(z)[KNOWN].sum()) if label == NO_LABEL else float(label in KNOWN)


@pytest.mark.parametrize("trust", ["own", "all"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_values_and_gradients_are_those_of_the_known_classes_cut_out(trust: Trust, seed: int) -> None:
    student, target = logits(seed).requires_grad_(), of_specialist(seed + 1)

    found = rows(RestrictedKLTerm(temperature=T, trust=trust), student, target)
    (gradient,) = torch.autograd.grad(found.sum(), student)

    for row, (z, y) in enumerate(zip(student.detach().numpy(), target.numpy(), strict=True)):
        q, p = softmax(z[KNOWN] / T), softmax(y[KNOWN] / T)
        part = mass(z, int(LABELS[row]), trust)
        assert found[row].item() == pytest.approx(part * T**2 * rel_entr(p, q).sum(), rel=1e-9, abs=1e-12)
        assert gradient[row, KNOWN].numpy() == pytest.approx(part * T * (q - p), rel=1e-9, abs=1e-12)
        assert gradient[row, OTHERS].abs().max() == 0


def test_the_gradient_is_that_of_finite_differences() -> None:
    student, target = logits(1).requires_grad_(), of_specialist(2)

    assert torch.autograd.gradcheck(lambda z: rows(RestrictedKLTerm(temperature=T, trust="all"), z, target), student)
    # On labelled rows the part that is the teacher's is no function of the student.
    assert torch.autograd.gradcheck(lambda z: rows(RestrictedKLTerm(temperature=T), z, target[:6]), student[:6])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=st.floats(-20, 20))
def test_what_the_student_thinks_of_other_classes_does_not_matter_on_rows_that_are_known_to_be_its(
    seed: int, shift: float
) -> None:
    student, target = logits(seed), of_specialist(seed + 1)
    moved = student.clone()
    moved[:, OTHERS] += shift

    for trust, counted in (("all", slice(None)), ("own", slice(0, 6))):
        term = RestrictedKLTerm(temperature=T, trust=trust)  # type: ignore[arg-type]
        assert rows(term, moved, target)[counted].numpy() == pytest.approx(
            rows(term, student, target)[counted].numpy(), rel=1e-9
        )


def test_a_row_with_the_label_of_another_class_teaches_nothing() -> None:
    student = logits(1).requires_grad_()

    found = rows(RestrictedKLTerm(), student, of_specialist(2))
    (gradient,) = torch.autograd.grad(found.sum(), student)

    assert found[OTHERS].tolist() == [0, 0, 0]
    assert gradient[OTHERS].abs().max() == 0
    assert all(found[KNOWN] > 0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_specialists_without_a_class_in_common_add_up_to_the_kl_to_the_whole(seed: int) -> None:
    """Where the student is right about whose class a row is nothing else is left of the chain rule."""
    whole, student = logits(seed), logits(seed + 1)
    labels = torch.full((ROWS,), NO_LABEL)
    p = softmax(whole.numpy(), axis=1)
    groups = [[0, 3], [1, 2, 5, 4]]
    adjusted = student.clone()
    for group in groups:
        gap = np.log(p[:, group].sum(axis=1)) - torch.logsumexp(student[:, group], dim=1).numpy()
        adjusted[:, group] += torch.from_numpy(gap)[:, None]

    targets = [whole.clone().index_fill(1, torch.tensor(groups[1 - place]), -torch.inf) for place in (0, 1)]
    parts = [RestrictedKLTerm().rows(TermInputs(adjusted, labels, target)) for target in targets]

    of_whole = KLTerm().rows(TermInputs(adjusted, labels, whole))
    assert (parts[0] + parts[1]).numpy() == pytest.approx(of_whole.numpy(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_and_single_precision_are_close_and_finite(dtype: torch.dtype) -> None:
    student, target = logits(3), of_specialist(4)
    exact = rows(RestrictedKLTerm(temperature=T), student, target)

    low = student.to(dtype).requires_grad_()
    found = rows(RestrictedKLTerm(temperature=T), low, target.float())
    (gradient,) = torch.autograd.grad(found.sum(), low)

    assert gradient.isfinite().all()
    assert found.double().detach().numpy() == pytest.approx(exact.numpy(), rel=0.05, abs=0.05)


def test_where_probabilities_underflow_losses_and_gradients_are_finite() -> None:
    student = (1e4 * torch.eye(CLASSES)).requires_grad_()
    target = of_specialist(1, rows=CLASSES).float() * 1e3

    found = rows(RestrictedKLTerm(trust="all"), student, target)
    (gradient,) = torch.autograd.grad(found.sum(), student)

    assert found.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("wrong", [{"trust": "some"}, {"temperature": 0}, {"classes": [1]}])
def test_other_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RestrictedKLTerm.model_validate(wrong)
