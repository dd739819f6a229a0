"""A cohort in the training loop: what its members learn, what is kept of them, and who may die.

Legend: K members, N rows, C classes.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, log_loss

from cluster.models import ModelConfig
from cluster.modules import build_module, load_weights
from cluster.optimizers import OptimizerConfig
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectStore
from cluster.tapping import ModuleMissingError
from students.checkpoints import latest_step
from students.cohorts.dml import DMLCohort
from students.cohorts.fused import Fused
from students.cohorts.kdcl import KDCLCohort
from students.cohorts.method import OnlineMethod
from students.cohorts.one import ONECohort
from students.cohorts.sharing import NotSharedError, Sharing
from students.group import Alone, fold_seed
from students.loop import TrainingDivergedError, train
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm
from students.objectives.objective import Objective
from students.online import learner_of
from students.task import Execution, Peer, TrainedRecord, TrainingTask
from students.trained import build_trained
from tests.fixtures.crashing_store import Killed
from tests.fixtures.plain_order import plain_batches
from tests.fixtures.tiny import points, targets, task, teacher_logits, write_labels, write_rows
from tests.fixtures.tiny_workers import together, train_member
from tests.students.test_loop import DiesAfterCheckpoint

ROWS, SHARD_ROWS = 96, 16
HELD_OUT = points(40, seed=2, spread=0.8)
ARRAYS = points(ROWS, seed=1, labelled=48, spread=0.8)
SMOOTH = ModelConfig(factory="tests.fixtures.tiny:Smooth")
METHODS: dict[str, OnlineMethod] = {
    "dml": DMLCohort(members=3),
    "naive": KDCLCohort(),
    "linear": KDCLCohort(variant="linear"),
    "min_logit": KDCLCohort(variant="min_logit"),
    "general": KDCLCohort(members=3, variant="general"),
    "one": ONECohort(shared=("0", "1"), weight=0.5),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def training_in(root: Path, cohort: OnlineMethod | None, model: str = "Smooth", **changes: object) -> TrainingTask:
    """Write rows of which a half has labels; members differ from the student in their first weights alone."""
    store = DirectoryStore(root)
    rows = write_rows(store, ARRAYS, "a", shard_rows=SHARD_ROWS)
    training = task(rows, write_rows(store, HELD_OUT, "b", shard_rows=SHARD_ROWS), model, epochs=3, batch_size=20)
    peers = [
        Peer(name=member.name, model=training.model, model_source="0" * 64)
        for member in (cohort.members if cohort else ())
    ]
    return TrainingTask.model_validate(training.model_dump() | {"cohort": cohort, "peers": peers} | changes)


def run(root: Path, training: TrainingTask, execution: Execution | None = None) -> TrainedRecord:
    return train(DirectoryStore(root), training, execution or Execution(), Alone())


def weights(root: Path, record: TrainedRecord) -> dict[str, np.ndarray]:
    return safetensors.numpy.load(bytes(DirectoryStore(root).get(record.weights_key)))


def loaded(store: ObjectStore, training: TrainingTask, record: TrainedRecord) -> torch.nn.Module:
    module = build_trained(training, record)
    load_weights(module, bytes(store.get(record.weights_key)), where="test")
    return module.eval()


def figures(module: torch.nn.Module) -> tuple[float, float]:
    with torch.inference_mode():
        logits = module(torch.from_numpy(HELD_OUT["x"])).double().numpy()
    labels = HELD_OUT["label"]
    return accuracy_score(labels, logits.argmax(axis=1)), log_loss(labels, softmax(logits, axis=1))


def plain_dml(
    training: TrainingTask, first: list[tuple[np.ndarray, np.ndarray]], *, weight_of_peers: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weights and biases of softmax regressions that learn from labels and from each other, in plain numpy."""
    x, labels = ARRAYS["x"].astype(np.float64), ARRAYS["label"]
    known, members = labels >= 0, first
    shards = [SHARD_ROWS] * (ROWS // SHARD_ROWS)
    for epoch in range(training.epochs):
        for batch in plain_batches(
            shards, lanes=4, window_rows=8, batch_size=training.batch_size, seed=training.seed, epoch=epoch
        ):
            picked = [shard * SHARD_ROWS + row for lane in batch for shard, row in lane]
            inputs, is_known = x[picked], known[picked][:, None]
            onehot = np.eye(3)[np.where(known[picked], labels[picked], 0)]
            probs = [softmax(inputs @ weight.T + bias, axis=1) for weight, bias in members]
            moved = []
            for k, (weight, bias) in enumerate(members):
                of_labels = is_known * (probs[k] - onehot) / known.mean()
                of_peers = sum((probs[k] - probs[peer] for peer in range(len(members)) if peer != k), np.zeros(1))
                gradient = (of_labels + weight_of_peers * of_peers / (len(members) - 1)) / len(picked)
                rate = training.optimizer.lr
                moved.append((weight - rate * gradient.T @ inputs, bias - rate * gradient.sum(axis=0)))
            members = moved
    return members


def test_members_that_teach_each_other_do_as_plain_numpy_does(root: Path) -> None:
    sgd = OptimizerConfig(name="sgd", lr=0.5, momentum=0, schedule="constant")
    training = training_in(root, DMLCohort(members=3, weight=0.7, export="fused"), "Linear", optimizer=sgd)
    still = training.model_copy(update={"optimizer": sgd.model_copy(update={"lr": 1e-30}), "epochs": 1})

    def members(record: TrainedRecord) -> list[tuple[np.ndarray, np.ndarray]]:
        found = {name: values.astype(np.float64) for name, values in weights(root, record).items()}
        return [(found[f"members.{k}.weight"], found[f"members.{k}.bias"]) for k in range(3)]

    first = members(run(root, still))
    found = members(run(root, training))

    expected = plain_dml(training, first, weight_of_peers=0.7)
    for (weight, bias), (its_weight, its_bias) in zip(expected, found, strict=True):
        assert its_weight == pytest.approx(weight, abs=2e-5)
        assert its_bias == pytest.approx(bias, abs=2e-5)
    assert not np.allclose(first[0][0], first[1][0])


def test_members_that_learn_nothing_of_each_other_are_students_by_themselves(root: Path, tmp_path: Path) -> None:
    weightless = DMLCohort(weight=1e-30, export="fused")
    labels = write_labels(
        DirectoryStore(root), write_rows(DirectoryStore(root), ARRAYS, "a"), teacher_logits(ARRAYS["x"])
    )
    taught = {"targets": targets(labels), "objective": (KLTerm(), CrossEntropyTerm(weight=0.3))}
    cohort = training_in(root, weightless, **taught)
    alone = [training_in(root, None, seed=seed, **taught) for seed in (1, fold_seed(1, 1))]

    found = weights(root, run(root, cohort))

    # The peer sees the batches of the first seed: of its own training it has the first weights alone.
    for name, values in weights(root, run(root, alone[0])).items():
        assert found[f"members.0.{name}"] == pytest.approx(values, abs=1e-6)
    still = OptimizerConfig(name="sgd", lr=1e-30)
    start = weights(
        tmp_path / "s",
        run(Path(shutil.copytree(root, tmp_path / "s")), alone[1].model_copy(update={"optimizer": still})),
    )
    begun = weights(root, run(root, cohort.model_copy(update={"optimizer": still})))
    assert all((begun[f"members.1.{name}"] == values).all() for name, values in start.items())


@every_method
def test_resuming_from_any_checkpoint_ends_bit_for_bit_like_a_cohort_that_was_never_killed(
    root: Path, tmp_path: Path, method: OnlineMethod
) -> None:
    training = training_in(root, method.model_copy(update={"export": "fused"}), "Dropped", batch_size=8)
    whole = run(Path(shutil.copytree(root, tmp_path / "whole")), training)

    for fatal in (0, 3):
        copy = Path(shutil.copytree(root, tmp_path / str(fatal)))
        dying = DiesAfterCheckpoint(DirectoryStore(copy), fatal)
        with pytest.raises(Killed):
            train(dying, training, Execution(checkpoint_every_s=0.0), Alone())  # type: ignore[arg-type]
        assert latest_step(DirectoryStore(copy), training) > 0

        resumed = run(copy, training)

        assert resumed.weights_digest == whole.weights_digest
        assert (resumed.points, resumed.members) == (whole.points, whole.members)


@every_method
def test_two_workers_train_the_same_cohort_as_one(root: Path, tmp_path: Path, method: OnlineMethod) -> None:
    training = training_in(root, method.model_copy(update={"export": "fused"}), optimizer=OptimizerConfig(lr=0.02))
    alone = run(Path(shutil.copytree(root, tmp_path / "one")), training)

    pair, *_ = together(tmp_path, 2, train_member, root, training, Execution(accumulate=2))

    expected = weights(tmp_path / "one", alone)
    for name, values in weights(root, pair).items():
        assert values == pytest.approx(expected[name], abs=1e-5)
    for one, two in zip(alone.points, pair.points, strict=True):
        assert (two.loss, two.nll) == pytest.approx((one.loss, one.nll), abs=1e-5)


class TestRecords:
    def test_the_best_member_is_kept_with_how_everyone_went(self, root: Path) -> None:
        training = training_in(root, DMLCohort(members=3))

        record = run(root, training)

        finals = {member.name: (member.points[-1].accuracy, -member.points[-1].nll) for member in record.members}
        assert list(finals) == ["student", "peer-1", "peer-2"]
        assert record.exported == max(finals, key=lambda name: finals[name])
        (best,) = [member for member in record.members if member.name == record.exported]
        assert record.points == best.points
        assert [point.epoch for point in best.points] == [1, 2, 3]
        assert {member.parameters for member in record.members} == {record.parameters} == {4 * 16 + 16 + 16 * 3 + 3}
        module = loaded(DirectoryStore(root), training, record)
        assert not isinstance(module, Fused)
        accuracy, nll = figures(module)
        assert (record.points[-1].accuracy, record.points[-1].nll) == (accuracy, pytest.approx(nll, abs=1e-6))

    def test_all_as_one_are_kept_as_the_mean_of_their_probabilities(self, root: Path) -> None:
        training = training_in(root, KDCLCohort(members=3, export="fused"))

        record = run(root, training)

        module = loaded(DirectoryStore(root), training, record)
        assert isinstance(module, Fused)
        x = torch.from_numpy(HELD_OUT["x"])
        with torch.inference_mode():
            each = [softmax(member(x).double().numpy(), axis=1) for member in module.members]
            assert softmax(module(x).numpy(), axis=1) == pytest.approx(np.mean(each, axis=0), abs=1e-6)
        accuracy, nll = figures(module)
        assert (record.points[-1].accuracy, record.points[-1].nll) == (accuracy, pytest.approx(nll, abs=1e-6))
        assert record.parameters == 3 * record.members[0].parameters
        assert all(point.members == () for point in record.points)

    def test_members_may_be_other_models_and_the_best_one_is_rebuilt(self, root: Path) -> None:
        wide = ModelConfig(factory="tests.fixtures.tiny:Smooth", arguments={"width": 64})
        still = training_in(root, DMLCohort(members=[{"name": "wide"}]), "Linear")
        training = still.model_copy(update={"peers": (Peer(name="wide", model=wide, model_source="0" * 64),)})

        record = run(root, training)

        assert {member.name: member.parameters for member in record.members} == {"student": 15, "wide": 515}
        for name in ("student", "wide"):
            kept = record.model_copy(update={"exported": name})
            assert type(build_trained(training, kept)) is type(build_module(wide if name == "wide" else training.model))
        assert figures(loaded(DirectoryStore(root), training, record))[0] == record.points[-1].accuracy

    def test_a_lone_student_says_nothing_of_members(self, root: Path) -> None:
        record = run(root, training_in(root, None))

        assert record.members == ()
        assert "members" not in record.model_dump_json()
        assert "exported" not in record.model_dump_json()


class Counted(torch.nn.Sequential):
    """Counts how often it is computed."""

    computed = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        Counted.computed += 1
        outputs: torch.Tensor = super().forward(inputs)
        return outputs


class Stemmed(torch.nn.Module):
    """A stem and a head, with something of a member's own in between."""

    def __init__(self, between: str = "nothing") -> None:
        super().__init__()
        self.stem = Counted(torch.nn.Linear(4, 8), torch.nn.Tanh())
        self.after = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, 3)
        self._between = between

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.stem(inputs * 1 if self._between == "before" else inputs.flatten(1))
        if self._between == "in place":
            hidden.mul_(2)
        outputs: torch.Tensor = self.head(hidden if self._between == "around" else self.after(hidden))
        return outputs


