"""A worker that crashes is not silent: its last lines come with the error, and the way to all of them; Ray's do not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.load import dump_spec
from tests.fixtures import small_jobs
from tests.fixtures.ray_head import RayHead

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]


def test_the_last_lines_of_a_worker_that_crashed_are_told_with_the_path_of_its_log(
    tmp_path: Path, ray_head: RayHead
) -> None:
    spec = small_jobs.job(
        tmp_path,
        store=str(tmp_path / "store"),
        teachers=[],
        student={"model": "tests.fixtures.indiscreet_models:PrintsAndLeaves"},
        objective=[{"term": "cross_entropy"}, {"term": "mean_teacher"}],  # which no teacher has to be started for
        baseline=None,
        cluster={"address": ray_head.address},
    )
    spec = small_jobs.changed(spec, train__max_failures=0, train__workers=1)
    (tmp_path / "job.yaml").write_text(dump_spec(spec))

    command = [sys.executable, "-m", "orchestrator.cli", "run", str(tmp_path / "job.yaml")]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (6, ""), ended.stderr
    said, _, told = ended.stderr.partition("coffey: training ended early: ")
    assert all(line.startswith(("ingest ", "train:student ")) for line in said.splitlines()), said
    lines = told.splitlines()
    assert lines[0].startswith("ActorDiedError: The actor is dead because its worker process has died.")
    log = re.fullmatch(r"  Last lines of (\S+\.out):", lines[1])
    assert log is not None, told
    assert lines[2] == "    the last thing that was seen"
    assert "the last thing that was seen" in Path(log[1]).read_text()
    assert all(line.startswith("  ") for line in lines[1:])
