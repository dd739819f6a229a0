"""`coffey doctor`: the health of this machine, a cluster and a store, from the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.storage.checks import CHECKS
from orchestrator.cli.app import exit_code_of
from tests.fixtures.dashboards import own_address, serving
from tests.fixtures.labelled import answer

COFFEY = str(Path(sys.executable).with_name("coffey"))
STARTER = Path(__file__).parents[3] / "orchestrator" / "cli" / "starter.yaml"


def found_in(told: dict[str, object], of: str) -> dict[str, dict[str, str]]:
    """Return the findings of one checkup by their check."""
    (checkup,) = (it for it in told["checkups"] if it["of"].startswith(of))  # type: ignore[attr-defined]
    return {it["check"]: it for it in checkup["findings"]}


def test_without_arguments_this_machine_is_told_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = answer(capsys, "doctor")
    assert told["exit_code"] == 0
    assert [it["of"] for it in told["checkups"]] == ["this machine"]  # type: ignore[attr-defined]
    assert list(found_in(told, "this machine")) == [
        *("Python", "Ray", "torch", "Arrow", "packages", "GPUs", "temporary files", "working directory"),
        *("shared memory", "open files", "ports", "authentication", "environment", "clock"),
    ]
    assert exit_code_of(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "a free port of 127.0.0.1 was listened on and reached" in said
    verdicts = [it["verdict"] for it in found_in(told, "this machine").values()]
    assert said.splitlines()[-1] == f"{verdicts.count('OK')} OK, {verdicts.count('WARN')} WARN, 0 FAIL"
    assert not list(tmp_path.iterdir())


def test_a_machine_on_which_much_is_wrong_ends_with_its_code_and_every_remedy(tmp_path: Path) -> None:
    environment = os.environ | {
        "RAY_TMPDIR": str(tmp_path / ("a-long-name" * 8)),
        "RAY_AUTH_MODE": "disabled",
        "RAY_TRAIN_V2_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    # A limit that is lowered for good, for this process alone.
    command = ["bash", "-c", 'ulimit -n 1024; exec "$0" doctor --store ./file --json', COFFEY]
    (tmp_path / "file").touch()
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (3, "")
    told = json.loads(ran.stdout)
    wrong = {name: it["verdict"] for name, it in found_in(told, "this machine").items() if it["verdict"] != "OK"}
    wrong.pop("GPUs", None)
    assert wrong == {
        "temporary files": "FAIL",
        "open files": "WARN",
        "authentication": "FAIL",
        "environment": "FAIL",
    }
    assert found_in(told, "store")["write"]["exit_code"] == 4
    assert all(it["fix"] for checkup in told["checkups"] for it in checkup["findings"] if it["verdict"] != "OK")


def test_a_good_store_is_told_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path)
    told = answer(capsys, "doctor", "--store", store)
    assert told["exit_code"] == 0
    assert list(found_in(told, f"store {store}")) == [check.name for check in CHECKS]
    assert exit_code_of(["doctor", "--store", store]) == 0
    assert "a second conditional write was refused" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there_yet_is_not_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answer(capsys, "doctor", "--store", str(tmp_path / "store"))

    verdicts = {name: (it["verdict"], it["found"]) for name, it in found_in(told, "store").items()}
    assert verdicts["reach"] == ("OK", "there is no such directory yet; the first job makes it")
    assert verdicts["write"] == ("OK", "an object was written")
    assert not list(tmp_path.iterdir())


def test_a_directory_whose_place_is_not_there_either_may_be_mistyped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answer(capsys, "doctor", "--store", str(tmp_path / "typo" / "store"))

    assert told["exit_code"] == 0
    reach = found_in(told, "store")["reach"]
    assert (reach["verdict"], str(tmp_path / "typo") in reach["found"]) == ("WARN", True)
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_store_ends_with_its_code_and_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no directory")
    assert answer(capsys, "doctor", "--store", str(tmp_path / "file"), code=4)["exit_code"] == 4
    assert exit_code_of(["doctor", "--store", str(tmp_path / "file")]) == 4
    said = capsys.readouterr().out
    assert "FAIL write: Grant s3:PutObject, or the right to write in the directory" in said


def test_a_job_names_its_store_and_what_it_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(STARTER, "job.yaml")
    told = answer(capsys, "doctor", "job.yaml", "--set", "store=./here")
    assert found_in(told, "job my-first-job")["room"]["verdict"] == "OK"
    assert found_in(told, f"store {tmp_path / 'here'}")["reach"]["verdict"] == "OK"

    many = ("--set", "cluster.cpus=1", "--set", "train.workers=2", "--store", "./there")
    too_large = answer(capsys, "doctor", "job.yaml", *many, code=3)
    assert "training on 2 workers needs 2 CPU" in found_in(too_large, "job my-first-job")["room"]["found"]
    assert found_in(too_large, f"store {tmp_path / 'there'}")
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_an_open_dashboard_ends_with_the_code_of_refused_rights(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(own_address()) as (url, _):
        told = answer(capsys, "doctor", "--address", url, code=8)
    assert found_in(told, f"dashboard {url}")["authentication"]["verdict"] == "FAIL"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--address", "ray://head"], "expected the address of a Ray dashboard"),
        (["--set", "train.workers=2"], "there is no job to override"),
        (["none.yaml"], "there is no such file"),
        (["--store", "ftp://there"], "ftp:// is not supported"),
    ],
)
def test_a_misused_command_line_is_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["doctor", *arguments]) == 2
    assert said in capsys.readouterr().err
