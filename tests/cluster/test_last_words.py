"""What a failed process said last, and where the rest is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from cluster.last_words import last_words
from cluster.tasks import TaskLostError
from students.divergence import TrainingDivergedError
from students.together import WorkersLostError

JOB = "01000000"
DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: W\n\tactor_id: 0a\n\tpid: {pid}\n\tip: 1"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def write_log(logs: Path, pid: int, kind: str, *lines: str, job: str = JOB, at_s: int = 0) -> Path:
    path = logs / f"worker-{pid:056x}-{job}-{pid}.{kind}"
    path.write_text("".join(f"{line}\n" for line in (f":job_id:{job}", ":actor_name:RayTrainWorker", *lines)))
    os.utime(path, (at_s, at_s))
    return path


def a_dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def lost(pid: int) -> Exception:
    died = RayActorError(error_msg=DIED.format(pid=pid))
    failures = {0: WorkerHealthCheckFailedError("A worker health check failed.\n(pid=1, ip=2)\n", failure=died)}
    return caused(WorkersLostError("it died"), WorkerGroupError("it died", failures))


def test_the_log_of_the_process_that_died_ends_the_message(tmp_path: Path) -> None:
    out = write_log(tmp_path, 1234, "out", *(f"row {number}" for number in range(30)))
    err = write_log(tmp_path, 1234, "err", "out of luck", "")
    write_log(tmp_path, 12345, "out", "another process")

    words = last_words(lost(1234), tmp_path, JOB)

    expected = [f"Last lines of {out}:", *(f"  row {number}" for number in range(10, 30))]
    assert words is not None
    assert words.splitlines() == [*expected, f"Last lines of {err}:", "  out of luck"]


def test_a_task_whose_process_has_no_name_is_that_of_ours_which_wrote_last_and_is_gone(tmp_path: Path) -> None:
    gone, earlier = a_dead_process(), a_dead_process()
    write_log(tmp_path, earlier, "out", "an earlier attempt", at_s=1)
    write_log(tmp_path, gone, "err", "the last attempt", at_s=2)
    write_log(tmp_path, os.getpid(), "out", "alive", at_s=3)
    write_log(tmp_path, gone + 10**7, "out", "of another job", job="02000000", at_s=4)

    words = last_words(caused(TaskLostError("crashed"), WorkerCrashedError()), tmp_path, JOB)

    assert words is not None
    assert words.splitlines()[1:] == ["  the last attempt"]


def test_a_process_that_said_nothing_leaves_the_place_of_the_logs(tmp_path: Path) -> None:
    write_log(tmp_path, 77, "out")
    assert last_words(lost(77), tmp_path, JOB) == f"It wrote nothing; Ray's logs are in {tmp_path}"
    nobody = caused(TaskLostError("crashed"), WorkerCrashedError())
    assert last_words(nobody, tmp_path, JOB) == f"It wrote nothing; Ray's logs are in {tmp_path}"


def test_an_error_that_others_raised_is_shown_by_the_end_of_its_traceback(tmp_path: Path) -> None:
    deep = "".join(f'  File "model.py", line {number}, in forward\n' for number in range(40))
    traceback = f"Traceback (most recent call last):\n{deep}ValueError: no such layer"
    error = caused(WorkersLostError("ValueError"), RayTaskError("train", traceback, ValueError("no such layer")))

    words = last_words(error, tmp_path, JOB)

    assert words is not None
    lines = words.splitlines()
    assert str(tmp_path) in lines[0]
    assert len(lines) == 21
    assert lines[-1] == "  ValueError: no such layer"


def test_neither_secrets_nor_commands_for_a_terminal_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-of-ann")
    write_log(tmp_path, 9, "err", "login with s3cr3t-of-ann", "\x1b[31mred", "x" * 9999)

    words = last_words(lost(9), tmp_path, JOB)

    assert words is not None
    assert "s3cr3t" not in words
    assert "login with ***" in words
    assert "\x1b" not in words
    assert len(words) < 2000


@pytest.mark.parametrize(
    "error",
    [
        TrainingDivergedError("student", 2, float("nan")),
        caused(WorkersLostError("it diverged"), TrainingDivergedError("student", 2, float("nan"))),
        ValueError("a bug"),
    ],
)
def test_an_error_that_was_raised_on_purpose_speaks_for_itself(tmp_path: Path, error: Exception) -> None:
    assert last_words(error, tmp_path, JOB) is None
