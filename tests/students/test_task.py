"""A training's identity: what changes the weights changes it, and nothing else does."""

import pickle

import pytest
from pydantic import ValidationError

from cluster.models import InputConfig, ModelConfig
from cluster.optimizers import OptimizerConfig
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import Column
from cluster.shards.views.spec import ViewsConfig
from students.cohorts.dml import DMLCohort
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm
from students.spec import OrderConfig
from students.task import LiveTeacher, Membership, Peer, Target, Targets, TrainingTask

LABELS = LabelSetRecord(
    teacher="wide",
    teacher_identity="1" * 16,
    dataset="d" * 16,
    columns=(Column(name="logits", dtype="float16", shape=(3,)),),
)
TARGETS = Targets(combine="mean_probability", parts=(Target(labels=LABELS, weight=1.0),))
MODEL = ModelConfig(factory="models:MLP", arguments={"width": 8})
TASK = TrainingTask(
    name="student-0",
    folder="students",
    model=MODEL,
    model_source="f" * 64,
    dataset="d" * 16,
    held_out="e" * 16,
    targets=TARGETS,
    objective=(KLTerm(weight=0.9), CrossEntropyTerm(weight=0.1)),
    epochs=3,
    batch_size=32,
    optimizer=OptimizerConfig(),
    seed=0,
    order=OrderConfig(),
)

LIVE = LiveTeacher(name="wide", identity="a" * 16, model=MODEL, weights="teachers/wide/trained.json")
PEER = Peer(name="peer-1", model=MODEL, model_source="f" * 64)

CHANGES: dict[str, object] = {
    "model": MODEL.model_copy(update={"arguments": {"width": 9}}),
    "model_source": "0" * 64,
    "dataset": "c" * 16,
    "held_out": "c" * 16,
    "views": ViewsConfig(mixup=0.4),
    "targets": None,
    "stored_taps": (LABELS,),
    "live_teachers": (LIVE,),
    "objective": (KLTerm(weight=0.8), CrossEntropyTerm(weight=0.1)),
    "cohort": DMLCohort(),
    "peers": (PEER,),
    "membership": Membership(cohort=TASK, number=0),
    "epochs": 4,
    "batch_size": 33,
    "optimizer": OptimizerConfig(lr=2e-3),
    "seed": 1,
    "order": OrderConfig(lanes=4),
    "precision": "bfloat16",
}
FINER: list[dict[str, object]] = [
    {"model": MODEL.model_copy(update={"factory": "models:CNN"})},
    {"model": MODEL.model_copy(update={"inputs": InputConfig(scale=0.5)})},
    {"objective": TASK.objective[::-1]},
    {"objective": (KLTerm(weight=0.9, temperature=2.0), CrossEntropyTerm(weight=0.1))},
    {"objective": (KLTerm(weight=0.9), CrossEntropyTerm(weight=0.1, label_smoothing=0.1))},
    {"targets": TARGETS.model_copy(update={"combine": "mean_logit"})},
    {"targets": Targets(combine="mean_probability", parts=(Target(labels=LABELS, weight=2.0),))},
    {
        "targets": Targets(
            combine="mean_probability", parts=(Target(labels=LABELS, weight=1.0, calibration="c/1.json"),)
        )
    },
    {"order": OrderConfig(window_rows=100)},
    {"views": ViewsConfig(mixup=0.4, seed=1)},
    {"views": ViewsConfig(mixup=0.4, count=2)},
    {"membership": Membership(cohort=TASK, number=1)},
    {"membership": Membership(cohort=TASK.model_copy(update={"seed": 1}), number=0)},
    {"live_teachers": (LIVE.model_copy(update={"identity": "b" * 16}),)},
]


def changed(change: dict[str, object]) -> TrainingTask:
    return TrainingTask.model_validate(TASK.model_dump() | change)


def test_every_field_but_the_name_and_the_folder_is_part_of_the_identity() -> None:
    assert set(CHANGES) == set(TrainingTask.model_fields) - {"name", "folder"}

    identities = [changed(change).identity for change in [{name: value} for name, value in CHANGES.items()] + FINER]

    assert len({TASK.identity, *identities}) == 1 + len(CHANGES) + len(FINER)


def test_a_name_and_a_folder_change_where_the_results_go_and_not_the_identity() -> None:
    renamed = changed({"name": "wide", "folder": "teachers"})

    assert renamed.identity == TASK.identity
    assert renamed.prefix == f"teachers/wide-{TASK.identity}"
    assert renamed.record_key == f"teachers/wide-{TASK.identity}/trained.json"


def test_the_identity_stays_what_it_was_when_this_was_written() -> None:
    # Whoever changes this makes every student that exists train again: raise RECIPE, and change it here on purpose.
    assert TASK.identity == "57a8eb7bb61dc75f"


def test_a_task_survives_the_ways_it_travels() -> None:
    assert pickle.loads(pickle.dumps(TASK)) == TASK
    assert TrainingTask.model_validate_json(TASK.model_dump_json()) == TASK
    assert pickle.loads(pickle.dumps(TASK)).identity == TASK.identity


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../outside"},
        {"name": "Capital"},
        {"dataset": "../../etc/passwd.."},
        {"epochs": 0},
        {"batch_size": 0},
        {"colour": "red"},
        {"targets": {"combine": "mean_probability", "parts": ()}},
        {"targets": {"combine": "median", "parts": TARGETS.parts}},
    ],
)
def test_what_could_name_another_place_or_train_nothing_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        changed(change)
