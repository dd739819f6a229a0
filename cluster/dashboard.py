"""The door of a running Ray cluster: its HTTP address, the token that opens it, and whether it is locked at all.

Whoever reaches an open dashboard runs code on the cluster, so nothing is sent to one that is not on loopback unless the
user insists. A token goes only to a door that asked for one.
"""

import ipaddress
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import AccessDenied, EnvironmentFailure, SpecError

_PROBE_TIMEOUT_S = 10.0
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


def enter_dashboard(address: str, *, allow_open: bool) -> Dashboard:
    """Find out whether the dashboard at `address` asks for a token, and whether ours is right.

    Raises:
        DashboardAddressError: `address` is no HTTP address.
        DashboardUnreachableError: no Ray dashboard answers there.
        OpenDashboardError: it asks for no token, is not on loopback, and `allow_open` is not set.
        TokenRefusedError: it asks for a token, and we have none or the wrong one.
    """
    url = _dashboard_url(address)
    if _status(url, {}) == _OK:
        if not allow_open and not _is_loopback(url):
            raise OpenDashboardError(url)
        return Dashboard(url, {})
    token = cluster_token(url)
    if token is None:
        raise TokenRefusedError(url, "asks for a token, and there is none")
    headers = {"Authorization": f"Bearer {token}"}
    if _status(url, headers) != _OK:
        raise TokenRefusedError(url, "refuses the token")
    return Dashboard(url, headers)


def cluster_token(url: str) -> str | None:
    """Return the token that Ray itself would use; `url` is for the error.

    Raises:
        TokenRefusedError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
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


def _status(url: str, headers: Mapping[str, str]) -> int:
    """Return 200, 401 or 403: what the dashboard at `url` says to a request with `headers`."""
    request = urllib.request.Request(f"{url}/api/version", headers=dict(headers))  # noqa: S310  http or https
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_PROBE_TIMEOUT_S) as response:
            body, status = response.read(65536), response.status
    except urllib.error.HTTPError as error:
        body, status = b"", error.code
    except (OSError, HTTPException) as error:
        raise DashboardUnreachableError(url, str(getattr(error, "reason", error))) from error
    if status not in {_OK, _NO_TOKEN, _WRONG_TOKEN} or (status == _OK and b"ray_version" not in body):
        raise DashboardUnreachableError(url, f"what answers there says {status}, and is something else")
    return int(status)
