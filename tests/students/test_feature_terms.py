"""Terms over features: values and gradients against numpy by another route, and what each one claims.

The oracles are loops over rows that also take complex numbers, so that the derivative along a direction v is the
imaginary part of f(x + i h v) / h: exact to the last digits, and nothing of torch's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from students.objectives.attention import AttentionTerm
from students.objectives.catalogue import TERMS
from students.objectives.cwd import CWDTerm
from students.objectives.fitnet import FitNetTerm
from students.objectives.fsp import FSPTerm
from students.objectives.nst import NSTTerm
from students.objectives.objective import Batch, Objective
from students.objectives.ofd import OFDTerm
from students.objectives.pair import tap_of
from students.objectives.reviewkd import ReviewKDTerm, hierarchical_distance
from students.objectives.srrl import SRRLTerm
from students.objectives.term import BatchTerm, RowTerm, Shapes, Term, TermInputs
from students.objectives.vid import VIDTerm

ROWS = 3
PAIR = {"student": "low", "teacher": "wide:low"}
TAU = 2.5
HEAD_WEIGHT = np.random.default_rng(11).normal(size=(4, 7))
HEAD_BIAS = np.random.default_rng(12).normal(size=4)
Arrays = Mapping[str, np.ndarray]
Oracle = Callable[[Arrays, Arrays, Arrays], np.ndarray]
"""One row of the student's outputs and of the teacher's, and what is learned or remembered, to the loss."""


@dataclass(frozen=True)
class Case:
    name: str
    term: Term
    student: dict[str, tuple[int, ...]]
    teacher: dict[str, tuple[int, ...]]
    oracle: Oracle

    @property
    def shapes(self) -> Shapes:
        return Shapes(student_taps=self.student, teacher_taps={tap_of(name): it for name, it in self.teacher.items()})


def as_map(row: np.ndarray) -> np.ndarray:
    match row.ndim:
        case 1:
            return row.reshape(-1, 1, 1)
        case 2:
            return np.stack([row[:, c].reshape(-1, 1) for c in range(row.shape[1])])
    return row


def pool(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    pooled = np.empty((len(maps), height, width), maps.dtype)
    for y in range(height):
        for x in range(width):
            rows = range(y * maps.shape[1] // height, -(-(y + 1) * maps.shape[1] // height))
            columns = range(x * maps.shape[2] // width, -(-(x + 1) * maps.shape[2] // width))
            pooled[:, y, x] = sum(maps[:, i, j] for i in rows for j in columns) / (len(rows) * len(columns))
    return pooled


def sides(student: Arrays, teacher: Arrays) -> tuple[np.ndarray, np.ndarray]:
    left, right = as_map(student["low"]), as_map(teacher["wide:low"])
    size = [min(left.shape[axis], right.shape[axis]) for axis in (1, 2)]
    return pool(left, *size), pool(right, *size)


def conv1(maps: np.ndarray, state: Arrays, name: str = "") -> np.ndarray:
    mapped = np.tensordot(state[f"{name}weight"][:, :, 0, 0], maps, axes=1)
    return mapped + state[f"{name}bias"][:, None, None]


def conv3(maps: np.ndarray, state: Arrays, name: str) -> np.ndarray:
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    _, height, width = maps.shape
    shifted = [
        np.tensordot(state[f"{name}weight"][:, :, y, x], padded[:, y : y + height, x : x + width], axes=1)
        for y in range(3)
        for x in range(3)
    ]
    return sum(shifted) + state[f"{name}bias"][:, None, None]


def fitnet(student: Arrays, teacher: Arrays, state: Arrays) -> np.ndarray:
    left, right = sides(student, teacher)
    return ((conv1(left, state) - right) ** 2).mean()


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.sqrt((values**2).sum())


def attention(student: Arrays, teacher: Arrays, _: Arrays) -> np.ndarray:
    left, right = (unit((side**2).sum(axis=0).ravel()) for side in sides(student, teacher))
    return np.sqrt(((left - right) ** 2).sum())


def attention_code(student: Arrays, teacher: Arrays, state: Arrays) -> np.ndarray:
    positions = sides(student, teacher)[0][0].size
    return attention(student, teacher, state) ** 2 / positions


def flow(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    size = [min(start.shape[axis], end.shape[axis]) for axis in (1, 2)]
    start, end = pool(start, *size), pool(end, *size)
    products = [np.outer(start[:, y, x], end[:, y, x]) for y in range(size[0]) for x in range(size[1])]
    return sum(products) / len(products)


def fsp(student: Arrays, teacher: Arrays, state: Arrays) -> np.ndarray:
    ours = [as_map(student[name]) for name in ("low", "high")]
    ours = [conv1(it, state, f"{at}.") if f"{at}.weight" in state else it for at, it in enumerate(ours)]
    theirs = [as_map(teacher[f"wide:{name}"]) for name in ("low", "high")]
    return ((flow(*ours) - flow(*theirs)) ** 2).mean()


def nst(student: Arrays, teacher: Arrays, _: Arrays) -> np.ndarray:
    left, right = ([unit(channel.ravel()) for channel in side] for side in sides(student, teacher))

    def kernel(first: list[np.ndarray], second: list[np.ndarray]) -> Any:
        return sum((a * b).sum() ** 2 for a in first for b in second) / (len(first) * len(second))

    return kernel(left, left) + kernel(right, right) - 2 * kernel(left, right)


def vid(student: Arrays, teacher: Arrays, state: Arrays) -> np.ndarray:
    mean, right = sides(student, teacher)
    for layer in (0, 2):
        mean = conv1(mean, state, f"mean.{layer}.")
        mean = np.where(mean.real > 0, mean, 0)
    mean = conv1(mean, state, "mean.4.")
    variance = (np.log(1 + np.exp(state["a_C"])) + 1e-5)[:, None, None]
    return 0.5 * ((mean - right) ** 2 / variance + np.log(variance)).mean()


def ofd(student: Arrays, teacher: Arrays, state: Arrays) -> np.ndarray:
    left, right = sides(student, teacher)
    source = conv1(left, state, "adapter.")
    loss: Any = 0
    for c in range(len(right)):
        margin = state["negative_sum_C"][c].real / state["num_negative_C"][c].real
        for t, s in zip(right[c].ravel(), source[c].ravel(), strict=True):
            wanted = max(t.real, margin)
            loss += 0 if s.real <= wanted <= 0 else (wanted - s) ** 2
    return loss


def hierarchical(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    distance, weight, total = ((left - right) ** 2).mean(), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(right.shape[1:]):
            weight /= 2
            total += weight
            distance = distance + weight * ((pool(left, size, size) - pool(right, size, size)) ** 2).mean()
    return distance / total


def nearest(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = [y * maps.shape[1] // height for y in range(height)]
    columns = [x * maps.shape[2] // width for x in range(width)]
    return maps[:, rows][:, :, columns]


def reviewkd(student: Arrays, teacher: Arrays, state: Arrays) -> np.ndarray:
    loss, deeper = 0, None
    for level, name in reversed(list(enumerate(["low", "middle", "high"]))):
        joined, wanted = conv1(as_map(student[name]), state, f"{level}.enter."), as_map(teacher[f"wide:{name}"])
        if deeper is not None:
            deeper = nearest(deeper, *joined.shape[1:])
            shares = 1 / (1 + np.exp(-conv1(np.concatenate([joined, deeper]), state, f"{level}.attend.")))
            joined = joined * shares[0] + deeper * shares[1]
        deeper = nearest(joined, *wanted.shape[1:])
        loss = loss + hierarchical(conv3(deeper, state, f"{level}.leave."), wanted)
    return loss


def srrl(student: Arrays, teacher: Arrays, state: Arrays) -> np.ndarray:
    left, right = sides(student, teacher)
    made = conv1(left, state)
    ours, theirs = (HEAD_WEIGHT @ side.mean(axis=(1, 2)) + HEAD_BIAS for side in (made, right))
    return ((made - right) ** 2).mean() + ((ours - theirs) ** 2).mean()


def cwd(student: Arrays, teacher: Arrays, state: Arrays) -> np.ndarray:
    left, right = sides(student, teacher)
    left = conv1(left, state) if state else left
    loss: Any = 0
    for ours, theirs in zip(left, right, strict=True):
        q, p = (np.exp(side.ravel() / TAU) / np.exp(side.ravel() / TAU).sum() for side in (ours, theirs))
        loss += (p * np.log(p / q)).sum()
    return TAU**2 * loss / len(right)


VECTORS = ((5,), (7,))
TOKENS = ((6, 5), (6, 7))
MAPS = ((5, 6, 4), (7, 3, 5))


def cases_of(term: Term, oracle: Oracle, *kinds: tuple[tuple[int, ...], tuple[int, ...]]) -> list[Case]:
    return [
        Case(f"{term.term}-{len(ours)}", term, {"low": ours}, {"wide:low": theirs}, oracle) for ours, theirs in kinds
    ]


FSP = FSPTerm(**PAIR, student_end="high", teacher_end="wide:high")
REVIEW = ReviewKDTerm(student=("low", "middle", "high"), teacher=("wide:low", "wide:middle", "wide:high"))
CASES = [
    *cases_of(FitNetTerm(**PAIR), fitnet, VECTORS, TOKENS, MAPS),
    *cases_of(AttentionTerm(**PAIR), attention, TOKENS, MAPS),
    *cases_of(AttentionTerm(**PAIR, variant="code"), attention_code, TOKENS, MAPS),
    *cases_of(NSTTerm(**PAIR), nst, TOKENS, MAPS),
    *cases_of(VIDTerm(**PAIR), vid, VECTORS, TOKENS, MAPS),
    *cases_of(OFDTerm(**PAIR), ofd, VECTORS, TOKENS, MAPS),
    *cases_of(SRRLTerm(**PAIR, head="wide:fc"), srrl, VECTORS, MAPS),
    *cases_of(CWDTerm(**PAIR, temperature=TAU), cwd, TOKENS, MAPS, ((7, 3, 3), (7, 3, 3))),
    Case(
        "fsp-adapted",
        FSP,
        {"low": (5, 6, 4), "high": (6, 3, 2)},
        {"wide:low": (7, 5, 5), "wide:high": (8, 5, 2)},
        fsp,
    ),
    Case(
        "fsp-as-wide",
        FSP,
        {"low": (4, 6, 4), "high": (6, 3, 2)},
        {"wide:low": (4, 5, 5), "wide:high": (6, 5, 2)},
        fsp,
    ),
    Case("fsp-tokens", FSP, {"low": (4, 5), "high": (4, 6)}, {"wide:low": (3, 7), "wide:high": (3, 6)}, fsp),
    Case(
        "reviewkd",
        REVIEW,
        {"low": (3, 8, 6), "middle": (4, 3, 3), "high": (5,)},
        {"wide:low": (6, 5, 7), "wide:middle": (7, 3, 2), "wide:high": (8,)},
        reviewkd,
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(ROWS, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def students_of(case: Case, seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: drawn(shape, 10 * seed + at) for at, (name, shape) in enumerate(case.student.items())}


def teachers_of(case: Case, seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: drawn(shape, 1000 + 10 * seed + at) for at, (name, shape) in enumerate(case.teacher.items())}


def built(case: Case, seed: int = 0) -> nn.Module | None:
    """Return the term's state in evaluation mode, with numbers everywhere and margins below 0."""
    state = case.term.build(case.shapes)
    if state is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    for parameter in state.double().parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    for name, buffer in state.named_buffers():
        buffer.copy_(torch.linspace(1, 2, len(buffer)) * (-1 if "sum" in name else 2))
    return state.eval()


