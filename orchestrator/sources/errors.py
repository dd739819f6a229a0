"""What can be wrong with data that others wrote."""

from cluster.errors import DataError

_IDX_HINT = (
    "Debian's package dataset-fashion-mnist installs the four files under /usr/share/datasets/fashion-mnist "
    "(apt-get install dataset-fashion-mnist); elsewhere download the *-ubyte.gz files of MNIST, Fashion-MNIST or "
    "a relative and name them in data.read"
)


class SourceMissingError(DataError):
    """A file of the data set cannot be read."""

    def __init__(self, path: str, source: str, reason: str) -> None:
        super().__init__(path, source, reason)
        self.path, self.source, self.reason = path, source, reason

    def __str__(self) -> str:
        hint = _IDX_HINT if self.source == "idx" else "Check data.read; relative paths start where the command runs"
        return f"{self.path}: {self.reason}; expected a file of source {self.source!r}. {hint}."


class SourceFormatError(DataError):
    """A file of the data set is not in the format that its source has."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(path, found, expected)
        self.path, self.found, self.expected = path, found, expected

    def __str__(self) -> str:
        return (
            f"{self.path}: found {self.found}, expected {self.expected}. Check data.read, or download the file again."
        )


class TooFewLabelsError(DataError):
    """There are not as many rows, or labelled rows, as the spec asks for."""

    def __init__(self, field: str, asked: int, found: int) -> None:
        super().__init__(field, asked, found)
        self.field, self.asked, self.found = field, asked, found

    def __str__(self) -> str:
        return f"{self.field} asks for {self.asked} rows, there are {self.found}. Lower it, or give more rows."


class NoOwnRowsError(DataError):
    """None of the labelled, or of the held-out, rows is of the classes that a specialist knows."""

    def __init__(self, field: str, classes: tuple[str, ...], found: int) -> None:
        super().__init__(field, classes, found)
        self.field, self.classes, self.found = field, classes, found

    def __str__(self) -> str:
        return (
            f"{self.field}: none of {self.found} rows is of the classes {', '.join(self.classes)}, on which a teacher "
            "is to be fitted; expected at least one. Raise it, or give the teacher other classes."
        )
