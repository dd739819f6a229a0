"""Terms about relations among rows: against numpy, scipy and scikit-learn by another route, and what papers claim."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import huber, rel_entr
from scipy.stats import ortho_group
from sklearn.metrics.pairwise import cosine_similarity, rbf_kernel
from sklearn.preprocessing import normalize
from torch import nn

from students.group import Alone
from students.objectives import rkd_angle
from students.objectives.cc import CCTerm
from students.objectives.cka import CKATerm
from students.objectives.crd import CRDTerm
from students.objectives.pkt import PKTTerm
from students.objectives.rkd_angle import RKDAngleTerm
from students.objectives.rkd_distance import RKDDistanceTerm
from students.objectives.sp import SPTerm
from students.objectives.term import BatchTerm, Shapes, TermInputs
from tests.fixtures.tapped import STUDENT, TAP, TEACHER, train_tapped
from tests.fixtures.tiny_workers import together

ROWS, WIDTH, TEACHER_WIDTH = 12, 7, 5
PAIR = {"student": STUDENT, "teacher": TEACHER}
STATELESS: list[BatchTerm] = [
    CCTerm(**PAIR, gamma=0.6, order=3),
    CKATerm(**PAIR),
    PKTTerm(**PAIR),
    RKDAngleTerm(**PAIR),
    RKDDistanceTerm(**PAIR),
    SPTerm(**PAIR),
]
CRD = CRDTerm(**PAIR, width=3, negatives=11, temperature=0.3)
all_terms = pytest.mark.parametrize("term", STATELESS, ids=lambda term: term.term)
seeds = given(seed=st.integers(0, 1000))
Oracle = Callable[[np.ndarray, np.ndarray], float]


def outputs(
    seed: int, *, rows: int = ROWS, width: int = WIDTH, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    drawn = torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (scale * drawn).to(dtype)


def taught(seed: int) -> torch.Tensor:
    return outputs(seed + 5000, width=TEACHER_WIDTH)


def value(
    term: BatchTerm,
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    state: nn.Module | None = None,
    rows_N: torch.Tensor | None = None,
) -> torch.Tensor:
    seen = TermInputs(
        torch.zeros(len(student), 2),
        torch.zeros(len(student), dtype=torch.int64),
        rows_N=rows_N,
        student_taps={STUDENT: student},
        teacher_taps={TAP: teacher},
        state=state,
    )
    return term.loss(seen)


def distances(x: np.ndarray, y: np.ndarray) -> float:
    def relative(vectors: np.ndarray) -> np.ndarray:
        found = cdist(vectors, vectors)
        scaled: np.ndarray = found / (found.sum() / (ROWS * (ROWS - 1)))
        return scaled

    return float(huber(1.0, relative(x) - relative(y)).mean())


def angles(x: np.ndarray, y: np.ndarray) -> float:
    def at_each(vectors: np.ndarray) -> np.ndarray:
        d = cdist(vectors, vectors)
        squares, products = d[:, :, None] ** 2 + d[:, None, :] ** 2 - d[None] ** 2, 2 * d[:, :, None] * d[:, None, :]
        # The law of cosines, at the row of the first axis.
        return np.divide(squares, products, out=np.zeros_like(squares), where=products > 0)

    return float(huber(1.0, at_each(x) - at_each(y)).mean())


def similarities(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.norm(normalize(x @ x.T) - normalize(y @ y.T)) ** 2 / ROWS**2)


def neighbours(x: np.ndarray, y: np.ndarray) -> float:
    q, p = (normalize((1 + cosine_similarity(vectors)) / 2, norm="l1") for vectors in (x, y))
    return float(rel_entr(p, q).mean())


def congruence(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(vectors: np.ndarray) -> np.ndarray:
        series = [1.2**p / math.factorial(p) * cosine_similarity(vectors) ** p for p in range(4)]
        summed: np.ndarray = math.exp(-1.2) * np.sum(series, axis=0)
        return summed

    return float(((kernel(x) - kernel(y)) ** 2).mean())


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased estimate, as Song et al. write it."""
    n, ones = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    first, second = np.trace(k @ m), (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return float((first + second - 2 / (n - 2) * ones @ k @ m @ ones) / (n * (n - 3)))


def alignment(x: np.ndarray, y: np.ndarray) -> float:
    k, m = x @ x.T, y @ y.T
    return 1 - hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


# In the order of STATELESS.
ORACLES: list[Oracle] = [congruence, alignment, neighbours, angles, distances, similarities]
with_oracles = pytest.mark.parametrize(
    ("term", "oracle"), list(zip(STATELESS, ORACLES, strict=True)), ids=lambda it: getattr(it, "term", "")
)


def slope(oracle: Callable[[np.ndarray], float], at: np.ndarray, along: np.ndarray) -> float:
    """Return the derivative along a direction, by five points."""
    step = 1e-3
    around = [oracle(at + count * step * along) for count in (-2, -1, 1, 2)]
    return float(np.dot([1, -8, 8, -1], around) / (12 * step))


@with_oracles
def test_a_term_is_its_formula_and_so_is_its_gradient(term: BatchTerm, oracle: Oracle) -> None:
    for seed in range(3):
        student, teacher = outputs(seed).requires_grad_(), taught(seed)
        x, y = student.detach().numpy(), teacher.numpy()

        loss = value(term, student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)

        assert loss.item() == pytest.approx(oracle(x, y), rel=1e-9)
        for direction in np.random.default_rng(seed).standard_normal((4, *x.shape)):
            expected = slope(lambda at: oracle(at, y), x, direction)  # noqa: B023 - called at once
            assert float((gradient.numpy() * direction).sum()) == pytest.approx(expected, abs=1e-9)


@all_terms
def test_the_gradient_of_a_term_is_that_of_finite_differences(term: BatchTerm) -> None:
    student, teacher = outputs(1, rows=6).requires_grad_(), outputs(2, rows=6, width=3)

    assert torch.autograd.gradcheck(lambda values: value(term, values, teacher), student, atol=1e-7)


@all_terms
@settings(deadline=None, max_examples=20)
@seeds
def test_a_student_that_relates_rows_as_the_teacher_does_has_nothing_to_learn(term: BatchTerm, seed: int) -> None:
    same = outputs(seed).requires_grad_()

    loss = value(term, same, same.detach())
    (gradient,) = torch.autograd.grad(loss, same)

    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max().item() < 1e-7


@all_terms
@settings(deadline=None, max_examples=20)
@seeds
def test_the_order_of_the_rows_and_rotations_of_the_student_change_nothing(term: BatchTerm, seed: int) -> None:
    student, teacher = outputs(seed), taught(seed)
    expected = value(term, student, teacher).item()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    rotation = torch.from_numpy(ortho_group.rvs(WIDTH, random_state=seed))

    assert value(term, student[order], teacher[order]).item() == pytest.approx(expected, rel=1e-9)
    assert value(term, student @ rotation, teacher).item() == pytest.approx(expected, rel=1e-9)


@all_terms
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_the_scale_of_either_side_changes_nothing(term: BatchTerm, seed: int, scale: float) -> None:
    student, teacher = outputs(seed), taught(seed)

    assert value(term, scale * student, teacher / scale).item() == pytest.approx(
        value(term, student, teacher).item(), rel=1e-8
    )


@pytest.mark.parametrize(
    "term", [CKATerm(**PAIR), RKDAngleTerm(**PAIR), RKDDistanceTerm(**PAIR)], ids=lambda it: it.term
)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=st.floats(-10, 10))
def test_a_shift_of_all_rows_changes_nothing_where_relations_are_of_differences(
    term: BatchTerm, seed: int, shift: float
) -> None:
    student, teacher = outputs(seed), taught(seed)

    assert value(term, student + shift, teacher - shift).item() == pytest.approx(
        value(term, student, teacher).item(), rel=1e-8
    )


