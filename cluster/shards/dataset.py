"""A data set in the store: numbered input shards and one record that names them all."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import FailFast, Field

from cluster.config import Config
from cluster.identity import digest_of
from cluster.shards.compression import Compression
from cluster.shards.encoding import decode_shard, encode_shard
from cluster.shards.records import BadRecordError, publish_record, read_record
from cluster.shards.schema import LABEL, NO_LABEL, Column, Digest, Identity, columns_of
from cluster.shards.verified import Fetch, ShardCorruptError, fetch_verified
from cluster.storage.protocol import ObjectStore


class ShardEntry(Config):
    """One input shard: how many rows, how many bytes, which bytes."""

    rows: Annotated[int, Field(ge=1)]
    num_bytes: Annotated[int, Field(ge=1)]
    digest: Digest


class DatasetRecord(Config):
    """`dataset.json`: written last, so a data set exists only when all of its shards do."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    identity: Identity
    columns: Annotated[tuple[Column, ...], FailFast(), Field(min_length=1)]
    classes: Annotated[tuple[str, ...], FailFast()]
    """Names of the classes, in the order of their indices."""
    labelled_rows: Annotated[int, Field(ge=0)]
    shards: Annotated[tuple[ShardEntry, ...], FailFast(), Field(min_length=1)]

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)


class Dataset:
    """Reads the input shards of one data set."""

    def __init__(self, store: ObjectStore, record: DatasetRecord, *, fetch: Fetch = fetch_verified) -> None:
        self.store, self.record, self._fetch = store, record, fetch

    @classmethod
    def open(cls, store: ObjectStore, identity: str, *, fetch: Fetch = fetch_verified) -> "Dataset":
        """Open the data set.

        Raises:
            ObjectMissingError: it is not there, or not complete.
            BadRecordError: its record is of another data set.
        """
        record = _checked(store, read_record(store, dataset_key(identity), DatasetRecord), identity)
        return cls(store, record, fetch=fetch)

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Return the columns of shard `number`, verified; `[rows, *shape]` each, read-only."""
        entry = self.record.shards[number]
        key = shard_key(self.record.identity, number)
        body = self._fetch(self.store, key, digest=entry.digest, num_bytes=entry.num_bytes)
        return decode_shard(body, self.record.columns, rows=entry.rows, where=f"{self.store.uri}/{key}")

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self.read(number) for number in range(len(self.record.shards)))


def write_dataset(
    store: ObjectStore,
    arrays: Mapping[str, np.ndarray],
    *,
    identity: str,
    classes: tuple[str, ...],
    shard_rows: int,
    compression: Compression,
) -> DatasetRecord:
    """Write `arrays` (each `[rows, *shape]`) as shards of `shard_rows` rows, in their order, and then the record.

    Raises:
        ShardCorruptError: an earlier attempt left a shard that holds something else.
        BadRecordError: there is a record, and it is of another data set.
    """
    rows = len(next(iter(arrays.values())))
    entries = []
    for number, start in enumerate(range(0, rows, shard_rows)):
        part = {name: array[start : start + shard_rows] for name, array in arrays.items()}
        entries.append(publish_shard(store, shard_key(identity, number), part, compression=compression))
    record = DatasetRecord(
        identity=identity,
        columns=columns_of(arrays),
        classes=classes,
        labelled_rows=int(np.count_nonzero(arrays[LABEL] != NO_LABEL)),
        shards=tuple(entries),
    )
    return publish_dataset(store, record)


def publish_dataset(store: ObjectStore, record: DatasetRecord) -> DatasetRecord:
    """Write the record of a data set whose shards are all there, and return the one that is there now.

    Raises:
        BadRecordError: there is a record, and it is of another data set.
    """
    return _checked(store, publish_record(store, dataset_key(record.identity), record), record.identity)


def publish_shard(
    store: ObjectStore, key: str, arrays: Mapping[str, np.ndarray], *, compression: Compression
) -> ShardEntry:
    """Write one shard unless it is there, and describe the one that is.

    Raises:
        ShardCorruptError: an earlier attempt left a shard that holds something else.
        ShardFormatError: what is there is no such shard.
    """
    rows = len(next(iter(arrays.values())))
    body: bytes | memoryview = encode_shard(arrays, compression=compression)
    if not store.put_if_absent(key, body) and (found := store.get(key)) != body:
        # An earlier attempt wrote it, and a record may name its bytes, which another version of Arrow or of a codec can
        # make differ from ours. So they stay, and it is they that we describe.
        body = _same_rows(found, arrays, where=f"{store.uri}/{key}")
        _check_read_again(store, key, body)
    return ShardEntry(rows=rows, num_bytes=len(body), digest=digest_of(body))


def find_shard(
    store: ObjectStore, key: str, columns: Sequence[Column], expected: Mapping[str, np.ndarray]
) -> ShardEntry:
    """Describe a shard that an earlier attempt left, of whose columns some are known.

    Raises:
        ObjectMissingError: there is none.
        ShardCorruptError: it holds other values in these columns.
        ShardFormatError: it is no shard of so many rows with these columns.
    """
    where, rows, body = f"{store.uri}/{key}", len(next(iter(expected.values()))), store.get(key)
    _check_values(decode_shard(body, columns, rows=rows, where=where), expected, where=where)
    _check_read_again(store, key, body)
    return ShardEntry(rows=rows, num_bytes=len(body), digest=digest_of(body))


def dataset_key(identity: str) -> str:
    """Return the key of the record."""
    return f"datasets/{identity}/dataset.json"


def shard_key(identity: str, number: int) -> str:
    """Return the key of an input shard."""
    return f"datasets/{identity}/{number:08d}.arrow"


def _same_rows(body: memoryview, arrays: Mapping[str, np.ndarray], *, where: str) -> memoryview:
    columns = columns_of(arrays)
    found = decode_shard(body, columns, rows=len(arrays[columns[0].name]), where=where)
    _check_values(found, arrays, where=where)
    return body


def _check_values(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], *, where: str) -> None:
    for name, array in expected.items():
        if found[name].tobytes() != array.tobytes():
            raise ShardCorruptError(where, f"other values in {name}", "those of the source")


def _check_read_again(store: ObjectStore, key: str, body: memoryview | bytes) -> None:
    """Read a shard once more: no digest vouches for it, and damaged on its way it would be described for ever."""
    if store.get(key) != body:
        raise ShardCorruptError(f"{store.uri}/{key}", "other bytes at a second reading", "the same")


def _checked(store: ObjectStore, record: DatasetRecord, identity: str) -> DatasetRecord:
    if record.identity != identity:
        where = f"{store.uri}/{dataset_key(identity)}"
        raise BadRecordError(where, f"it describes the data set {record.identity}, not {identity}")
    return record
