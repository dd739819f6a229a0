"""`coffey doctor`: a store's health from the command line."""

from pathlib import Path

import pytest

from cluster.storage.checks import CHECKS
from orchestrator.cli.app import exit_code_of
from tests.fixtures.labelled import answer


def test_a_good_store_is_told_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path)
    told = answer(capsys, "doctor", "--store", store)
    assert (told["store"], told["exit_code"]) == (store, 0)
    assert [it["check"] for it in told["findings"]] == [check.name for check in CHECKS]
    assert exit_code_of(["doctor", "--store", store]) == 0
    assert "a second conditional write was refused" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there_is_a_warning_and_is_not_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answer(capsys, "doctor", "--store", str(tmp_path / "home" / "typo"))

    assert told["exit_code"] == 0
    verdicts = {it["check"]: (it["verdict"], it["found"]) for it in told["findings"]}
    assert verdicts["reach"] == ("WARN", "there is no such directory yet; the first job makes it")
    assert verdicts["write"] == ("OK", "an object was written")
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_store_ends_with_its_code_and_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no directory")
    assert answer(capsys, "doctor", "--store", str(tmp_path / "file"), code=4)["exit_code"] == 4
    assert exit_code_of(["doctor", "--store", str(tmp_path / "file")]) == 4
    said = capsys.readouterr().out
    assert "FAIL write: Grant s3:PutObject, or the right to write in the directory" in said
