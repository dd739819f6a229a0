"""The door of a running Ray cluster: its HTTP address, the token that opens it, and whether it is locked at all.

Whoever reaches an open dashboard runs code on the cluster, so nothing is sent to one that is not on loopback unless the
user insists. A token goes only to a door that asked for one.
"""

import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.clocks import skew_s
from cluster.errors import AccessDenied, EnvironmentFailure, SpecError, excerpt

_PROBE_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_OK, _NO_TOKEN, _WRONG_TOKEN = 200, 401, 403


class DashboardAddressError(SpecError):
    """The address is not that of a dashboard."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address

    def __str__(self) -> str:
        return (
            f"--address {self.address}: expected the address of a Ray dashboard, such as http://127.0.0.1:8265 "
            "or https://ray.example.org."
        )


class DashboardUnreachableError(EnvironmentFailure):
    """Nothing answers at the address, or something that is no Ray dashboard."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return (
            f"{self.url}: no Ray dashboard answers: {self.reason}. Check the address, and that the cluster runs "
            "(`ray status`)."
        )


class OpenDashboardError(AccessDenied):
    """The dashboard lets in everybody, and everybody can reach it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url

    def __str__(self) -> str:
        return (
            f"{self.url}: answers without a token, so anybody on the network can run code there; expected token "
            "authentication. Start the cluster with RAY_AUTH_MODE=token and a RAY_AUTH_TOKEN, or say --allow-open."
        )


class TokenRefusedError(AccessDenied):
    """The dashboard asks for a token, and we have none or the wrong one."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.reason}. Expected the cluster's token in RAY_AUTH_TOKEN, in the file that "
            "RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token."
        )


@dataclass(frozen=True)
class Dashboard:
    """A door that we may enter."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    """Sent with each request; holds the token if the door asks for one."""
    ray_version: str
    skew_s: float | None
    """Seconds by which its clock differs from ours; None if it does not tell the time."""


def enter_dashboard(address: str, *, allow_open: bool) -> Dashboard:
    """Find out whether the dashboard at `address` asks for a token, and whether ours is right.

    Raises:
        DashboardAddressError: `address` is no HTTP address.
        DashboardUnreachableError: no Ray dashboard answers there.
        OpenDashboardError: it asks for no token, is not on loopback, and `allow_open` is not set.
        TokenRefusedError: it asks for a token, and we have none or the wrong one.
    """
    url = _dashboard_url(address)
    answer = _probe(url, {})
    if answer.status == _OK:
        if not allow_open and not _is_loopback(url):
            raise OpenDashboardError(url)
        return Dashboard(url, {}, answer.ray_version, answer.skew_s)
    token = cluster_token(url)
    if token is None:
        raise TokenRefusedError(url, "asks for a token, and there is none")
    headers = {"Authorization": f"Bearer {token}"}
    answer = _probe(url, headers)
    if answer.status != _OK:
        raise TokenRefusedError(url, "refuses the token")
    return Dashboard(url, headers, answer.ray_version, answer.skew_s)


def ask(dashboard: Dashboard, path: str) -> Any:
    """Return the JSON that the dashboard answers at `path`; raises `DashboardUnreachableError`."""
    answer = _answer(dashboard.url, path, dashboard.headers)
    if answer.status != _OK or answer.json is None:
        raise DashboardUnreachableError(dashboard.url, f"what it says at {path} is {answer.status} and no JSON")
    return answer.json


def cluster_token(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token that Ray itself would use; `url` is for the error.

    Raises:
        TokenRefusedError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        if named is None:
            return None
        raise TokenRefusedError(url, f"the file {named} of RAY_AUTH_TOKEN_PATH cannot be read as a token") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to whom it names."""

    def redirect_request(self, *_: object) -> None:
        return None


def _dashboard_url(address: str) -> str:
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and not parts.username
        # Reading the port raises if it is none.
        if not usable or (parts.port is None and "://" not in address) or parts.query or parts.fragment:
            raise DashboardAddressError(address)
    except ValueError as error:
        raise DashboardAddressError(address) from error
    return url


def _is_loopback(url: str) -> bool:
    host = str(urlsplit(url).hostname)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # what any other name means today it may not mean tomorrow


@dataclass(frozen=True)
class _Answer:
    status: int
    json: Any
    """None if the body is no JSON."""
    skew_s: float | None

    @property
    def ray_version(self) -> str:
        """What a dashboard says of itself; empty if this is none."""
        version = self.json.get("ray_version") if isinstance(self.json, dict) else None
        return excerpt(version) if isinstance(version, str) else ""


def _probe(url: str, headers: Mapping[str, str]) -> _Answer:
    """Return what the dashboard at `url` says to a request with `headers`: 200, 401 or 403."""
    answer = _answer(url, "/api/version", headers)
    if answer.status not in {_OK, _NO_TOKEN, _WRONG_TOKEN} or (answer.status == _OK and not answer.ray_version):
        raise DashboardUnreachableError(url, f"what answers there says {answer.status}, and is something else")
    return answer


def _answer(url: str, path: str, headers: Mapping[str, str]) -> _Answer:
    request = urllib.request.Request(f"{url}{path}", headers=dict(headers))  # noqa: S310  http or https
    asked_s = time.time()
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_PROBE_TIMEOUT_S) as response:
            body, status, told = response.read(_MAX_ANSWER_BYTES), response.status, response.headers
    except urllib.error.HTTPError as error:
        body, status, told = b"", error.code, error.headers
    except (OSError, HTTPException) as error:
        raise DashboardUnreachableError(url, str(getattr(error, "reason", error))) from error
    return _Answer(int(status), _parsed(body), _skew_s(told, asked_s))


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _skew_s(told: Message, asked_s: float) -> float | None:
    try:
        told_s = parsedate_to_datetime(told["Date"]).timestamp()
    except (TypeError, ValueError):
        return None
    return skew_s(asked_s=asked_s, told_s=told_s, answered_s=time.time())
