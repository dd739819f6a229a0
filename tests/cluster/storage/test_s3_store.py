"""What S3 adds to the contract: users, buckets, addresses, and objects that are not ours."""

import pickle
import socket
from collections.abc import Callable

import pytest

from cluster.errors import CoffeyError
from cluster.storage.open import open_store
from cluster.storage.protocol import BucketMissingError, ObjectStore, StoreDeniedError, StoreUnreachableError
from tests.fixtures.s3_servers import Credentials, S3Bucket, S3Server

USES: dict[str, Callable[[ObjectStore], object]] = {
    "reading a": lambda store: store.get("a"),
    "writing a": lambda store: store.put("a", b""),
    "writing b": lambda store: store.put_if_absent("b", b""),
    "looking for a": lambda store: store.exists("a"),
    "listing everything": lambda store: list(store.list("")),
    "deleting a": lambda store: store.delete("a"),
}


def test_a_missing_bucket_is_named_with_its_server_by_every_method(s3_bucket: S3Bucket) -> None:
    for message in messages_of_every_use("s3://no-such-bucket/x", BucketMissingError):
        assert f"s3://no-such-bucket/x: there is no bucket no-such-bucket at {s3_bucket.server.url}" in message


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        (lambda server: server.stranger, "AccessDenied"),
        (lambda server: Credentials("NOSUCHKEY", "nosuchsecret"), "InvalidAccessKeyId"),
        (lambda server: Credentials(server.owner.access_key, "nosuchsecret"), "SignatureDoesNotMatch"),
    ],
    ids=["another user", "unknown user", "wrong secret"],
)
def test_credentials_without_rights_are_denied_by_every_method(
    ceph_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, user: Callable[[S3Server], Credentials], reason: str
) -> None:
    credentials = user(ceph_bucket.server)
    ceph_bucket.server.use(monkeypatch, credentials)
    for action, message in zip(USES, messages_of_every_use(ceph_bucket.uri, StoreDeniedError), strict=True):
        assert f"{ceph_bucket.uri}: {action} was refused: {reason} (HTTP 403)" in message
        assert "AWS_PROFILE" in message
        assert credentials.secret_key not in message


def test_missing_credentials_are_denied_by_every_method(moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for message in messages_of_every_use(moto_bucket.uri, StoreDeniedError):
        assert "Unable to locate credentials" in message


def test_an_unreachable_server_is_named_with_the_next_step_by_every_method(
    moto_endpoint: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_endpoint.use(monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        messages = messages_of_every_use("s3://bucket/prefix", StoreUnreachableError)

    for action, message in zip(USES, messages, strict=True):
        assert f"s3://bucket/prefix: {action} failed until the deadline" in message
        assert address in message
        assert "AWS_ENDPOINT_URL, then run the same command again" in message


def messages_of_every_use(uri: str, expected: type[CoffeyError]) -> list[str]:
    """Return the texts of the errors, each an `expected`, that the methods of the store raise, in the order of USES."""
    store = open_store(uri)
    messages = []
    for use in USES.values():
        with pytest.raises(expected) as caught:
            use(store)
        messages.append(str(caught.value))
    return messages


def test_a_profile_that_is_not_configured_is_denied(moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nosuchprofile")
    with pytest.raises(StoreDeniedError, match="nosuchprofile"):
        open_store(moto_bucket.uri).exists("a")


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "not a url", "http://"])
def test_an_address_that_is_no_url_is_reported(
    moto_endpoint: S3Server, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    moto_endpoint.use(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(StoreUnreachableError, match="Invalid endpoint"):
        open_store("s3://bucket").exists("a")


def test_a_server_needs_no_host_name_for_every_bucket(ceph_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", ceph_bucket.server.url.replace("127.0.0.1", "localhost"))
    store = open_store(ceph_bucket.uri)
    store.put("a", b"x")

    assert store.get("a") == b"x"


def test_neighbouring_prefixes_do_not_see_each_other(s3_bucket: S3Bucket) -> None:
    run, run_2 = open_store(f"{s3_bucket.uri}/run"), open_store(f"{s3_bucket.uri}/run-2/")
    run.put("a", b"1")
    run_2.put("a", b"2")
    run_2.put("b", b"")

    assert [stat.key for stat in run.list("")] == ["a"]
    assert run.get("a") == b"1"
    assert not run.exists("b")


def test_objects_of_other_programs_are_not_listed(s3_bucket: S3Bucket) -> None:
    store = open_store(f"{s3_bucket.uri}/run")
    store.put("labels/a", b"")
    for key in ("run/", "run/labels/", "run/labels/a copy of b", "run/../x", "elsewhere"):
        s3_bucket.server.admin.put_object(Bucket=s3_bucket.name, Key=key)

    assert [stat.key for stat in store.list("")] == ["labels/a"]


def test_objects_lie_where_the_address_says(s3_bucket: S3Bucket) -> None:
    open_store(f"{s3_bucket.uri}/some/prefix").put("labels/a", b"x")
    answer = s3_bucket.server.admin.get_object(Bucket=s3_bucket.name, Key="some/prefix/labels/a")

    assert answer["Body"].read() == b"x"


def test_no_credential_travels_with_a_store(s3_bucket: S3Bucket) -> None:
    store = open_store(s3_bucket.uri)
    store.put("a", b"")
    sent = pickle.dumps(store)

    assert s3_bucket.server.owner.access_key.encode() not in sent
    assert s3_bucket.server.owner.secret_key.encode() not in sent
    assert s3_bucket.server.owner.secret_key not in repr(store)
