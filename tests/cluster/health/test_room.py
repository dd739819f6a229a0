"""Room: each kind of it is judged at its own limit, and looked at where it is."""

import os
import shutil
from pathlib import Path

import pytest

from cluster.health.room import (
    Folder,
    check_open_files,
    check_shared_memory,
    check_temporary_folder,
    check_working_directory,
    free_shared_memory_bytes,
    look_into,
    temporary_folder,
)
from cluster.session import OBJECT_STORE_BYTES


@pytest.mark.parametrize(
    ("folder", "verdict", "found"),
    [
        (Folder("/tmp", "", 50e9, 100e9), "OK", "/tmp: 50.0 GB are free"),
        (Folder("/tmp", "", 2e9, 10e9), "WARN", "2.0 GB are free"),
        (Folder("/tmp", "", 0.5e9, 10e9), "FAIL", "only /tmp: 0.5 GB are free"),
        (Folder("/tmp", "", 40e9, 1000e9), "WARN", "96% of the disk is used"),
        (Folder("/tmp", "it cannot be written"), "FAIL", "/tmp: it cannot be written"),
    ],
)
def test_the_room_for_temporary_files_is_judged(folder: Folder, verdict: str, found: str) -> None:
    finding = check_temporary_folder(folder)
    assert (finding.verdict, found in finding.found) == (verdict, True)
    assert ("RAY_TMPDIR" in finding.fix) == (verdict != "OK")


def test_a_path_that_leaves_no_room_for_rays_sockets_fails() -> None:
    # What Ray adds: /ray/session_<date>_<time>_<microseconds>_<process>/sockets/plasma_store, 68 bytes at most; a
    # socket's path has 107.
    fits = Folder("/" + 38 * "t", "", 50e9, 100e9)
    assert check_temporary_folder(fits).verdict == "OK"
    assert check_temporary_folder(Folder(f"{fits.path}/", "", 50e9, 100e9)).verdict == "OK"
    finding = check_temporary_folder(Folder(f"{fits.path}é", "", 50e9, 100e9))
    assert (finding.verdict, "2 bytes longer" in finding.found, "shorter path" in finding.fix) == ("FAIL", True, True)


def test_a_working_directory_without_room_is_a_concern() -> None:
    assert check_working_directory(Folder("/home", "", 50e9, 100e9)).verdict == "OK"
    for folder in (Folder("/home", "", 0.5e9, 100e9), Folder("/home", "it cannot be written")):
        finding = check_working_directory(folder)
        assert (finding.verdict, finding.exit_code) == ("WARN", 0)


def test_shared_memory_without_room_for_rays_objects_is_a_concern_and_none_a_failure(tmp_path: Path) -> None:
    assert check_shared_memory(OBJECT_STORE_BYTES).verdict == "OK"
    small = check_shared_memory(64 * 1024 * 1024)  # what docker gives
    assert (small.verdict, "67 MB are free" in small.found, "--shm-size" in small.fix) == ("WARN", True, True)
    assert free_shared_memory_bytes(tmp_path / "none") is None
    assert check_shared_memory(None).verdict == "FAIL"


@pytest.mark.parametrize(("limit", "verdict"), [(1024, "WARN"), (4095, "WARN"), (4096, "OK")])
def test_few_open_files_are_a_concern(limit: int, verdict: str) -> None:
    finding = check_open_files(limit)
    assert (finding.verdict, "ulimit" in finding.fix) == (verdict, verdict == "WARN")


def test_a_directory_is_looked_at_as_it_is(tmp_path: Path) -> None:
    there = look_into(str(tmp_path))
    assert (there.fault, there.total_bytes) == ("", shutil.disk_usage(tmp_path).total)
    (tmp_path / "file").touch()
    assert "no such directory" in look_into(str(tmp_path / "file")).fault
    assert "no such directory" in look_into(str(tmp_path / "none")).fault


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_of_others_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert look_into(str(tmp_path)).fault == "it cannot be written"


def test_temporary_files_are_where_ray_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_system_temp_dir

    for variables in ({}, {"TMPDIR": "/a"}, {"TMPDIR": "/a", "RAY_TMPDIR": "/b"}):
        for name in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert temporary_folder() == get_default_system_temp_dir()
