"""From an address to a store."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from cluster.errors import SpecError, StorageError
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_PREFIX_PART = re.compile(r"[A-Za-z0-9!_.*'()=@,+-]+")


class StoreAddressError(SpecError):
    """The address of a store is not one that Coffey can open."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return (
            f"store {self.uri!r}: {self.reason}. Expected a directory (`./store`, `/data/store`, `file:///data/store`) "
            "or a place in a bucket (`s3://bucket/prefix`)."
        )


class StoreMissingError(StorageError):
    """There is no such directory, so nothing was ever stored there."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri}: there is no such directory; expected a store that a run has written. Check the path."


def open_store(uri: str) -> ObjectStore:
    """Return the store at `uri`: `s3://bucket/prefix`, a path, or `file:///path`. Creates and contacts nothing.

    Raises:
        StoreAddressError: the address has another scheme, or names no place.
    """
    scheme = _SCHEME.match(uri)
    if not scheme:
        return _open_directory(uri, os.path.expanduser(uri))
    match scheme[1].lower(), uri[scheme.end() :]:
        case "s3", rest if rest.startswith("/"):
            return _open_bucket(uri, rest[1:])
        case "s3", _:
            raise StoreAddressError(uri, "an S3 address has two slashes before the bucket")
        case "file", rest if rest.startswith("//"):
            return _open_directory(uri, unquote(rest[1:]))
        case "file", _:
            raise StoreAddressError(uri, "a file address has three slashes and an absolute path")
        case other, _:
            raise StoreAddressError(uri, f"{other}:// is not supported")


def open_existing(uri: str) -> ObjectStore:
    """Return the store at `uri` for what makes sense only where something was stored; creates nothing.

    Raises:
        StoreAddressError: the address has another scheme, or names no place.
        StoreMissingError: it is a directory that does not exist.
    """
    store = open_store(uri)
    if isinstance(store, DirectoryStore) and not Path(store.uri).is_dir():
        raise StoreMissingError(store.uri)
    return store


def _open_directory(uri: str, path: str) -> ObjectStore:
    if not path.strip() or "\0" in path:
        raise StoreAddressError(uri, "it names no directory")
    return DirectoryStore(Path(path))


def _open_bucket(uri: str, rest: str) -> ObjectStore:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise StoreAddressError(uri, f"{bucket!r} is no bucket name")
    prefix = prefix.rstrip("/")
    for part in prefix.split("/") if prefix else ():
        if part in {"", ".", ".."} or not _PREFIX_PART.fullmatch(part):
            raise StoreAddressError(uri, f"{part!r} is no part of a prefix")
    from cluster.storage.s3 import S3Store  # a tenth of a second, which a store in a directory need not pay

    return S3Store(bucket, prefix)
