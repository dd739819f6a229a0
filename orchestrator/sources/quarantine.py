"""Rows that are left out, with the reason: named in the store beside the data set of the training rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.storage.protocol import ObjectStore
from orchestrator.sources.errors import TooManyBadRowsError

_NUM_NAMED = 5


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read or stored."""

    part: str
    partition: int
    row: int
    """Within the partition, from 0."""
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def check_bad(bad: Sequence[BadRow], *, rows: int, allowed: float) -> None:
    """Raise `TooManyBadRowsError` if of all `rows` more than a share of `allowed` are bad."""
    if len(bad) > allowed * rows:
        raise TooManyBadRowsError(len(bad), rows, allowed, tuple(map(str, bad[:_NUM_NAMED])))


def quarantine_key(dataset: str) -> str:
    """Return the key of the list of rows that were left out."""
    return f"datasets/{dataset}/quarantine.jsonl"


def publish_quarantine(store: ObjectStore, dataset: str, bad: Sequence[BadRow]) -> None:
    """Write one line of JSON for each row that is left out."""
    lines = (json.dumps(vars(row), sort_keys=True, ensure_ascii=False) for row in bad)
    store.put(quarantine_key(dataset), "".join(f"{line}\n" for line in lines).encode(errors="replace"))


def describe_quarantine(store: ObjectStore, dataset: str) -> str:
    """Return how many rows were left out, as the end of a sentence; empty if none were."""
    key = quarantine_key(dataset)
    count = bytes(store.get(key)).count(b"\n") if store.exists(key) else 0
    return f"; {count:,} left out" if count else ""
