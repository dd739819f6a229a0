"""The ways into a cluster: an open, a locked, a silent and a foreign dashboard, and addresses where nobody is."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cluster.dashboard import DashboardAddressError, enter_dashboard
from cluster.findings import Finding
from cluster.health.doors import capacity_of, check_cluster_address, check_dashboard, check_ray_there
from cluster.session import Capacity
from tests.fixtures.dashboards import nodes, own_address, serving, version
from tests.fixtures.ray_head import RayHead, free_ports
from tests.fixtures.ray_token import TOKEN


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def checked(address: str) -> dict[str, Finding]:
    findings, dashboard = check_dashboard(address)
    assert (dashboard is None) == any(
        it.verdict == "FAIL" and it.check in {"address", "authentication"} for it in findings
    )
    return {it.check: it for it in findings}


def wrong(findings: dict[str, Finding]) -> dict[str, str]:
    return {it.check: it.verdict for it in findings.values() if it.verdict != "OK"}


def test_a_locked_dashboard_that_our_token_opens_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with serving("127.0.0.1", wanted=TOKEN, body=version(ray.__version__)) as (url, _):
        findings = checked(url)
    assert wrong(findings) == {}
    assert list(findings) == ["address", "authentication", "Ray", "clock"]
    assert not any(TOKEN in it.found for it in findings.values())


def test_an_open_dashboard_fails_where_others_reach_it_and_is_a_concern_on_loopback() -> None:
    body = version(ray.__version__)
    with serving(own_address(), body=body) as (url, _):
        findings = checked(url)
    assert wrong(findings) == {"authentication": "FAIL"}
    assert findings["authentication"].exit_code == 8
    assert "RAY_AUTH_MODE=token" in findings["authentication"].fix

    with serving("127.0.0.1", body=body) as (url, _):
        assert wrong(checked(url)) == {"authentication": "WARN"}


@pytest.mark.parametrize(("token", "found"), [(None, "there is none"), ("deadbeef", "refuses the token")])
def test_a_missing_and_a_wrong_token_fail_and_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, token: str | None, found: str
) -> None:
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with serving("127.0.0.1", wanted=TOKEN) as (url, _):
        finding = checked(url)["authentication"]
    assert (finding.verdict, finding.exit_code, found in finding.found) == ("FAIL", 8, True)
    assert "RAY_AUTH_TOKEN" in finding.fix
    assert "deadbeef" not in finding.found


@pytest.mark.parametrize("answer", [b"It works!", b"[]", b'{"ray_version": 2}', b"[" * 100_000])
def test_nobody_and_somebody_else_fail(answer: bytes) -> None:
    with serving("127.0.0.1", body=answer) as (url, _):
        foreign = checked(url)
    assert (wrong(foreign), "something else" in foreign["address"].found) == ({"address": "FAIL"}, True)

    silent = checked(f"http://127.0.0.1:{free_ports(1)[0]}")
    assert (wrong(silent), silent["address"].exit_code) == ({"address": "FAIL"}, 3)
    assert "ray status" in silent["address"].fix


def test_a_cluster_whose_clock_is_off_is_a_concern() -> None:
    for behind_s in (-7200.0, 7200.0):
        with serving("127.0.0.1", body=version(ray.__version__), behind_s=behind_s) as (url, _):
            findings = checked(url)
        assert wrong(findings) == {"authentication": "WARN", "clock": "WARN"}
        assert int(findings["clock"].found.split()[-2]) == pytest.approx(7200, abs=5)


@pytest.mark.parametrize(
    ("there", "verdict", "found"),
    [
        ("2.60.0", "OK", "2.60.0"),
        ("2.60.1", "WARN", "2.60.1 on the cluster, 2.60.0 here"),
        ("2.59.0", "FAIL", "Ray refuses a driver of another version"),
        ("3.0.0.dev0", "FAIL", "Ray refuses a driver of another version"),
        ("2.54.0", "FAIL", "CVE-2026-41486"),
        ("the newest", "WARN", "'the newest'"),
    ],
)
def test_the_ray_of_a_cluster_is_compared_with_ours(there: str, verdict: str, found: str) -> None:
    finding = check_ray_there(there, here="2.60.0")
    assert (finding.verdict, found in finding.found) == (verdict, True)
    assert (finding.fix == "") == (verdict == "OK")
    assert check_ray_there("2.60.0", here=None).verdict == "OK"


def test_the_room_of_a_cluster_is_that_of_the_nodes_that_live() -> None:
    with serving("127.0.0.1", room=nodes({"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0, "memory": 1e9})) as (url, _):
        found = capacity_of(enter_dashboard(url, allow_open=True))
    assert found == Capacity(12, 2, (Capacity(8, 0), Capacity(4, 2, special={"memory": 1e9})))
    with serving("127.0.0.1", room=nodes({"CPU": 1.0, "licence": 2.0}, labels={"zone": "a"})) as (url, _):
        found = capacity_of(enter_dashboard(url, allow_open=True))
    assert found == Capacity(1, 0, (Capacity(1, 0, special={"licence": 2.0}, labels={"zone": "a"}),))
    for body, expected in (
        (nodes({"CPU": 8.0}, state="DEAD"), Capacity(0, 0)),
        (nodes({"CPU": "many"}), None),  # type: ignore[dict-item]
        (b"?", None),
        (b'{"data": []}', None),
    ):
        with serving("127.0.0.1", room=body) as (url, _):
            assert capacity_of(enter_dashboard(url, allow_open=True)) == expected


def test_what_is_no_address_of_a_dashboard_is_a_misused_command_line() -> None:
    with pytest.raises(DashboardAddressError):
        check_dashboard("ray://head:10001")


def test_an_address_where_something_listens_is_fine_and_one_where_nothing_does_fails(listening: str) -> None:
    closed = f"127.0.0.1:{free_ports(1)[0]}"
    for scheme in ("", "ray://"):
        assert check_cluster_address(f"{scheme}{listening}").verdict == "OK"
        finding = check_cluster_address(f"{scheme}{closed}")
        assert (finding.verdict, "nothing answers" in finding.found) == ("FAIL", True)
        assert "cluster.address" in finding.fix


@pytest.mark.parametrize(
    "address", ["head", "10.0.0.1:", "10.0.0.1:x", ":6379", "10.0.0.1:70000", "ftp://10.0.0.1:21", ""]
)
def test_what_is_no_address_fails_without_asking_anybody(address: str) -> None:
    finding = check_cluster_address(address)
    assert (finding.verdict, "is no address" in finding.found) == ("FAIL", True)


def test_the_address_of_a_dashboard_is_none_at_which_a_job_joins() -> None:
    finding = check_cluster_address("http://10.0.0.1:8265")
    assert (finding.verdict, "coffey submit" in finding.fix) == ("FAIL", True)


def test_auto_is_the_cluster_of_the_environment_else_one_that_runs_here_else_one_that_was_noted(
    tmp_path: Path, listening: str
) -> None:
    processes, temporary = tmp_path / "proc", tmp_path / "tmp"
    (processes / "12").mkdir(parents=True)
    (processes / "12" / "cmdline").write_text("sleep\0--gcs-address=10.0.0.9:1\0")
    nowhere = {"TMPDIR": str(temporary)}

    finding = check_cluster_address("auto", nowhere, processes=processes)
    assert (finding.verdict, "ray start --head" in finding.fix) == ("FAIL", True)

    (temporary / "ray").mkdir(parents=True)
    (temporary / "ray" / "ray_current_cluster").write_text(f"{listening}\n")
    assert check_cluster_address("auto", nowhere, processes=processes).verdict == "OK"

    (processes / "13").mkdir()
    raylet = "/ray/core/src/ray/raylet/raylet\0--python_worker_command=python worker.py"
    (processes / "13" / "cmdline").write_text(f"{raylet} --gcs-address=127.0.0.1:{free_ports(1)[0]} --x\0")
    assert check_cluster_address("auto", nowhere, processes=processes).verdict == "FAIL"
    assert check_cluster_address("auto", nowhere | {"RAY_ADDRESS": listening}, processes=processes).verdict == "OK"


@pytest.mark.ray
def test_a_real_head_is_fine_and_tells_its_room(ray_head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(ray_head.token_file))
    findings, dashboard = check_dashboard(ray_head.url)
    assert [it.verdict for it in findings] == ["OK"] * 4
    assert dashboard is not None
    capacity = capacity_of(dashboard)
    assert capacity is not None
    assert (capacity.cpus, capacity.gpus, len(capacity.nodes)) == (8, 0, 1)
    # What Ray itself says of every node.
    assert {"memory", "object_store_memory"} <= set(capacity.nodes[0].special)
    assert check_cluster_address(ray_head.address).verdict == "OK"
    assert check_cluster_address("auto", {"TMPDIR": "/nowhere"}).verdict == "OK"
