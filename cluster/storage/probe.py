"""Asking a store, before hours of work depend on it, for the promises that Coffey builds on."""

import uuid

from cluster.storage.protocol import ObjectStore, UnconditionalStoreError, UnexpectedAnswerError

PROBES = "probes/"
"""Where probes are written, and removed by whoever wrote them."""

_FIRST = b"Coffey asks whether this store keeps the first of two conditional writes."
_SECOND = b"It does not."


def check_writable(store: ObjectStore) -> None:
    """Return if `store` can be written, read, listed and cleaned, and refuses to write a key a second time.

    Raises:
        StoreUnreachableError, StoreDeniedError, BucketMissingError, StoreFullError: as every use of the store would.
        UnconditionalStoreError: a second conditional write replaced the first.
    """
    key = _new_key()
    # Its answer may be lost and the retry refused: that the second writer is refused says all.
    store.put_if_absent(key, _FIRST)
    try:
        if store.put_if_absent(key, _SECOND) or store.get(key) != _FIRST:
            raise UnconditionalStoreError(store.uri, "a second write with If-None-Match: * replaced the first")
        if not any(stat.key == key for stat in store.list(PROBES)):
            raise UnexpectedAnswerError(store.uri, f"listing {PROBES}", f"{key} is missing, though it was just written")
    finally:
        store.delete(key)


def store_time_s(store: ObjectStore) -> float:
    """Return the seconds since the epoch by the store's own clock: the age of an object that is written for it."""
    key = _new_key()
    store.put(key, b"Coffey asks what time it is.")
    try:
        return next(stat.modified_s for stat in store.list(PROBES) if stat.key == key)
    except StopIteration:
        raise UnexpectedAnswerError(store.uri, f"listing {PROBES}", f"{key} is missing, though just written") from None
    finally:
        store.delete(key)


def _new_key() -> str:
    return f"{PROBES}{uuid.uuid4().hex}"
