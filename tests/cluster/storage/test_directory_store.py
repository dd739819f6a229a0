"""What only a directory has to promise: its files are seen by people, other programs and other processes."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import StoreDeniedError, UnexpectedAnswerError

NOBODY = 65534
NUM_PROCESSES = 6
NUM_ROUNDS = 30

WRITE_UNTIL_THE_KERNEL_KILLS = """
import resource, signal, sys
from pathlib import Path
from cluster.storage.directory import DirectoryStore

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
getattr(DirectoryStore(Path(sys.argv[1])), sys.argv[2])("shard", bytes(4 << 20))
"""

RACE = """
import sys
from pathlib import Path
from cluster.storage.directory import DirectoryStore

store, racer = DirectoryStore(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
for line in sys.stdin:
    print(int(store.put_if_absent(f"commits/{line.strip()}", racer.encode())), flush=True)
"""

FILL_A_SMALL_FILE_SYSTEM = """
mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "
import sys
from pathlib import Path
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import StoreFullError

store = DirectoryStore(Path(sys.argv[1]))
try:
    store.put('labels/shard', bytes(4 << 20))
except StoreFullError as error:
    print(error)
    print(list(store.list('')))
" "$1"
"""


@pytest.mark.parametrize("write", ["put", "put_if_absent"])
def test_a_writer_killed_in_the_middle_leaves_nothing_visible(tmp_path: Path, write: str) -> None:
    killed = subprocess.run([sys.executable, "-c", WRITE_UNTIL_THE_KERNEL_KILLS, str(tmp_path), write], check=False)
    store = DirectoryStore(tmp_path)

    assert killed.returncode == -signal.SIGXFSZ
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [1 << 20]  # it was killed while it wrote
    assert list(store.list("")) == []
    assert not store.exists("shard")
    assert store.put_if_absent("shard", b"by another")


def test_of_racing_processes_exactly_one_writes(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(racer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for racer in range(NUM_PROCESSES)
    ]
    store = DirectoryStore(tmp_path)
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for number in range(NUM_ROUNDS):
        for racer in racers:
            racer.stdin.write(f"{number}\n")
            racer.stdin.flush()
        wins = [int(racer.stdout.readline()) for racer in racers]

        assert sum(wins) == 1
        assert store.get(f"commits/{number}") == str(wins.index(1)).encode()
    for racer in racers:
        racer.communicate()


def test_writing_leaves_no_other_files(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a", b"1")
    store.put("a", b"2")
    store.put_if_absent("a", b"3")
    store.put_if_absent("b", b"4")

    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_opening_and_reading_create_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    store.exists("a")
    store.delete("a")
    list(store.list(""))

    assert os.listdir(tmp_path) == []


def test_files_of_other_programs_are_not_listed(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("labels/a", b"")
    for name in (".DS_Store", "a copy of b", "labels/.nfs0001", "labels/-"):
        (tmp_path / name).write_bytes(b"")
    os.mkfifo(tmp_path / "labels/fifo")
    (tmp_path / "labels/dangling").symlink_to(tmp_path / "nowhere")

    assert [stat.key for stat in store.list("")] == ["labels/a"]


def test_a_key_below_another_object_is_refused(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a", b"")
    for write in (store.put, store.put_if_absent):
        with pytest.raises(UnexpectedAnswerError, match="no file stands where"):
            write("a/b", b"")


def test_a_key_that_others_are_below_of_is_refused(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a/b", b"")
    with pytest.raises(UnexpectedAnswerError):
        store.put("a", b"")

    assert os.listdir(tmp_path) == ["a"]


def test_a_file_larger_than_the_system_allows_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(UnexpectedAnswerError, match="File too large"):
            store.put("a", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert os.listdir(tmp_path) == []


def test_a_full_file_system_is_an_error_that_says_so(tmp_path: Path) -> None:
    alone = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small file system (unshare --map-root-user --mount)")
    filled = subprocess.run(
        [*alone, "sh", "-c", FILL_A_SMALL_FILE_SYSTEM, "sh", tmp_path, sys.executable],
        capture_output=True,
        text=True,
        check=True,
    )
    message, listing = filled.stdout.splitlines()

    assert f"{tmp_path}: no space is left for writing labels/shard" in message
    assert listing == "[]"


@pytest.mark.parametrize("mode", [0o000, 0o111], ids=["closed", "enterable"])
def test_what_may_not_be_read_is_denied_and_not_taken_for_missing(readable_tmp_path: Path, mode: int) -> None:
    store = DirectoryStore(readable_tmp_path)
    store.put("labels/a", b"")
    (readable_tmp_path / "labels/a").chmod(0o000)
    (readable_tmp_path / "labels").chmod(mode)
    with unprivileged():
        with pytest.raises(StoreDeniedError):
            list(store.list(""))
        with pytest.raises(StoreDeniedError):
            store.get("labels/a")
        with pytest.raises(StoreDeniedError):
            store.delete("labels/a")
    (readable_tmp_path / "labels").chmod(0o755)


def test_a_directory_that_may_not_be_written_is_denied(readable_tmp_path: Path) -> None:
    store = DirectoryStore(readable_tmp_path)
    readable_tmp_path.chmod(0o555)
    with unprivileged():
        for write in (store.put, store.put_if_absent):
            with pytest.raises(StoreDeniedError, match=r"writing labels/a was refused: .*Permission denied.*"):
                write("labels/a", b"")


@pytest.fixture
def readable_tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A directory that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Give up root's right to read and write everything, if we have it."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
