"""JSON records of the store: read once, validated, refused when they are not what their key says.

Nothing names a record's bytes, so each ends with a digest of its own: a flipped bit in the name of a class or in a
statistic would leave a record that is valid and wrong.
"""

import json
import re
from typing import TypeVar

from pydantic import ValidationError

from cluster.config import Config
from cluster.errors import DataError, excerpt
from cluster.identity import canonical_json, digest_of
from cluster.storage.protocol import ObjectStore

_MAX_RECORD_BYTES = 64 * 1024 * 1024
_MAX_VALUES = 4_000_000  # ten for each of 400,000 shards; parsed, an empty list of three bytes takes a hundred
_DIGEST = re.compile(rb',"blake3":"([0-9a-f]{64})"}')
_DIGEST_LENGTH = 77

RecordT = TypeVar("RecordT", bound=Config)


class BadRecordError(DataError):
    """A record in the store cannot be read as what it should be."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.reason}. Expected a record of this version of Coffey. Remove the directory it stands "
            "in and run the job again, or point the job to another store."
        )


def read_record(store: ObjectStore, key: str, model: type[RecordT]) -> RecordT:
    """Return the record at `key`.

    Raises:
        ObjectMissingError: there is none.
        BadRecordError: it is not a `model`, or not the one that was written.
    """
    body = store.get(key)
    where = f"{store.uri}/{key}"
    if len(body) > _MAX_RECORD_BYTES:
        raise BadRecordError(where, f"{len(body)} bytes are more than a record may have ({_MAX_RECORD_BYTES})")
    try:
        text = _checked(bytes(body), where)
        if (most := 1 + sum(map(text.count, (b",", b"[", b"{")))) > _MAX_VALUES:
            raise BadRecordError(where, f"it has up to {most} values, and a record may have {_MAX_VALUES}")
        record = model.model_validate_json(text)
        json.loads(text, object_pairs_hook=_check_keys)  # after that, which has bounded its depth
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise BadRecordError(where, excerpt(f"{place}: {first['msg']}")) from error
    except _DoubledKeyError as error:
        raise BadRecordError(where, excerpt(f"{error} stands there twice")) from error
    return record


def publish_record(store: ObjectStore, key: str, record: RecordT) -> RecordT:
    """Write `record` unless one is there, and return the one that is there now: ours, or that of whoever was first.

    Both describe the same result, because the key holds the identity of everything that determines it.
    """
    if store.put_if_absent(key, encode_record(record)):
        return record
    return read_record(store, key, type(record))


def overwrite_record(store: ObjectStore, key: str, record: Config) -> None:
    """Write `record` over whatever is there: for a repair alone."""
    store.put(key, encode_record(record))


def encode_record(record: Config) -> bytes:
    """Return the canonical JSON of `record` with one more field at its end, `blake3`: the digest of that JSON."""
    text = canonical_json(record)
    return text[:-1] + f',"blake3":"{digest_of(text)}"}}'.encode()


class _DoubledKeyError(Exception):
    """An object names a key twice: its readers would not agree on what it says."""


def _check_keys(pairs: list[tuple[str, object]]) -> None:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise _DoubledKeyError(next(key for key in keys if keys.count(key) > 1))


def _checked(body: bytes, where: str) -> bytes:
    """Return the JSON without its digest. One that has none was written by hand, or is no record and refused next."""
    digest = _DIGEST.fullmatch(body, max(0, len(body) - _DIGEST_LENGTH))
    if digest is None:
        return body
    text = body[:-_DIGEST_LENGTH] + b"}"
    if digest_of(text) != digest[1].decode():
        raise BadRecordError(where, "its bytes are not those that were written")
    return text
