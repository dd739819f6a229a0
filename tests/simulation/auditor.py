"""What must hold for a store of labels after every single write, checked on the bytes, without the code under test."""

import json
import re

import blake3
import numpy as np

from cluster.shards.commits import Commit, Manifest
from tests.simulation.teacher import NUM_SHARDS, ROWS, outputs

_RECORD = re.compile(r".*\.json")
_INPUT = re.compile(r"datasets/[^/]+/\d+\.arrow")
_DATA = re.compile(r"(.*)/data/([0-9a-f]{64})\.arrow")
_COMMIT = re.compile(r"(.*)/commits/(\d{8})\.json")
_MANIFEST = re.compile(r"(.*)/manifest\.json")


class Violation(AssertionError):
    """The store, or what somebody was told about it, is wrong."""


class Auditor:
    """Watches every change of `objects` and everything that actors are told."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects

    def landed(self, key: str, before: bytes | None) -> None:
        """Check the change of one key."""
        after = self._objects.get(key)
        if after is None:
            self._check_deleted(key)
        elif before is not None and after != before and (_RECORD.fullmatch(key) or _INPUT.fullmatch(key)):
            raise Violation(f"{key} was replaced")
        elif match := _DATA.fullmatch(key):
            _expect(_digest(after) == match[2], f"{key} holds other bytes than its name says")
        elif match := _COMMIT.fullmatch(key):
            self._check_commit(match[1], int(match[2]), json.loads(after))
        elif match := _MANIFEST.fullmatch(key):
            self._check_manifest(match[1], json.loads(after))
        elif key.endswith("/dataset.json"):
            self._check_dataset(key.removesuffix("/dataset.json"), json.loads(after))

    def acknowledged(self, commit: Commit) -> None:
        """Check a commit that somebody was told of: it is the one in the store, and so every writer hears the same."""
        found = [key for key in self._objects if (match := _COMMIT.fullmatch(key)) and int(match[2]) == commit.number]
        _expect(len(found) == 1, f"shard {commit.number} was acknowledged and is not committed")
        stored = json.loads(self._objects[found[0]])
        told = (commit.digest, commit.rows, commit.statistics)
        _expect(
            told == (stored["digest"], stored["rows"], stored["statistics"]), f"{found[0]}: {told} was acknowledged"
        )

    def sealed(self, manifest: Manifest) -> None:
        """Check a seal that somebody was told of."""
        _expect(len(manifest.commits) == NUM_SHARDS, f"a seal of {len(manifest.commits)} shards was acknowledged")
        for commit in manifest.commits:
            self.acknowledged(commit)

    def read(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Check rows that somebody read: they are what the writer that won has computed."""
        (record,) = (self._objects[key] for key in self._objects if key.endswith(f"/commits/{number:08d}.json"))
        attempt = int(json.loads(record)["statistics"]["attempt"])
        expected = outputs(number, attempt)["logits"]
        _expect(np.array_equal(arrays["logits"], expected), f"shard {number}: other rows than attempt {attempt} wrote")

    def committed(self) -> set[int]:
        """Return the numbers of all shards that are committed."""
        return {int(match[2]) for key in self._objects if (match := _COMMIT.fullmatch(key))}

    def check_complete(self) -> None:
        """Check that every row is there exactly once and sealed."""
        _expect(self.committed() == set(range(NUM_SHARDS)), f"only {self.committed()} are committed")
        _expect(any(map(_MANIFEST.fullmatch, self._objects)), "the set is not sealed")

    def check_clean(self) -> None:
        """Check that no data is left that no commit names."""
        commits = (body for key, body in self._objects.items() if _COMMIT.fullmatch(key))
        named = {json.loads(body)["digest"] for body in commits}
        left = {match[2] for key in self._objects if (match := _DATA.fullmatch(key))} - named
        _expect(not left, f"{left} outlived a collection")

    def _check_deleted(self, key: str) -> None:
        _expect(not _RECORD.fullmatch(key) and not _INPUT.fullmatch(key), f"{key} was deleted")
        if match := _DATA.fullmatch(key):
            for other, body in self._objects.items():
                named = _COMMIT.fullmatch(other) and json.loads(body)["digest"] == match[2]
                _expect(not named, f"{key} was deleted, and {other} names it")

    def _check_commit(self, prefix: str, number: int, commit: dict[str, object]) -> None:
        _expect((commit["number"], commit["rows"]) == (number, ROWS), f"commit {number} says {commit}")
        self._check_named(f"{prefix}/data/{commit['digest']}.arrow", commit)

    def _check_manifest(self, prefix: str, manifest: dict[str, list[dict[str, object]]]) -> None:
        keys = [f"{prefix}/commits/{number:08d}.json" for number in range(NUM_SHARDS)]
        missing = [key for key in keys if key not in self._objects]
        _expect(not missing, f"sealed without {missing}")
        expected = [json.loads(self._objects[key]) for key in keys]
        fields = manifest["commits"][0].keys()
        _expect(
            manifest["commits"] == [{field: commit[field] for field in fields} for commit in expected],
            "the seal says other than the commits",
        )

    def _check_dataset(self, prefix: str, record: dict[str, list[dict[str, object]]]) -> None:
        for number, shard in enumerate(record["shards"]):
            self._check_named(f"{prefix}/{number:08d}.arrow", shard)

    def _check_named(self, key: str, record: dict[str, object]) -> None:
        body = self._objects.get(key)
        _expect(body is not None, f"{key} was named before it was there")
        _expect(
            (len(body), _digest(body)) == (record["num_bytes"], record["digest"]), f"{key} is not what its record says"
        )


def _digest(body: bytes) -> str:
    return blake3.blake3(body).hexdigest()


def _expect(is_true: bool | object, what: str) -> None:
    if not is_true:
        raise Violation(what)
