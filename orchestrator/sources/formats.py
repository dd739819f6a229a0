"""What a user says of data in many files, or behind a `Dataset` of torch: where it lies, and what a row is made of."""

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.config import Config
from cluster.models import Reference
from cluster.shards.dtypes import DType

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
"""Files, directories or patterns such as `data/*.parquet`, on a disk that all nodes see or below s3://bucket/."""


class PictureConfig(Config):
    """How an encoded image becomes numbers: decoded, scaled to one size, uint8 `[channels, height, width]`."""

    height: Annotated[int, Field(ge=1, le=8192)]
    width: Annotated[int, Field(ge=1, le=8192)]
    channels: Literal[1, 3] = 3
    """1 for shades of grey, stored as `[height, width]`; 3 for red, green and blue."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.height, self.width) if self.channels == 1 else (self.channels, self.height, self.width)


class InputColumn(Config):
    """How one column of the data set is made of what a row of the source holds."""

    of: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Names in the source, or patterns such as `pixel*`; several become one row of numbers, in the order of the file.
    By default the column's own name."""
    dtype: DType | None = None
    """By default what the source has: 64 bits are halved, text and other integers become float32 and int32."""
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=8)] | None = None
    """Shape of one row; by default that of the first one."""
    picture: PictureConfig | None = None
    """Given where the source holds encoded images, such as PNG or JPEG."""

    @model_validator(mode="after")
    def _pictures_have_a_shape(self) -> "InputColumn":
        if self.picture and (self.dtype or self.shape):
            raise ValueError("`picture` decides dtype and shape; expected neither beside it")
        return self

    @property
    def declared_values(self) -> int | None:
        """Numbers in one row, where the spec says it."""
        shape = self.picture.shape if self.picture else self.shape
        return None if shape is None else math.prod(shape)


class TableSource(Config):
    """Tables: Parquet, CSV with a line of names, or a JSON object on each line."""

    source: Literal["parquet", "csv", "jsonl"]
    train: Paths
    test: Paths
    label: str = "label"
    """The class of a row: its index, or its name in `data.classes`."""
    inputs: dict[Name, InputColumn] = {}
    """Columns of the data set; by default every one beside the label, as it is."""


class ImagesSource(Config):
    """Folders of images, one for each class and named after it: `train/cat/1.jpg`."""

    source: Literal["images"] = "images"
    train: str
    test: str
    picture: PictureConfig


class WebDatasetSource(Config):
    """Tar files of samples: members whose names are equal up to the first dot are one row."""

    source: Literal["webdataset"] = "webdataset"
    train: Paths
    test: Paths
    label: str = "cls"
    """Extension of the member that holds the class: its index or its name, as text."""
    inputs: Annotated[dict[Name, InputColumn], Field(min_length=1)]
    """`of` names extensions, the first that a sample has is taken: `npy`, or with `picture` `png` and the like."""


class HuggingFaceSource(Config):
    """Directories that `datasets.Dataset.save_to_disk` wrote, or Parquet files of such a data set; no hub."""

    source: Literal["huggingface"] = "huggingface"
    train: str
    test: str
    label: str = "label"
    inputs: dict[Name, InputColumn] = {}


class TorchSource(Config):
    """A map-style `torch.utils.data.Dataset` whose items are pairs of input and class, or mappings."""

    source: Literal["torch"] = "torch"
    dataset: Reference
    """`package.module:factory`, called with the arguments of each part; it must be importable on every node."""
    train: dict[str, bool | int | float | str] = {}
    test: dict[str, bool | int | float | str]
    label: str = "label"
    """Key of the class in items that are mappings."""
    inputs: dict[Name, InputColumn] = {}
    """By default the input of a pair, as `input`, or every other key of a mapping."""


PartitionedSource = TableSource | ImagesSource | WebDatasetSource | HuggingFaceSource | TorchSource
