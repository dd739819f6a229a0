"""Errors between processes: without secrets where they leave one, out of Ray's wrapping where they arrive."""

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

from cluster.errors import CoffeyError, excerpt
from cluster.redaction import redacted

_WRAPPED = ("cause", "controller_failure", "health_check_failure", "__cause__")
"""Where Ray, Ray Train and Python keep what an error was made of."""


class RedactedError(Exception):
    """What others' code raised: its traceback, without the secrets that were quoted in it."""


@contextlib.contextmanager
def redacting() -> Iterator[None]:
    """Let no error out of this process that quotes a secret: Ray writes errors to log files, and sends them on."""
    try:
        yield
    except Exception as error:
        if redacted(_text(error)) == _text(error):
            raise
        raise _without_secrets(error) from None


def own_error(error: BaseException | None) -> CoffeyError | None:
    """Return the error of ours that `error` is, wraps or was caused by; None if there is none."""
    own = (item for item in causes(error) if isinstance(item, CoffeyError))
    # What Ray raises for an error of ours is of our class too, but speaks in tracebacks.
    return next((item for item in own if not isinstance(getattr(item, "cause", None), CoffeyError)), None)


def reason_of(error: BaseException) -> str:
    """Return the sentence that a person needs: our own error's, or the last line of any other's; without secrets."""
    own = own_error(error)
    if own is not None:
        return redacted(str(own))
    if inside := _what_happened(error):
        return reason_of(inside)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    # The last line of a traceback begins with the name of the error.
    return excerpt(redacted(lines[-1] if isinstance(error, RedactedError) else f"{type(error).__name__}: {lines[-1]}"))


def _what_happened(error: BaseException) -> BaseException | None:
    """Return the error that Ray or Ray Train wrapped; of several workers' that of one that died, or else the last."""
    failures = list(getattr(error, "worker_failures", {}).values())
    # Those that a worker leaves behind fail too, for want of it.
    died = [failure for failure in failures if hasattr(failure, "health_check_failure")]
    found = [getattr(error, name, None) for name in ("cause", "controller_failure", "health_check_failure")]
    found += (died or failures)[-1:]
    return next((item for item in found if isinstance(item, BaseException)), None)


def causes(error: BaseException | None, depth: int = 8) -> Iterator[BaseException]:
    """Yield an error and everything inside it: Ray's `cause`, Ray Train's failures by rank, Python's own causes."""
    if error is None or depth == 0:
        return
    yield error
    inner = [getattr(error, name, None) for name in _WRAPPED]
    inner += getattr(error, "worker_failures", {}).values()
    for item in inner:
        if isinstance(item, BaseException):
            yield from causes(item, depth - 1)


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _without_secrets(error: Exception) -> Exception:
    """Return our own error with its arguments redacted; of any other what is left of its traceback."""
    own = own_error(error)
    if own is not None:
        clean = type(own)(*map(_clean, own.args))
        if redacted(str(clean)) == str(clean):
            return clean
    return RedactedError(redacted(_text(error)).strip())


def _clean(argument: Any) -> Any:
    """Redact an argument of an error: text, or a sequence of text."""
    if isinstance(argument, str):
        return redacted(argument)
    return tuple(map(_clean, argument)) if isinstance(argument, tuple) else argument
