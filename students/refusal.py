"""Memory across the restarts of a training.

In a module of its own, so that the process that holds it loads neither torch nor Ray Train.
"""

from cluster.errors import CoffeyError


class Refusal:
    """What a worker raised on purpose: Ray Train repeats whatever fails, and this would only fail again."""

    def __init__(self) -> None:
        self._error: CoffeyError | None = None

    def note(self, error: CoffeyError) -> None:
        """Keep the first error."""
        self._error = self._error or error

    def noted(self) -> CoffeyError | None:
        """Return it, if there was one."""
        return self._error
