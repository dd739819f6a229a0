"""The disk of a store fills up while a job labels; room is made, and the same command goes on."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.drivers import Bench, watched_job
from tests.simulation.processes import drivers

DISK_BYTES = 8 * 1024 * 1024
LEFT_BYTES = 640 * 1024
"""What the ballast leaves: room for the rows, and not for all of what is said of them."""


class NoMountError(Exception):
    """This user may not mount a small disk, so there is none to fill."""


@dataclass(frozen=True)
class FullDisk:
    """What a run on a full disk said, and what came of the next one."""

    exit_code: int
    message: str
    names_path: bool
    says_what_is_free: bool
    shards_wrong: int
    """After room was made and the same command given again."""

    @property
    def broken(self) -> int:
        """Promises that were broken."""
        return (self.exit_code != 4) + (not self.names_path) + (not self.says_what_is_free) + self.shards_wrong


def fill_disk(folder: Path, address: str) -> FullDisk:
    """Run a job on a disk of a few megabytes that ballast fills.

    Raises:
        NoMountError: this user may not mount one.
    """
    with _small_disk(folder / "disk") as disk, drivers(folder) as start:
        spec = watched_job(folder, address, epochs=2, slowness=0.0, store=disk / "store")
        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, DISK_BYTES - LEFT_BYTES)
        code, said = start(spec).end()
        ballast.unlink()
        start(spec).finish()
        message = str(said.get("error", {}).get("message", json.dumps(said)[:200]))
        return FullDisk(
            exit_code=code,
            message=message,
            names_path=str(disk) in message,
            says_what_is_free=re.search(r"[\d,]+ bytes are free", message) is not None,
            shards_wrong=Bench(spec).count_wrong_shards(),
        )


@contextmanager
def _small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "coffey", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise NoMountError(mounted.stderr.strip())
    try:
        yield path
    finally:
        # Lazily: processes that are about to end may hold a file of it open.
        subprocess.run(["umount", "-l", str(path)], check=True)
