from pathlib import Path

import pytest

from cluster.storage.open import open_store
from cluster.storage.probe import check_writable
from cluster.storage.protocol import (
    BucketMissingError,
    StoreDeniedError,
    StoreUnreachableError,
    UnconditionalStoreError,
    UnexpectedAnswerError,
)
from tests.fixtures.faulty_proxy import AnswerLost, FaultyProxy, HeaderDropped
from tests.fixtures.s3_servers import S3Bucket


def test_a_store_that_ignores_the_condition_is_found_out_before_the_run(
    moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyProxy(moto_bucket.server.url).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = open_store(moto_bucket.uri)
        proxy.befall("PUT", HeaderDropped("If-None-Match"), HeaderDropped("If-None-Match"))
        with pytest.raises(UnconditionalStoreError) as caught:
            check_writable(store)

        assert proxy.num_waiting == 0
        assert list(store.list("")) == []
    assert "cannot keep two writers apart" in str(caught.value)
    assert "Use AWS S3, Ceph" in str(caught.value)


def test_a_lost_answer_does_not_condemn_a_store(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyProxy(s3_bucket.server.url).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.befall("PUT", AnswerLost(), AnswerLost())
        check_writable(open_store(s3_bucket.uri))

        assert proxy.num_waiting == 0


def test_a_missing_bucket_fails_the_probe(s3_bucket: S3Bucket) -> None:
    with pytest.raises(BucketMissingError):
        check_writable(open_store("s3://no-such-bucket"))


def test_the_bucket_of_another_user_fails_the_probe(ceph_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    ceph_bucket.server.use(monkeypatch, ceph_bucket.server.stranger)
    with pytest.raises(StoreDeniedError):
        check_writable(open_store(ceph_bucket.uri))


def test_a_bucket_that_may_only_be_read_fails_the_probe(ceph_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    ceph_bucket.server.admin.put_bucket_acl(Bucket=ceph_bucket.name, ACL="public-read")
    ceph_bucket.server.use(monkeypatch, ceph_bucket.server.stranger)
    store = open_store(ceph_bucket.uri)

    assert list(store.list("")) == []
    with pytest.raises(StoreDeniedError, match="writing probes/"):
        check_writable(store)


def test_an_unreachable_server_fails_the_probe(moto_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnreachableError):
        check_writable(open_store(moto_bucket.uri))


def test_a_file_in_the_place_of_the_directory_fails_the_probe(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(UnexpectedAnswerError, match="writing probes/"):
        check_writable(open_store(str(tmp_path / "store")))
