"""`init` and `schema`: how to begin a spec, and all that one may contain."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import SpecError
from orchestrator.cli.output import print_json


class SpecExistsError(SpecError):
    """A file is where the new spec should go."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: is there already, and is left as it is. Name another file."


class SpecNotWrittenError(SpecError):
    """The new spec cannot be written there."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: cannot be written: {self.reason}. Name a file in a directory that exists."


def init(
    path: Annotated[Path, typer.Argument(metavar="SPEC", help="The file to write.")] = Path("job.yaml"),
) -> None:
    """Write a spec to start from, with comments. It runs as it is."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise SpecExistsError(str(path)) from error
    except OSError as error:
        raise SpecNotWrittenError(str(path), str(error.strerror)) from error
    print(f"Wrote {path}. `coffey plan {path}` says what it would do, `coffey run {path}` does it.")


def print_schema() -> None:
    """Print the JSON schema of a spec, for editors and other programs."""
    from orchestrator.spec import JobSpec

    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **JobSpec.model_json_schema()})
