"""What every codec promises: the columns it stores, and the logits it gives back.

Legend, here and in the codecs: N rows, P positions of a row (none for a classifier, such as [tokens] for a language
model), C classes, K kept classes, S draws.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from cluster.errors import DataError, SpecError
from cluster.shards.codecs.spec import listed
from cluster.shards.dtypes import DType
from cluster.shards.schema import Column

LOWEST = float(np.finfo(np.float16).min)
"""Stands for the logarithm of nothing: its exponential is 0 and, unlike minus infinity, it times 0 is 0."""

Arrays = Mapping[str, np.ndarray]


class TemperatureNotServedError(DataError):
    """Labels do not hold a teacher's distribution at the temperature that is asked for."""

    def __init__(self, where: str, codec: str, temperature: float, served: tuple[float, ...]) -> None:
        super().__init__(where, codec, temperature, served)
        self.where, self.codec, self.temperature, self.served = where, codec, temperature, served

    def __str__(self) -> str:
        return (
            f"{self.where}: asked for the temperature {self.temperature:g}; these `{self.codec}` labels are exact at "
            f"{listed(self.served)} and nowhere else. Ask for one of these, or have the teacher label anew with "
            "`labels.codec` set to `dense` or `hidden`, which serve any temperature"
            f"{', or with this one among `labels.temperatures`' if self.codec == 'topk' else ''}."
        )


class CodecMisfitError(SpecError):
    """A codec cannot store distributions over so few classes."""

    def __init__(self, field: str, found: int, num_classes: int, expected: str) -> None:
        super().__init__(field, found, num_classes, expected)
        self.field, self.found, self.num_classes, self.expected = field, found, num_classes, expected

    def __str__(self) -> str:
        return (
            f"{self.field} is {self.found} and there are {self.num_classes} classes; expected {self.expected}. "
            "So few classes are stored best with `codec: dense`."
        )


class Codec(ABC):
    """How distributions over `num_classes` classes become columns, and columns become logits again."""

    num_classes: int

    @abstractmethod
    def columns(self, positions: tuple[int, ...] = ()) -> tuple[Column, ...]:
        """Return the columns of a label shard; the first has the shape `[*positions, ...]` with one more axis."""

    @abstractmethod
    def pack(self, outputs: Arrays) -> dict[str, np.ndarray]:
        """Return the columns to store of what was selected from a teacher's outputs, in the order of `columns`."""

    @abstractmethod
    def logits(self, arrays: Arrays, *, temperature: float) -> np.ndarray:
        """Return float32 `[N, *P, C]` whose softmax at `temperature`, one of those served, is what is stored."""

    def shared_columns(self) -> tuple[Column, ...]:
        """Return what is stored once for all shards of a set, in one row; empty for most codecs."""
        return ()


def id_dtype(num_classes: int) -> DType:
    """Return the smallest type for indices of classes: two bytes up to 65,536 classes."""
    return "uint16" if num_classes <= 1 << 16 else "int32"
