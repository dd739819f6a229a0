"""The files that travel with a submitted job: its working directory, without what is private, rebuilt or too large."""

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import SpecError
from cluster.identity import digest_of
from cluster.storage.protocol import ObjectStore

MAX_PACKAGE_BYTES = 100 * 1024 * 1024
_REBUILT = {".git", ".venv", "venv", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_SECRET = {".env", ".netrc", ".aws", ".ssh"}
EXCLUDED_NAMES = frozenset(_REBUILT | _SECRET)
_NUM_NAMED = 5
_ROOT = "job"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip archive knows


class PackageTooLargeError(SpecError):
    """The working directory holds more than a job should carry."""

    def __init__(self, working_dir: str, num_bytes: int, largest: tuple[tuple[str, int], ...]) -> None:
        super().__init__(working_dir, num_bytes, largest)
        self.working_dir, self.num_bytes, self.largest = working_dir, num_bytes, largest

    def __str__(self) -> str:
        files = "".join(f"\n  {_mebibytes(num_bytes):>10}  {name}" for name, num_bytes in self.largest)
        return (
            f"{self.working_dir}: {_mebibytes(self.num_bytes)} would travel with the job, expected at most "
            f"{_mebibytes(MAX_PACKAGE_BYTES)}. The largest files:{files}\nPut data and weights on a disk that the "
            "cluster shares, or in a bucket, and name them in .gitignore; or submit from a directory with less in it."
        )


class PackageUnreadableError(SpecError):
    """The working directory, or a file in it, cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}, so it cannot travel with the job. Submit from another directory."


@dataclass(frozen=True)
class Package:
    """An archive of the working directory."""

    path: Path
    num_files: int
    num_bytes: int
    """Of the files, before compression."""


def pack(working_dir: Path, *, into: Path, excludes: Sequence[Path] = (), root: str = "") -> Package:
    """Write the archive `into` a directory; equal files give equal bytes, so an upload is not repeated.

    Inside a git repository what git ignores stays behind; `EXCLUDED_NAMES` and `excludes` (paths) always do. In the
    archive all stands below `root`, if there is one.

    Raises:
        PackageTooLargeError: the files have more than `MAX_PACKAGE_BYTES` together.
        PackageUnreadableError: there is no such directory, or a file in it cannot be read.
    """
    if not working_dir.is_dir():
        raise PackageUnreadableError(str(working_dir), "there is no such directory")
    try:
        names = sorted(_names(working_dir, [path.absolute() for path in excludes]))
        sizes = {name: (working_dir / name).stat().st_size for name in names}
        if sum(sizes.values()) > MAX_PACKAGE_BYTES:
            largest = sorted(sizes.items(), key=lambda item: -item[1])[:_NUM_NAMED]
            raise PackageTooLargeError(str(working_dir), sum(sizes.values()), tuple(largest))
        _write_archive(working_dir, names, into / "working_dir.zip", root)
    except UnicodeError as error:
        raise PackageUnreadableError(str(working_dir), f"a file name that is not UTF-8 ({error})") from error
    except OSError as error:
        raise PackageUnreadableError(str(error.filename or working_dir), str(error.strerror)) from error
    return Package(into / "working_dir.zip", len(names), sum(sizes.values()))


def publish(working_dir: Path, store: ObjectStore, *, excludes: Sequence[Path] = ()) -> tuple[Package, str]:
    """Put the archive of a directory into the store; return it, and the address from which Ray's nodes fetch it.

    Raises as `pack` does, and what the store raises.
    """
    with tempfile.TemporaryDirectory(prefix="coffey-") as folder:
        # Ray takes a single top directory off what it fetches: ours, or else it might be one of the user's.
        package = pack(working_dir, into=Path(folder), excludes=excludes, root=_ROOT)
        body = package.path.read_bytes()
    key = f"packages/{digest_of(body)}.zip"
    store.put_if_absent(key, body)
    place = store.uri if "://" in store.uri else Path(store.uri).as_uri()
    return package, f"{place}/{key}"


def _names(working_dir: Path, excludes: Sequence[Path]) -> Iterator[str]:
    known_to_git = _names_known_to_git(working_dir)
    for name in _names_on_disk(working_dir) if known_to_git is None else known_to_git:
        path = working_dir.absolute() / name
        private = not EXCLUDED_NAMES.isdisjoint(Path(name).parts)
        if not private and path.is_file() and not any(path.is_relative_to(exclude) for exclude in excludes):
            yield name


def _names_known_to_git(working_dir: Path) -> list[str] | None:
    """Return the files that git tracks or would offer to track; None where git is not in charge."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(working_dir), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  no shell, no word of a stranger
    if listing.returncode != 0:
        return None
    return [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]


def _names_on_disk(working_dir: Path) -> Iterator[str]:
    for directory, subdirectories, files in os.walk(working_dir):
        subdirectories[:] = [name for name in subdirectories if name not in EXCLUDED_NAMES]
        yield from (os.path.relpath(os.path.join(directory, name), working_dir) for name in files)


def _write_archive(working_dir: Path, names: Sequence[str], target: Path, root: str) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"{root}/{name}" if root else name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            # An unpacked script has to stay executable.
            entry.external_attr = (working_dir / name).stat().st_mode << 16
            archive.writestr(entry, (working_dir / name).read_bytes())


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 1024 / 1024:.1f} MiB"