class TestSharing:
    def test_shared_modules_are_the_same_weights_computed_once_and_learn_of_all_members(self) -> None:
        torch.manual_seed(0)
        models, x = [Stemmed() for _ in range(3)], torch.randn(5, 4)
        sharing = Sharing(models, ["stem"])
        assert sharing.check(models, x) == 8
        Counted.computed = 0

        with sharing.once():
            together_KNC = torch.stack([model(x) for model in models])
        together_KNC.square().sum().backward()

        assert Counted.computed == 1
        stem, found = models[0].stem[0], models[0].stem[0].weight.grad.clone()
        assert all(model.stem is models[0].stem for model in models)
        stem.weight.grad = None
        sum(model(x).square().sum() for model in models).backward()  # computed anew by each
        assert Counted.computed == 4
        assert found.numpy() == pytest.approx(stem.weight.grad.numpy(), rel=1e-4, abs=1e-7)

    def test_another_batch_is_computed_anew(self) -> None:
        models, x = [Stemmed(), Stemmed()], torch.randn(5, 4)
        sharing = Sharing(models, ["stem"])
        for _ in range(2):
            with sharing.once():
                found = models[1](x)
            with torch.no_grad():
                x += 1  # the same object, with other numbers
        with sharing.once():
            assert not torch.equal(models[1](x), found)

    @pytest.mark.parametrize(
        ("between", "path", "said"),
        [
            ("before", "stem", "called with another tensor by a member"),
            ("in place", "stem", "a member changes in place"),
            ("around", "after", "is not called by a member"),
            ("nothing", "head", "called with another tensor by a member"),
        ],
    )
    def test_what_members_cannot_have_in_common_is_refused(self, between: str, path: str, said: str) -> None:
        models = [Stemmed(between), Stemmed(between)]
        sharing = Sharing(models, [path])
        with pytest.raises(NotSharedError, match=said) as error:
            sharing.check(models, torch.randn(2, 4))
        assert path in str(error.value)
        assert "nn.Sequential" in str(error.value)

    def test_a_module_that_is_not_there_is_named_with_the_nearest(self) -> None:
        with pytest.raises(ModuleMissingError, match="stem"):
            Sharing([Stemmed(), Stemmed()], ["stm"])

    def test_a_check_leaves_models_as_they_were(self) -> None:
        models = [torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)) for _ in range(2)]
        before = models[0][0].running_mean.clone()

        Sharing(models, ["0"]).check(models, torch.randn(6, 4) + 3)

        assert torch.equal(models[0][0].running_mean, before)
        assert all(model.training and model[0].training for model in models)

    def test_weights_of_a_cohort_that_shares_are_counted_and_kept_once(self, root: Path) -> None:
        training = training_in(root, ONECohort(shared=("0",), export="fused"))

        record = run(root, training)

        assert record.parameters == (4 * 16 + 16) + 3 * (16 * 3 + 3)
        module = loaded(DirectoryStore(root), training, record)
        assert isinstance(module, Fused)
        assert all(member[0] is module.members[0][0] for member in module.members)