def inputs_of(student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor], **others: Any) -> TermInputs:
    rows = len(next(iter(student.values())))
    return TermInputs(
        torch.zeros(rows, 2),
        torch.zeros(rows, dtype=torch.int64),
        student_taps=student,
        teacher_taps={tap_of(name): output for name, output in teacher.items()},
        heads={tap_of("wide:fc"): (torch.from_numpy(HEAD_WEIGHT), torch.from_numpy(HEAD_BIAS))},
        **others,
    )


def value(
    term: Term, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor], state: nn.Module | None
) -> torch.Tensor:
    """Return the mean over the rows."""
    seen = inputs_of(student, teacher, state=state)
    match term:
        case RowTerm():
            return term.rows(seen).mean()
        case BatchTerm():
            return term.loss(seen)
    raise TypeError(term)


def arrays_of(state: nn.Module | None) -> dict[str, np.ndarray]:
    return {} if state is None else {name: it.detach().numpy() for name, it in state.state_dict().items()}


def expected(case: Case, student: Arrays, teacher: Arrays, state: Arrays) -> Any:
    rows = [
        case.oracle(
            {name: it[row] for name, it in student.items()}, {name: it[row] for name, it in teacher.items()}, state
        )
        for row in range(ROWS)
    ]
    return sum(rows) / ROWS


