"""The student as teacher of its own exits: the formula by numpy, exits that end where they should, and trainings.

Legend: N rows, D features of an exit, H those of a hint, C classes.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from cluster.storage.directory import DirectoryStore
from cluster.tapping import ModuleMissingError, UntappableError
from students.exits import StudentExit, load_exits, used_parameters
from students.group import Alone
from students.loop import train
from students.objectives.exit_head import ExitHead
from students.objectives.objective import Batch, Objective
from students.objectives.own_teacher import OwnTeacherTerm
from students.objectives.term import Shapes, TermInputs
from students.task import Execution, TrainedRecord, TrainingTask
from tests.fixtures.crashing_store import CrashingStore, Killed
from tests.fixtures.tiny import Smooth, points, task, write_rows
from tests.fixtures.tiny_workers import together, train_member

N, C, H, T, ALPHA, BETA = 9, 4, 6, 2.5, 0.3, 0.2
SHAPES = {"vector": (5,), "tokens": (3, 5), "map": (5, 2, 3), "last": (H, 2, 2)}
EXITS = ("vector", "tokens", "map")
SHARE = 5 / N
LABELS = torch.tensor([0, 1, 2, 3, 1, -1, -1, -1, -1])
PLAIN = OwnTeacherTerm(exits=EXITS, alpha=ALPHA, temperature=T, beta=BETA)
HINTED = PLAIN.model_copy(update={"features": "last"})
both = pytest.mark.parametrize("term", [PLAIN, HINTED], ids=["plain", "hinted"])


def drawn(seed: int, *shape: int, scale: float = 1.5) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seen_by(
    term: OwnTeacherTerm, seed: int = 0, *, labels: torch.Tensor = LABELS, dtype: torch.dtype = torch.float64
) -> TermInputs:
    """Return random outputs, all with gradient, and heads with random weights."""
    torch.manual_seed(seed)
    state = term.build(Shapes(num_classes=C, student_taps=SHAPES)).to(dtype)
    taps = {
        path: drawn(10 * seed + place, N, *SHAPES[path]).to(dtype).requires_grad_()
        for place, path in enumerate(term.student_modules)
    }
    logits_NC = drawn(1000 + seed, N, C).to(dtype).requires_grad_()
    return TermInputs(logits_NC, labels, student_taps=taps, state=state, labelled_share=SHARE)


def by_numpy(
    term: OwnTeacherTerm, seen: TermInputs
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Return the loss of each row, and what its sum has for gradients, derived by hand.

    These are by the end's logits, by the output of each exit and by the weights of each head.
    """
    z = seen.student_logits_NC.detach().numpy()
    known = (seen.labels_N.numpy() >= 0)[:, None]
    wanted = np.eye(C)[np.maximum(seen.labels_N.numpy(), 0)]
    loss = -(known * wanted * log_softmax(z, axis=1)).sum(axis=1)
    by_end = known * (softmax(z, axis=1) - wanted)
    p, by_output, by_weight = softmax(z / T, axis=1), {}, {}
    assert seen.state is not None
    for path, head in zip(EXITS, seen.state.children(), strict=True):
        weights = {name: values.detach().numpy() for name, values in head.named_parameters()}
        output = seen.student_taps[path].detach().numpy()
        axes = {2: (), 3: (1,), 4: (2, 3)}[output.ndim]
        f = hint = output.mean(axis=axes) if axes else output
        if term.features:
            hint = f @ weights["adapter.weight"].T + weights["adapter.bias"]
        entered = np.where(hint > 0, hint, 0) if term.features else hint
        z_i = entered @ weights["classifier.weight"].T + weights["classifier.bias"]
        loss = loss - (1 - ALPHA) * (known * wanted * log_softmax(z_i, axis=1)).sum(axis=1)
        loss = loss + SHARE * ALPHA * T**2 * rel_entr(p, softmax(z_i / T, axis=1)).sum(axis=1)
        slope = (1 - ALPHA) * known * (softmax(z_i, axis=1) - wanted)
        slope = slope + SHARE * ALPHA * T * (softmax(z_i / T, axis=1) - p)
        by_weight[path] = {"classifier.weight": slope.T @ entered, "classifier.bias": slope.sum(axis=0)}
        slope = slope @ weights["classifier.weight"]
        if term.features:
            gap = hint - seen.student_taps["last"].detach().numpy().mean(axis=(2, 3))
            loss = loss + SHARE * BETA * (gap**2).sum(axis=1)
            slope = slope * (hint > 0) + SHARE * BETA * 2 * gap
            by_weight[path] |= {"adapter.weight": slope.T @ f, "adapter.bias": slope.sum(axis=0)}
            slope = slope @ weights["adapter.weight"]
        positions = int(np.prod([output.shape[axis] for axis in axes])) if axes else 1
        by_output[path] = np.broadcast_to(np.expand_dims(slope, axes) if axes else slope, output.shape) / positions
    return loss, by_end, by_output, by_weight


