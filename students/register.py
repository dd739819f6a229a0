"""What the workers of a training leave for those that replace them, and for the driver.

In a module of its own, so that the process that holds it loads neither torch nor Ray Train.
"""

import time

from cluster.errors import CoffeyError


class Register:
    """Memory across the restarts of a training: whether workers are there, and what one of them has refused."""

    def __init__(self) -> None:
        self._error: CoffeyError | None = None
        self._absent_since_s: float | None = time.monotonic()

    def note(self, error: CoffeyError) -> None:
        """Keep the first error that a worker raised on purpose: Ray Train would repeat what only fails again."""
        self._error = self._error or error

    def enter(self) -> CoffeyError | None:
        """Note that workers have begun; return what was refused before, if anything was."""
        self._absent_since_s = None
        return self._error

    def leave(self) -> None:
        """Note that workers are lost, and others have to begin."""
        if self._absent_since_s is None:
            self._absent_since_s = time.monotonic()

    def absent_s(self) -> float:
        """Return for how long there have been no workers."""
        return 0.0 if self._absent_since_s is None else time.monotonic() - self._absent_since_s
