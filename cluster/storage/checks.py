"""What a store has to do, tried one thing at a time."""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier, BrokenBarrierError

from cluster.clocks import MOST_SKEW_S, skew_s
from cluster.errors import AccessDenied, CoffeyError, StorageError
from cluster.storage.directory import DirectoryStore
from cluster.storage.probe import PROBES, store_time_s
from cluster.storage.protocol import ObjectMissingError, ObjectStore

_NUM_RACERS, _NUM_RACES, _NUM_REPETITIONS = 8, 10, 10
_PAYLOAD_BYTES = 8 << 20
_SLOW_BYTES_PER_S = 10e6
_LITTLE_SPACE_BYTES, _NO_SPACE_BYTES = 20e9, 1e9


@dataclass
class Patient:
    """A store, and a place in it for this checkup alone."""

    store: ObjectStore
    now_s: Callable[[], float] = time.time
    """The clock of this machine, seconds since the epoch."""
    _place: str = field(default_factory=lambda: f"{PROBES}{uuid.uuid4().hex}")
    _keys: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.missing = _missing_directories(self.store)
        """Directories that were not there before the checkup, the deepest first."""

    def key(self, name: str) -> str:
        """Return the key of a probe, which `clean_up` removes."""
        self._keys.add(key := f"{self._place}-{name}")
        return key

    def listed(self) -> set[str]:
        """Return the keys of the probes that a listing shows."""
        return {stat.key for stat in self.store.list(PROBES)} & self._keys

    def clean_up(self) -> None:
        """Remove what is left of the probes."""
        for key in self._keys:
            self.store.delete(key)
        for directory in self.missing:
            with suppress(OSError):  # it was not made, or a job has begun to use it
                directory.rmdir()


@dataclass(frozen=True)
class Check:
    """One thing to try: `look` returns what it found, or raises `BrokenPromiseError` or an error of the store."""

    name: str
    look: Callable[[Patient], "str | Concern"]
    fix: str
    needs: tuple[str, ...] = ()
    """Checks without which this one says nothing."""


@dataclass(frozen=True)
class Concern:
    """Something that works, and not well."""

    found: str