def test_every_term_over_features_is_tried_here() -> None:
    assert {type(case.term) for case in CASES} == {term for term in TERMS if term.family == "feature-based"}


@each_case
def test_a_term_is_its_formula(case: Case) -> None:
    for seed in range(3):
        student, teacher, state = students_of(case, seed), teachers_of(case, seed), built(case, seed)
        wanted = expected(
            case,
            {name: it.numpy() for name, it in student.items()},
            {name: it.numpy() for name, it in teacher.items()},
            arrays_of(state),
        )
        assert value(case.term, student, teacher, state).item() == pytest.approx(float(wanted), rel=1e-9)


@each_case
def test_the_gradient_of_a_term_is_that_of_its_formula_for_features_and_for_what_is_learned(case: Case) -> None:
    student = {name: it.requires_grad_() for name, it in students_of(case, 1).items()}
    teacher, state = teachers_of(case, 1), built(case, 1)
    learned = {} if state is None else dict(state.named_parameters())
    leaves = {f"tap {name}": it for name, it in student.items()} | {f"own {name}": it for name, it in learned.items()}
    gradients = torch.autograd.grad(value(case.term, student, teacher, state), list(leaves.values()))

    for (leaf, tensor), gradient in zip(leaves.items(), gradients, strict=True):
        direction = np.random.default_rng(5).normal(size=tensor.shape)

        def moved(name: str, it: np.ndarray, leaf: str = leaf, direction: np.ndarray = direction) -> np.ndarray:
            return it + 1e-30j * direction if name == leaf else it

        along = expected(
            case,
            {name: moved(f"tap {name}", it.detach().numpy()) for name, it in student.items()},
            {name: it.numpy() for name, it in teacher.items()},
            {name: moved(f"own {name}", it) for name, it in arrays_of(state).items()},
        )
        assert (gradient.numpy() * direction).sum() == pytest.approx(along.imag / 1e-30, rel=1e-9, abs=1e-12), leaf