@all_terms
def test_maps_and_sequences_are_compared_as_vectors(term: BatchTerm) -> None:
    maps, tokens = outputs(1, width=24), outputs(2, width=10)

    found = value(term, maps.reshape(ROWS, 2, 3, 4), tokens.reshape(ROWS, 5, 2))

    assert found.item() == value(term, maps, tokens).item()


@all_terms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_half_and_single_precision_lose_only_what_rounding_the_outputs_loses(
    term: BatchTerm, dtype: torch.dtype, scale: float
) -> None:
    student = outputs(3, scale=scale, dtype=dtype).requires_grad_()
    teacher = taught(3).to(dtype)
    exact = student.detach().double().requires_grad_()

    loss, expected = value(term, student, teacher), value(term, exact, teacher.double())
    loss.backward()
    expected.backward()

    assert student.grad is not None
    assert exact.grad is not None
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    digits = max(torch.finfo(dtype).eps, 1e-4)
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert (student.grad.double() - exact.grad).abs().max() < digits * exact.grad.abs().max() + least


@all_terms
def test_a_collapsed_student_and_rows_that_are_equal_give_finite_losses_and_gradients(term: BatchTerm) -> None:
    twins = torch.cat([outputs(1, rows=6), outputs(1, rows=6)])
    for student in (torch.zeros(ROWS, WIDTH), torch.ones(ROWS, WIDTH), twins.float(), 1e4 * twins.float()):
        student.requires_grad_()

        loss = value(term, student, taught(1).float())
        (gradient,) = torch.autograd.grad(loss, student)

        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3


