"""Errors across processes: ours are found inside whatever Ray wraps around them, and arrive whole."""

import importlib
import pickle
import pkgutil
import re
import traceback
import types
import typing
from pathlib import Path
from typing import TypeVar

import pydantic
import pytest
from ray.exceptions import RayTaskError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

import cluster
import cluster.errors
import orchestrator
import students
import teachers
from cluster.config import Config
from cluster.errors import CoffeyError, DataError, TeacherError
from cluster.failures import RedactedError, own_error, reason_of, redacting
from cluster.shards.verified import ShardCorruptError
from teachers.outputs import OutputRefusedError
from teachers.weights import ClassMapError

ClassT = TypeVar("ClassT")

OURS = ShardCorruptError("store/a.arrow", "3 bytes", "4 bytes")
DIED = WorkerHealthCheckFailedError("A worker health check failed.", RuntimeError("its process has died"))


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def as_ray_raises(error: Exception) -> Exception:
    """Return what `ray.get` raises for a task that raised `error`: an instance of both classes."""
    dual: Exception = RayTaskError("task", "Traceback\n  line 1\nError: last line", error).as_instanceof_cause()
    return dual


@pytest.mark.parametrize(
    "wrapped",
    [
        OURS,
        RayTaskError("task", "Traceback", OURS),
        as_ray_raises(OURS),
        raised_from(ValueError("no"), OURS),
        raised_from(ValueError("no"), raised_from(RuntimeError("neither"), OURS)),
        WorkerGroupError("two workers failed", {0: ValueError("no"), 1: OURS}),
        WorkerGroupError("a worker failed", {3: as_ray_raises(OURS)}),
        ControllerError(RayTaskError("task", "Traceback", OURS)),
        raised_from(RuntimeError("no"), WorkerGroupError("a worker failed", {1: raised_from(ValueError(), OURS)})),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_error_is_found_wherever_it_is_wrapped_and_speaks_in_its_own_words(wrapped: Exception) -> None:
    own = own_error(wrapped)

    assert type(own) is ShardCorruptError
    assert str(own) == str(OURS)
    assert reason_of(wrapped) == str(OURS)


def test_an_error_of_ours_that_was_caused_by_another_of_ours_is_the_one_that_counts() -> None:
    outer = raised_from(OutputRefusedError("wide", 3, "nan", "numbers"), OURS)

    assert own_error(outer) is outer
    assert own_error(as_ray_raises(outer)) is outer


@pytest.mark.parametrize(
    "error", [None, ValueError("no"), as_ray_raises(ValueError("no")), WorkerGroupError("failed", {0: ValueError()})]
)
def test_where_there_is_no_error_of_ours_none_is_found(error: Exception | None) -> None:
    assert own_error(error) is None


def test_errors_that_cause_each_other_come_to_an_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert own_error(first) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such thing"), "ValueError: no such thing"),
        (ValueError(), "ValueError: no reason given"),
        (RuntimeError("first\n  second  \n\n"), "RuntimeError: second"),
        (as_ray_raises(ValueError("no such thing")), "ValueError: no such thing"),
        (RayTaskError("task", "Traceback", KeyError("label")), "KeyError: 'label'"),
        (WorkerGroupError("[Rank 0 Error Snippet]:\ncut", {0: KeyError("label")}), "KeyError: 'label'"),
        (WorkerGroupError("cut", {0: DIED, 1: ValueError("lost its peer")}), "RuntimeError: its process has died"),
        (ControllerError(KeyError("label")), "KeyError: 'label'"),
        (WorkerGroupError("no worker has a reason", {}), "WorkerGroupError: no worker has a reason"),
        (ValueError("x" * 5000), f"ValueError: {'x' * 388}…"),
    ],
    ids=lambda found: str(found)[:40],
)
def test_any_other_error_is_told_by_its_kind_and_its_last_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def raised_through_redacting(error: Exception) -> Exception:
    """Return what leaves `redacting` when `error` is raised in it, as Ray would send it on."""
    with pytest.raises(Exception) as raised, redacting():  # noqa: PT011  any at all
        raise error
    found = raised.value
    text = "".join(traceback.format_exception(found))
    arrived: Exception = RayTaskError("task", text, pickle.loads(pickle.dumps(found))).as_instanceof_cause()
    assert "s3cr3t" not in text + str(arrived) + reason_of(arrived)
    return found


def test_an_error_without_secrets_leaves_a_process_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-of-ann")
    for error in (ValueError("no"), OURS):
        assert raised_through_redacting(error) is error


