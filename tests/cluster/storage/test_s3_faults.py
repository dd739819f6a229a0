"""A store behind a network that loses answers, breaks off and refuses, tried on real servers through a proxy."""

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import stamina

from cluster.errors import CoffeyError
from cluster.storage.open import open_store
from cluster.storage.protocol import (
    BucketMissingError,
    ObjectMissingError,
    StoreDeniedError,
    StoreFullError,
    StoreUnreachableError,
    UnconditionalStoreError,
    UnexpectedAnswerError,
)
from tests.fixtures.faulty_proxy import AnswerBrokenOff, AnswerLost, FaultyProxy, Refusal, RequestHeld
from tests.fixtures.s3_servers import S3Bucket

PUT_8_MIB = """
import sys
from cluster.storage.open import open_store

getattr(open_store(sys.argv[1]), sys.argv[2])("shard", bytes(8 << 20))
"""


@pytest.fixture
def proxy(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy between this process and the server of `s3_bucket`."""
    with FaultyProxy(s3_bucket.server.url).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def moto_proxy(moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The same before moto alone, for answers that do not come from the server."""
    with FaultyProxy(moto_bucket.server.url).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def test_a_lost_answer_does_not_let_two_writers_win(s3_bucket: S3Bucket, proxy: FaultyProxy) -> None:
    one, other = open_store(s3_bucket.uri), open_store(s3_bucket.uri)
    proxy.befall("PUT", AnswerLost())
    one_won = one.put_if_absent("commits/0", b"one")
    other_won = other.put_if_absent("commits/0", b"other")

    assert proxy.num_waiting == 0
    assert not (one_won and other_won)
    assert one.get("commits/0") == other.get("commits/0") == b"one"


def test_a_conditional_write_without_any_answer_is_unknown_and_not_refused(
    s3_bucket: S3Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_store(s3_bucket.uri)
    proxy.befall("PUT", AnswerLost())
    with pytest.raises(StoreUnreachableError):
        store.put_if_absent("commits/0", b"one")

    assert store.get("commits/0") == b"one"


def test_a_put_whose_answer_was_lost_is_repeated(s3_bucket: S3Bucket, proxy: FaultyProxy) -> None:
    store = open_store(s3_bucket.uri)
    proxy.befall("PUT", AnswerLost())
    store.put("a", b"x")

    assert proxy.num_waiting == 0
    assert store.get("a") == b"x"


def test_a_conflict_between_writers_is_settled_by_asking_again(s3_bucket: S3Bucket, proxy: FaultyProxy) -> None:
    store = open_store(s3_bucket.uri)
    proxy.befall("PUT", *[Refusal(409, "ConditionalRequestConflict")] * 3)
    with stamina.set_testing(True, attempts=10, cap=True):  # the same attempts, without the pauses between them
        assert store.put_if_absent("a", b"one")
        assert proxy.num_waiting == 0
        proxy.befall("PUT", Refusal(409, "ConditionalRequestConflict"))
        assert not store.put_if_absent("a", b"two")

    assert store.get("a") == b"one"


def test_a_conflict_that_does_not_end_is_no_verdict(moto_bucket: S3Bucket, moto_proxy: FaultyProxy) -> None:
    moto_proxy.befall("PUT", *[Refusal(409, "ConditionalRequestConflict")] * 10)
    with (
        stamina.set_testing(True, attempts=10, cap=True),
        pytest.raises(StoreUnreachableError, match="RequestConflict"),
    ):
        open_store(moto_bucket.uri).put_if_absent("a", b"one")

    assert moto_proxy.num_waiting == 0


def test_an_overloaded_server_is_asked_again(s3_bucket: S3Bucket, proxy: FaultyProxy) -> None:
    store = open_store(s3_bucket.uri)
    proxy.befall("PUT", Refusal(503, "SlowDown"))
    store.put("a", b"x")
    proxy.befall("GET", Refusal(500, "InternalError"))

    assert store.get("a") == b"x"
    assert proxy.num_waiting == 0


def test_a_body_that_broke_off_is_read_again(s3_bucket: S3Bucket, proxy: FaultyProxy) -> None:
    store = open_store(s3_bucket.uri)
    store.put("a", b"0123456789" * 100_000)
    proxy.befall("GET", AnswerBrokenOff(), AnswerBrokenOff())
    with stamina.set_testing(True, attempts=3, cap=True):  # the same attempts, without the pauses between them
        assert store.get("a") == b"0123456789" * 100_000

    assert proxy.num_waiting == 0


def test_a_body_that_always_breaks_off_is_an_error_and_never_a_shorter_body(
    s3_bucket: S3Bucket, proxy: FaultyProxy
) -> None:
    store = open_store(s3_bucket.uri)
    store.put("a", b"0123456789" * 100_000)
    proxy.befall("GET", *[AnswerBrokenOff()] * 9)
    with (
        stamina.set_testing(True, attempts=3, cap=True),
        pytest.raises(StoreUnreachableError, match="reading a failed"),
    ):
        store.get("a")


def test_an_answer_that_breaks_off_while_it_says_what_is_missing_is_understood(
    s3_bucket: S3Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store, nowhere = open_store(s3_bucket.uri), open_store(f"{s3_bucket.uri}-nowhere")
    proxy.befall("GET", *[AnswerBrokenOff()] * 4)

    with pytest.raises(ObjectMissingError):
        store.get("nobody")
    assert not store.exists("nobody")
    with pytest.raises(BucketMissingError):
        nowhere.get("nobody")
    with pytest.raises(BucketMissingError):
        nowhere.exists("nobody")
    assert proxy.num_waiting == 0


@pytest.mark.parametrize("write", ["put", "put_if_absent"])
def test_a_writer_killed_in_the_middle_leaves_nothing_visible(
    s3_bucket: S3Bucket, proxy: FaultyProxy, write: str
) -> None:
    held = RequestHeld()
    proxy.befall("PUT", held)
    writer = subprocess.Popen([sys.executable, "-c", PUT_8_MIB, s3_bucket.uri, write])
    assert held.is_half_sent.wait(60)
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    assert held.is_over.wait(60)
    store = open_store(s3_bucket.uri)

    assert list(store.list("")) == []
    assert not store.exists("shard")
    assert store.put_if_absent("shard", b"by another")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "ExpiredToken", StoreDeniedError),
        (400, "InvalidRequest", UnexpectedAnswerError),
        (401, "Unauthorized", StoreDeniedError),
        (403, "AccessDenied", StoreDeniedError),
        (403, "QuotaExceeded", StoreFullError),
        (404, "NoSuchBucket", BucketMissingError),
        (405, "MethodNotAllowed", UnexpectedAnswerError),
        (429, "TooManyRequests", StoreUnreachableError),
        (500, "InternalError", StoreUnreachableError),
        (501, "NotImplemented", UnconditionalStoreError),
        (503, "SlowDown", StoreUnreachableError),
        (507, "XMinioStorageFull", StoreFullError),
    ],
)
def test_a_refusal_keeps_its_meaning_and_its_words(
    moto_bucket: S3Bucket,
    moto_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    expected: type[CoffeyError],
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    moto_proxy.befall("PUT", Refusal(status, code))
    with pytest.raises(expected) as caught:
        open_store(moto_bucket.uri).put_if_absent("a", b"")

    assert moto_bucket.uri in str(caught.value)
    assert expected is BucketMissingError or f"{code} (HTTP {status}): as asked" in str(caught.value)
    assert type(pickle.loads(pickle.dumps(caught.value))) is expected
