"""The checkup of a store: every promise broken once, found out by its check, and nothing left behind."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.errors import AccessDenied, StorageError
from cluster.findings import Finding
from cluster.storage.checks import CHECKS, BrokenPromiseError, Concern, space, speed
from cluster.storage.checkup import check_up
from cluster.storage.directory import DirectoryStore
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectMissingError, ObjectStat, ObjectStore, StoreDeniedError, StoreFullError
from tests.fixtures.faulty_proxy import FaultyProxy, HeaderDropped
from tests.fixtures.s3_servers import S3Bucket

NAMES = [check.name for check in CHECKS]


def by_name(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    assert [finding.check for finding in findings] == NAMES
    return {finding.check: finding for finding in findings}


def verdicts(findings: tuple[Finding, ...], verdict: str) -> set[str]:
    return {finding.check for finding in findings if finding.verdict == verdict}


def test_a_good_store_passes_every_check_and_is_as_it_was(store: ObjectStore) -> None:
    store.put("here-before", b"a store that is in use")

    findings = check_up(store)

    # How fast a machine and how full its disk is, is its own affair.
    assert verdicts(findings, "OK") >= set(NAMES) - {"throughput", "free space"}
    assert {finding.exit_code for finding in findings} == {0}
    assert [stat.key for stat in store.list("")] == ["here-before"]


def test_every_check_that_may_fail_has_a_remedy() -> None:
    assert [check.name for check in CHECKS if not check.fix] == ["multipart"]
    assert {need for check in CHECKS for need in check.needs} <= set(NAMES)


class Denying(DirectoryStore):
    """Refuses one operation."""

    def __init__(self, root: Path, operation: str) -> None:
        super().__init__(root)

        def refuse(*arguments: object) -> object:
            raise StoreDeniedError(self.uri, f"{operation} {arguments[0]}", "AccessDenied (HTTP 403)")

        setattr(self, operation, refuse)


@pytest.mark.parametrize(
    ("operation", "failing", "right"),
    [
        ("put", {"write"}, "s3:PutObject"),
        ("get", {"read"}, "s3:GetObject"),
        ("list", {"list"}, "s3:ListBucket"),
        ("delete", {"delete"}, "s3:DeleteObject"),
    ],
)
def test_each_right_that_is_missing_is_told_from_the_others(
    tmp_path: Path, operation: str, failing: set[str], right: str
) -> None:
    findings = check_up(Denying(tmp_path, operation))

    assert verdicts(findings, "FAIL") == failing
    (name,) = failing
    assert right in by_name(findings)[name].fix
    assert by_name(findings)[name].found == "refused: AccessDenied (HTTP 403)"
    assert max(finding.exit_code for finding in findings) == AccessDenied.exit_code
    assert all("not tried" in finding.found for finding in findings if finding.check in waiting_for(name))


def waiting_for(name: str) -> set[str]:
    return {check.name for check in CHECKS if name in check.needs}


class Faulty(DirectoryStore):
    """The base of stores that break one promise."""


class Unconditional(Faulty):
    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        self.put(key, body)
        return True


class TwoWinners(Faulty):
    """Keeps one writer's object and tells two that it is theirs, if they come at the same time."""

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        return super().put_if_absent(key, body) or "race" in key