@both
def test_the_term_and_all_its_gradients_are_the_formula(term: OwnTeacherTerm) -> None:
    for seed in range(4):
        seen = seen_by(term, seed)
        rows = term.rows(seen)
        rows.sum().backward()

        loss, by_end, by_output, by_weight = by_numpy(term, seen)
        assert rows.detach().numpy() == pytest.approx(loss, rel=1e-9, abs=1e-12)
        assert seen.student_logits_NC.grad.numpy() == pytest.approx(by_end, rel=1e-9, abs=1e-12)
        for path, head in term.heads_of(seen.state).items():
            assert seen.student_taps[path].grad.numpy() == pytest.approx(by_output[path], rel=1e-9, abs=1e-12)
            found = {name: values.grad.numpy() for name, values in head.named_parameters()}
            assert set(found) == set(by_weight[path])
            for name, gradient in by_weight[path].items():
                assert found[name] == pytest.approx(gradient, rel=1e-9, abs=1e-12)
        if term.features:
            assert seen.student_taps["last"].grad is None  # a constant, as the end's logits are to the exits


@both
def test_the_gradient_by_the_exits_is_that_of_finite_differences(term: OwnTeacherTerm) -> None:
    seen = seen_by(term)

    def loss(output: torch.Tensor) -> torch.Tensor:
        return term.rows(TermInputs(**{**vars(seen), "student_taps": {**seen.student_taps, "vector": output}})).sum()

    assert torch.autograd.gradcheck(loss, seen.student_taps["vector"], atol=1e-7, fast_mode=True)


@both
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 500), shift=st.floats(-30, 30))
def test_rows_without_a_label_teach_the_exits_and_no_more_and_constants_of_the_end_change_nothing(
    term: OwnTeacherTerm, seed: int, shift: float
) -> None:
    seen = seen_by(term, seed, labels=torch.full((N,), -1))
    shifted = TermInputs(**{**vars(seen), "student_logits_NC": seen.student_logits_NC + shift})

    rows = term.rows(seen)
    (by_end,) = torch.autograd.grad(rows.sum(), seen.student_logits_NC)

    assert (rows > 0).all()
    assert by_end.abs().max() == 0
    assert term.rows(shifted).detach().numpy() == pytest.approx(rows.detach().numpy(), rel=1e-9)


def test_an_exit_that_says_what_the_end_says_has_nothing_to_learn_from_it() -> None:
    term = OwnTeacherTerm(exits=("vector",), alpha=1.0, temperature=T)
    head = ExitHead(C, C, num_hints=None).double()
    nn.init.eye_(head.classifier.weight)
    nn.init.zeros_(head.classifier.bias)
    output = drawn(3, N, C).requires_grad_()
    none = torch.full((N,), -1)
    seen = TermInputs(output.detach(), none, student_taps={"vector": output}, state=nn.ModuleList([head]))

    rows = term.rows(seen)
    (gradient,) = torch.autograd.grad(rows.sum(), output)

    assert rows.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


