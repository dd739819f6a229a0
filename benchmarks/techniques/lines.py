"""The file of results: what each technique reached, and what it costs, one JSON object a line. The last line counts."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from cluster.config import Config


class Run(Config):
    """What the students of one technique reached on the test rows."""

    kind: Literal["run"] = "run"
    technique: str
    family: str
    changes: dict[str, Any]
    """Keys of the spec and their values, as run."""
    accuracies: tuple[float, ...]
    """One for each seed; the same for those of the student without teachers."""
    lone_accuracies: tuple[float, ...]
    ece: float
    lone_ece: float
    ensemble_accuracy: float | None
    """None without teachers, as are the next two."""
    kl: float | None
    """KL of the ensemble to the student, nats; `agreement` is the share of rows of which they say the same."""
    agreement: float | None
    wall_s: float


class Cost(Config):
    """Time and memory of one epoch, as multiples of plain KL's in the same round; medians over rounds."""

    kind: Literal["cost"] = "cost"
    technique: str
    seconds: float
    peak_bytes: float


_LINE: TypeAdapter[Run | Cost] = TypeAdapter(Annotated[Run | Cost, Field(discriminator="kind")])


class Lines:
    """All lines of a file, and a way to add one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.runs: dict[str, Run] = {}
        self.costs: dict[str, Cost] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            self._keep(_LINE.validate_json(line))

    def add(self, line: Run | Cost) -> None:
        """Write one more line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")
        self._keep(line)

    def _keep(self, line: Run | Cost) -> None:
        match line:
            case Run():
                self.runs[line.technique] = line
            case Cost():
                self.costs[line.technique] = line