class BrokenPromiseError(StorageError):
    """The store answered, and not as a store has to."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"{self.found}. `coffey doctor` says what to do."


def _missing_directories(store: ObjectStore) -> list[Path]:
    if not isinstance(store, DirectoryStore):
        return []
    probes = Path(store.uri) / PROBES
    return [path for path in (probes, *probes.parents) if not path.exists()]


def _reach(patient: Patient) -> "str | Concern":
    try:
        patient.store.exists(patient.key("none"))
    except AccessDenied:
        return "it answers"  # and what it refuses, the checks that follow tell apart
    place = Path(patient.store.uri)
    if place not in patient.missing:
        return "it answers"
    if place.parent not in patient.missing:
        return "there is no such directory yet; the first job makes it"
    # A job makes all that is missing, of a path that was mistyped too.
    return Concern(f"there is no such directory, nor {place.parent}; the first job makes both")


def _write(patient: Patient) -> str:
    patient.store.put(patient.key("write"), b"written")
    return "an object was written"


def _read(patient: Patient) -> str:
    try:
        patient.store.get(patient.key("write"))
    except ObjectMissingError:
        return "reading is allowed"  # there is nothing, if writing was refused
    return "an object was read"


def _list(patient: Patient) -> str:
    return f"{len(patient.listed())} object(s) listed"


def _delete(patient: Patient) -> str:
    key = patient.key("delete")
    with suppress(CoffeyError):  # to delete what is not there is as good a question
        patient.store.put(key, b"deleted")
    patient.store.delete(key)
    patient.store.delete(key)
    if patient.store.exists(key):
        raise BrokenPromiseError("an object is there after it was deleted")
    return "an object was deleted, twice"


def _conditional(patient: Patient) -> str:
    key = patient.key("conditional")
    patient.store.put_if_absent(key, b"first")  # its answer may be lost, and the retry refused
    if patient.store.put_if_absent(key, b"second") or bytes(patient.store.get(key)) != b"first":
        raise BrokenPromiseError("a second write with If-None-Match: * replaced the first")
    return "a second conditional write was refused"


def _race(patient: Patient) -> str:
    barrier = Barrier(_NUM_RACERS)

    def write(racer: int) -> list[bool]:
        wins = []
        for number in range(_NUM_RACES):
            barrier.wait()
            wins.append(patient.store.put_if_absent(patient.key(f"race-{number}"), str(racer).encode()))
        return wins

    answers = _all_of(write, barrier)
    for number in range(_NUM_RACES):
        winners = [racer for racer, wins in enumerate(answers) if wins[number]]
        kept = bytes(patient.store.get(patient.key(f"race-{number}")))
        if len(winners) > 1 or (winners and kept != str(winners[0]).encode()):
            raise BrokenPromiseError(f"{len(winners)} of {_NUM_RACERS} writers of one key were told to be the first")
    return f"{_NUM_RACES} races of {_NUM_RACERS} writers had one winner each"


def _all_of(write: Callable[[int], list[bool]], barrier: Barrier) -> list[list[bool]]:
    def write_or_release(racer: int) -> list[bool]:
        try:
            return write(racer)
        except BaseException:
            barrier.abort()  # the others must not wait for one that will not come
            raise

    with ThreadPoolExecutor(_NUM_RACERS) as pool:
        futures = [pool.submit(write_or_release, racer) for racer in range(_NUM_RACERS)]
    # Of those that failed, first the one that did not fail because of another.
    futures.sort(key=lambda future: isinstance(future.exception(), BrokenBarrierError))
    return [future.result() for future in futures]


def _read_after_write(patient: Patient) -> str:
    key = patient.key("overwrite")
    for number in range(_NUM_REPETITIONS):
        patient.store.put(key, str(number).encode())
        if bytes(patient.store.get(key)) != str(number).encode():
            raise BrokenPromiseError("an object was read as it was before it was written over")
    return f"{_NUM_REPETITIONS} overwritten objects were read as they are"


def _list_after_write(patient: Patient) -> str:
    for number in range(_NUM_REPETITIONS):
        key = patient.key(f"list-{number}")
        patient.store.put(key, b"listed")
        if key not in patient.listed():
            raise BrokenPromiseError("a listing lacks an object that was just written")
        patient.store.delete(key)
        if key in patient.listed():
            raise BrokenPromiseError("a listing shows an object that was just deleted")
    return f"{_NUM_REPETITIONS} objects were listed when written, and not when deleted"


def _clock(patient: Patient) -> str | Concern:
    asked_s, told_s = patient.now_s(), store_time_s(patient.store)
    apart_s = skew_s(asked_s=asked_s, told_s=told_s, answered_s=patient.now_s())
    found = f"store and machine differ by {apart_s:.0f} s"
    return Concern(found) if apart_s > MOST_SKEW_S else found


def _throughput(patient: Patient) -> str | Concern:
    body, key = os.urandom(_PAYLOAD_BYTES), patient.key("payload")
    started_s = time.monotonic()
    patient.store.put(key, body)
    written_s = time.monotonic()
    is_same = patient.store.get(key) == body
    read_s = time.monotonic() - written_s
    if not is_same:
        raise BrokenPromiseError(f"{_PAYLOAD_BYTES:,} bytes came back changed")
    return speed(_PAYLOAD_BYTES / (written_s - started_s), _PAYLOAD_BYTES / max(read_s, 1e-9))


def speed(write_bytes_per_s: float, read_bytes_per_s: float) -> str | Concern:
    """Judge how fast one connection is."""
    found = f"one connection writes {write_bytes_per_s / 1e6:,.0f} MB/s and reads {read_bytes_per_s / 1e6:,.0f} MB/s"
    return Concern(found) if min(write_bytes_per_s, read_bytes_per_s) < _SLOW_BYTES_PER_S else found


def _parts(patient: Patient) -> str:
    return "not needed: Coffey writes every object by one request"


def _space(patient: Patient) -> str | Concern:
    if not isinstance(patient.store, DirectoryStore):
        return "not told by a bucket"
    return space(shutil.disk_usage(patient.store.uri).free)


def space(free_bytes: float) -> str | Concern:
    """Judge how much room a file system has."""
    found = f"{free_bytes / 1e9:,.1f} GB are free"
    if free_bytes < _NO_SPACE_BYTES:
        raise BrokenPromiseError(f"only {found}")
    return Concern(found) if free_bytes < _LITTLE_SPACE_BYTES else found


def _durable(patient: Patient) -> str:
    if not isinstance(patient.store, DirectoryStore):
        return "up to the server"
    started_s = time.monotonic()
    patient.store.put_if_absent(patient.key("linked"), b"synced")
    return f"a file was synced and hard-linked in {1000 * (time.monotonic() - started_s):.0f} ms"


_REPLACE_STORE = "Use AWS S3, Ceph's RADOS gateway, a current MinIO, or a directory on a file system with hard links."

CHECKS: Sequence[Check] = (
    Check("reach", _reach, "Correct the address, AWS_ENDPOINT_URL or the network, or create the bucket or directory."),
    Check(
        "write",
        _write,
        "Grant s3:PutObject, or the right to write in the directory; make room if full.",
        ("reach",),
    ),
    Check("read", _read, "Grant s3:GetObject, or the right to read in the directory.", ("reach",)),
    Check("list", _list, "Grant s3:ListBucket, or the right to read the directory.", ("reach",)),
    Check("delete", _delete, "Grant s3:DeleteObject, or the right to write in the directory.", ("reach", "read")),
    Check("conditional write", _conditional, _REPLACE_STORE, ("write", "read")),
    Check("racing writers", _race, _REPLACE_STORE, ("conditional write",)),
    Check("read after write", _read_after_write, "Do not put a cache in front of the store.", ("write", "read")),
    Check(
        "list after write",
        _list_after_write,
        "Do not put a cache in front of the store, or mount the directory without one (NFS: actimeo=0).",
        ("write", "list", "delete"),
    ),
    Check(
        "clocks",
        _clock,
        "Set the clock of this machine (NTP): S3 refuses requests that are 15 minutes off.",
        ("list after write",),
    ),
    Check("throughput", _throughput, "Bring the machine and the store closer together.", ("read after write",)),
    Check("multipart", _parts, ""),
    Check("free space", _space, "Free some, or move the store.", ("write",)),
    Check("hard links and fsync", _durable, _REPLACE_STORE, ("conditional write",)),
)
"""Everything that is tried, in this order."""
