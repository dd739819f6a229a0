"""Teachers that die, hang or emit nonsense, on a real Ray cluster."""

from pathlib import Path

import pytest

from cluster.shards.labelset import LabelSet
from cluster.storage.open import open_store
from orchestrator.resolve import resolve
from orchestrator.spec import JobSpec
from teachers.hosting import TeacherStartError
from teachers.labelling import ShardsQuarantinedError
from tests.fixtures import small_jobs
from tests.fixtures.ray_head import RayHead
from tests.fixtures.ray_runs import Listener, run

pytestmark = pytest.mark.ray


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return small_jobs.write_teacher(tmp_path / "teacher.safetensors", rows=slice(0, 300))


def one_teacher(folder: Path, ray: RayHead, teacher: dict[str, object]) -> JobSpec:
    store = str(folder / "store")
    spec = small_jobs.job(folder, store=store, teachers=[teacher], cluster={"address": ray.address}, baseline=None)
    return small_jobs.changed(spec, train__workers=1, train__epochs=1, train__pipelined="never")


def assert_labelled_once(spec: JobSpec) -> None:
    (teacher,), store = resolve(spec).teachers, open_store(spec.store)
    rows = sum(LabelSet(store, record).load_manifest().rows for record in teacher.label_sets)
    assert rows == small_jobs.ROWS


def test_the_shards_of_a_replica_that_dies_are_labelled_elsewhere(
    tmp_path: Path, weights: Path, ray_head: RayHead
) -> None:
    arguments = {"marker": str(tmp_path / "died")}
    teacher = small_jobs.teacher("mortal", weights, "DiesOnce", arguments=arguments, replicas=2)
    spec, listener = one_teacher(tmp_path, ray_head, teacher), Listener()
    run(spec, listener)
    assert (tmp_path / "died").exists()
    assert any("is tried again" in message for message in listener.messages)
    assert_labelled_once(spec)


def test_a_replica_that_hangs_is_replaced(tmp_path: Path, weights: Path, ray_head: RayHead) -> None:
    arguments = {"marker": str(tmp_path / "hung")}
    teacher = small_jobs.teacher("frozen", weights, "HangsOnce", arguments=arguments, stall_timeout_s=3.0)
    spec, listener = one_teacher(tmp_path, ray_head, teacher), Listener()
    run(spec, listener)
    assert any("was replaced" in message for message in listener.messages)
    assert_labelled_once(spec)


@pytest.mark.parametrize(
    ("model", "found"),
    [("NotANumber", "nan for class 3 in row 0"), ("TooManyClasses", r"an output of shape \[\d+, 11\]")],
)
def test_outputs_that_must_not_be_learnt_from_are_refused_before_the_commit(
    tmp_path: Path, weights: Path, ray_head: RayHead, model: str, found: str
) -> None:
    spec = one_teacher(tmp_path, ray_head, small_jobs.teacher("broken", weights, model))
    with pytest.raises(ShardsQuarantinedError, match=found) as error:
        run(spec)
    assert error.value.exit_code == 5
    store = open_store(spec.store)
    assert not [stat for stat in store.list("labels/") if "/commits/" in stat.key or "/data/" in stat.key]


def test_a_teacher_that_cannot_start_says_why(tmp_path: Path, weights: Path, ray_head: RayHead) -> None:
    spec = one_teacher(tmp_path, ray_head, small_jobs.teacher("stillborn", weights, "CannotStart"))
    with pytest.raises(TeacherStartError, match="no such hardware here"):
        run(spec)