@each_case
def test_the_gradient_of_a_term_is_that_of_finite_differences(case: Case) -> None:
    student = {name: it[:2].requires_grad_() for name, it in students_of(case, 2).items()}
    teacher, state = {name: it[:2] for name, it in teachers_of(case, 2).items()}, built(case, 2)

    def loss(*outputs: torch.Tensor) -> torch.Tensor:
        return value(case.term, dict(zip(student, outputs, strict=True)), teacher, state)

    assert torch.autograd.gradcheck(loss, tuple(student.values()), atol=1e-7, fast_mode=True)


@each_case
def test_a_row_has_its_loss_whatever_the_other_rows_are(case: Case) -> None:
    student, teacher, state = students_of(case), teachers_of(case), built(case)
    alone = [
        value(
            case.term,
            {name: it[row : row + 1] for name, it in student.items()},
            {name: it[row : row + 1] for name, it in teacher.items()},
            state,
        ).item()
        for row in range(ROWS)
    ]

    assert value(case.term, student, teacher, state).item() == pytest.approx(sum(alone) / ROWS, rel=1e-12)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_in_half_precision_whose_squares_would_overflow_lose_nothing_but_their_last_digits(
    case: Case, dtype: torch.dtype
) -> None:
    scale = 30 if case.term.term == "cwd" else 300  # 300 squared is above what float16 holds
    student = {name: (scale * it).to(dtype) for name, it in students_of(case).items()}
    teacher = {name: (scale * it).to(dtype) for name, it in teachers_of(case).items()}
    state = built(case)
    exact = value(
        case.term,
        {name: it.double() for name, it in student.items()},
        {name: it.double() for name, it in teacher.items()},
        state,
    )
    halves = {name: it.requires_grad_() for name, it in student.items()}

    loss = value(case.term, halves, teacher, None if state is None else state.float())
    gradients = torch.autograd.grad(loss, list(halves.values()))

    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)
    assert all(not gradient.isnan().any() for gradient in gradients)


