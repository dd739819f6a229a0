"""Bytes that are checked before anyone parses them."""

from cluster.errors import DataError
from cluster.identity import digest_of
from cluster.storage.protocol import ObjectStore


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


def fetch_verified(store: ObjectStore, key: str, *, digest: str, num_bytes: int) -> memoryview:
    """Return the bytes of `key` after comparing their length and their blake3 digest.

    Raises:
        ObjectMissingError: there is no such object.
        ShardCorruptError: the bytes are not those that were written.
    """
    body = store.get(key)
    where = f"{store.uri}/{key}"
    if len(body) != num_bytes:
        raise ShardCorruptError(where, f"{len(body)} bytes", f"{num_bytes} bytes")
    if (found := digest_of(body)) != digest:
        raise ShardCorruptError(where, f"blake3 {found}", f"blake3 {digest}")
    return body