class ReadsOld(Faulty):
    """Reads every other time through a cache."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._cache: dict[str, bytes] = {}

    def get(self, key: str) -> memoryview:
        return memoryview(self._cache.setdefault(key, bytes(super().get(key))))


class ListsLate(Faulty):
    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return (stat for stat in super().list(prefix) if not stat.key.endswith("list-7"))


class ListsTheDead(Faulty):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._dead: list[ObjectStat] = []

    def delete(self, key: str) -> None:
        self._dead += [stat for stat in super().list("probes/") if stat.key == key]
        super().delete(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return itertools.chain(super().list(prefix), self._dead)


class Undeletable(Faulty):
    def delete(self, key: str) -> None:
        pass


class Forgetful(Faulty):
    def get(self, key: str) -> memoryview:
        body = super().get(key)
        return body[:-1] if len(body) > 1000 else body


class Full(Faulty):
    def put(self, key: str, body: bytes | memoryview) -> None:
        raise StoreFullError(self.uri, f"writing {key}", "no space left on device")


@pytest.mark.parametrize(
    ("faulty", "failing", "found"),
    [
        (Unconditional, "conditional write", "replaced the first"),
        (TwoWinners, "racing writers", "were told to be the first"),
        (ReadsOld, "read after write", "as it was before"),
        (ListsLate, "list after write", "lacks an object that was just written"),
        (ListsTheDead, "list after write", "shows an object that was just deleted"),
        (Undeletable, "delete", "is there after it was deleted"),
        (Forgetful, "throughput", "came back changed"),
        (Full, "write", "no space is left"),
    ],
)
def test_each_broken_promise_is_found_by_its_own_check(
    tmp_path: Path, faulty: Callable[[Path], ObjectStore], failing: str, found: str
) -> None:
    findings = check_up(faulty(tmp_path))

    assert verdicts(findings, "FAIL") == {failing}
    assert found in by_name(findings)[failing].found
    assert by_name(findings)[failing].fix
    assert max(finding.exit_code for finding in findings) == StorageError.exit_code


def test_a_server_that_ignores_the_condition_is_found_out(
    moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyProxy(moto_bucket.server.url).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.befall("PUT", *[HeaderDropped("If-None-Match")] * 200)
        findings = check_up(open_store(moto_bucket.uri))

    assert "FAIL" in {by_name(findings)[name].verdict for name in ("conditional write", "racing writers")}
    assert moto_bucket.server.admin.list_objects_v2(Bucket=moto_bucket.name)["KeyCount"] == 0


def test_the_bucket_of_another_user_refuses_every_right(ceph_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    ceph_bucket.server.use(monkeypatch, ceph_bucket.server.stranger)

    findings = check_up(open_store(ceph_bucket.uri))

    assert by_name(findings)["reach"].verdict == "OK"
    assert verdicts(findings, "FAIL") >= {"write", "list"}
    assert {finding.exit_code for finding in findings} == {0, AccessDenied.exit_code}


@pytest.mark.parametrize("uri", ["s3://no-such-bucket", "http"])
def test_a_store_that_is_not_there_fails_once_and_nothing_else_is_tried(
    moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    if uri == "http":
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        uri = moto_bucket.uri

    findings = check_up(open_store(uri))

    assert verdicts(findings, "FAIL") == {"reach"}
    assert by_name(findings)["reach"].exit_code == StorageError.exit_code


@pytest.mark.parametrize(("behind_s", "verdict"), [(-7200, "WARN"), (-30, "OK"), (30, "OK"), (7200, "WARN")])
def test_a_clock_that_is_off_is_a_concern(tmp_path: Path, behind_s: float, verdict: str) -> None:
    findings = check_up(DirectoryStore(tmp_path), now_s=lambda: time.time() + behind_s)

    clocks = by_name(findings)["clocks"]
    assert clocks.verdict == verdict
    assert int(clocks.found.split()[-2]) == pytest.approx(abs(behind_s), abs=5)
    assert ("NTP" in clocks.fix) == (verdict == "WARN")


def test_a_slow_line_and_a_full_disk_are_concerns_and_no_room_is_a_failure() -> None:
    assert isinstance(speed(9e6, 1e9), Concern)
    assert isinstance(speed(1e9, 9e6), Concern)
    assert speed(2e8, 3e8) == "one connection writes 200 MB/s and reads 300 MB/s"
    assert space(1e12) == "1,000.0 GB are free"
    assert isinstance(space(5e9), Concern)
    with pytest.raises(BrokenPromiseError, match=r"only 0\.5 GB are free"):
        space(5e8)


def test_a_store_that_dies_during_the_race_is_a_finding_and_no_hang(tmp_path: Path) -> None:
    class Dying(Faulty):
        def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
            if key.endswith("race-3") and body == b"5":
                raise ObjectMissingError(self.uri, key)
            return super().put_if_absent(key, body)

    findings = check_up(Dying(tmp_path))

    assert "race-3" in by_name(findings)["racing writers"].found
    assert verdicts(findings, "FAIL") == {"racing writers"}
