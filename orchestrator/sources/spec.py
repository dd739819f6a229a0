"""What a user says of the data."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cluster.config import Config
from cluster.shards.compression import Compression
from cluster.shards.views.spec import ViewsConfig
from orchestrator.sources.formats import (
    HuggingFaceSource,
    ImagesSource,
    TableSource,
    TorchSource,
    WebDatasetSource,
)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the name {name!r} stands more than once; expected one name for each class")
    return names


class DigitsSource(Config):
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships (UCI, 1998)."""

    source: Literal["digits"] = "digits"
    test: Annotated[int, Field(ge=1)] = 360
    """Rows drawn for the test."""


class IdxFiles(Config):
    """A pair of IDX files, gzipped or not."""

    images: str
    labels: str


class IdxSource(Config):
    """Images in the IDX format of MNIST and its relatives."""

    source: Literal["idx"] = "idx"
    train: IdxFiles
    test: IdxFiles


class NpzSource(Config):
    """NumPy archives: one array for each column, first axis rows, with the class indices in `label`."""

    source: Literal["npz"] = "npz"
    train: str
    test: str


class DataConfig(Config):
    """The rows, and how they are divided. Rows are shuffled once, by `seed`, when they are written to the store."""

    read: Annotated[
        DigitsSource
        | IdxSource
        | NpzSource
        | TableSource
        | ImagesSource
        | WebDatasetSource
        | HuggingFaceSource
        | TorchSource,
        Field(discriminator="source"),
    ]
    classes: Annotated[tuple[str, ...], Field(min_length=2), AfterValidator(_distinct)] | None = None
    """Names of the classes in the order of their indices; by default those that the source has, or numbers."""
    revision: str = ""
    """Anything. Change it when the data has changed in a way that Coffey does not see: docs/data.md says which."""
    max_bad_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all rows that may be left out because they cannot be read or stored; more end the job."""
    in_memory_bytes: Annotated[int, Field(ge=0)] = 256 * 1024 * 1024
    """A source of more bytes goes through Ray, partition by partition, others through this process. Data sets are
    the same."""
    labelled: Annotated[int, Field(ge=1)] | None = None
    """Rows whose label is used, in training or held out; the labels of the others are dropped. By default all."""
    validation: Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Labelled rows held out of every training, for calibration and choices: a number, or a share of them."""
    shard_rows: Annotated[int, Field(ge=1)] = 4096
    compression: Compression = "none"
    seed: int = 0
    views: ViewsConfig | None = None
    """Training rows cropped, flipped, blended and so on, by seed, for teachers and student alike; by default as they
    are."""