@pytest.mark.parametrize("method", [METHODS["dml"], METHODS["one"]], ids=["dml", "one"])
def test_a_cohort_learns_in_bfloat16(root: Path, method: OnlineMethod) -> None:
    record = run(root, training_in(root, method, precision="bfloat16", epochs=10))

    assert record.points[-1].accuracy > 0.7
    assert record.points[-1].loss < record.points[0].loss


@pytest.mark.parametrize("method", [METHODS["general"], METHODS["one"]], ids=["general", "one"])
def test_what_a_method_learns_is_saved_once_beside_the_objectives(root: Path, method: OnlineMethod) -> None:
    training = training_in(root, method)
    modules = [build_module(training.model) for _ in range(3)]

    learner = learner_of(
        training,
        modules,
        lambda student, seed: Objective(training.objective, labelled_share=1.0),
        sample=torch.from_numpy(HELD_OUT["x"])[:2],
        labelled_share=1.0,
        is_compiled=False,
    )

    named = {name for name, _ in [*learner.named_parameters(), *learner.named_buffers()]}
    assert {name for name in named if not name.startswith("students.")} == {
        f"objective.{name}" for name in learner.objective.state_dict()
    }
    assert len(learner.objective.state_dict()) == (1 if method is METHODS["general"] else 2)


