"""A store that rides out an outage: who has hours of work behind it waits some minutes before it gives up.

For work that runs for long and can wait: replicas, workers, the driver of a run. A command that somebody looks at uses
the store as it is, which answers or fails within minutes.
"""

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from cluster.errors import EnvironmentFailure
from cluster.storage.directory import DirectoryStore
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStat, ObjectStore, StoreUnreachableError

OUTAGE_S = 900.0
"""Longest outage that is waited out, unless COFFEY_STORE_OUTAGE_S says otherwise."""

_VARIABLE = "COFFEY_STORE_OUTAGE_S"
_LONGEST_WAIT_S = 15.0
_PROMPT_S = 1.0

_log = logging.getLogger("coffey.storage")
AnswerT = TypeVar("AnswerT")


class OutageLengthError(EnvironmentFailure):
    """COFFEY_STORE_OUTAGE_S is no number of seconds."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"{_VARIABLE}={self.found!r}: expected a whole number of seconds, such as 900, or 0 to wait for nothing."


def open_patiently(uri: str) -> ObjectStore:
    """Return the store at `uri` as `patient` makes it."""
    return patient(open_store(uri))


def patient(store: ObjectStore) -> ObjectStore:
    """Return `store` such that it rides out outages; a directory as it is, for file systems wait by themselves.

    Raises:
        OutageLengthError: COFFEY_STORE_OUTAGE_S is no number of seconds.
    """
    return store if isinstance(store, DirectoryStore) else PatientStore(store, outage_s=longest_outage_s())


def longest_outage_s() -> float:
    """Return how long whoever can wait waits for a store; raises `OutageLengthError`."""
    given = os.environ.get(_VARIABLE, "").strip()
    if given and not given.isdecimal():
        raise OutageLengthError(given)
    return float(given) if given else OUTAGE_S


class PatientStore:
    """Asks another store again until it answers, or has not answered for `outage_s`. Any number of threads may use it.

    What a caller wants to write stays in its hands meanwhile, so memory is bounded by what callers hold.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        outage_s: float,
        clock_s: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._outage_s, self._clock_s, self._wait = store, outage_s, clock_s, wait
        self._asked_s = dict[object, float]()
        """When each operation began that is going on."""

    @property
    def uri(self) -> str:
        """That of the store itself."""
        return self._store.uri

    @property
    def is_waiting(self) -> bool:
        """Whether some thread has asked for longer than a store that works takes, be it within a single attempt.

        Not from the first moment, or a thread that asks now and then would speak for another one that hangs. Not for
        ever either: what outlasts two outages hangs itself, as with a server that sends a byte a minute.
        """
        now_s = self._clock_s()
        return any(_PROMPT_S <= now_s - asked_s <= 2 * self._outage_s for asked_s in tuple(self._asked_s.values()))

    def get(self, key: str) -> memoryview:
        """Read the whole object."""
        return self._insist(lambda: self._store.get(key))

    def put(self, key: str, body: bytes | memoryview) -> None:
        """Replace the object; repeating it is harmless."""
        self._insist(lambda: self._store.put(key, body))

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        """Write unless it exists; an attempt whose answer was lost may be what exists."""
        return self._insist(lambda: self._store.put_if_absent(key, body))

    def exists(self, key: str) -> bool:
        """Return whether it can be read."""
        return self._insist(lambda: self._store.exists(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """List, and go on where an answer failed to come."""
        listing = _Listing(self._store, prefix)
        while (found := self._insist(listing.step)) is not None:
            yield found

    def delete(self, key: str) -> None:
        """Remove it; repeating that is harmless."""
        self._insist(lambda: self._store.delete(key))

    def _insist(self, ask: Callable[[], AnswerT]) -> AnswerT:
        patience, asked = _Patience(self._outage_s, self._clock_s, self._wait), object()
        self._asked_s[asked] = self._clock_s()
        try:
            while True:
                try:
                    return ask()
                except StoreUnreachableError as error:
                    patience.wait_after(error)
        finally:
            del self._asked_s[asked]


class _Listing:
    """A listing that may be broken off, and then goes on behind what it found last."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix, self._last = store, prefix, ""
        self._left: Iterator[ObjectStat] | None = None

    def step(self) -> ObjectStat | None:
        """Return what comes next, or None at the end; after a `StoreUnreachableError` it may be asked again."""
        if self._left is None:
            self._left = (found for found in self._store.list(self._prefix) if found.key > self._last)
        try:
            found = next(self._left, None)
        except StoreUnreachableError:
            self._left = None
            raise
        self._last = self._last if found is None else found.key
        return found


class _Patience:
    """The waits of one operation."""

    def __init__(self, outage_s: float, clock_s: Callable[[], float], wait: Callable[[float], None]) -> None:
        self._outage_s, self._clock_s, self._wait = outage_s, clock_s, wait
        self._failures, self._since_s = 0, 0.0

    def wait_after(self, error: StoreUnreachableError) -> None:
        """Wait before the next attempt; raises `error` if the outage has lasted too long."""
        if self._failures == 0:
            self._since_s = self._clock_s()
        left_s = self._since_s + self._outage_s - self._clock_s()
        if left_s <= 0:
            raise error
        if self._failures == 0:
            _log.warning("%s: %s: %s; asking again for %.0f s", error.uri, error.action, error.reason, left_s)
        # Not all at the same moment: whoever waited would bring down again what has just come back.
        delay_s = min(_LONGEST_WAIT_S, 2.0**self._failures) * random.uniform(0.5, 1.0)
        self._failures += 1
        self._wait(min(delay_s, left_s))
