import subprocess
import sys
from pathlib import Path

import pytest

from cluster.storage.open import StoreAddressError, open_store


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("/data/store", "/data/store"),
        ("file:///data/store", "/data/store"),
        ("file:///data/my%20store", "/data/my store"),
        ("FILE:///data/store", "/data/store"),
        ("store", "{cwd}/store"),
        ("./store", "{cwd}/store"),
        ("~/store", "{home}/store"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket/user=me@home", "s3://bucket/user=me@home"),
    ],
)
def test_an_address_leads_to_its_place(address: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert open_store(address).uri == uri.format(cwd=tmp_path, home=tmp_path / "home")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("gs://bucket/prefix", "gs:// is not supported"),
        ("https://bucket.s3.amazonaws.com/x", "https:// is not supported"),
        ("hdfs://node/x", "hdfs:// is not supported"),
        ("s3:/bucket/prefix", "two slashes"),
        ("s3:///prefix", "'' is no bucket name"),
        ("s3://a", "'a' is no bucket name"),
        ("s3://buc ket/x", "'buc ket' is no bucket name"),
        ("s3://bucket/../x", "'..' is no part of a prefix"),
        ("s3://bucket/a//b", "'' is no part of a prefix"),
        ("s3://bucket//a", "'' is no part of a prefix"),
        ("s3://bucket/a?region=x", "'a?region=x' is no part of a prefix"),
        ("file://server/share", "three slashes"),
        ("file:/data", "three slashes"),
        ("", "names no directory"),
        (" ", "names no directory"),
        ("a\0b", "names no directory"),
    ],
)
def test_an_address_that_cannot_be_opened_says_why_and_what_can(address: str, reason: str) -> None:
    with pytest.raises(StoreAddressError) as caught:
        open_store(address)

    assert repr(address) in str(caught.value)
    assert reason in str(caught.value)
    assert "`s3://bucket/prefix`" in str(caught.value)
    assert caught.value.exit_code == 2


def test_opening_creates_nothing(tmp_path: Path) -> None:
    open_store(str(tmp_path / "store"))

    assert list(tmp_path.iterdir()) == []


def test_users_of_a_directory_do_not_wait_for_boto3(tmp_path: Path) -> None:
    program = """
import sys
from cluster.storage.open import open_store
from cluster.storage.probe import check_writable

check_writable(open_store(sys.argv[1]))
print({"boto3", "botocore", "ray", "torch"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
