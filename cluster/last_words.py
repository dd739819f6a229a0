"""The last lines of a process that failed, out of its traceback or of the log files that Ray keeps on this machine."""

import re
from collections.abc import Sequence
from pathlib import Path

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from cluster.errors import CoffeyError, excerpt
from cluster.failures import causes
from cluster.redaction import redacted

_NUM_LINES = 20
_DIED = (NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError)
_PID = re.compile(r"\bpid: (\d+)")
_RAYS_OWN = re.compile(r":(job_id|actor_name|task_name):")
_TRACEBACK = re.compile(r"^.*(?:Traceback \(most recent call last\):|\(pid=\d+, ip=.*\))\n", re.MULTILINE)
"""What a traceback begins with; Ray writes the process there that raised."""


def last_words(error: BaseException, logs: Path, job: str) -> str | None:
    """Return the end of what the process wrote, or of the traceback, that `error` tells of, and where the rest is.

    `logs` is the folder of Ray's logs, `job` Ray's id of this driver. None if there is nothing more to say: an error
    of ours that was raised on purpose speaks for itself.
    """
    inner = list(causes(error))[1:]
    if any(isinstance(item, CoffeyError) for item in inner):
        return None
    # An actor that raised in its constructor is called dead too, but has a traceback.
    if dead := [item for item in inner if isinstance(item, _DIED) and not _TRACEBACK.search(str(item))]:
        files = _files_of(_dead_process(str(dead[-1]), logs, job), logs)
        told = [_told(f"Last lines of {path}:", lines) for path in files if (lines := _lines(path))]
        return "\n".join(told or [f"It wrote nothing; Ray's logs are in {logs}"])
    if tracebacks := [text for item in inner if _TRACEBACK.search(text := str(item))]:
        lines = _TRACEBACK.split(tracebacks[-1])[-1].splitlines()
        return _told(f"Last lines of its traceback; Ray's logs are in {logs}:", lines)
    return None


def _dead_process(message: str, logs: Path, job: str) -> str:
    """Return the id of the process that a message names; if it names none, of ours that wrote last and is gone."""
    if named := _PID.search(message):
        return named[1]
    gone = [path for path in logs.glob(f"worker-*-{job}-*.*") if not Path("/proc", _process_of(path)).exists()]
    return _process_of(max(gone, key=lambda path: path.stat().st_mtime_ns)) if gone else ""


def _process_of(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _files_of(process: str, logs: Path) -> list[Path]:
    return [path for kind in ("out", "err") for path in logs.glob(f"worker-*-{process}.{kind}")] if process else []


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip() and not _RAYS_OWN.match(line)]


def _told(title: str, lines: Sequence[str]) -> str:
    shown = [excerpt(redacted(line.rstrip().expandtabs())) for line in lines[-_NUM_LINES:]]
    return "\n".join([title, *(f"  {line}" for line in shown)])