def test_the_parts_on_all_rows_weigh_the_same_whatever_share_has_labels() -> None:
    def loss(share: float, labels: torch.Tensor) -> float:
        objective = Objective([PLAIN], labelled_share=share, shapes=Shapes(num_classes=C, student_taps=SHAPES)).double()
        seen = seen_by(PLAIN)
        objective.states = nn.ModuleList([seen.state])
        batch = Batch(torch.zeros(N, 1), labels)
        return objective(seen.student_logits_NC, batch, global_rows=N, student_taps=seen.student_taps).item()

    none = torch.full((N,), -1)
    assert loss(0.25, none) == pytest.approx(loss(1.0, none), rel=1e-9)
    assert loss(SHARE, LABELS) - loss(SHARE, none) == pytest.approx((loss(1.0, LABELS) - loss(1.0, none)) / SHARE)


@both
def test_single_precision_is_close_and_underflow_leaves_it_finite(term: OwnTeacherTerm) -> None:
    exact, single = term.rows(seen_by(term)), term.rows(seen_by(term, dtype=torch.float32))
    far = seen_by(term, dtype=torch.float32)
    far = TermInputs(**{**vars(far), "student_logits_NC": (1e3 * torch.eye(N, C)).requires_grad_()})
    loss = term.rows(far)
    gradients = torch.autograd.grad(loss.sum(), [far.student_logits_NC, *(far.student_taps[path] for path in EXITS)])

    assert single.detach().numpy() == pytest.approx(exact.detach().numpy(), rel=1e-3)
    assert loss.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "wrong", [{"exits": []}, {"exits": ["a", "a"]}, {"exits": ["a"], "alpha": 1.1}, {"exits": ["a"], "beta": -1}, {}]
)
def test_options_that_make_no_exits_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OwnTeacherTerm.model_validate(wrong)


def test_an_output_that_no_head_can_read_is_named() -> None:
    misfit = OwnTeacherTerm(exits=("vector", "deep")).misfit(
        Shapes(student_taps={"vector": (3,), "deep": (2, 3, 4, 5)})
    )

    assert misfit is not None
    assert misfit.startswith("the student's deep is [2, 3, 4, 5] for each row; expected a vector [D] or tokens")
    assert HINTED.misfit(Shapes(student_taps=SHAPES)) is None