def test_members_that_diverge_are_refused(root: Path) -> None:
    training = training_in(root, METHODS["general"], optimizer=OptimizerConfig(name="sgd", lr=1e38))

    with pytest.raises(TrainingDivergedError):
        run(root, training)


def test_general_weights_follow_the_errors_on_held_out_rows(root: Path) -> None:
    training = training_in(root, KDCLCohort(variant="general", export="fused"), epochs=1, batch_size=96)
    seen: list[Any] = []

    class Watched(KDCLCohort):
        def learn_of(self, errors_KK: torch.Tensor, state: torch.nn.Module | None) -> None:
            seen.append(errors_KK.clone())

    record = run(root, training.model_copy(update={"cohort": Watched(variant="general", export="fused")}))

    module = loaded(DirectoryStore(root), training, record)
    assert isinstance(module, Fused)
    with torch.inference_mode():
        x = torch.from_numpy(HELD_OUT["x"])
        wrong = [
            np.exp(log_softmax(member(x).double().numpy(), axis=1)) - np.eye(3)[HELD_OUT["label"]]
            for member in module.members
        ]
    expected = [[np.mean(np.sum(one * other, axis=1)) for other in wrong] for one in wrong]
    assert seen[-1].numpy() == pytest.approx(np.array(expected), abs=1e-6)