@each_case
def test_a_student_without_any_activity_gets_finite_gradients(case: Case) -> None:
    student = {name: torch.zeros_like(it).float().requires_grad_() for name, it in students_of(case).items()}
    teacher = {name: it.float() for name, it in teachers_of(case).items()}
    state = built(case)

    loss = value(case.term, student, teacher, None if state is None else state.float())

    assert loss.isfinite()
    assert all(it.isfinite().all() for it in torch.autograd.grad(loss, list(student.values())))


@each_case
def test_what_a_term_learns_is_learned_and_from_a_saved_state_it_goes_on_alike(case: Case) -> None:
    student, teacher, state = students_of(case), teachers_of(case), built(case)
    if state is None or not list(state.parameters()):
        return
    value(case.term, student, teacher, state).backward()
    assert all(it.grad is not None and it.grad.abs().sum() > 0 for it in state.parameters())

    restored = case.term.build(case.shapes)
    assert restored is not None
    restored.double().eval().load_state_dict(state.state_dict())

    assert value(case.term, student, teacher, restored).item() == value(case.term, student, teacher, state).item()


@each_case
def test_the_cases_fit(case: Case) -> None:
    assert case.term.misfit(case.shapes) is None


def identity(term: Term, shapes: Shapes) -> nn.Module | None:
    """Return the state of a term with linear maps that change nothing."""
    state = term.build(shapes)
    for module in [] if state is None else state.double().modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
            nn.init.zeros_(module.bias)
    return state


SAME = (6, 4, 3)
EQUAL: list[Term] = [
    FitNetTerm(**PAIR),
    AttentionTerm(**PAIR),
    AttentionTerm(**PAIR, variant="code"),
    NSTTerm(**PAIR),
    OFDTerm(**PAIR),
    CWDTerm(**PAIR),
    FSP,
]


@pytest.mark.parametrize("term", EQUAL, ids=lambda term: term.term)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 8))
def test_a_student_whose_features_are_the_teachers_has_nothing_to_learn(term: Term, seed: int, scale: float) -> None:
    names = ["low", "high"]
    student = {name: (scale * drawn(SAME, seed + at)).requires_grad_() for at, name in enumerate(names)}
    teacher = {f"wide:{name}": it.detach().clone() for name, it in student.items()}
    shapes = Shapes(student_taps=dict.fromkeys(names, SAME), teacher_taps={tap_of(name): SAME for name in teacher})

    loss = value(term, student, teacher, identity(term, shapes))
    (gradient,) = torch.autograd.grad(loss, student["low"])

    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert gradient.abs().max().item() < 1e-7


def changed(term: Term, change: Callable[[torch.Tensor], torch.Tensor], seed: int) -> tuple[float, float]:
    """Return the loss before and after a change of the student's features."""
    student, teacher = drawn(SAME, seed), {"wide:low": drawn(SAME, seed + 1)}
    found = [value(term, {"low": it}, teacher, nn.Identity()).item() for it in (student, change(student))]
    return found[0], found[1]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_attention_is_blind_to_the_scale_of_a_row_and_the_order_of_channels(seed: int, scale: float) -> None:
    order = torch.randperm(SAME[0], generator=torch.Generator().manual_seed(seed))
    for variant in ("paper", "code"):
        before, after = changed(AttentionTerm(**PAIR, variant=variant), lambda it: scale * it[:, order], seed)
        assert after == pytest.approx(before, rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scales=st.lists(st.sampled_from([-3.0, 0.1, 2.0, 70.0]), min_size=6, max_size=6))
