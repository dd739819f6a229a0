"""What can be wrong with data that others wrote."""

from cluster.errors import DataError, SpecError

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


class ClassesMissingError(SpecError):
    """The source has no names of classes, and the spec gives none."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.source = source

    def __str__(self) -> str:
        return (
            f"data.classes: the source {self.source!r} does not say which classes there are. Name them in the order "
            "of their indices, such as `classes: [cat, dog]`."
        )


class NoRowsError(DataError):
    """Not one row of a part of the source can be read."""

    def __init__(self, part: str, reasons: tuple[str, ...]) -> None:
        super().__init__(part, reasons)
        self.part, self.reasons = part, reasons

    def __str__(self) -> str:
        because = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"data.read.{self.part}: found no row that can be read{because}; expected at least one. Check data.read."


class TooManyBadRowsError(DataError):
    """More rows cannot be read or stored than the spec allows to leave out."""

    def __init__(self, bad: int, rows: int, allowed: float, first: tuple[str, ...]) -> None:
        super().__init__(bad, rows, allowed, first)
        self.bad, self.rows, self.allowed, self.first = bad, rows, allowed, first

    def __str__(self) -> str:
        return (
            f"data.read: {self.bad:,} of {self.rows:,} rows cannot be used, and data.max_bad_fraction allows "
            f"{self.allowed:g} of them. The first: {'; '.join(self.first)}. Mend the rows, describe them otherwise in "
            "data.read, or raise data.max_bad_fraction to leave them out."
        )


class SourceChangedError(DataError):
    """Rows that could be read could not be read again."""

    def __init__(self, where: str, found: int, expected: int) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.found} rows came back of {self.expected} that were there when the source was first "
            "read: its files changed meanwhile. Leave them as they are and run the job again."
        )


class DatasetReferenceError(SpecError):
    """A `Dataset` of torch cannot be built, or is none of the kind that can be read in parts."""

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(reference, reason)
        self.reference, self.reason = reference, reason

    def __str__(self) -> str:
        return (
            f"data.read.dataset: {self.reference}: {self.reason}. Expected a callable, importable on every node, that "
            "returns a map-style Dataset (`__len__` and `__getitem__`) when given the arguments of `train` or `test`."
        )