class Twice(nn.Module):
    """Calls one of its modules twice, and works in place on what the second call gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu, self.fc, self.unused = nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3), nn.Tanh()
        self.norm = nn.LayerNorm(4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.norm(self.relu(self.layer(self.layer(inputs)))))
        return logits


def test_an_exit_is_its_head_on_the_last_call_of_its_module_and_nothing_after_that_is_computed() -> None:
    torch.manual_seed(0)
    student, head, inputs = Twice().eval(), ExitHead(4, 3, num_hints=None), torch.randn(6, 4)
    later: list[int] = []
    student.fc.register_forward_hook(lambda *_: later.append(1))
    early = StudentExit(student, "layer", head, inputs=inputs).eval()
    later.clear()

    logits = early(inputs)

    assert torch.equal(logits, head(student.layer(student.layer(inputs))))
    assert later == []
    used = used_parameters(early, inputs)
    assert {id(it) for it in used} == {id(it) for it in (*student.layer.parameters(), *head.parameters())}


@pytest.mark.parametrize(("path", "error"), [("layr", ModuleMissingError), ("unused", UntappableError)])
def test_an_exit_needs_a_module_that_is_there(path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        StudentExit(Twice(), path, ExitHead(4, 3, num_hints=None), inputs=torch.zeros(2, 4))(torch.zeros(2, 4))


def training_in(root: Path, **changes: object) -> TrainingTask:
    """Write rows of which a third has labels, and nobody else to teach."""
    store = DirectoryStore(root)
    rows = write_rows(store, points(97, seed=1, labelled=30, spread=0.8), "a")
    held_out = write_rows(store, points(40, seed=2, spread=0.8), "b")
    terms = (OwnTeacherTerm(exits=("0", "1"), features="1", beta=0.01),)
    return task(rows, held_out, "Smooth", **({"objective": terms, "epochs": 3, "batch_size": 10} | changes))


def run(root: Path, training: TrainingTask, execution: Execution | None = None, workers: int = 1) -> TrainedRecord:
    if workers == 1:
        return train(DirectoryStore(root), training, execution or Execution(), Alone())
    return together(root.parent, workers, train_member, root, training, execution or Execution())[0]


def weights(root: Path, record: TrainedRecord) -> dict[str, np.ndarray]:
    """Return the weights of the student, and under their modules those of the heads."""
    keys = {"": record.weights_key} | {f"{found.module}:": found.weights.key for found in record.exits}
    return {
        f"{where}{name}": values
        for where, key in keys.items()
        for name, values in safetensors.numpy.load(bytes(DirectoryStore(root).get(key))).items()
    }


def test_what_a_training_leaves_is_the_student_as_it_is_and_its_exits_as_numpy_computes_them(tmp_path: Path) -> None:
    record = run(tmp_path, training_in(tmp_path, epochs=20))

    found, x = weights(tmp_path, record), points(40, seed=2, spread=0.8)["x"]
    student = Smooth().eval()
    student.load_state_dict({name: torch.from_numpy(found[name]) for name in student.state_dict()})
    exits = load_exits(DirectoryStore(tmp_path), record, student, inputs=torch.from_numpy(x))
    assert list(exits) == ["0", "1"]
    assert record.parameters == sum(values.numel() for values in student.state_dict().values())
    first = x @ found["0.weight"].T + found["0.bias"]
    for path, f in (("0", first), ("1", np.tanh(first))):
        hint = f @ found[f"{path}:adapter.weight"].T + found[f"{path}:adapter.bias"]
        logits = np.maximum(hint, 0) @ found[f"{path}:classifier.weight"].T + found[f"{path}:classifier.bias"]
        with torch.inference_mode():
            assert exits[path](torch.from_numpy(x)).numpy() == pytest.approx(logits, abs=1e-5)
        assert (logits.argmax(axis=1) == points(40, seed=2, spread=0.8)["label"]).mean() > 0.8


def test_any_number_of_workers_and_parts_learn_the_same_exits(tmp_path: Path) -> None:
    root = tmp_path / "store"
    training, found = training_in(root), {}
    for workers, accumulate in ((1, 1), (2, 3)):
        copy = Path(shutil.copytree(root, tmp_path / str(workers)))
        found[workers] = weights(copy, run(copy, training, Execution(accumulate=accumulate), workers))

    assert set(found[1]) == set(found[2]) > {"0:adapter.weight", "1:classifier.bias"}
    for name, values in found[1].items():
        assert found[2][name] == pytest.approx(values, abs=1e-5)


def test_a_training_that_was_killed_ends_bit_for_bit_like_one_that_was_not_and_leaves_no_more(tmp_path: Path) -> None:
    training = training_in(tmp_path / "rows")
    always, whole_root = Execution(checkpoint_every_s=0.0), shutil.copytree(tmp_path / "rows", tmp_path / "whole")
    undisturbed = CrashingStore(DirectoryStore(whole_root))
    whole = train(undisturbed, training, always, Alone())
    kept = [stat.key for stat in DirectoryStore(whole_root).list(f"{training.prefix}/")]

    for fatal in range(undisturbed.num_operations // 3, undisturbed.num_operations, 9):
        root = shutil.copytree(tmp_path / "rows", tmp_path / str(fatal))
        with pytest.raises(Killed):
            train(CrashingStore(DirectoryStore(root), fatal=fatal), training, always, Alone())
        resumed = run(root, training)
        assert (resumed.weights_digest, resumed.exits, resumed.points) == (
            whole.weights_digest,
            whole.exits,
            whole.points,
        )
        assert [stat.key for stat in DirectoryStore(root).list(f"{training.prefix}/")] == kept


def test_half_precision_learns_the_exits_in_single_precision(tmp_path: Path) -> None:
    single, half = (
        weights(tmp_path, run(tmp_path, training_in(tmp_path, precision=it))) for it in ("float32", "bfloat16")
    )

    assert {values.dtype for values in half.values()} == {np.dtype(np.float32)}
    assert half["1:classifier.weight"] == pytest.approx(single["1:classifier.weight"], abs=0.1)
    assert (half["1:classifier.weight"] != single["1:classifier.weight"]).any()