def test_nst_is_blind_to_the_scale_and_the_sign_of_channels_and_their_order(seed: int, scales: list[float]) -> None:
    order = torch.randperm(SAME[0], generator=torch.Generator().manual_seed(seed))
    factors = torch.tensor(scales, dtype=torch.float64)[:, None, None]

    before, after = changed(NSTTerm(**PAIR), lambda it: (factors * it)[:, order], seed)

    assert after == pytest.approx(before, rel=1e-9)
    assert before >= 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shifts=st.lists(st.floats(-30, 30), min_size=6, max_size=6))
def test_cwd_is_blind_to_constants_added_to_channels(seed: int, shifts: list[float]) -> None:
    added = torch.tensor(shifts, dtype=torch.float64)[:, None, None]

    before, after = changed(CWDTerm(**PAIR, temperature=TAU), lambda it: it + added, seed)

    assert after == pytest.approx(before, rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_fsp_is_blind_to_where_things_are_if_both_layers_agree_on_it(seed: int) -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    student = {"low": drawn(SAME, seed), "high": drawn(SAME, seed + 1)}
    teacher = {"wide:low": drawn(SAME, seed + 2), "wide:high": drawn(SAME, seed + 3)}
    moved = {name: it.flatten(2)[:, :, order].reshape(it.shape) for name, it in student.items()}
    state = nn.ModuleList([nn.Identity(), nn.Identity()])

    assert value(FSP, moved, teacher, state).item() == pytest.approx(value(FSP, student, teacher, state).item())


def test_an_attention_map_of_opposite_places_is_as_far_as_can_be() -> None:
    student, teacher = torch.zeros(1, 2, 2, 1), torch.zeros(1, 3, 2, 1)
    student[:, :, 0], teacher[:, :, 1] = 4.0, 0.5

    found = value(AttentionTerm(**PAIR), {"low": student}, {"wide:low": teacher}, None)

    assert found.item() == pytest.approx(2**0.5)


def test_vid_is_half_the_log_of_the_variance_where_the_mean_is_met() -> None:
    term = VIDTerm(**PAIR, first_variance=3.0)
    shapes = Shapes(student_taps={"low": (4,)}, teacher_taps={tap_of("wide:low"): (4,)})
    student = drawn((4,), 1).abs()  # which ReLUs let through

    found = value(term, {"low": student}, {"wide:low": student}, identity(term, shapes))

    assert found.item() == pytest.approx(0.5 * np.log(3.0), rel=1e-6)


def test_under_ofd_a_student_below_the_teachers_negative_value_is_left_alone() -> None:
    term = OFDTerm(**PAIR)
    state = identity(term, Shapes(student_taps={"low": (2,)}, teacher_taps={tap_of("wide:low"): (2,)}))
    student = torch.tensor([[-5.0, -5.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-1.0, 2.0]], dtype=torch.float64)

    loss = value(term, {"low": student}, {"wide:low": teacher}, state)
    (gradient,) = torch.autograd.grad(loss, student)

    assert loss.item() == 49.0
    assert gradient.tolist() == [[0.0, -14.0]]


def test_the_margins_of_ofd_are_the_means_of_all_negative_values_seen_and_stand_still_in_evaluation() -> None:
    term = OFDTerm(**PAIR)
    shapes = Shapes(student_taps={"low": SAME}, teacher_taps={tap_of("wide:low"): SAME})
    state = term.build(shapes)
    batches = [drawn(SAME, seed) for seed in range(4)]
    for batch in batches:
        batch[:, 0] = batch[:, 0].abs()  # a channel that is never negative has margin 0
    for number, batch in enumerate(batches):
        if number == 2:
            saved, state = state.state_dict(), term.build(shapes)
            state.load_state_dict(saved)
        state.double()
        value(term, {"low": batch}, {"wide:low": batch}, state.train())
        value(term, {"low": batch}, {"wide:low": 7 * batch}, state.eval())

    seen = torch.cat(batches).numpy()
    found = state.get_buffer("negative_sum_C") / state.get_buffer("num_negative_C").clamp(min=1)

    means = [channel[channel < 0].mean() if (channel < 0).any() else 0.0 for channel in seen.swapaxes(0, 1)]
    assert found.tolist() == pytest.approx(means, rel=1e-12)
    assert means[0] == 0.0


def test_with_two_workers_ofd_has_the_loss_and_the_margins_of_one() -> None:
    term = OFDTerm(**PAIR)
    shapes = Shapes(student_taps={"low": SAME}, teacher_taps={tap_of("wide:low"): SAME})
    student, teacher = drawn(SAME, 1)[:2].float(), drawn(SAME, 2)[:2].float()
    wholes = {tuple(part.shape[1:]): (student, teacher) for part in (student, teacher)}

    def run(rows: slice, world_size: int) -> tuple[float, list[float]]:
        others = iter([torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64), *wholes[SAME]])
        objective = Objective(
            [term], labelled_share=1.0, shapes=shapes, gather=lambda _: next(others), world_size=world_size
        )
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter.fill_(0.1)
        num_rows = len(student[rows])
        batch = Batch(
            torch.zeros(num_rows, 1),
            torch.zeros(num_rows, dtype=torch.int64),
            teacher_taps={tap_of("wide:low"): teacher[rows]},
        )
        loss = objective(torch.zeros(num_rows, 2), batch, global_rows=2, student_taps={"low": student[rows]})
        return loss.item(), objective.states[0].get_buffer("negative_sum_C").tolist()

    alone, first, second = run(slice(0, 2), 1), run(slice(0, 1), 2), run(slice(1, 2), 2)

    assert first[0] + second[0] == pytest.approx(alone[0], rel=1e-6)
    assert first[1] == second[1] == alone[1]


