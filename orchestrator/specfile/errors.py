"""What is wrong with a spec: it cannot be read at all, or it says things that nobody can do."""

from cluster.config import Config
from cluster.errors import SpecError


class Problem(Config):
    """One mistake in a spec."""

    where: str
    """Such as `job.yaml:12` or `--set train.epochs=x`."""
    key: str
    """The dotted key; empty for the whole spec."""
    message: str
    suggestion: str | None = None
    """The nearest valid key or value, for a mistyped one."""

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class SpecInvalidError(SpecError):
    """A spec holds mistakes: all of them, in the order of the file."""

    def __init__(self, where: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(where, problems)
        self.where, self.problems = where, problems

    def __str__(self) -> str:
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{self.where}: {count} in the spec{lines}\n`coffey schema` prints everything that a spec may contain."


class SpecUnreadableError(SpecError):
    """A spec is missing, or is not YAML that we read."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}. `coffey init` writes a spec to start from."
