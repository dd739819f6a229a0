"""What all shards of a label set have in common, such as a teacher's head: stored once beside them, before the first.

The first writer decides, as with everything in the store; the others take what is there. One file of one row, named by
its digest, and a record of it.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from cluster.config import Config
from cluster.errors import DataError
from cluster.identity import digest_of
from cluster.shards.codecs.codec import Arrays
from cluster.shards.codecs.open import codec_of
from cluster.shards.commits import ForeignLabelsError
from cluster.shards.encoding import decode_shard, encode_shard
from cluster.shards.labelset import LabelSet
from cluster.shards.records import publish_record, read_record
from cluster.shards.schema import Column, Digest, Identity, columns_of
from cluster.shards.verified import fetch_verified
from cluster.storage.protocol import ObjectMissingError


class SharedRecord(Config):
    """`shared.json`: names the file of the shared columns."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    labelset: Identity
    num_bytes: Annotated[int, Field(ge=1)]
    digest: Digest


class SharedLostError(DataError):
    """Shards are committed, and what they were packed with is gone."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    def __str__(self) -> str:
        return (
            f"{self.where} is missing, and shards are committed that cannot be decoded without it; expected it beside "
            "them. Put it back from a copy, or run `coffey labels repair`, which takes the shards back so that the "
            "next run labels them anew."
        )


def publish_shared(labels: LabelSet, arrays: Arrays) -> dict[str, np.ndarray]:
    """Write the shared columns, `[1, *shape]` each, if nobody has; return those that count."""
    assert columns_of(arrays) == _columns(labels), "a codec shares what it says"  # noqa: S101
    body = encode_shard(arrays, compression=labels.record.compression)
    digest = digest_of(body)
    labels.store.put(_data_key(labels, digest), body)
    shared = SharedRecord(labelset=labels.identity, num_bytes=len(body), digest=digest)
    publish_record(labels.store, _record_key(labels), shared)
    return read_shared(labels)


def has_shared(labels: LabelSet) -> bool:
    """Return whether somebody has written them."""
    return labels.store.exists(_record_key(labels))


def read_shared(labels: LabelSet) -> dict[str, np.ndarray]:
    """Return the shared columns, verified, `[1, *shape]` each; none if the codec has none.

    Raises:
        ObjectMissingError: they are not written yet, and so no shard is.
        SharedLostError: they are gone, and there are shards.
        ForeignLabelsError: those that are there are of other labels.
    """
    columns = _columns(labels)
    if not columns:
        return {}
    try:
        shared = read_record(labels.store, _record_key(labels), SharedRecord)
        body = _body(labels, shared)
    except ObjectMissingError as error:
        if labels.committed_numbers():
            raise SharedLostError(f"{labels.store.uri}/{error.key}") from error
        raise
    return decode_shard(body, columns, rows=1, where=f"{labels.store.uri}/{_data_key(labels, shared.digest)}")


def withdraw_shared(labels: LabelSet) -> tuple[int, ...]:
    """Take back all shards, and then what they were packed with; return their numbers. The next run labels them."""
    numbers = tuple(sorted(labels.committed_numbers() | {commit.number for commit in labels.sealed_commits()}))
    labels.withdraw(numbers)
    labels.store.delete(_record_key(labels))
    return numbers


def _body(labels: LabelSet, shared: SharedRecord) -> memoryview:
    if shared.labelset != labels.identity:
        where = f"{labels.store.uri}/{_record_key(labels)}"
        raise ForeignLabelsError(where, shared.labelset, labels.identity)
    key = _data_key(labels, shared.digest)
    return fetch_verified(labels.store, key, digest=shared.digest, num_bytes=shared.num_bytes)


def _columns(labels: LabelSet) -> tuple[Column, ...]:
    return codec_of(labels.record.codec, labels.record.num_classes).shared_columns()


def _record_key(labels: LabelSet) -> str:
    return f"{labels.record.prefix}/shared.json"


def _data_key(labels: LabelSet, digest: str) -> str:
    return f"{labels.record.prefix}/shared/{digest}.arrow"
