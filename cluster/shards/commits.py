"""The records by which label shards exist, and the seal that repeats them all."""

from typing import Annotated

from pydantic import FailFast, Field

from cluster.config import Config
from cluster.errors import DataError
from cluster.shards.schema import Column, Digest, Identity


class Commit(Config):
    """The record that makes one label shard exist."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    labelset: Identity
    number: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=1)]
    num_bytes: Annotated[int, Field(ge=1)]
    digest: Digest
    columns: Annotated[tuple[Column, ...], FailFast()]
    statistics: Annotated[dict[str, float], Field(max_length=64)] = {}


class Manifest(Config):
    """The seal: every commit of a complete set in one record."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    labelset: Identity
    commits: Annotated[tuple[Commit, ...], FailFast()]

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(commit.rows for commit in self.commits)


class ForeignLabelsError(DataError):
    """Labels that belong to another teacher, or another data set, lie where ours should."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return (
            f"{self.where}: these labels belong to {self.found}, expected {self.expected}. They were copied or moved "
            "there. Remove the directory and run the job again: the teacher labels anew."
        )
