"""A store under a prefix of an S3 bucket: AWS, or any server that honours `If-None-Match` on a PUT.

Address, region and credentials come from the standard AWS environment (AWS_ENDPOINT_URL, AWS_PROFILE,
AWS_ACCESS_KEY_ID, an instance role …) of the process that uses the store, and never travel with it.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import stamina
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    IncompleteReadError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
    SSOError,
    TokenRetrievalError,
)

from cluster.errors import CoffeyError
from cluster.storage.protocol import (
    BucketMissingError,
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

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_MAX_ATTEMPTS = 5  # an overloaded server answers 503 for seconds; the three attempts of botocore's default span two
_MAX_CONNECTIONS = 32

_MISSING = 404
_UNTOLD = str(_MISSING)
"""The code that botocore makes up for a 404 whose body does not say what is missing: it was broken off, or is empty."""
_CONFLICT = 409
_TAKEN = 412
_EMPTY_RANGE = 416
_PASSING_STATUSES = {408, _CONFLICT, 429, 500, 502, 503, 504}
_DENIED_STATUSES = {401, 403}
_DENIED_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}  # some servers say so with a 400
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
_FULL_STATUS = 507
_CREDENTIAL_ERRORS = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

_connecting = threading.Lock()


class ForeignObject(NamedTuple):
    """An object that others wrote, by its whole name in the bucket."""

    name: str
    num_bytes: int
    etag: str
    """The server's word for these bytes: other bytes, another word."""


@dataclass(frozen=True)
class S3Store:
    """Objects below a prefix of a bucket. Connects when first used; any number of threads may use it."""

    bucket: str
    prefix: str = ""
    """Names joined by `/`, with none at the ends; empty for the whole bucket."""

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self._below}".rstrip("/")

    def get(self, key: str) -> memoryview:
        """Read the whole object; an answer that breaks off is asked for again."""
        at = self._at(key)
        with self._translated(f"reading {key}", key):
            return memoryview(_read(at))

    def put(self, key: str, body: bytes | memoryview) -> None:
        """Replace the object by one PUT, which S3 makes visible whole or not at all."""
        at = self._at(key)
        with self._translated(f"writing {key}", key):
            _client().put_object(**at, Body=_sendable(body))

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        """Write by one PUT with `If-None-Match: *`: in several parts, some servers ignore the condition."""
        at, sendable = self._at(key), _sendable(body)
        with self._translated(f"writing {key}", key):
            try:
                _put_if_absent(at, sendable)
            except ClientError as error:
                if _status(error) == _TAKEN:
                    return False
                if _code(error) == "NotImplemented":
                    raise UnconditionalStoreError(self.uri, _reason(error)) from error
                raise
        return True

    def exists(self, key: str) -> bool:
        """Ask for the first byte: unlike that to a HEAD, the answer tells a missing object from a missing bucket."""
        at = self._at(key)
        try:
            with self._translated(f"looking for {key}", key):
                _read_first_byte(at)
        except ObjectMissingError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """List page by page, in the order of S3, which is that of the keys."""
        below = self._below + check_prefix(prefix)
        with self._translated(f"listing {prefix or 'everything'}", prefix):
            for page in _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._below)
                    if is_key(key):
                        yield ObjectStat(key, item["Size"], item["LastModified"].timestamp())

    def list_foreign(self, beginning: str) -> Iterator[ForeignObject]:
        """Yield every object whose name begins so, below the prefix, also those whose names are no keys; sorted."""
        below = self._below + beginning
        with self._translated(f"listing {beginning}", beginning):
            for page in _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below):
                for item in page.get("Contents", ()):
                    yield ForeignObject(item["Key"], item["Size"], item["ETag"].strip('"'))

    def delete(self, key: str) -> None:
        """Remove the object; a server that finds none may say so."""
        at = self._at(key)
        with suppress(ObjectMissingError), self._translated(f"deleting {key}", key):
            _client().delete_object(**at)

    @property
    def _below(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self._below + check_key(key)}

    @contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._meaning(error, action, key) from error
        except _CREDENTIAL_ERRORS as error:
            raise StoreDeniedError(self.uri, action, str(error)) from error
        except (BotoCoreError, _BrokenOffError, _BadAddressError) as error:
            raise StoreUnreachableError(self.uri, action, str(error)) from error

    def _meaning(self, error: ClientError, action: str, key: str) -> CoffeyError:
        code, status, reason = _code(error), _status(error), _reason(error)
        if code == "NoSuchBucket" or (code == _UNTOLD and not self._has_bucket()):
            return BucketMissingError(self.uri, self.bucket, _client().meta.endpoint_url)
        if code in {"NoSuchKey", _UNTOLD}:
            return ObjectMissingError(self.uri, key)
        if code in _FULL_CODES or status == _FULL_STATUS:
            return StoreFullError(self.uri, action, reason)
        if code in _DENIED_CODES or status in _DENIED_STATUSES:
            return StoreDeniedError(self.uri, action, reason)
        if status in _PASSING_STATUSES:
            return StoreUnreachableError(self.uri, action, reason)
        return UnexpectedAnswerError(self.uri, action, reason)

    def _has_bucket(self) -> bool:
        """Ask whether the bucket is there; if that cannot be told it is."""
        try:
            _client().head_bucket(Bucket=self.bucket)
        except ClientError as error:
            return _status(error) != _MISSING
        except BotoCoreError:
            return True
        return True


