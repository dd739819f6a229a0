"""Files of a source, in a directory or a bucket: which there are, what tells them from others, and reading them."""

import glob
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import blake3

from cluster.errors import excerpt
from cluster.identity import canonical_json, digest_of
from orchestrator.sources.errors import SourceMissingError

WHOLE_BYTES = 1024 * 1024 * 1024
"""Files with at most so many bytes together are known by all of them, others by their ends."""

_END_BYTES = 1024 * 1024
_S3 = "s3://"


@dataclass(frozen=True)
class SourceFile:
    """A file that others wrote."""

    path: str
    """As it is opened: a path, or `s3://bucket/name`."""
    num_bytes: int
    etag: str = ""
    """Of an object in a bucket."""

    @property
    def parent(self) -> str:
        """Name of the directory that it lies in."""
        return self.path.split("/")[-2] if "/" in self.path else ""


def list_files(paths: Iterable[str], suffixes: Sequence[str], *, source: str) -> tuple[SourceFile, ...]:
    """Return the files that `paths` name, sorted; of directories those below with one of `suffixes`.

    Files and directories whose names begin with `.` or `_` are passed over unless they are named.

    Raises:
        SourceMissingError: a path names none.
    """
    found = []
    for path in paths:
        files = _in_bucket(path, suffixes) if path.startswith(_S3) else _on_disk(path, suffixes)
        if not files:
            raise SourceMissingError(path, source, f"there is no file here that ends in {' or '.join(suffixes)}")
        found += files
    return tuple(sorted(set(found), key=lambda file: file.path.split("/")))


def digest_of_files(files: Sequence[SourceFile], *, source: str, names: Sequence[str] = ()) -> str:
    """Return what tells this state of the files from others, and `names`, which belong to the data, with them.

    Objects of a bucket are known by their ETags. Files are hashed whole if they have at most `WHOLE_BYTES` together;
    otherwise their first and last MiB are.

    Raises:
        SourceMissingError: a file cannot be read.
    """
    is_small = sum(file.num_bytes for file in files) <= WHOLE_BYTES
    states = []
    for file in files:
        try:
            known_by = file.etag or (_whole_digest(file.path) if is_small else _digest_of_ends(file))
        except OSError as error:
            raise _missing(file.path, source, error) from error
        states.append([file.num_bytes, known_by])
    return digest_of(canonical_json([states, list(names)]))


def read_file(path: str, *, source: str) -> bytes:
    """Return the bytes of a file; raises `SourceMissingError`."""
    with open_file(path, source=source) as file:
        return file.read()


def open_file(path: str, *, source: str) -> BinaryIO:
    """Open a file for reading, at any place; raises `SourceMissingError`."""
    try:
        if not path.startswith(_S3):
            return open(path, "rb")
        return cast(BinaryIO, io.BufferedReader(_bucket_files().open_input_file(path.removeprefix(_S3)), 1 << 20))
    except OSError as error:
        raise _missing(path, source, error) from error


def path_in(directory: str, name: str) -> str:
    """Return the path of a file in a directory or below a prefix."""
    return f"{directory.rstrip('/')}/{name}"


def _on_disk(path: str, suffixes: Sequence[str]) -> list[SourceFile]:
    whole = Path(path).expanduser()
    if whole.is_dir():
        below = (file for file in whole.rglob("*") if _is_wanted(file.relative_to(whole).as_posix(), suffixes))
        found = [file.as_posix() for file in below if file.is_file()]
    elif whole.exists():
        found = [whole.as_posix()]
    else:
        found = [match for match in glob.glob(str(whole), recursive=True) if Path(match).is_file()]
    return [SourceFile(file, Path(file).stat().st_size) for file in found]


def _in_bucket(path: str, suffixes: Sequence[str]) -> list[SourceFile]:
    from cluster.storage.s3 import S3Store  # a tenth of a second, which files on a disk need not pay

    bucket, _, wanted = path.removeprefix(_S3).partition("/")
    beginning = re.split(r"[*?\[]", wanted, maxsplit=1)[0]
    objects = S3Store(bucket).list_foreign(beginning)
    if beginning != wanted:
        found = [item for item in objects if fnmatchcase(item.name, wanted)]
    else:
        below = f"{wanted.rstrip('/')}/" if wanted.strip("/") else ""
        found = [
            item
            for item in objects
            if item.name == wanted
            or (item.name.startswith(below) and _is_wanted(item.name.removeprefix(below), suffixes))
        ]
    return [SourceFile(f"{_S3}{bucket}/{item.name}", item.num_bytes, item.etag) for item in found]


def _is_wanted(name: str, suffixes: Sequence[str]) -> bool:
    return name.endswith(tuple(suffixes)) and all(map(_is_shown, name.split("/")))


def _is_shown(name: str) -> bool:
    return not name.startswith((".", "_"))


def _missing(path: str, source: str, error: OSError) -> SourceMissingError:
    return SourceMissingError(path, source, excerpt(error.strerror or str(error)))


def _whole_digest(path: str) -> str:
    with open(path, "rb") as file:
        hasher = blake3.blake3()
        while part := file.read(_END_BYTES):
            hasher.update(part)
    return str(hasher.hexdigest())


def _digest_of_ends(file: SourceFile) -> str:
    with open(file.path, "rb") as opened:
        first = opened.read(_END_BYTES)
        opened.seek(max(len(first), file.num_bytes - _END_BYTES))
        return digest_of(first + opened.read(_END_BYTES))


def _bucket_files() -> Any:
    """Return pyarrow's view of the buckets that this process's AWS environment names."""
    environment = tuple(os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE"))
    return _connect(os.getpid(), environment)


@lru_cache(maxsize=4)
def _connect(_pid: int, environment: tuple[str, ...]) -> Any:
    from pyarrow.fs import S3FileSystem

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(endpoint_override=environment[0] or environment[1] or None, region=region)