@pytest.mark.parametrize(
    ("term", "ours", "theirs", "reason"),
    [
        (FitNetTerm(**PAIR), (5,), (7, 3, 3), "expected two of one kind"),
        (FitNetTerm(**PAIR), (4, 5), (6, 7), "has 4 tokens in each row and the teacher's 6; expected as many"),
        (FitNetTerm(**PAIR), (2, 3, 4, 5), (2, 3, 4, 5), "is [2, 3, 4, 5] for each row; expected a vector [D] or"),
        (AttentionTerm(**PAIR), (5,), (7,), "expected tokens [L, D] or a map [C, H, W]"),
        (NSTTerm(**PAIR), (5,), (7,), "expected tokens [L, D] or a map [C, H, W]"),
        (CWDTerm(**PAIR), (5, 2, 2), (7,), "the teacher's is [7] for each row; expected tokens"),
        (VIDTerm(**PAIR), (5, 2), (7,), "expected two of one kind"),
        (OFDTerm(**PAIR), (), (7,), "is [] for each row"),
        (SRRLTerm(**PAIR, head="wide:fc"), (4, 5), (4, 7), "expected a vector [D] or a map [C, H, W]"),
    ],
    ids=lambda it: getattr(it, "term", None),
)
def test_outputs_that_cannot_be_compared_are_refused_with_both_shapes_and_what_is_expected(
    term: Term, ours: tuple[int, ...], theirs: tuple[int, ...], reason: str
) -> None:
    found = term.misfit(Shapes(student_taps={"low": ours}, teacher_taps={tap_of("wide:low"): theirs}))

    assert found is not None
    assert reason in found


def test_a_term_of_several_levels_says_which_does_not_fit() -> None:
    maps = {"low": (3, 4, 4), "middle": (3, 4, 4), "high": (3, 4, 4)}
    teacher = {tap_of(f"wide:{name}"): shape for name, shape in maps.items()}

    review = REVIEW.misfit(Shapes(student_taps=maps | {"middle": (3,)}, teacher_taps=teacher))
    flow = FSP.misfit(Shapes(student_taps=maps, teacher_taps=teacher | {tap_of("wide:high"): (9,)}))

    assert review is not None
    assert "the student's output of middle is a vector [3] and the teacher's of middle a map [3, 4, 4]" in review
    assert flow == "the teacher's end is [9] for each row; expected tokens [L, D] or a map [C, H, W]"


