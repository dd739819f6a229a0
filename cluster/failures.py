"""From Ray's wrapping of an error back to what was raised."""

from collections.abc import Iterator

from cluster.errors import CoffeyError


def own_error(error: BaseException | None) -> CoffeyError | None:
    """Return the error of ours that `error` is, wraps or was caused by; None if there is none."""
    own = (item for item in _chain(error, depth=8) if isinstance(item, CoffeyError))
    # What Ray raises for an error of ours is of our class too, but speaks in tracebacks.
    return next((item for item in own if not isinstance(getattr(item, "cause", None), CoffeyError)), None)


def reason_of(error: BaseException) -> str:
    """Return the sentence that a person needs: our own error's, or the last line of any other's."""
    own = own_error(error)
    if own is not None:
        return str(own)
    if isinstance(cause := getattr(error, "cause", None), BaseException):
        return reason_of(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"


def _chain(error: BaseException | None, depth: int) -> Iterator[BaseException]:
    """Yield an error and everything inside it: Ray's `cause`, Ray Train's failures by rank, Python's own causes."""
    if error is None or depth == 0:
        return
    yield error
    inner = [getattr(error, "cause", None), getattr(error, "controller_failure", None), error.__cause__]
    inner += getattr(error, "worker_failures", {}).values()
    for item in inner:
        if isinstance(item, BaseException):
            yield from _chain(item, depth - 1)
