"""What surrounds the processes of this machine: variables, tokens, loopback, clock."""

import os
import time
from pathlib import Path

import pytest

from cluster.findings import Finding
from cluster.health.clock import check_clock, check_skew
from cluster.health.environment import check_authentication, check_environment
from cluster.health.loopback import check_loopback, loopback_fault


@pytest.fixture(autouse=True)
def no_token_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def told(finding: Finding) -> tuple[str, str]:
    return finding.verdict, finding.fix


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_authentication_that_is_switched_off_fails(address: str | None) -> None:
    finding = check_authentication({"RAY_AUTH_MODE": "Disabled"}, address=address)
    assert told(finding) == ("FAIL", "unset RAY_AUTH_MODE")


def test_a_cluster_of_our_own_needs_no_token_from_us_and_another_does(tmp_path: Path) -> None:
    assert check_authentication({}, address=None).verdict == "OK"
    assert check_authentication({"RAY_AUTH_MODE": "token"}, address=None).verdict == "OK"

    without = check_authentication({}, address="auto")
    assert (without.verdict, "RAY_AUTH_TOKEN" in without.fix) == ("WARN", True)
    with_token = check_authentication({"RAY_AUTH_TOKEN": "c0ffee"}, address="auto")
    assert (with_token.verdict, "c0ffee" in with_token.found) == ("OK", False)

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("c0ffee")
    assert check_authentication({}, address="auto").verdict == "OK"


def test_a_file_of_a_token_that_cannot_be_read_fails_as_a_missing_right(tmp_path: Path) -> None:
    finding = check_authentication({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, address=None)
    assert (finding.verdict, finding.exit_code) == ("FAIL", 8)
    assert str(tmp_path / "none") in finding.found


@pytest.mark.parametrize(
    ("variables", "fix"),
    [
        ({"RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "1"}, "unset RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"),
        ({"RAY_TRAIN_V2_ENABLED": "0"}, "unset RAY_TRAIN_V2_ENABLED"),
    ],
)
def test_a_variable_that_opens_a_hole_or_breaks_training_fails(variables: dict[str, str], fix: str) -> None:
    finding = check_environment(variables | {"RAY_ADDRESS": "10.0.0.2:6379"}, address=None)
    assert told(finding) == ("FAIL", fix)
    harmless = check_environment(dict.fromkeys(variables, "1" if "V2" in fix else "0"), address=None)
    assert harmless.verdict == "OK"


@pytest.mark.parametrize(
    ("address", "verdict", "found"),
    [
        (None, "WARN", "not heeded: the job starts a cluster of its own"),
        ("10.0.0.1:6379", "WARN", "not heeded: the job goes to 10.0.0.1:6379"),
        ("10.0.0.2:6379", "OK", "no variable"),
        ("auto", "OK", "`auto` is 10.0.0.2:6379"),
    ],
)
def test_an_address_in_the_environment_is_compared_with_that_of_the_job(
    address: str | None, verdict: str, found: str
) -> None:
    finding = check_environment({"RAY_ADDRESS": "10.0.0.2:6379"}, address=address)
    assert (finding.verdict, found in finding.found) == (verdict, True)


def test_loopback_is_tried_and_an_address_of_others_cannot_be_used() -> None:
    assert loopback_fault() == ""
    assert check_loopback("").verdict == "OK"
    fault = loopback_fault("192.0.2.1")  # nobody's
    assert fault
    finding = check_loopback(fault)
    assert (finding.verdict, fault in finding.found, "127.0.0.1" in finding.fix) == ("FAIL", True, True)


def test_a_clock_that_is_behind_what_was_written_fails(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    os.utime(witness, (2e9, 2e9))

    assert check_clock(lambda: 2e9 - 30, witness=witness).verdict == "OK"
    behind = check_clock(lambda: 2e9 - 3600, witness=witness)
    assert (behind.verdict, "NTP" in behind.fix) == ("FAIL", True)
    assert behind.found == "2033-05-18 02:33:20 UTC, and Coffey's own files are of 2033-05-18 03:33:20"
    assert check_clock(lambda: time.time()).verdict == "OK"


@pytest.mark.parametrize(("skew_s", "verdict"), [(None, "OK"), (0.0, "OK"), (59.0, "OK"), (61.0, "WARN")])
def test_clocks_that_are_apart_are_a_concern(skew_s: float | None, verdict: str) -> None:
    assert check_skew(skew_s).verdict == verdict
