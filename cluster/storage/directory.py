"""A store in a directory of a local or shared file system."""

import errno
import mmap
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.errors import CoffeyError
from cluster.storage.protocol import (
    FileStamp,
    ObjectMissingError,
    ObjectStat,
    StoreDeniedError,
    StoreFullError,
    StoreUnreachableError,
    UnconditionalStoreError,
    UnexpectedAnswerError,
    check_key,
    check_prefix,
    is_key,
)

_NO_OBJECT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_PARTIAL = ".partial-"  # no key starts with a dot, so no listing shows an unfinished file

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISPLACED = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}


class DirectoryStore:
    """Objects as files. A file is written beside its place and moved there, so a reader never sees a part of it."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def uri(self) -> str:
        """The absolute path of the directory."""
        return str(self._root)

    def get(self, key: str) -> memoryview:
        """Map the file: the pages are read when they are touched and shared by every process that reads them."""
        return self.get_stamped(key)[0]

    def get_stamped(self, key: str) -> tuple[memoryview, FileStamp]:
        """Map the file, and say which state of it was mapped."""
        path = self._root / check_key(key)
        with self._translated(f"reading {key}"):
            try:
                with path.open("rb") as file:
                    found = os.fstat(file.fileno())
                    return _mapped(file.fileno(), found.st_size), _stamp_of(found)
            except _NO_OBJECT as error:
                raise ObjectMissingError(self.uri, key) from error

    def put(self, key: str, body: bytes | memoryview) -> None:
        """Replace the file in one step."""
        path = self._root / check_key(key)
        with self._translated(f"writing {key}"), _finished_file(path, body) as finished:
            finished.replace(path)
            _sync(path.parent)

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        """Give the finished file its name by a hard link, which fails if the name is taken."""
        path = self._root / check_key(key)
        with self._translated(f"writing {key}"):
            is_ours = _stat_of_file(path) is None and self._link(path, body)
            # Also when another one won: what its caller is about to rely on may be younger than the last sync.
            _sync(path.parent)
            return is_ours

    def exists(self, key: str) -> bool:
        """Return whether the file is there."""
        path = self._root / check_key(key)
        with self._translated(f"looking for {key}"):
            return _stat_of_file(path) is not None

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Walk the directory, passing over what is no object: unfinished files, and files that others put there."""
        top = self._root / check_prefix(prefix)
        with self._translated(f"listing {prefix or 'everything'}"):
            for key, path in sorted((path.relative_to(self._root).as_posix(), path) for path in _files_below(top)):
                if is_key(key) and (found := _stat_of_file(path)):
                    yield ObjectStat(key, found.st_size, found.st_mtime)

    def delete(self, key: str) -> None:
        """Unlink the file; processes that have mapped it keep their pages."""
        path = self._root / check_key(key)
        with self._translated(f"deleting {key}"), suppress(*_NO_OBJECT):
            path.unlink()

    def unfinished(self) -> Iterator[ObjectStat]:
        """Yield the files that writers are at work on, or left when they were killed; no listing shows them."""
        with self._translated("looking for unfinished files"):
            for path in _files_below(self._root):
                if path.name.startswith(_PARTIAL) and (found := _stat_of_file(path)):
                    yield ObjectStat(path.relative_to(self._root).as_posix(), found.st_size, found.st_mtime)

    def discard(self, unfinished: ObjectStat) -> None:
        """Remove an unfinished file; a writer that is still at work on it fails, and nothing of it is ever visible."""
        with self._translated(f"removing {unfinished.key}"):
            (self._root / unfinished.key).unlink(missing_ok=True)

    def _link(self, path: Path, body: bytes | memoryview) -> bool:
        with _finished_file(path, body) as finished:
            try:
                os.link(finished, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _NO_HARD_LINKS:
                    raise UnconditionalStoreError(self.uri, f"its file system has no hard links ({error})") from error
                raise
        return True

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._meaning(error, action) from error

    def _free(self) -> str:
        try:
            return f"{shutil.disk_usage(self._root).free:,} bytes are free"
        except OSError as error:
            return f"how much is free cannot be told ({error})"

    def _meaning(self, error: OSError, action: str) -> CoffeyError:
        if error.errno in _FULL:
            return StoreFullError(self.uri, action, f"{error}; {self._free()}")
        if error.errno in _DENIED:
            return StoreDeniedError(self.uri, action, str(error))
        if error.errno in _MISPLACED:
            return UnexpectedAnswerError(self.uri, action, str(error))
        return StoreUnreachableError(self.uri, action, str(error))


def _mapped(descriptor: int, num_bytes: int) -> memoryview:
    if num_bytes == 0:  # nothing to map, and mmap refuses it
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def _stamp_of(found: os.stat_result) -> FileStamp:
    return FileStamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _stat_of_file(path: Path) -> os.stat_result | None:
    # Not `Path.is_file`: from Python 3.14 on, that takes a file that may not be looked at for a missing one.
    try:
        found = path.stat()
    except _NO_OBJECT:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


@contextmanager
def _finished_file(path: Path, body: bytes | memoryview) -> Iterator[Path]:
    """Yield a file with the whole body, durable, beside `path`; removed at the end unless it has been moved."""
    _make_directory(path.parent)
    partial = path.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync(directory.parent)


def _sync(directory: Path) -> None:
    # A name is durable only when its directory is: without this a crash could lose a commit that was reported.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_below(top: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(top, onerror=_raise_unless_missing):
        yield from (Path(directory, name) for name in names)


def _raise_unless_missing(error: OSError) -> None:
    # A directory that may not be read is no empty directory: taken for one, everything in it would be computed again.
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
