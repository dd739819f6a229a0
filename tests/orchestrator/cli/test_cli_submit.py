"""`coffey submit` and its companions against a real Ray head: the job is `coffey run`, and its exit code comes back."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.ray_head import RayHead

COFFEY = str(Path(sys.executable).with_name("coffey"))

# Its data are not there, which a run finds out in a second, and ends with the code of missing data.
SPEC = """\
name: no-data
store: ./store
data: {read: {source: npz, train: data/train.npz, test: data/test.npz}}
teachers:
  - {name: wide, model: "models:Wide", fit: {epochs: 1}}
student: {model: "models:Small"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "no data.yaml").write_text(SPEC)
    (tmp_path / "models.py").write_text("class Wide: ...\nclass Small: ...\n")
    (tmp_path / ".env").write_text("AWS_SECRET_ACCESS_KEY=hush\n")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "labels.arrow").write_bytes(b"x" * 1000)
    return tmp_path


def coffey(project: Path, head: RayHead, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    environment = {"RAY_AUTH_TOKEN_PATH": str(head.token_file), "RAY_API_SERVER_ADDRESS": head.url} | environment
    command = [COFFEY, *arguments]
    return subprocess.run(
        command, cwd=project, env=inherited | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.ray
def test_a_submitted_job_is_followed_and_its_exit_code_is_that_of_submit(project: Path, ray_head: RayHead) -> None:
    ran = coffey(project, ray_head, "submit", "jobs/no data.yaml", "--wait", "--set", "train.epochs=3")
    assert ran.returncode == 7, ran.stdout + ran.stderr
    submitted = re.search(r"Submitted (no-data-[0-9a-f]{8}); files that travel with it: 2 ", ran.stdout)
    assert submitted, ran.stdout
    assert f"coffey logs {submitted[1]} --address {ray_head.url} -f" in ran.stdout
    assert "sdk.py" not in ran.stderr, "Ray's own chatter is not for users"
    assert "data/train.npz" in ran.stdout, "the job's own error is in the log that was followed"

    listed = json.loads(coffey(project, ray_head, "status", "--address", ray_head.url, "--json").stdout)["jobs"]
    state = next(job for job in listed if job["id"] == submitted[1])
    assert (state["state"], state["exit_code"]) == ("failed", 7)
    assert "data/train.npz" in coffey(project, ray_head, "logs", submitted[1]).stdout
    assert "had ended already" in coffey(project, ray_head, "stop", submitted[1]).stdout


@pytest.mark.ray
def test_what_is_submitted_is_the_same_command_on_the_cluster_and_on_the_store_here(
    project: Path, ray_head: RayHead
) -> None:
    settings = ("--set", "student.name=s 1", "--set", "train.epochs=3")
    refused = coffey(project, ray_head, "submit", "jobs/no data.yaml", "--json", *settings)
    assert refused.returncode == 2, "the spec is judged here, before anything is sent"
    sent = coffey(project, ray_head, "submit", "jobs/no data.yaml", "--json", *settings[2:])
    facts = json.loads(sent.stdout)
    assert facts["entrypoint"] == (
        "coffey run 'jobs/no data.yaml' --set cluster.address=auto --set train.epochs=3 "
        f"--set store={json.dumps(str(project / 'store')) if ' ' in str(project) else project / 'store'}"
    )
    assert facts["files"] == 2, "neither the store nor .env travels"


@pytest.mark.ray
def test_a_token_that_is_wrong_ends_with_the_code_of_refused_rights(project: Path, ray_head: RayHead) -> None:
    refused = coffey(project, ray_head, "submit", "jobs/no data.yaml", RAY_AUTH_TOKEN="0" * 64)
    assert refused.returncode == 8
    assert "refuses the token" in refused.stderr
    assert "Traceback" not in refused.stderr
