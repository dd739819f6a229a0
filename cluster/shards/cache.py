"""Shards of a remote store kept on this machine's disk, so that a second epoch downloads nothing.

A file is named by the digest of its bytes, written beside its place and moved there: any number of processes share the
folder without a lock. Nothing in it is trusted: a file is hashed by each process that reads it. COFFEY_CACHE_DIR and
COFFEY_CACHE_BYTES say where it lies and how large it may become.
"""

import logging
import math
import os
import re
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from cluster.errors import CoffeyError, EnvironmentFailure
from cluster.shards.verified import Fetch, ShardCorruptError, fetch_verified
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError, ObjectStore

_DIRECTORY, _BYTES = "COFFEY_CACHE_DIR", "COFFEY_CACHE_BYTES"
_UNFINISHED_S = 600.0
_OURS = re.compile(r"[0-9a-f]{64}|\.partial-[0-9a-f]{32}")
_SPARE_SHARE = 256
"""A process looks at all files of the folder when it has written a 256th of what may lie there, and not at each shard:
where many processes share the folder, it may become larger by as much for each of them."""
_TOUCHED_EVERY_S = 3600.0
"""Noting a use changes the file's stamp, after which every process hashes it again; so it is noted once an hour."""


class CacheSizeError(EnvironmentFailure):
    """COFFEY_CACHE_BYTES is no number of bytes."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"{_BYTES}={self.found!r}: expected a whole number of bytes, such as 20000000000, or 0 for no cache."


def readings_until_cheap(fetch: Fetch) -> float:
    """Return after how many readings of a shard another takes but a moment: once its file has been hashed here."""
    if isinstance(fetch, ShardCache):
        return 2 if fetch.keeps_all else math.inf
    return 1


def gives_files(fetch: Fetch) -> bool:
    """Return whether a shard that is fetched is a mapped file, whose pages the kernel may take back."""
    return not isinstance(fetch, ShardCache) or fetch.keeps_all


def fetch_for(store: ObjectStore) -> Fetch:
    """Return what fetches the shards of `store` for a reader that comes back in every epoch: from disk if it can.

    Raises:
        CacheSizeError: COFFEY_CACHE_BYTES is no number of bytes.
    """
    if isinstance(store, DirectoryStore):
        return fetch_verified
    folder = Path(os.environ.get(_DIRECTORY) or _default_folder()).absolute()
    given = os.environ.get(_BYTES, "").strip()
    if given and not given.isdecimal():
        raise CacheSizeError(given)
    return ShardCache(folder, max_bytes=int(given) if given else _half_of_the_disk(folder))


class ShardCache:
    """A folder of verified shards; the least recently used make room for others. Any number of threads may fetch."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._files = DirectoryStore(folder)
        self._is_broken = False
        self._granted_bytes = 0
        """What may be written before the folder is looked at again."""
        self.keeps_all = max_bytes > 0
        """Whether nothing has yet failed to fit."""
        self._changing = threading.Lock()

    def __call__(self, store: ObjectStore, key: str, *, digest: str, num_bytes: int) -> memoryview:
        """Return the bytes of `key` in `store`, verified; from the folder if they are there, and else kept there.

        Raises:
            ObjectMissingError: there is no such object.
            ShardCorruptError: the bytes in the store are not those that were written.
        """
        if (kept := self._find(digest, num_bytes)) is not None:
            return kept
        body = fetch_verified(store, key, digest=digest, num_bytes=num_bytes)
        self._keep(digest, body)
        # The file, not the body, which would take memory for as long as anybody reads from it.
        return self._find(digest, num_bytes) or body

    def _find(self, digest: str, num_bytes: int) -> memoryview | None:
        try:
            body = fetch_verified(self._files, digest, digest=digest, num_bytes=num_bytes)
            self._touch(self._folder / digest)
        except ObjectMissingError:
            return None
        except ShardCorruptError:
            with suppress(CoffeyError):
                self._files.delete(digest)
            return None
        except (CoffeyError, OSError) as error:
            self._give_up(error)
            return None
        return body

    def _keep(self, digest: str, body: memoryview) -> None:
        if self._is_broken or len(body) > self._max_bytes:
            self.keeps_all = False
            return
        try:
            with self._changing:
                if self._granted_bytes < len(body):
                    self._make_room(len(body))
                self._granted_bytes -= len(body)
            self._files.put(digest, body)
        except (CoffeyError, OSError) as error:
            self._give_up(error)

    def _make_room(self, num_bytes: int) -> None:
        """Remove the files that were not used for longest; what a killed process left unfinished is among them.

        A file that another process is writing is younger than any process needs for a shard, and stays.
        """
        files = _files_by_use(self._folder)
        free = self._max_bytes - sum(size for _, size, _ in files)
        spare = self._max_bytes // _SPARE_SHARE // num_bytes * num_bytes  # nothing goes for a part of a shard
        wanted = num_bytes if free >= num_bytes else num_bytes + spare
        for used_s, size, path in files:
            if free >= wanted:
                break
            is_unfinished = path.name.startswith(".")
            if is_unfinished and time.time() - used_s < _UNFINISHED_S:
                continue
            self.keeps_all = self.keeps_all and is_unfinished
            path.unlink(missing_ok=True)
            free += size
        self._granted_bytes = max(num_bytes, min(free, num_bytes + spare))

    def _touch(self, path: Path) -> None:
        with suppress(FileNotFoundError, PermissionError):
            if time.time() - path.stat().st_mtime > _TOUCHED_EVERY_S:
                os.utime(path)

    def _give_up(self, error: Exception) -> None:
        with self._changing:
            if not self._is_broken:
                logging.getLogger(__name__).warning("Shards are no longer kept on this machine's disk: %s", error)
            self._is_broken, self.keeps_all = True, False


def _files_by_use(folder: Path) -> list[tuple[float, int, Path]]:
    """Return the time of the last use, the size and the path of each file of a cache, the oldest first."""
    files = []
    for path in (path for path in folder.glob("*") if _OURS.fullmatch(path.name)):
        with suppress(FileNotFoundError):  # another process made room too
            found = path.stat()
            files.append((found.st_mtime, found.st_size, path))
    return sorted(files)


def _default_folder() -> str:
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(caches, "coffey", "shards")


def _half_of_the_disk(folder: Path) -> int:
    """Return half of what is free or held by the cache itself, so that it does not shrink as it fills up."""
    with suppress(OSError):
        held = sum(size for _, size, _ in _files_by_use(folder))
        disk = next(parent for parent in (folder, *folder.parents) if parent.exists())
        return (shutil.disk_usage(disk).free + held) // 2
    return 0
