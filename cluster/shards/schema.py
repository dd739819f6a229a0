"""Columns of a shard: fixed-shape numbers, and the names by which records and files are found."""

import math
import re
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, FailFast, Field, model_validator

from cluster.config import Config
from cluster.shards.dtypes import DType

LABEL = "label"
"""Column of the class index; `NO_LABEL` where nobody labelled the row."""
NO_LABEL = -1
ROW = "row"
"""Column of the row's number in its source, by which a sample can be traced back."""

_MAX_ROW_VALUES = 2**31 - 1  # Arrow counts the values of a list in an int32


def _check_digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError(f"{value!r} is not 64 hex digits")
    return value


def _check_identity(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", value):
        raise ValueError(f"{value!r} is not 16 hex digits")
    return value


Digest = Annotated[str, AfterValidator(_check_digest)]
Identity = Annotated[str, AfterValidator(_check_identity)]


class Column(Config):
    """One named, typed column; every row holds an array of the same shape."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    dtype: DType
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], FailFast(), Field(max_length=8)] = ()
    """Shape of one row; empty for a scalar."""

    @model_validator(mode="after")
    def _fits_arrow(self) -> "Column":
        if self.row_values > _MAX_ROW_VALUES:
            raise ValueError(f"a row of {self.name} has {self.row_values} values; expected at most {_MAX_ROW_VALUES}")
        return self

    @property
    def row_values(self) -> int:
        """Numbers in one row."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return self.row_values * np.dtype(self.dtype).itemsize


def columns_of(arrays: Mapping[str, np.ndarray]) -> tuple[Column, ...]:
    """Return the columns that describe `arrays`, whose first axis counts rows."""
    return tuple(
        Column.model_validate({"name": name, "dtype": str(array.dtype), "shape": array.shape[1:]})
        for name, array in arrays.items()
    )
