"""What a spec may hold at one place, read from its JSON schema: the valid keys, and the expectation in words."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.specfile.paths import Key

_SIMPLE = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}


@dataclass(frozen=True)
class Allowed:
    """The part of a JSON schema that governs one place of a spec."""

    schema: Mapping[str, Any]
    definitions: Mapping[str, Any]

    @property
    def alternatives(self) -> tuple["Allowed", ...]:
        """Return the variants of a union, without null; this alone if it is no union."""
        if reference := self.schema.get("$ref"):
            return self._sibling(self.definitions[reference.rpartition("/")[2]]).alternatives
        variants = self.schema.get("anyOf") or self.schema.get("oneOf")
        if not variants:
            return (self,)
        values = [variant for variant in variants if variant.get("type") != "null"]
        return tuple(part for variant in values for part in self._sibling(variant).alternatives)

    @property
    def tag(self) -> str | None:
        """Return the key that says which variant is meant, for the unions that have one."""
        discriminator = self.schema.get("discriminator")
        return discriminator["propertyName"] if discriminator else None

    @property
    def tags(self) -> tuple[str, ...]:
        """Return the values of that key."""
        return tuple(self.schema["discriminator"]["mapping"]) if self.tag else ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of a mapping that is closed to others."""
        return tuple(self.schema.get("properties", ()))

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the texts of which one has to be said, if only some may be."""
        values = [value for part in self.alternatives for value in part.schema.get("enum", [part.schema.get("const")])]
        return tuple(value for value in values if isinstance(value, str))

    def variant(self, label: str) -> "Allowed":
        """Return the variant that validation calls `label`; the whole union for one that is no mapping with keys."""
        if self.tag:
            return self._sibling({"$ref": self.schema["discriminator"]["mapping"][label]}).alternatives[0]
        return next((part for part in self.alternatives if part.keys and str(part.schema["title"]) in label), self)

    def child(self, key: Key) -> "Allowed":
        """Return what governs `key` of a mapping, or an item of a list; anything goes where nothing is known."""
        for part in self.alternatives:
            if isinstance(key, int) and "items" in part.schema:
                return part._sibling(part.schema["items"])
            if key in part.keys:
                return part._sibling(part.schema["properties"][key])
            if isinstance(part.schema.get("additionalProperties"), Mapping):
                return part._sibling(part.schema["additionalProperties"])
        return self._sibling({})

    def in_words(self) -> str:
        """Return what is expected here, such as `a whole number >= 1, or a mapping of min, max`."""
        if self.tag:
            return f"a mapping whose `{self.tag}` is {_one_of(self.tags)}"
        # Several lists of numbers sound the same: each phrase is said once.
        return ", or ".join(dict.fromkeys(part._phrase() for part in self.alternatives))

    def _phrase(self) -> str:
        schema = self.schema
        if self.choices:
            return _one_of(self.choices)
        match schema.get("type"):
            case "string":
                return f"text that matches {schema['pattern']}" if "pattern" in schema else "text"
            case "array":
                least = f" (at least {schema['minItems']})" if schema.get("minItems") else ""
                return f"a list{least}, each item {self.child(0).in_words()}"
            case "object":
                return f"a mapping of {', '.join(self.keys)}" if self.keys else "a mapping"
        return _SIMPLE.get(str(schema.get("type")), "another value") + _bounds(schema)

    def _sibling(self, schema: Mapping[str, Any]) -> "Allowed":
        values = [variant for variant in schema.get("anyOf", ()) if variant.get("type") != "null"]
        # What may be left out is governed by what it is otherwise, such as a union with a tag.
        return Allowed(values[0] if len(values) == 1 else schema, self.definitions)


def nearest(word: str, candidates: Collection[str]) -> str | None:
    """Return the candidate that `word` most probably should have been, or None if none is near."""
    spelled = {_normalised(candidate): candidate for candidate in candidates}
    # 0.5 is what `rl` for `lr` scores, the shortest slip that has to be understood.
    matches = difflib.get_close_matches(_normalised(word), spelled, n=1, cutoff=0.5)
    return spelled[matches[0]] if matches else None


def _normalised(word: str) -> str:
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in word)
    return snake.replace("-", "_").strip("_")


def _one_of(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema]
    return f" {' and '.join(bounds)}" if bounds else ""
