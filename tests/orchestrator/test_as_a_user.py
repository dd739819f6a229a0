"""What a user of the command line sees: the demo, a run into S3, and every kind of bad input."""

import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.storage.open import open_store
from orchestrator.load import dump_spec
from orchestrator.resolution.resolve import resolve
from orchestrator.spec import JobSpec
from tests.fixtures import small_jobs
from tests.fixtures.canaries import CANARY, SECRETS, files_with_canaries
from tests.fixtures.ray_head import RayHead
from tests.fixtures.s3_servers import S3Bucket

COFFEY = str(Path(sys.executable).with_name("coffey"))
ROOT = Path(__file__).parents[2]


def coffey(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COFFEY, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def write_job(folder: Path, **changes: object) -> tuple[Path, JobSpec]:
    spec = small_jobs.job(folder, store=str(folder / "store"), teachers=small_jobs.two_teachers(folder))
    spec = small_jobs.changed(spec, **changes)
    (folder / "job.yaml").write_text(dump_spec(spec))
    return folder / "job.yaml", spec


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_demo_keeps_its_promises_and_is_free_the_second_time(tmp_path: Path) -> None:
    seeds = ("--seeds", "0,1")  # not three: each costs the start of two workers
    # Ray's sockets lie in its folder, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="cf", dir="/tmp", ignore_cleanup_errors=True) as ray:
        first = coffey("demo", *seeds, "--store", str(tmp_path / "store"), "--json", RAY_TMPDIR=ray, **SECRETS)
        assert first.returncode == 0, first.stderr
        assert list(Path(ray).glob("ray/session_*/logs/coffey-*.log"))
        assert [str(path) for path in files_with_canaries(tmp_path, Path(ray))] == []
    assert CANARY not in first.stdout + first.stderr
    assert {"started", "finished"} <= {json.loads(line)["event"] for line in first.stderr.splitlines()}, "ours alone"
    report = json.loads(first.stdout)["report"]
    summary = report["summary"]
    assert summary["student_accuracy"] > summary["baseline_accuracy"]
    assert summary["gap_recovered"] >= 0.5
    assert summary["compression"] >= 10
    assert report["warnings"] == []
    assert sorted(model["seed"] for model in report["models"] if model["role"] == "student") == [0, 1]
    assert Path(json.loads(first.stdout)["report_uri"]).is_file()

    again = coffey("demo", *seeds, "--store", str(tmp_path / "store"))
    assert again.returncode == 0, again.stderr
    assert "Traceback" not in again.stderr
    for model in report["models"]:
        assert f"{100 * model['accuracy']:.2f}" in again.stdout
    plan = coffey("report", "digits-demo", "--store", str(tmp_path / "store"), "--json")
    assert json.loads(plan.stdout)["report"]["teacher_rows_computed"] == 0


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_s3_needs_nothing_but_the_address_of_the_store_and_the_environment(
    tmp_path: Path, ceph_bucket: S3Bucket
) -> None:
    weights = small_jobs.write_teacher(tmp_path / "only.safetensors", rows=slice(0, 300))
    job, _ = write_job(tmp_path, teachers=[small_jobs.teacher("only", weights)], baseline=None)
    store = f"store={ceph_bucket.uri}/jobs"
    first = coffey("run", str(job), "--set", store, "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["report"]["teacher_rows_computed"] == small_jobs.ROWS
    again = coffey("run", str(job), "--set", store, "--json")
    assert json.loads(again.stdout)["report"]["teacher_rows_computed"] == 0
    secret = ceph_bucket.server.owner.secret_key
    assert secret not in first.stdout + first.stderr + again.stdout + again.stderr
    objects = open_store(f"{ceph_bucket.uri}/jobs")
    assert not [stat.key for stat in objects.list("") if secret.encode() in bytes(objects.get(stat.key))]


class TestBadInput:
    """Each ends with the exit code of its kind, says what to do, shows no traceback and leaves the store as it was."""

    def refused(self, code: int, says: str, *arguments: str, **environment: str) -> None:
        result = coffey(*arguments, **environment)
        assert result.returncode == code, result.stdout + result.stderr
        assert re.search(says, result.stderr), result.stderr
        assert "Traceback" not in result.stderr

    def test_a_mistyped_key(self, tmp_path: Path) -> None:
        job, _ = write_job(tmp_path)
        job.write_text(job.read_text().replace("batch_size", "batch_sise", 1))
        self.refused(2, r"job\.yaml:\d+.*batch_sise[\s\S]*batch_size", "plan", str(job))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        job, _ = write_job(tmp_path)
        (tmp_path / "train.npz").unlink()
        self.refused(7, r"train\.npz: .*expected a file of source .npz.", "plan", str(job))

    def test_a_pickle_as_weights(self, tmp_path: Path) -> None:
        job, _ = write_job(tmp_path)
        (tmp_path / "weights.pt").write_bytes(pickle.dumps({"layer.weight": 1}))
        weights = f"teachers.first.weights={tmp_path / 'weights.pt'}"
        self.refused(5, r"weights\.pt: found .*expected a \.safetensors", "plan", str(job), "--set", weights)

    def test_teachers_whose_class_maps_differ(self, tmp_path: Path) -> None:
        job, _ = write_job(tmp_path)
        swapped = ("1", "0", *map(str, range(2, 10)))
        small_jobs.write_teacher(tmp_path / "first.safetensors", rows=slice(0, 300), classes=swapped)
        self.refused(5, "class 0 is '1' for the teacher and '0' in the data", "plan", str(job))

    def test_an_unreachable_s3(self, tmp_path: Path) -> None:
        job, _ = write_job(tmp_path)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_MAX_ATTEMPTS": "1"}
        store = "store=s3://bucket/prefix"
        self.refused(4, "Could not connect", "run", str(job), "--set", store, AWS_ENDPOINT_URL=endpoint, **keys)

    def test_a_bucket_without_permission(self, tmp_path: Path, ceph_bucket: S3Bucket) -> None:
        job, _ = write_job(tmp_path)
        stranger = ceph_bucket.server.environment(ceph_bucket.server.stranger)
        self.refused(8, "was refused", "run", str(job), "--set", f"store={ceph_bucket.uri}/x", **stranger)

    @pytest.mark.ray
    @pytest.mark.timeout(600)
    def test_labels_from_another_teacher_and_a_corrupted_shard(self, tmp_path: Path, ray_head: RayHead) -> None:
        job, spec = write_job(tmp_path, cluster={"address": ray_head.address}, baseline=None)
        first = coffey("run", str(job), "--json")
        assert first.returncode == 0, first.stderr
        mine, other = (Path(spec.store, teacher.train.prefix) for teacher in resolve(spec).teachers)
        kept = tmp_path / "kept"
        mine.rename(kept)
        shutil.copytree(other, mine)
        self.refused(7, r"these labels belong to second-[0-9a-f]{16}, expected first-", "run", str(job))
        shutil.rmtree(mine)
        kept.rename(mine)

        flip_a_bit(next(iter(sorted((mine / "data").iterdir()))))
        again = "train.epochs=2"
        self.refused(7, r"\.arrow: found blake3 .*the record says", "run", str(job), "--set", again)
        assert coffey("labels", "verify", "--store", spec.store).returncode == 7


def flip_a_bit(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))
