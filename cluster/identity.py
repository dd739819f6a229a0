"""Identity: the hash of everything that determines a result, and of nothing else.

Two values with the same identity are interchangeable, whoever computed them and when. What has no stable form
across processes (a lambda, an open file, a NaN) is refused with the name of the field.
"""

import json
import math
from collections.abc import Mapping
from enum import Enum

import blake3
from pydantic import BaseModel

from cluster.errors import SpecError

ID_LENGTH = 16


class UnstableValueError(SpecError):
    """A value that determines a result has no canonical form."""

    def __init__(self, field: str, found: str) -> None:
        super().__init__(field, found)
        self.field, self.found = field, found

    def __str__(self) -> str:
        return (
            f"{self.field}: {self.found} has no form that is the same in every process, so nothing can be cached under "
            "it. Use finite numbers, strings, booleans, lists and mappings with string keys."
        )


def identity_of(kind: str, recipe: int, facts: Mapping[str, object]) -> str:
    """Return the 16 hex digits that name the result of `kind` determined by `facts`.

    `recipe` stands for the code: raise it when the same facts come to mean another result.
    """
    return digest_of(canonical_json({"kind": kind, "recipe": recipe, "facts": facts}))[:ID_LENGTH]


def digest_of(body: bytes | memoryview) -> str:
    """Return the blake3 digest of some bytes as 64 hex digits."""
    return blake3.blake3(body).hexdigest()


def canonical_json(value: object) -> bytes:
    """Return the one JSON text of `value`: sorted keys, no spaces, UTF-8.

    Raises:
        UnstableValueError: a part of `value` has no canonical form; the error names the part.
    """
    return json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: object, field: str) -> object:
    match value:
        case None | bool() | int() | str():
            return value.value if isinstance(value, Enum) else value
        case float() if math.isfinite(value):
            return value
        case float():
            raise UnstableValueError(field, str(value))
        case BaseModel():
            # Not mode="json": it would write a set as a list, in an order that differs from process to process.
            return _plain(value.model_dump(), field)
        case Mapping() if all(isinstance(key, str) for key in value):
            return {key: _plain(item, f"{field}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, f"{field}[{place}]") for place, item in enumerate(value)]
        case _:
            raise UnstableValueError(field, f"a value of type {type(value).__name__}")
