"""Bytes that are checked before anyone parses them."""

import threading
import time
from typing import NamedTuple, Protocol

from cluster.errors import DataError
from cluster.identity import digest_of
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import FileStamp, ObjectStore


class ShardCorruptError(DataError):
    """An object's bytes differ from what its record promised."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return (
            f"{self.where}: found {self.found}, the record says {self.expected}. The bytes were damaged or exchanged "
            "after they were written. Delete this object, and the record or manifest that names it (for labels "
            "`coffey labels repair` does so), and run the same command again: only what is missing is computed."
        )


class Fetch(Protocol):
    """`fetch_verified`, or what does the same in another way."""

    def __call__(self, store: ObjectStore, key: str, *, digest: str, num_bytes: int) -> memoryview:
        """Return the bytes of `key`, compared with their length and digest."""


class CheckedFiles:
    """Files of directories whose digest was compared, each remembered with its stamp; any number of threads may ask."""

    def __init__(self, *, settled_s: float = 2.0, limit: int = 65_536) -> None:
        self._settled_ns, self._limit = round(settled_s * 1e9), limit
        self._files: dict[_CheckedFile, None] = {}
        self._changing = threading.Lock()

    def __contains__(self, file: "_CheckedFile") -> bool:
        return file in self._files

    def add(self, file: "_CheckedFile", *, opened_ns: int) -> None:
        """Remember a file that was opened at `opened_ns`, unless it was young then.

        A file system's clock ticks every few milliseconds, some every two seconds: a second write within the tick of
        the first would leave the stamp as it is.
        """
        if opened_ns - file.stamp.changed_ns < self._settled_ns:
            return
        with self._changing:
            self._files[file] = None
            if len(self._files) > self._limit:
                del self._files[next(iter(self._files))]


class _CheckedFile(NamedTuple):
    uri: str
    key: str
    digest: str
    stamp: FileStamp


_of_this_process = CheckedFiles()


def fetch_verified(
    store: ObjectStore, key: str, *, digest: str, num_bytes: int, checked: CheckedFiles = _of_this_process
) -> memoryview:
    """Return the bytes of `key` after comparing their length and their blake3 digest.

    A file of a directory is hashed once in a process, and again when it was written to or replaced.

    Raises:
        ObjectMissingError: there is no such object.
        ShardCorruptError: the bytes are not those that were written.
    """
    if not isinstance(store, DirectoryStore):
        return _compared(store.get(key), f"{store.uri}/{key}", digest=digest, num_bytes=num_bytes)
    opened_ns = time.time_ns()
    body, stamp = store.get_stamped(key)
    file = _CheckedFile(store.uri, key, digest, stamp)
    if file not in checked or len(body) != num_bytes:
        _compared(body, f"{store.uri}/{key}", digest=digest, num_bytes=num_bytes)
        checked.add(file, opened_ns=opened_ns)
    return body


def _compared(body: memoryview, where: str, *, digest: str, num_bytes: int) -> memoryview:
    if len(body) != num_bytes:
        raise ShardCorruptError(where, f"{len(body)} bytes", f"{num_bytes} bytes")
    if (found := digest_of(body)) != digest:
        raise ShardCorruptError(where, f"blake3 {found}", f"blake3 {digest}")
    return body