@all_terms
@pytest.mark.parametrize("size", [1e-10, 1e-14, 1e-18, 1e-25])
def test_a_student_that_is_nearly_dead_has_finite_gradients(term: BatchTerm, size: float) -> None:
    student = (size * outputs(1)).float().requires_grad_()

    (gradient,) = torch.autograd.grad(value(term, student, taught(1).float()), student)

    assert gradient.isfinite().all()


@all_terms
def test_one_number_a_row_is_refused_on_either_side(term: BatchTerm) -> None:
    student, tap = term.student_modules[0], term.teacher_modules[0]

    def misfit(ours: tuple[int, ...], theirs: tuple[int, ...]) -> str | None:
        return term.misfit(Shapes(num_rows=ROWS, student_taps={student: ours}, teacher_taps={tap: theirs}))

    assert misfit((3,), (2, 2)) is None
    assert "the student's output of" in (misfit((), (3,)) or "")
    assert "the teacher's of" in (misfit((3,), ()) or "")


@all_terms
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_batch_of_few_rows_has_a_finite_loss(term: BatchTerm, rows: int) -> None:
    student = outputs(1, rows=rows).requires_grad_()

    loss = value(term, student, outputs(2, rows=rows))
    (gradient,) = torch.autograd.grad(loss, student)

    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("apart", [1e-2, 1e-4])
