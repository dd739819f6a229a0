"""Map-style data sets of torch, built by a callable of the user's: torch itself is only imported by that code."""

import importlib
from collections.abc import Iterator, Mapping
from functools import lru_cache, reduce
from typing import Any

from cluster.errors import excerpt
from cluster.identity import canonical_json
from cluster.redaction import redacted
from orchestrator.sources.errors import DatasetReferenceError
from orchestrator.sources.formats import TorchSource
from orchestrator.sources.rows import Chunk, Row
from orchestrator.sources.unfit import Unfit

INPUT = "input"

_ITEMS_AT_ONCE = 64


def num_items(config: TorchSource, part: str) -> int:
    """Return the length of one part; raises `DatasetReferenceError`."""
    return len(_dataset(config, part))


def read_items(config: TorchSource, part: str, items: range) -> Iterator[Chunk]:
    """Yield some items as rows; one that raises is a bad row, with its reason. Raises `DatasetReferenceError`."""
    dataset = _dataset(config, part)
    for start in range(items.start, items.stop, _ITEMS_AT_ONCE):
        numbers = range(start, min(start + _ITEMS_AT_ONCE, items.stop))
        yield [_row(dataset, number, config.label) for number in numbers]


def _row(dataset: Any, number: int, label: str) -> "Row | Unfit":
    try:
        item = dataset[number]
    except Exception as error:  # the user's code, for which one damaged file is reason enough
        return Unfit(f"{type(error).__name__}: {excerpt(redacted(str(error)))}")
    if isinstance(item, Mapping):
        return item
    if isinstance(item, tuple | list) and len(item) == 2:
        return {INPUT: item[0], label: item[1]}
    return Unfit(f"it is {type(item).__name__}, and neither a pair nor a mapping")


def _dataset(config: TorchSource, part: str) -> Any:
    return _build(config.dataset, canonical_json(getattr(config, part)), tuple(sorted(getattr(config, part).items())))


@lru_cache(maxsize=2)
def _build(reference: str, _types: bytes, arguments: tuple[tuple[str, object], ...]) -> Any:
    """Build a data set once in a process: `_types` tells 1 from True, which are equal."""
    module, _, name = reference.partition(":")
    try:
        factory: Any = reduce(getattr, name.split("."), importlib.import_module(module))
        dataset = factory(**dict(arguments))
        len(dataset)
    except Exception as error:  # the user's code may raise anything
        raise DatasetReferenceError(reference, f"{type(error).__name__}: {excerpt(redacted(str(error)))}") from error
    if not hasattr(dataset, "__getitem__"):
        raise DatasetReferenceError(reference, f"returned {type(dataset).__name__}")
    return dataset
