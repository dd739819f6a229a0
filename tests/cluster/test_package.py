"""What travels with a job: the files of its directory, none that are private, rebuilt or too large."""

import asyncio
import os
import pickle
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.package import MAX_PACKAGE_BYTES, PackageTooLargeError, PackageUnreadableError, pack, publish
from cluster.storage.open import open_store
from tests.fixtures.s3_servers import S3Bucket


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("job.yaml", "my models.py", "data/rows.npz", "deep/er/é.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"this is {name}\n")
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def names_in(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        return set(opened.namelist())


def git(project: Path, *arguments: str) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    subprocess.run(["git", "-C", str(project), *arguments], check=True, capture_output=True)


def test_files_arrive_with_their_contents_and_folders(project: Path, out: Path, tmp_path: Path) -> None:
    package = pack(project, into=out)
    with zipfile.ZipFile(package.path) as archive:
        archive.extractall(tmp_path / "arrived")
    for path in (path for path in project.rglob("*") if path.is_file()):
        assert (tmp_path / "arrived" / path.relative_to(project)).read_bytes() == path.read_bytes()
    assert package.num_files == 4
    assert package.num_bytes == sum(path.stat().st_size for path in project.rglob("*") if path.is_file())


def test_private_and_rebuilt_files_stay_behind(project: Path, out: Path) -> None:
    for name in (
        ".git/config",
        ".venv/bin/python",
        "deep/__pycache__/a.pyc",
        "node_modules/x/y.js",
        ".env",
        ".aws/credentials",
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("hush")
    assert names_in(pack(project, into=out).path) == {"job.yaml", "my models.py", "data/rows.npz", "deep/er/é.txt"}


def test_excluded_directories_stay_behind_wherever_they_are(project: Path, out: Path) -> None:
    package = pack(project, into=out, excludes=[project / "data", project / "deep" / "er"])
    assert names_in(package.path) == {"job.yaml", "my models.py"}


def test_what_git_ignores_stays_behind_and_what_it_does_not_know_yet_travels(project: Path, out: Path) -> None:
    git(project, "init")
    (project / ".gitignore").write_text("data/\n*.txt\n")
    assert names_in(pack(project, into=out).path) == {".gitignore", "job.yaml", "my models.py"}


def test_a_directory_inside_a_repository_is_packed_alone(project: Path, out: Path) -> None:
    git(project, "init")
    assert names_in(pack(project / "deep", into=out).path) == {"er/é.txt"}


def test_a_file_that_git_knows_but_that_is_gone_is_no_error(project: Path, out: Path) -> None:
    git(project, "init")
    git(project, "add", "job.yaml")
    (project / "job.yaml").unlink()
    assert "job.yaml" not in names_in(pack(project, into=out).path)


def test_equal_files_give_equal_bytes_whenever_they_were_written(project: Path, out: Path, tmp_path: Path) -> None:
    first = pack(project, into=out).path.read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    for path in copy.rglob("*"):
        os.utime(path, (10**9, 10**9))
    assert pack(copy, into=out).path.read_bytes() == first


def test_a_script_stays_executable(project: Path, out: Path) -> None:
    (project / "run.sh").write_text("#!/bin/sh\n")
    (project / "run.sh").chmod(0o755)
    with zipfile.ZipFile(pack(project, into=out).path) as archive:
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o111
        assert not archive.getinfo("job.yaml").external_attr >> 16 & 0o111


def test_too_much_is_refused_with_the_largest_files_first(project: Path, out: Path) -> None:
    for name, num_bytes in (
        ("data/small.bin", 10_000),
        ("weights.bin", MAX_PACKAGE_BYTES),
        ("data/big.bin", 60 * 1024 * 1024),
    ):
        with (project / name).open("wb") as file:
            file.truncate(num_bytes)  # a hole: no byte of it is written, or read
    with pytest.raises(PackageTooLargeError) as error:
        pack(project, into=out)
    assert isinstance(error.value, SpecError)
    assert [name for name, _ in error.value.largest[:3]] == ["weights.bin", "data/big.bin", "data/small.bin"]
    assert "100.0 MiB  weights.bin" in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path, out: Path) -> None:
    with pytest.raises(PackageUnreadableError, match="no such directory"):
        pack(tmp_path / "none", into=out)


class TestPublished:
    """Archives in a store, as Ray's own code fetches and unpacks them on a node."""

    def test_a_node_finds_the_files_as_they_were(self, project: Path, tmp_path: Path) -> None:
        package, uri = publish(project, open_store(str(tmp_path / "a store")))
        assert uri.startswith("file:///")
        assert package.num_files == 4
        assert files_of(fetched(uri, tmp_path / "node")) == files_of(project)

    def test_a_directory_that_stands_alone_is_not_taken_off(self, project: Path, tmp_path: Path) -> None:
        shutil.copytree(project, tmp_path / "outer" / "inner")
        _, uri = publish(tmp_path / "outer", open_store(str(tmp_path / "store")))
        assert files_of(fetched(uri, tmp_path / "node")) == files_of(tmp_path / "outer")

    def test_a_node_fetches_from_the_bucket_that_its_environment_knows(
        self, project: Path, tmp_path: Path, moto_bucket: S3Bucket
    ) -> None:
        _, uri = publish(project, open_store(f"{moto_bucket.uri}/some/prefix"))
        assert uri.startswith(f"{moto_bucket.uri}/some/prefix/packages/")
        assert files_of(fetched(uri, tmp_path / "node")) == files_of(project)

    def test_the_same_files_are_stored_once_and_others_beside_them(self, project: Path, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "store"))
        first, again = publish(project, store)[1], publish(project, store)[1]
        (project / "job.yaml").write_text("changed\n")
        other = publish(project, store)[1]
        assert first == again != other
        assert len(list(store.list("packages/"))) == 2


def fetched(uri: str, node: Path) -> Path:
    """Return where Ray unpacks a remote working directory."""
    from ray._private.runtime_env.packaging import download_and_unpack_package

    node.mkdir()
    return Path(asyncio.run(download_and_unpack_package(uri, str(node))))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