class _BrokenOffError(Exception):
    """A body ended before its announced length."""


class _BadAddressError(Exception):
    """The endpoint is no URL."""


@stamina.retry(on=_BrokenOffError, attempts=3)
def _read(at: dict[str, Any]) -> bytes:
    body = _client().get_object(**at)["Body"]
    try:
        return body.read()
    except (IncompleteReadError, ResponseStreamingError, ReadTimeoutError) as error:
        raise _BrokenOffError(str(error)) from error


def _is_conflict(error: Exception) -> bool:
    return isinstance(error, ClientError) and _status(error) == _CONFLICT


# A conflict says that another writer was at work on this key, not that it has won: only asking again tells.
@stamina.retry(on=_is_conflict, attempts=10, wait_max=2, wait_jitter=0.5)
def _put_if_absent(at: dict[str, Any], body: bytes) -> None:
    _client().put_object(**at, Body=body, IfNoneMatch="*")


def _read_first_byte(at: dict[str, Any]) -> None:
    try:
        _client().get_object(**at, Range="bytes=0-0")["Body"].read()
    except ClientError as error:
        if _status(error) != _EMPTY_RANGE:  # an empty object has no first byte
            raise


def _client() -> "S3Client":
    """Return the client of this process for its present AWS environment: stores come and go, connections stay."""
    environment = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    with _connecting:
        return _connect(os.getpid(), environment)


@lru_cache(maxsize=8)
def _connect(_pid: int, _environment: frozenset[tuple[str, str]]) -> "S3Client":
    session = boto3.session.Session()  # not the default one, which anybody's code may have configured
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        max_pool_connections=_MAX_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", _MAX_ATTEMPTS))},
        # Shards carry digests of their own, and servers other than AWS's stumble over the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = session.region_name or os.environ.get("AWS_REGION", "us-east-1")
    try:
        return session.client("s3", region_name=region, config=config)
    except ValueError as error:
        raise _BadAddressError(str(error)) from error


def _sendable(body: bytes | memoryview) -> bytes:
    return body if isinstance(body, bytes) else body.tobytes()


def _code(error: ClientError) -> str:
    return error.response["Error"].get("Code", "")


def _status(error: ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def _reason(error: ClientError) -> str:
    message = error.response["Error"].get("Message", "")
    return f"{_code(error)} (HTTP {_status(error)}){': ' if message else ''}{message}"
