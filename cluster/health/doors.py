"""The ways into a cluster: its dashboard, where jobs are submitted, and the address at which a job joins it."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from cluster.dashboard import (
    Dashboard,
    DashboardUnreachableError,
    OpenDashboardError,
    TokenRefusedError,
    ask,
    enter_dashboard,
)
from cluster.findings import Finding, concern, failure, fine
from cluster.health.clock import check_skew
from cluster.health.room import temporary_folder
from cluster.health.versions import FLOORS, hole_of, installed_version
from cluster.session import Capacity

_PATIENCE_S = 5.0
_RUNNING = re.compile(r"--gcs-address=([^\s=]+:\d+)")
_CLIENT_PORT = 10001
_CHECK = "address"


def check_dashboard(address: str) -> tuple[tuple[Finding, ...], Dashboard | None]:
    """Judge a dashboard; return it too if it may be entered.

    Raises:
        DashboardAddressError: `address` is none of a dashboard.
    """
    try:
        dashboard = enter_dashboard(address, allow_open=False)
    except DashboardUnreachableError as error:
        fix = (
            "Check the address (port 8265 of the cluster's head, unless it was started with another), and that the "
            "cluster runs (`ray status`)."
        )
        return (failure(_CHECK, f"no Ray dashboard answers: {error.reason}", fix),), None
    except OpenDashboardError as error:
        found = "answers without a token, so anybody on the network can run code there"
        fix = "Start the cluster with RAY_AUTH_MODE=token and a RAY_AUTH_TOKEN."
        return (failure("authentication", found, fix, exit_code=error.exit_code),), None
    except TokenRefusedError as error:
        fix = "Put the cluster's token into RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."
        return (failure("authentication", error.reason, fix, exit_code=error.exit_code),), None
    findings = (
        fine(_CHECK, "a Ray dashboard answers"),
        _check_lock(dashboard),
        check_ray_there(dashboard.ray_version, here=installed_version("ray")),
        check_skew(dashboard.skew_s),
    )
    return findings, dashboard


def check_ray_there(there: str, *, here: str | None) -> Finding:
    """Compare the Ray of a cluster with ours."""
    check = "Ray"
    try:
        hole, version = hole_of("ray", there), Version(there)
    except InvalidVersion:
        return concern(check, f"the cluster calls its version {there!r}", "Compare it with `ray --version` here.")
    if hole:
        return failure(check, f"{there} on the cluster: {hole}", f"Install ray>={FLOORS['ray'].least} on the cluster.")
    if here is None or there == here:
        return fine(check, there)
    found, fix = f"{there} on the cluster, {here} here", f"pip install 'ray=={there}' here, or ray=={here} there."
    if version.release[:2] != Version(here).release[:2]:
        return failure(check, f"{found}: Ray refuses a driver of another version", fix)
    return concern(check, f"{found}: a submitted job runs by the one there, but Ray refuses a driver from here", fix)


def capacity_of(dashboard: Dashboard) -> Capacity | None:
    """Return what each node of a cluster offers, as its dashboard tells; None if it does not."""
    try:
        rows = ask(dashboard, "/api/v0/nodes")["data"]["result"]["result"]
        return Capacity.of_ray([_as_ray_lists(row) for row in rows])
    except (DashboardUnreachableError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _as_ray_lists(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a node of the dashboard's list as `ray.nodes()` has it."""
    resources = {str(name): float(amount) for name, amount in row["resources_total"].items()}
    labels = {str(key): str(value) for key, value in (row.get("labels") or {}).items()}
    return {"Alive": row["state"] == "ALIVE", "Resources": resources, "Labels": labels}


def check_cluster_address(
    address: str, environment: Mapping[str, str] = os.environ, *, processes: Path = Path("/proc")
) -> Finding:
    """Judge the `cluster.address` of a job: whether something listens there. What it is shows when a job joins."""
    if address.startswith(("http://", "https://")):
        fix = f"coffey submit … --address {address}, and cluster.address: auto or HOST:PORT of the cluster's head."
        return failure(_CHECK, "a dashboard, at which jobs are submitted; a driver joins elsewhere", fix)
    endpoint = address
    if address == "auto":
        found = environment.get("RAY_ADDRESS") or next(_running_here(environment, processes), None)
        if found is None:
            fix = "Start one (`ray start --head`), name HOST:PORT, or leave cluster.address out to have one started."
            return failure(_CHECK, "auto: no cluster runs on this machine, and RAY_ADDRESS names none", fix)
        endpoint = found
    return _check_listens(address, endpoint)


def _check_lock(dashboard: Dashboard) -> Finding:
    check = "authentication"
    if dashboard.headers:
        return fine(check, "it asks for a token, and ours is right")
    fix = "Start the cluster with RAY_AUTH_MODE=token: who is on this machine runs code there."
    return concern(check, "answers without a token, on loopback", fix)


def _check_listens(address: str, endpoint: str) -> Finding:
    scheme, _, place = endpoint.rpartition("://")
    host, _, port = place.rpartition(":")
    if scheme == "ray" and not host:
        host, port = place, str(_CLIENT_PORT)
    named = address if endpoint == address else f"{address} ({endpoint})"
    if scheme not in {"", "ray"} or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        return failure(
            _CHECK, f"{named} is no address", "Name HOST:PORT of the cluster's head, ray://HOST:PORT, or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except (OSError, UnicodeError) as error:
        fix = "Check cluster.address, and that the cluster runs (`ray status`)."
        return failure(_CHECK, f"{named}: nothing answers: {error}", fix)
    return fine(_CHECK, f"{named}: something listens; its dashboard (--address) tells version, token and clock")


def _running_here(environment: Mapping[str, str], processes: Path) -> Iterator[str]:
    """Yield the addresses that Ray takes for `auto`: of the raylets that run here, and what `ray start` wrote down."""
    for command in sorted(processes.glob("[0-9]*/cmdline")):
        found = _RUNNING.search(_text(command).replace("\0", " "))
        if found and "raylet" in _text(command).split("\0")[0]:
            yield found[1]
    if noted := _text(Path(temporary_folder(environment), "ray", "ray_current_cluster")).strip():
        yield noted


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended, or is another user's
        return ""
