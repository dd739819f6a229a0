"""Teachers that die, hang or emit nonsense, on a real Ray cluster."""

from pathlib import Path

import pytest

from cluster.session import ray_session
from cluster.storage.open import open_store
from orchestrator.spec import JobSpec
from teachers.hosting import TeacherStartError
from teachers.labelling import ShardsQuarantinedError
from tests.fixtures import small_jobs
from tests.fixtures.ray_head import RayHead
from tests.fixtures.ray_runs import run
from tests.simulation.replicas import hang_once, kill_replicas

pytestmark = pytest.mark.ray


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return small_jobs.write_teacher(tmp_path / "teacher.safetensors", rows=slice(0, 300))


def one_teacher(folder: Path, ray: RayHead, teacher: dict[str, object]) -> JobSpec:
    store = str(folder / "store")
    spec = small_jobs.job(folder, store=store, teachers=[teacher], cluster={"address": ray.address}, baseline=None)
    return small_jobs.changed(spec, train__workers=1, train__epochs=1, train__pipelined="never")


def test_replicas_that_are_killed_at_work_cost_no_row(tmp_path: Path, ray_head: RayHead) -> None:
    with ray_session(ray_head.address):
        result = kill_replicas(tmp_path, kills=3, seed=3)

    assert result.kills == 3
    assert (result.rows_lost, result.rows_doubled, result.shards_set_aside) == (0, 0, 0)
    assert result.requests_lost >= 3
    assert result.rows_wasted <= result.rows_wasted_at_most


def test_a_replica_that_hangs_is_replaced(tmp_path: Path, ray_head: RayHead) -> None:
    with ray_session(ray_head.address):
        result = hang_once(tmp_path)

    assert (result.replaced, result.rows_lost, result.rows_doubled) == (1, 0, 0)


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
