"""Which model is meant and what it is fed, as configuration: `package.module:factory` and the columns it reads."""

import importlib.util
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from cluster.config import Config
from cluster.errors import SpecError
from cluster.identity import digest_of

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def _check_reference(value: str) -> str:
    if not _REFERENCE.fullmatch(value):
        raise ValueError(f"{value!r} is not of the form package.module:factory")
    return value


Reference = Annotated[str, AfterValidator(_check_reference)]


class ModelSourceError(SpecError):
    """The module that a reference names cannot be found."""

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(reference, reason)
        self.reference, self.reason = reference, reason

    def __str__(self) -> str:
        return (
            f"{self.reference}: {self.reason}. Expected package.module:factory, importable from the directory in "
            "which the command runs or from the installed packages."
        )


class InputConfig(Config):
    """How one column becomes the model's input tensor: cast to float32, scaled, standardised, reshaped."""

    column: str | None = None
    """Column of the data set; by default its only column besides the label."""
    scale: Annotated[float, Field(gt=0)] | None = None
    """Factor on the stored values; by default 1/255 for uint8 and 1 for all else."""
    mean: float | list[float] = 0.0
    """Subtracted after scaling; a list holds one value for each entry of the first axis (channels)."""
    std: Annotated[float, Field(gt=0)] | list[Annotated[float, Field(gt=0)]] = 1.0
    """Divides after the mean is subtracted."""
    shape: tuple[int, ...] | None = None
    """Shape of one row at the model's door, such as [1, 28, 28]; by default the stored shape."""


class ModelConfig(Config):
    """A callable that returns an `nn.Module`, and its keyword arguments."""

    factory: Reference
    arguments: dict[str, bool | int | float | str | list[int] | list[float]] = {}
    inputs: InputConfig = InputConfig()


def source_digest(reference: str) -> str:
    """Return the blake3 digest of the module's source file, without importing it: edited code is another model.

    Only the file that the reference names is hashed, not what it imports.

    Raises:
        ModelSourceError: there is no such module.
    """
    module = reference.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # the packages above it are imported, and may raise anything
        raise ModelSourceError(reference, str(error)) from error
    if spec is None or spec.origin is None:
        raise ModelSourceError(reference, f"there is no module {module}")
    if not spec.has_location:
        raise ModelSourceError(reference, f"the module {module} is part of Python itself and has no source file")
    return digest_of(Path(spec.origin).read_bytes())