def test_the_angle_at_rows_that_lie_close_together_far_from_the_origin_is_not_lost_to_rounding(apart: float) -> None:
    rows = outputs(1, rows=ROWS // 2)
    student = torch.cat([rows, rows + apart * outputs(2, rows=ROWS // 2)]).float() + 10

    found = value(RKDAngleTerm(**PAIR), student, taught(1).float())

    assert found.item() == pytest.approx(angles(student.double().numpy(), taught(1).numpy()), rel=1e-6)


def test_angles_are_the_same_however_few_anchors_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    term = RKDAngleTerm(**PAIR)
    found = []
    for size in (1, 3 * ROWS**2, 1 << 22):
        monkeypatch.setattr(rkd_angle, "_PART_VALUES", size)
        student = outputs(1).requires_grad_()
        loss = value(term, student, taught(1))
        found.append((loss.item(), torch.autograd.grad(loss, student)[0].numpy()))

    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-12)
        assert gradient == pytest.approx(found[0][1], abs=1e-15)


def test_a_long_series_of_correlation_congruence_is_the_gaussian_kernel_of_scikit_learn() -> None:
    student, teacher = outputs(1), taught(1)
    kernels = [rbf_kernel(normalize(side.numpy()), gamma=0.4) for side in (student, teacher)]

    found = value(CCTerm(**PAIR, order=20), student, teacher)

    assert found.item() == pytest.approx(float(((kernels[0] - kernels[1]) ** 2).mean()), rel=1e-9)


def test_correlation_congruence_is_the_squared_one_of_the_paper_and_not_the_root_or_the_products_of_references() -> (
    None
):
    student, teacher = outputs(1), outputs(2)
    x, y = (normalize(side.numpy()) for side in (student, teacher))
    series = [math.exp(-0.8) * (1 + 0.8 * side @ side.T + 0.32 * (side @ side.T) ** 2) for side in (x, y)]
    root = np.linalg.norm(series[0] - series[1]) / ROWS**2  # torchdistill, of directions
    gaps = np.abs(x - y)
    products = (gaps[:-1] * gaps[1:]).sum(axis=1).mean()  # RepDistiller

    found = value(CCTerm(**PAIR), student, teacher).item()

    assert found == pytest.approx(root**2 * ROWS**2, rel=1e-9)
    assert abs(found - root) > 0.1 * found
    assert abs(found - products) > 0.1 * found


def test_neighbours_of_pkt_include_the_row_itself_as_in_the_code_of_its_authors_and_not_as_in_the_paper() -> None:
    student, teacher = outputs(1), taught(1)
    others = ~np.eye(ROWS, dtype=bool)
    p, q = (
        normalize(np.where(others, (1 + cosine_similarity(side.numpy())) / 2, 0), norm="l1")
        for side in (teacher, student)
    )

    found = value(PKTTerm(**PAIR), student, teacher).item()

    assert found == pytest.approx(neighbours(student.numpy(), teacher.numpy()), rel=1e-9)
    assert abs(found - float(rel_entr(p, q).mean())) > 0.1 * found


def test_torchdistill_agrees_on_rkd_and_pkt_normalises_sp_by_sums_and_takes_the_root_of_cc() -> None:
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = outputs(1), taught(1)
    theirs = {"m": {"output": student.clone()}}, {"m": {"output": teacher.clone()}}
    ours = {term.term: value(term, student, teacher).item() for term in STATELESS}
    mean = {"student_output_path": "m", "teacher_output_path": "m", "reduction": "mean"}

    for name, factors in (("rkd_distance", (1, 0)), ("rkd_angle", (0, 1))):
        found = losses.RKDLoss(dist_factor=factors[0], angle_factor=factors[1], **mean)(*theirs)
        assert ours[name] == pytest.approx(float(found), rel=1e-9)
    pkt = losses.PKTLoss("m", "output", "m", "output")(*theirs)
    assert ours["pkt"] == pytest.approx(float(pkt), rel=1e-4)  # which adds 1e-7 to probabilities
    sp = losses.SPKDLoss("m", "m", "batchmean")(*theirs)
    by_sums = [normalize(side.numpy() @ side.numpy().T, norm="l1") for side in (student, teacher)]
    assert float(sp) == pytest.approx(float(((by_sums[0] - by_sums[1]) ** 2).mean()), rel=1e-9)
    assert abs(ours["sp"] - float(sp)) > 0.1 * float(sp)
    gaussian = {"type": "gaussian", "gamma": 0.6, "max_p": 3}
    unit = [{"m": {"output": torch.from_numpy(normalize(side.numpy()))}} for side in (student, teacher)]
    cc = losses.CCKDLoss("m", "m", gaussian, "batchmean")(*unit)
    assert ours["cc"] == pytest.approx(float(cc) ** 2 * ROWS**2, rel=1e-9)


NUM_ROWS = 30


def crd_state(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    shapes = Shapes(num_rows=NUM_ROWS, student_taps={STUDENT: (WIDTH,)}, teacher_taps={TAP: (TEACHER_WIDTH,)})
    return CRD.build(shapes).double()


class Contrasted:
    """Contrastive distillation in numpy, one row and one negative after the other."""

    def __init__(self, state: nn.Module) -> None:
        named = {name: values.numpy().copy() for name, values in state.state_dict().items()}
        sides = ("student", "teacher")
        self.weights = {side: named[f"{side}.weight"] for side in sides}
        self.biases = {side: named[f"{side}.bias"] for side in sides}
        self.banks = {side: named[f"{side}_bank"] for side in sides}
        self.z: dict[str, float] = {}

    def embedded(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        return {
            side: normalize(rows @ self.weights[side].T + self.biases[side])
            for side, rows in (("student", x), ("teacher", y))
        }

    def loss(self, x: np.ndarray, y: np.ndarray, rows: list[int], negatives: list[int]) -> float:
        total, embedded = 0.0, self.embedded(x, y)
        for side, other in (("student", "teacher"), ("teacher", "student")):
            scores = [
                [math.exp(v @ self.banks[other][place] / 0.3) for place in (row, *negatives)]
                for v, row in zip(embedded[side], rows, strict=True)
            ]
            if side not in self.z:
                self.z[side] = float(np.mean(scores)) * NUM_ROWS
            for row, (own, *others) in zip(rows, scores, strict=True):
                noise = len(negatives) / NUM_ROWS
                own, others = own / self.z[side], [score / self.z[side] for score in others]
                total -= math.log(own / (own + noise))
                total -= sum(
                    math.log(noise / (score + noise))
                    for score, place in zip(others, negatives, strict=True)
                    if place != row
                )
        return total / len(rows)

    def remember(self, x: np.ndarray, y: np.ndarray, rows: list[int]) -> None:
        for side, vectors in self.embedded(x, y).items():
            self.banks[side][rows] = normalize(0.5 * self.banks[side][rows] + 0.5 * vectors)


def negatives_of(state: nn.Module) -> list[int]:
    generator = torch.Generator().manual_seed(int(state.get_buffer("next_seed")))
    return torch.randint(NUM_ROWS, (11,), generator=generator).tolist()


def test_contrastive_distillation_is_its_formula_over_steps_that_fill_the_banks() -> None:
    state = crd_state()
    oracle = Contrasted(state)
    drawn = []
    for step in range(4):
        student, teacher = outputs(step).requires_grad_(), taught(step)
        rows = torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(step))[:ROWS]
        x, y, negatives = student.detach().numpy(), teacher.numpy(), negatives_of(state)
        expected = oracle.loss(x, y, rows.tolist(), negatives)

        loss = value(CRD, student, teacher, state=state, rows_N=rows)
        (gradient,) = torch.autograd.grad(loss, student)

        assert loss.item() == pytest.approx(expected, rel=1e-9)
        direction = np.random.default_rng(step).standard_normal(x.shape)
        derivative = slope(lambda at: oracle.loss(at, y, rows.tolist(), negatives), x, direction)  # noqa: B023
        assert float((gradient.numpy() * direction).sum()) == pytest.approx(derivative, abs=1e-8)
        oracle.remember(x, y, rows.tolist())
        drawn.append(negatives)
    for side in ("student", "teacher"):
        assert state.get_buffer(f"{side}_bank").numpy() == pytest.approx(oracle.banks[side], abs=1e-12)
    assert set(map(int, rows)) & set(negatives)  # a row that is its own negative was among them
    assert len({tuple(negatives) for negatives in drawn}) == 4


def test_the_gradients_of_contrastive_distillation_are_those_of_finite_differences_for_its_layers_too() -> None:
    state = crd_state()
    student, teacher, rows = outputs(1)[:3].requires_grad_(), taught(1)[:3].requires_grad_(), torch.arange(3)
    # Z is taken for a constant.
    value(CRD, student, teacher, state=state, rows_N=rows)
    state.eval()

    def loss(student: torch.Tensor, teacher: torch.Tensor, *layers: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(Held(state), dict(zip(names, layers, strict=True)), (student, teacher, rows))

    names = [f"state.{name}" for name, _ in state.named_parameters()]
    assert torch.autograd.gradcheck(loss, (student, teacher, *state.parameters()), atol=1e-7, fast_mode=True)


class Held(nn.Module):
    """A state as part of a module, so that its parameters can be replaced for one call."""

    def __init__(self, state: nn.Module) -> None:
        super().__init__()
        self.state = state

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, rows_N: torch.Tensor) -> torch.Tensor:
        return value(CRD, student, teacher, state=self.state, rows_N=rows_N)


def test_contrastive_distillation_without_training_changes_nothing_it_remembers() -> None:
    state = crd_state().eval()
    before = {name: values.clone() for name, values in state.state_dict().items()}

    value(CRD, outputs(1), taught(1), state=state, rows_N=torch.arange(ROWS))

    for name, values in state.state_dict().items():
        assert torch.equal(values.nan_to_num(-1), before[name].nan_to_num(-1)), name


def test_scores_that_overflow_leave_contrastive_distillation_finite() -> None:
    term = CRDTerm(**PAIR, width=3, negatives=11, temperature=1e-3)
    state = crd_state().float()
    student = outputs(1, scale=1e4, dtype=torch.float16).requires_grad_()

    loss = value(term, student, taught(1).half(), state=state, rows_N=torch.arange(ROWS))
    (gradient,) = torch.autograd.grad(loss, student)

    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_a_student_that_knows_the_rows_loses_less_than_one_that_mixes_them_up() -> None:
    term, rows = CRDTerm(**PAIR, width=WIDTH, negatives=200), torch.arange(ROWS)
    torch.manual_seed(0)
    shapes = Shapes(num_rows=ROWS, student_taps={STUDENT: (WIDTH,)}, teacher_taps={TAP: (WIDTH,)})
    state = term.build(shapes).double()
    for side in ("student", "teacher"):
        layer = state.get_submodule(side)
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    same = outputs(1)
    for _ in range(30):
        value(term, same, same, state=state, rows_N=rows)

    alike = value(term, same, same, state=state, rows_N=rows).item()
    mixed = value(term, same.roll(1, dims=0), same, state=state.eval(), rows_N=rows).item()

    assert alike < mixed


def test_two_workers_with_unequal_shares_train_as_one_does(tmp_path: Path) -> None:
    everything = [*STATELESS, CRD]
    alone = train_tapped(Alone(), everything)

    for worker in together(tmp_path, 2, train_tapped, everything):
        for term, found, expected in zip(everything, worker, alone, strict=True):
            assert found[0] == pytest.approx(expected[0], rel=1e-10), term.term
            for name, values in expected[1].items():
                assert found[1][name] == pytest.approx(values, rel=1e-9, abs=1e-12), (term.term, name)


def test_a_training_with_contrasts_that_goes_on_from_a_saved_state_ends_as_one_that_never_stopped() -> None:
    whole, resumed = (train_tapped(Alone(), [CRD], steps=6, resumed_at=at) for at in (None, 3))

    assert resumed == whole
