"""A worker that crashes is not silent: its last lines come with the error, and the way to all of them."""

import re
from pathlib import Path

import pytest

from students.together import WorkersLostError
from tests.fixtures import small_jobs
from tests.fixtures.ray_head import RayHead
from tests.fixtures.ray_runs import run

pytestmark = pytest.mark.ray


def test_the_last_lines_of_a_worker_that_crashed_are_told_with_the_path_of_its_log(
    tmp_path: Path, ray_head: RayHead, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = small_jobs.write_teacher(tmp_path / "only.safetensors", rows=slice(0, 300))
    spec = small_jobs.job(
        tmp_path,
        store=str(tmp_path / "store"),
        teachers=[small_jobs.teacher("only", weights)],
        student={"model": "tests.fixtures.indiscreet_models:PrintsAndLeaves"},
        baseline=None,
        cluster={"address": ray_head.address},
    )
    spec = small_jobs.changed(spec, train__max_failures=0, train__workers=1, train__pipelined="never")

    with pytest.raises(WorkersLostError) as error:
        run(spec)

    (note,) = error.value.__notes__
    assert "  the last thing that was seen" in note.splitlines()
    log = re.search(r"Last lines of (\S+\.out):", note)
    assert log is not None
    assert "the last thing that was seen" in Path(log[1]).read_text()
    assert capfd.readouterr() == ("", "")
