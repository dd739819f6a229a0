"""Reading a job's spec: YAML and overrides in, a validated `JobSpec` out, or every mistake with its line."""

from collections.abc import Sequence
from pathlib import Path

from cluster.yaml_text import dump_yaml
from orchestrator.spec import JobSpec
from orchestrator.specfile.errors import SpecUnreadableError
from orchestrator.specfile.overrides import apply_overrides
from orchestrator.specfile.problems import validated
from orchestrator.specfile.tree import Entries, Place, read_tree

MAX_SPEC_BYTES = 1024 * 1024


def load_spec(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Return the spec in the file at `path` with `overrides` (`a.b=c`) applied.

    Paths inside the spec stay as they are written: relative to the directory in which the command runs.

    Raises:
        SpecUnreadableError: there is no such file, or it is not YAML that we read.
        SpecInvalidError: it holds mistakes; the error holds all of them.
    """
    return parse_spec(_read(path), str(path), overrides)


def parse_spec(text: str, where: str, overrides: Sequence[str] = ()) -> JobSpec:
    """Return the spec that `text` describes; `where` stands for the file in messages. Raises as `load_spec` does."""
    if len(text.encode(errors="replace")) > MAX_SPEC_BYTES:
        raise SpecUnreadableError(where, f"larger than {MAX_SPEC_BYTES} bytes, which no spec needs")
    tree = read_tree(text, lambda line: Place(where, line))
    if not isinstance(tree, Entries):
        raise SpecUnreadableError(where, "found no mapping; expected keys such as name, data and teachers")
    tree, problems = apply_overrides(tree, overrides)
    return validated(tree, JobSpec, where=where, known=problems)


def dump_spec(spec: JobSpec) -> str:
    """Return `spec` as YAML, with every default written out, that loads back to an equal spec."""
    return dump_yaml(spec.model_dump(mode="json"))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_SPEC_BYTES + 1)
        return body.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except FileNotFoundError as error:
        raise SpecUnreadableError(str(path), "there is no such file") from error
    except UnicodeDecodeError as error:
        raise SpecUnreadableError(str(path), f"not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise SpecUnreadableError(str(path), f"cannot be read ({error.strerror})") from error
