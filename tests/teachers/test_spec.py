"""What a user may say of a teacher, and how a contradiction is explained."""

import pytest
from pydantic import ValidationError

from cluster.resources import ResourceConfig
from teachers.spec import FitConfig, ReplicaRange, TeacherConfig

ONNX = {"name": "deep", "weights": "deep.onnx"}
GIVEN = {"name": "deep", "model": "models:Deep", "weights": "deep.safetensors"}
FITTED = {"name": "deep", "model": "models:Deep", "fit": {"epochs": 3}}


@pytest.mark.parametrize(
    ("fields", "backend"), [(ONNX, "onnx"), (GIVEN, "module"), (FITTED, "module"), (FITTED | {"fit": {}}, "module")]
)
def test_a_teacher_has_weights_or_is_fitted_or_is_a_whole_file(fields: dict[str, object], backend: str) -> None:
    assert TeacherConfig.model_validate(fields).backend == backend


@pytest.mark.parametrize(
    ("fields", "explanation"),
    [
        (GIVEN | FITTED, "expected exactly one of `weights` (a file) and `fit` (train it first)"),
        ({"name": "deep", "model": "models:Deep"}, "expected exactly one of `weights` (a file) and `fit`"),
        (
            {"name": "deep", "fit": {}},
            "expected `model` (package.module:factory), or `weights` that name an .onnx file",
        ),
        ({"name": "deep", "weights": "deep.safetensors"}, "expected `model` (package.module:factory), or `weights`"),
        (ONNX | {"model": "models:Deep"}, "an .onnx file is a whole model: leave out `model`"),
        (GIVEN | {"name": "Deep"}, "String should match pattern"),
        (GIVEN | {"name": "../deep"}, "String should match pattern"),
        (GIVEN | {"name": "d" * 41}, "String should match pattern"),
        (GIVEN | {"model": "models.Deep"}, "'models.Deep' is not of the form package.module:factory"),
        (GIVEN | {"model": "os; import:x"}, "is not of the form package.module:factory"),
        (GIVEN | {"batch_size": 0}, "greater than or equal to 1"),
        (GIVEN | {"replicas": 0}, "greater than or equal to 1"),
        (GIVEN | {"replicas": {"min": 3, "max": 2}}, "min is 3 and max is 2; expected min <= max"),
        (GIVEN | {"stall_timeout_s": 0}, "greater than 0"),
        (GIVEN | {"stall_timeout_s": float("inf")}, "finite"),
        (GIVEN | {"resources": {"cpu": 0}}, "greater than 0"),
        (GIVEN | {"inputs": {"std": 0.0}}, "greater than 0"),
        (GIVEN | {"inputs": {"std": [1.0, 0.0]}}, "greater than 0"),
        (GIVEN | {"inputs": {"scale": 0.0}}, "greater than 0"),
        (ONNX | {"labels": {"codec": "hidden", "head": "a", "width": 2}}, "an .onnx file has none; expected `topk`"),
        (GIVEN | {"labels": {"codec": "hidden", "head": "a"}}, "Field required"),
        (GIVEN | {"labels": {"codec": "topk", "k": 0}}, "greater than or equal to 1"),
        (GIVEN | {"labels": {"codec": "sparse"}}, "'dense', 'topk', 'sampled', 'hidden'"),
        (GIVEN | {"batchsize": 3}, "Extra inputs are not permitted"),
        (FITTED | {"fit": {"label_smoothing": 1.0}}, "less than 1"),
        (FITTED | {"fit": {"epochs": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_reason(fields: dict[str, object], explanation: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        TeacherConfig.model_validate(fields)

    assert explanation in str(refusal.value)


def test_a_fixed_number_and_a_range_of_replicas_both_have_a_largest_number() -> None:
    assert TeacherConfig.model_validate(GIVEN).max_replicas == 1
    assert TeacherConfig.model_validate(GIVEN | {"replicas": 3}).max_replicas == 3
    ranged = TeacherConfig.model_validate(GIVEN | {"replicas": {"max": 8}})
    assert (ranged.replicas, ranged.max_replicas) == (ReplicaRange(min=1, max=8), 8)


@pytest.mark.parametrize(("cpu", "threads"), [(0.5, 1), (1, 1), (1.9, 1), (2, 2), (7.5, 7)])
def test_torch_has_as_many_threads_as_whole_cores_and_at_least_one(cpu: float, threads: int) -> None:
    assert ResourceConfig(cpu=cpu).num_threads == threads


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FitConfig().epochs = 3  # type: ignore[misc]
