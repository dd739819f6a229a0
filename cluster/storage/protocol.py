"""The one thing the rest of Coffey knows about storage: named bytes, written whole, some of them at most once.

Keys are relative, `/`-separated, and made of names that `check_key` accepts; a key is never taken from a record without
that check.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from cluster.errors import AccessDenied, StorageError

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
_KEY = re.compile(rf"{_NAME}(/{_NAME})*")
_MAX_KEY_LENGTH = 512  # S3 takes 1,024 bytes, and the store's own prefix is part of them


@dataclass(frozen=True)
class ObjectStat:
    """What a listing says of one object."""

    key: str
    num_bytes: int
    modified_s: float
    """Seconds since the epoch, by the store's own clock."""


@runtime_checkable
class ObjectStore(Protocol):
    """A directory or a bucket prefix. Every implementation passes the same contract suite.

    Objects appear whole or not at all, and reading after a write sees it. No key continues another one: next to `a`
    there is no `a/b`. Every method raises `StoreUnreachableError` when the store does not answer within its deadline,
    `StoreDeniedError` when it refuses the credentials and `BucketMissingError` when there is no such store.
    """

    @property
    def uri(self) -> str:
        """The address that `open_store` turns back into this store."""

    def get(self, key: str) -> memoryview:
        """Return the bytes of `key`; raises `ObjectMissingError`. A directory maps the file instead of copying it."""

    def put(self, key: str, body: bytes | memoryview) -> None:
        """Write `key`, over whatever is there. Repeating a put of the same bytes is harmless."""

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        """Write `key` unless it exists; of any number of racing writers exactly one writes.

        Returns whether the object is known to be ours. False means that an object was there when we asked, which after
        a lost response may be our own: read it, and do not conclude anything from the answer alone.
        """

    def exists(self, key: str) -> bool:
        """Return whether `key` can be read now."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield the objects whose keys start with `prefix`, sorted by key. `prefix` is empty or ends with `/`.

        Files and objects that someone else put there, under names that are no keys, are passed over.
        """

    def delete(self, key: str) -> None:
        """Remove `key`; removing what does not exist is no error."""


class FileStamp(NamedTuple):
    """One state of one file. A write to the file changes it, and so does another file in its place."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int
    """Time of the last change to contents or metadata, by the file system's clock; nobody can set it back."""


class ObjectMissingError(StorageError):
    """An object that a record or a caller names is not in the store."""

    def __init__(self, uri: str, key: str) -> None:
        super().__init__(uri, key)
        self.uri, self.key = uri, key

    def __str__(self) -> str:
        return (
            f"{self.uri}: there is no object {self.key}. If it was deleted by hand, run the job again: what is missing "
            "is computed again."
        )


class StoreUnreachableError(StorageError):
    """The store gave no answer, or only errors, until the deadline."""

    def __init__(self, uri: str, action: str, reason: str) -> None:
        super().__init__(uri, action, reason)
        self.uri, self.action, self.reason = uri, action, reason

    def __str__(self) -> str:
        return (
            f"{self.uri}: {self.action} failed until the deadline: {self.reason}. Check the address, the network and, "
            "for S3, AWS_ENDPOINT_URL, then run the same command again: it continues."
        )


class StoreDeniedError(AccessDenied):
    """The store answered, and refused."""

    def __init__(self, uri: str, action: str, reason: str) -> None:
        super().__init__(uri, action, reason)
        self.uri, self.action, self.reason = uri, action, reason

    def __str__(self) -> str:
        return (
            f"{self.uri}: {self.action} was refused: {self.reason}. Give this user or these credentials the right to "
            "read, write, list and delete there, or use others (for S3: AWS_PROFILE, AWS_ACCESS_KEY_ID), "
            "then run the same command again: it continues."
        )


class BucketMissingError(StorageError):
    """The server answered that it has no such bucket."""

    def __init__(self, uri: str, bucket: str, server: str) -> None:
        super().__init__(uri, bucket, server)
        self.uri, self.bucket, self.server = uri, bucket, server

    def __str__(self) -> str:
        return (
            f"{self.uri}: there is no bucket {self.bucket} at {self.server}. Create it "
            f"(`aws s3 mb s3://{self.bucket}`), or correct its name or AWS_ENDPOINT_URL, "
            "then run the same command again."
        )


class StoreFullError(StorageError):
    """The file system or the bucket, or our quota on it, has no room left."""

    def __init__(self, uri: str, action: str, reason: str) -> None:
        super().__init__(uri, action, reason)
        self.uri, self.action, self.reason = uri, action, reason

    def __str__(self) -> str:
        return (
            f"{self.uri}: no space is left for {self.action}: {self.reason}. Free some, raise the quota or move the "
            "store, then run the same command again: it continues."
        )


class UnexpectedAnswerError(StorageError):
    """The store answered with something that the request does not explain: often another service, or another region."""

    def __init__(self, uri: str, action: str, reason: str) -> None:
        super().__init__(uri, action, reason)
        self.uri, self.action, self.reason = uri, action, reason

    def __str__(self) -> str:
        return (
            f"{self.uri}: {self.action} got an answer that Coffey cannot act on: {self.reason}. For S3, check that "
            "AWS_ENDPOINT_URL is the address of an S3 server and AWS_DEFAULT_REGION the region of the bucket; for a "
            "directory, that no file stands where a directory should be."
        )


class UnconditionalStoreError(StorageError):
    """The store cannot write an object on the condition that it does not exist."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return (
            f"{self.uri}: the store cannot keep two writers apart: {self.reason}. Coffey commits every shard by a "
            "write that succeeds only once; without it a retry or a second job could replace rows that others have "
            "already read. Use AWS S3, Ceph's RADOS gateway, a current MinIO, or a directory on a file system with "
            "hard links."
        )


class BadKeyError(StorageError):
    """A key that could leave the store, or that not every store can hold."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"{self.key[:_MAX_KEY_LENGTH]!r} is no key: expected at most {_MAX_KEY_LENGTH} characters, names of "
            "letters, digits, '_', '-' and '.' joined by '/', none longer than 200 or starting with '.' or '-'."
        )


def is_key(key: str) -> bool:
    """Return whether `key` may name an object in every store."""
    return len(key) <= _MAX_KEY_LENGTH and _KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """Return `key` if it is one; raises `BadKeyError`."""
    if not is_key(key):
        raise BadKeyError(key)
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it is empty or a key followed by `/`; raises `BadKeyError`."""
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise BadKeyError(prefix)
    return prefix