@pytest.mark.parametrize(
    ("term", "options", "reason"),
    [
        (FSPTerm, PAIR | {"student_end": "high", "teacher_end": "deep:high"}, "expected one teacher"),
        (SRRLTerm, PAIR | {"head": "deep:fc"}, "expected one teacher"),
        (ReviewKDTerm, {"student": ["a", "b"], "teacher": ["wide:a", "wide:b", "wide:c"]}, "expected as many"),
        (ReviewKDTerm, {"student": ["a"], "teacher": ["wide:a"]}, "at least 2"),
        (AttentionTerm, PAIR | {"variant": "program"}, "paper"),
        (VIDTerm, PAIR | {"first_variance": 0}, "greater than"),
        (FitNetTerm, {"student": "low", "teacher": "low"}, "pattern"),
    ],
)
def test_options_that_make_no_sense_are_refused(term: type[Term], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        term.model_validate(options)


class TestAgainstTorchdistill:
    """Where its formulas are the published ones; where they are not, the test says so."""

    @staticmethod
    def losses() -> Any:
        return pytest.importorskip("torchdistill.losses.mid_level", exc_type=ImportError)

    @pytest.mark.parametrize("variant", ["paper", "code"])
    def test_attention(self, variant: str) -> None:
        student, teacher = drawn((5, 4, 3), 1), drawn((7, 4, 3), 2)
        pair = {"student": {"path": "s", "io": "output"}, "teacher": {"path": "t", "io": "output"}}
        theirs = self.losses().ATLoss({"pair": pair}, mode=variant)

        found = value(AttentionTerm(**PAIR, variant=variant), {"low": student}, {"wide:low": teacher}, None)

        assert found.item() == pytest.approx(theirs({"s": {"output": student}}, {"t": {"output": teacher}}).item())

    def test_fsp_has_its_matrices_and_not_its_distance_which_sums_norms_of_columns(self) -> None:
        outputs = [drawn((channels, 4, 3), seed) for seed, channels in enumerate([5, 6, 5, 6])]
        matrix = self.losses().FSPLoss.compute_fsp_matrix

        found = value(
            FSP,
            {"low": outputs[0], "high": outputs[1]},
            {"wide:low": outputs[2], "wide:high": outputs[3]},
            nn.ModuleList([nn.Identity(), nn.Identity()]),
        )

        distance = matrix(*outputs[:2]) - matrix(*outputs[2:])
        assert found.item() == pytest.approx(distance.square().mean().item(), rel=1e-9)

    def test_vid(self) -> None:
        case = next(case for case in CASES if case.name == "vid-1")
        student, teacher, state = students_of(case)["low"], teachers_of(case)["wide:low"], built(case)
        pair = {"student": {"path": "s", "io": "output"}, "teacher": {"path": "t", "io": "output"}}
        mean = state.get_submodule("mean")(student[:, :, None, None])[:, :, 0, 0]
        variance = nn.functional.softplus(state.get_parameter("a_C")) + 1e-5

        found = value(case.term, {"low": student}, {"wide:low": teacher}, state)

        theirs = self.losses().VIDLoss({"pair": pair})
        wanted = theirs({"s": {"output": (mean, variance)}}, {"t": {"output": teacher}})
        assert found.item() == pytest.approx(wanted.item(), rel=1e-9)

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
    def test_the_distance_at_several_sizes_of_reviewkd(self, size: int) -> None:
        student, teacher = drawn((5, size, size), 1), drawn((5, size, size), 2)
        theirs = self.losses().HierarchicalContextLoss("s", "output", "t", "output")
        wanted = theirs({"s": {"output": (student, None)}}, {"t": {"output": teacher}})

        assert hierarchical_distance(student, teacher).mean().item() == pytest.approx(wanted.item(), rel=1e-9)
