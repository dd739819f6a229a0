"""Asking a store, before hours of work depend on it, for the promises that Coffey builds on."""

import uuid

from cluster.storage.protocol import ObjectStore, UnconditionalStoreError, UnexpectedAnswerError

_FIRST = b"Coffey asks whether this store keeps the first of two conditional writes."
_SECOND = b"It does not."


def check_writable(store: ObjectStore) -> None:
    """Return if `store` can be written, read, listed and cleaned, and refuses to write a key a second time.

    Raises:
        StoreUnreachableError, StoreDeniedError, BucketMissingError, StoreFullError: as every use of the store would.
        UnconditionalStoreError: a second conditional write replaced the first.
    """
    key = f"probes/{uuid.uuid4().hex}"
    # Its answer may be lost and the retry refused: that the second writer is refused says all.
    store.put_if_absent(key, _FIRST)
    try:
        if store.put_if_absent(key, _SECOND) or store.get(key) != _FIRST:
            raise UnconditionalStoreError(store.uri, "a second write with If-None-Match: * replaced the first")
        if not any(stat.key == key for stat in store.list("probes/")):
            raise UnexpectedAnswerError(store.uri, "listing probes/", f"{key} is missing, though it was just written")
    finally:
        store.delete(key)
