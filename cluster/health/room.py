"""Room: disks, shared memory, and the number of files that may be open."""

import os
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.findings import Finding, concern, failure, fine
from cluster.session import OBJECT_STORE_BYTES

_NO_ROOM_BYTES, _LITTLE_ROOM_BYTES = 1e9, 5e9
_FULL = 0.95  # from here on Ray refuses to move objects to the disk
_LONGEST_SOCKET = 107
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
_FEW_FILES, _MANY_FILES = 4096, 65536  # Ray warns below the one, and raises its own limit up to the other
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  looked at, not written to


@dataclass(frozen=True)
class Folder:
    """A directory, and the disk that it lies on."""

    path: str
    fault: str = ""
    """Why nothing can be written there."""
    free_bytes: float = 0.0
    total_bytes: float = 1.0


def temporary_folder(environment: Mapping[str, str] = os.environ) -> str:
    """Return where Ray keeps its sessions, its sockets and the objects that memory has no room for."""
    return environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp"  # noqa: S108  where Ray looks too


def look_into(path: str) -> Folder:
    """Look at a directory without writing to it."""
    if not os.path.isdir(path):
        return Folder(path, "there is no such directory")
    if not os.access(path, os.W_OK | os.X_OK):
        return Folder(path, "it cannot be written")
    usage = shutil.disk_usage(path)
    return Folder(path, "", usage.free, usage.total)


def check_temporary_folder(folder: Folder) -> Finding:
    """Judge where Ray keeps what it needs while it runs."""
    check, fix = "temporary files", "Make room there, or name a directory with more in RAY_TMPDIR."
    too_long = len(os.fsencode(folder.path.rstrip("/") + _SOCKET)) - _LONGEST_SOCKET
    if too_long > 0:
        found = f"{folder.path}: the paths of Ray's sockets would be {too_long} bytes longer than a socket's may be"
        return failure(check, found, "Name a directory with a shorter path in RAY_TMPDIR.")
    finding = _check_folder(check, folder, fix)
    share = 1 - folder.free_bytes / folder.total_bytes
    if finding.verdict == "OK" and share >= _FULL:
        found = f"{folder.path}: {share:.0%} of the disk is used, and Ray moves no objects to a disk so full"
        return concern(check, found, fix)
    return finding


def check_working_directory(folder: Folder) -> Finding:
    """Judge where a command writes what has no other place."""
    fix = "Make room there, or run the command from another directory."
    finding = _check_folder("working directory", folder, fix)
    # A job whose store is elsewhere writes nothing here; one whose store is here is told by the store's own checks.
    return finding if finding.verdict == "OK" else concern(finding.check, finding.found, fix)


def free_shared_memory_bytes(path: Path = _SHARED_MEMORY) -> float | None:
    """Return how much room shared memory has; None if there is none."""
    try:
        return float(shutil.disk_usage(path).free)
    except OSError:
        return None


def check_shared_memory(free_bytes: float | None) -> Finding:
    """Judge where Ray keeps its objects."""
    check, fix = "shared memory", "Give the container more: docker run --shm-size=2g, or a memory-backed emptyDir."
    if free_bytes is None:
        return failure(check, f"there is no {_SHARED_MEMORY}, and Ray does not start without", fix)
    found = f"{free_bytes / 1e6:,.0f} MB are free in {_SHARED_MEMORY}"
    if free_bytes < OBJECT_STORE_BYTES:
        wanted = f"Ray wants {OBJECT_STORE_BYTES / 1e6:,.0f} MB, and keeps its objects on the disk"
        return concern(check, f"{found}; {wanted}", fix)
    return fine(check, found)


def most_open_files() -> int:
    """Return how many files Ray's processes may have open: they raise the soft limit as far as they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (_MANY_FILES if it == resource.RLIM_INFINITY else it for it in (soft, hard))
    return max(soft, min(hard, _MANY_FILES))


def check_open_files(limit: int) -> Finding:
    """Judge how many files a process may have open."""
    found = f"a process may have {limit:,}"
    if limit < _FEW_FILES:
        fix = "Raise the limit (ulimit -Hn 65536, /etc/security/limits.conf, docker run --ulimit nofile=65536)."
        return concern("open files", f"{found}; with fewer than {_FEW_FILES:,} Ray loses connections", fix)
    return fine("open files", found)


def _check_folder(check: str, folder: Folder, fix: str) -> Finding:
    if folder.fault:
        return failure(check, f"{folder.path}: {folder.fault}", fix)
    found = f"{folder.path}: {folder.free_bytes / 1e9:,.1f} GB are free"
    if folder.free_bytes < _NO_ROOM_BYTES:
        return failure(check, f"only {found}", fix)
    if folder.free_bytes < _LITTLE_ROOM_BYTES:
        return concern(check, found, fix)
    return fine(check, found)
