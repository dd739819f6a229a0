"""The column of a data set that a weighting reads."""

import difflib
from collections.abc import Sequence

from cluster.errors import SpecError
from cluster.shards.schema import Column
from students.weightings.weighting import Weighting


class WeightingColumnError(SpecError):
    """A weighting reads a column that the data set does not have, or not as whole numbers."""

    def __init__(self, column: str, found: str) -> None:
        super().__init__(column, found)
        self.column, self.found = column, found

    def __str__(self) -> str:
        return (
            f"fusion.weighting.column is {self.column}; the data set has {self.found}. Expected a column of whole "
            "numbers, one for each row (uint8, uint16 or int32)."
        )


def check_column(weighting: Weighting, columns: Sequence[Column]) -> None:
    """Raise `WeightingColumnError` if the weighting reads a column that is not there or holds no whole numbers."""
    name = weighting.column_read
    if name is None:
        return
    found = {column.name: column for column in columns}
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        raise WeightingColumnError(name, ", ".join(found) + (f", of which {near[0]} is the nearest" if near else ""))
    if found[name].shape or found[name].dtype.startswith("float"):
        raise WeightingColumnError(name, f"it as {found[name].dtype} {list(found[name].shape)}")
