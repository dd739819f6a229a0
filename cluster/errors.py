"""What can go wrong, by whose move it is to mend it. The exit code of a command is that of its error.

    CoffeyError                 1   a bug of ours, if nothing below fits
     ├─ SpecError               2   the spec or the command line
     ├─ EnvironmentFailure      3   this machine, or the Ray cluster
     ├─ StorageError            4   the store: unreachable, missing, or answering wrongly
     ├─ TeacherError            5   a teacher: its weights, its process or its outputs
     ├─ TrainingError           6   a training run: diverged, or its workers are gone
     ├─ DataError               7   the rows or the shards: missing, corrupt, or of another shape
     ├─ AccessDenied            8   credentials or rights
     └─ PartialResult           9   finished, but not everything that was asked for

Every error states what happened and where, what was found and expected, and the next step. All arguments go to
`Exception.__init__`, so an error that crosses a process boundary arrives whole. A class with more to say stands beside
the code that raises it.
"""

from typing import ClassVar

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_MAX_EXCERPT = 400


class CoffeyError(Exception):
    """The root: catching it catches everything Coffey raises on purpose."""

    exit_code: ClassVar[int] = 1


class SpecError(CoffeyError):
    """The job's spec, or the command line, does not say something that can be done."""

    exit_code = 2


class EnvironmentFailure(CoffeyError):
    """This machine or the Ray cluster lacks something that the job needs."""

    exit_code = 3


class StorageError(CoffeyError):
    """The store cannot be reached, does not exist, or does not keep its promises."""

    exit_code = 4


class TeacherError(CoffeyError):
    """A teacher cannot be loaded, keeps dying, or emits what must not be learnt from."""

    exit_code = 5


class TrainingError(CoffeyError):
    """A training run diverged, or lost its workers more often than it may."""

    exit_code = 6


class DataError(CoffeyError):
    """Rows or shards are missing, corrupt, or not what their record says."""

    exit_code = 7


class AccessDenied(CoffeyError):
    """The store or the cluster refused these credentials."""

    exit_code = 8


class PartialResult(CoffeyError):
    """The run ended with less than it was asked for; what exists is kept."""

    exit_code = 9


def excerpt(foreign: str) -> str:
    """Return text that others wrote as it may stand in a message: short, and without commands for a terminal."""
    shown = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in foreign[:_MAX_EXCERPT]
    )
    return shown if len(foreign) <= _MAX_EXCERPT else f"{shown}…"