def test_an_error_of_ours_that_quotes_a_secret_stays_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-of-ann")
    cause = KeyError("s3cr3t-of-ann")
    found = raised_through_redacting(raised_from(ClassMapError("wide", ("s3cr3t-of-ann", "b"), ("a", "b")), cause))

    assert type(found) is ClassMapError
    assert found.found == ("***", "b")
    assert found.__cause__ is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the environment is {'HF_TOKEN': 's3cr3t-of-ann'}"),
        raised_from(ValueError("no"), KeyError("s3cr3t-of-ann")),
        raised_from(RuntimeError("two\nlines"), RuntimeError("http://ann:s3cr3t-of-ann@host")),
    ],
    ids=str,
)
def test_any_other_error_that_quotes_a_secret_becomes_its_traceback_without_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-of-ann")
    found = raised_through_redacting(error)

    assert type(found) is RedactedError
    assert "Traceback (most recent call last)" in str(found)
    assert "***" in str(found)
    assert "redacting" not in reason_of(found)
    assert str(error).splitlines()[-1].partition("{")[0] in reason_of(found)


def test_a_reason_tells_no_secret_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-of-ann")
    for error in (ValueError("s3cr3t-of-ann"), ShardCorruptError("s3cr3t-of-ann", "a", "b")):
        assert "s3cr3t" not in reason_of(error)


_PACKAGES = (cluster, students, teachers, orchestrator)
_CATEGORIES = [
    value
    for value in vars(cluster.errors).values()
    if isinstance(value, type) and issubclass(value, CoffeyError) and value is not CoffeyError
]
_SAMPLES: dict[object, object] = {
    str: "some words",
    int: 3,
    float: 1.5,
    bool: True,
    Path: Path("folder/file"),
    type(None): None,
    bytes: b"x",
    object: "some words",
}


def all_below(parent: type[ClassT]) -> set[type[ClassT]]:
    """Return every subclass that is loaded."""
    return {below for child in parent.__subclasses__() for below in {child, *all_below(child)}}


def sample(annotation: object) -> object:
    """Return a value of the annotated type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _SAMPLES:
        return _SAMPLES[annotation]
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return sample(arguments[0])
    if origin is tuple and arguments[-1] is Ellipsis:
        return (sample(arguments[0]), sample(arguments[0]))
    if origin in (tuple, list, set, frozenset):
        return origin(map(sample, arguments))
    if origin is not None and issubclass(origin, typing.Mapping):
        return {sample(arguments[0]): sample(arguments[1])}
    if origin is not None:
        return [sample(arguments[0])]
    assert isinstance(annotation, type), annotation
    if issubclass(annotation, pydantic.BaseModel):
        required = {name: field for name, field in annotation.model_fields.items() if field.is_required()}
        return annotation(**{name: sample(field.annotation) for name, field in required.items()})
    return annotation()


def example_of(error: type[CoffeyError]) -> CoffeyError:
    """Return an error made by its own signature."""
    # Some records are imported for the type checker alone, so that the command line starts fast.
    records = {record.__name__: record for record in all_below(Config)}
    hints = typing.get_type_hints(error.__init__, localns=records)
    return error(*(sample(hint) for name, hint in hints.items() if name != "return"))


@pytest.fixture(scope="module")
def error_classes() -> list[type[CoffeyError]]:
    """Return every class of error in the packages, the categories excepted."""
    for package in _PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    # Ray's mixtures of its class and ours, which the tests above have made, are in no package of ours.
    found = {error for error in all_below(CoffeyError) if error.__module__.partition(".")[0] in map(_name, _PACKAGES)}
    return sorted(found - set(_CATEGORIES), key=lambda error: (error.__module__, error.__name__))


def _name(package: types.ModuleType) -> str:
    return package.__name__


def test_every_error_survives_the_way_between_processes(error_classes: list[type[CoffeyError]]) -> None:
    assert {error.__module__.partition(".")[0] for error in error_classes} == set(map(_name, _PACKAGES))
    for error in error_classes:
        example = example_of(error)
        for arrived in (pickle.loads(pickle.dumps(example)), as_ray_raises(example).cause):  # type: ignore[attr-defined]
            assert type(arrived) is error
            assert arrived.args == example.args, error
            assert vars(arrived) == vars(example), error
            assert str(arrived) == str(example), error


def test_every_error_speaks_one_to_three_whole_sentences_with_the_facts_in_them(
    error_classes: list[type[CoffeyError]],
) -> None:
    for error in error_classes:
        example = example_of(error)
        text = str(example)
        assert 1 <= len(re.split(r"(?<=[.!?])\s+", text.strip())) <= 3, text
        assert "some words" in text or not any(isinstance(value, str) for value in example.args), text
        assert not re.search(r"\.\.(?!\.)|\bNone\b|<class|\{|object at", text), text


def test_every_error_ends_a_command_with_the_code_of_its_kind(error_classes: list[type[CoffeyError]]) -> None:
    for error in error_classes:
        assert error.exit_code in range(2, 10), error
        assert error.__str__ is not CoffeyError.__str__, error


def test_categories_have_codes_of_their_own() -> None:
    assert sorted(category.exit_code for category in _CATEGORIES) == list(range(2, 10))
    assert (TeacherError.exit_code, DataError.exit_code) == (5, 7)
