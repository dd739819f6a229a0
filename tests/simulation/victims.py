"""Processes that show by a file that they are at work, and which of them is killed."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

Kill = Callable[[int], None]
"""Ends a process, or what it runs on; raises ProcessLookupError if it is gone."""


def kill_process(pid: int) -> None:
    """End one process at once."""
    os.kill(pid, signal.SIGKILL)


def kill_one_at_work(marks: Path, draw: random.Random, kill: Kill) -> bool:
    """Kill one of the processes whose numbers are the names of files in `marks`; return whether there was one."""
    found = sorted(marks.iterdir())
    for mark in draw.sample(found, len(found)):
        if _is_at_work(mark):
            mark.unlink(missing_ok=True)  # its own end will not remove it
            try:
                kill(int(mark.name))
            except ProcessLookupError:
                continue
            return True
    return False


def _is_at_work(mark: Path) -> bool:
    """Return whether the process that left the mark is there still, and not another one that has its number."""
    try:
        return psutil.Process(int(mark.name)).create_time() <= mark.stat().st_mtime
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
