"""Weights as data: which files are taken, what they say of themselves, and where they lie in the store.

Only safetensors and ONNX files are read. A pickle, and every format that holds one, runs code when it is loaded;
torch's `weights_only` is a fence, not a wall (CVE-2025-32434, CVE-2026-24747), and `.pt2` files are loaded without it.
"""

import difflib
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cluster.errors import TeacherError
from cluster.identity import digest_of
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectMissingError
from cluster.weights import StoredWeights
from teachers.formats import FormatError, check_onnx, safetensors_header

CLASSES_KEY = "coffey.classes"


class UnsafeWeightsError(TeacherError):
    """A file that could run code when it is loaded."""

    def __init__(self, where: str, found: str) -> None:
        super().__init__(where, found)
        self.where, self.found = where, found

    def __str__(self) -> str:
        return (
            f"{self.where}: found {self.found}, expected a .safetensors or .onnx file. Other formats can run code "
            "when they are loaded, so they are never opened. Convert a checkpoint that you trust with "
            "safetensors.torch.save_file(state_dict, path)."
        )


class WeightsMissingError(TeacherError):
    """There is no such file of weights."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return (
            f"{self.where}: no weights there ({self.reason}). Expected a .safetensors or .onnx file; check "
            "`weights` of the teacher."
        )


class WeightsChangedError(TeacherError):
    """A file of weights was exchanged while a run was about to use it."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    def __str__(self) -> str:
        return (
            f"{self.where}: the file has changed since this run looked at it. Run the job again with the file at rest."
        )


class ClassMapError(TeacherError):
    """A teacher's classes are not those of the data set, nor some of them."""

    def __init__(self, teacher: str, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
        super().__init__(teacher, found, expected)
        self.teacher, self.found, self.expected = teacher, found, expected

    def __str__(self) -> str:
        return (
            f"teacher {self.teacher}: its classes are {self._shown(self.found)}, the data set's are "
            f"{self._shown(self.expected)}; {self._difference()}. A student would learn wrong names without any "
            "other sign. Use a teacher of these classes in this order, or a specialist of at least two of them."
        )

    def _difference(self) -> str:
        if len(self.found) == len(self.expected):
            pairs = enumerate(zip(self.found, self.expected, strict=True))
            place = next((place for place, (found, expected) in pairs if found != expected), 0)
            return f"class {place} is {self.found[place]!r} for the teacher and {self.expected[place]!r} in the data"
        if unknown := [name for name in self.found if name not in self.expected]:
            near = difflib.get_close_matches(unknown[0], self.expected, n=1)
            return f"the data has no class {unknown[0]!r}" + (f", the nearest is {near[0]!r}" if near else "")
        if twice := [name for name in self.found if self.found.count(name) > 1]:
            return f"the teacher names {twice[0]!r} twice"
        return f"the teacher has {len(self.found)} and tells nothing apart"

    @staticmethod
    def _shown(names: tuple[str, ...]) -> str:
        return ", ".join(names[:6]) + (f", … ({len(names)})" if len(names) > 6 else "")


class ForeignWeightsError(TeacherError):
    """A file of weights names other classes than the spec does."""

    def __init__(self, teacher: str, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
        super().__init__(teacher, found, expected)
        self.teacher, self.found, self.expected = teacher, found, expected

    def __str__(self) -> str:
        return (
            f"teacher {self.teacher}: its weights are of a model of the classes {', '.join(self.found)}; `classes` "
            f"says {', '.join(self.expected)}. Leave `classes` out, or name the weights of the model that you mean."
        )


def read_weights(address: str) -> bytes:
    """Return the bytes of a .safetensors or .onnx file at a path or s3:// address, checked to be of that format.

    Raises:
        WeightsMissingError: there is no such file.
        UnsafeWeightsError: the file is of another format, whatever its name says, or not whole.
    """
    if not address.endswith((".safetensors", ".onnx")):
        raise UnsafeWeightsError(address, f"a {Path(address).suffix or 'nameless'} file")
    body = _read(address)
    try:
        if address.endswith(".onnx"):
            check_onnx(body)
        else:
            safetensors_header(body)
    except FormatError as error:
        raise UnsafeWeightsError(address, str(error)) from error
    return body


def classes_in(body: bytes, address: str) -> tuple[str, ...] | None:
    """Return the class names that a safetensors file, as `read_weights` returns it, carries in its metadata, if any."""
    if not address.endswith(".safetensors"):
        return None
    metadata = safetensors_header(body).get("__metadata__")
    names = metadata.get(CLASSES_KEY) if isinstance(metadata, dict) else None
    if not isinstance(names, str):
        return None
    try:
        return TypeAdapter(tuple[str, ...]).validate_json(names)
    except ValidationError as error:
        raise UnsafeWeightsError(address, f"{CLASSES_KEY} that is no JSON list of names in its header") from error


def own_classes(teacher: str, found: tuple[str, ...] | None, expected: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a specialist's outputs, which are some of `expected`; none for a teacher of all of these.

    Raises:
        ClassMapError: there are others among them, or one twice, or one alone, or all in another order.
    """
    if found is None or found == expected:
        return ()
    if not set(found) < set(expected) or len(set(found)) < max(2, len(found)):
        raise ClassMapError(teacher, found, expected)
    return found


def weights_in_store(prefix: str, body: bytes, *, backend: Literal["module", "onnx"]) -> StoredWeights:
    """Return where weights lie in the store: under their digest, so every node reads what the plan saw."""
    digest = digest_of(body)
    suffix = ".onnx" if backend == "onnx" else ".safetensors"
    return StoredWeights(key=f"{prefix}/{digest}{suffix}", digest=digest, num_bytes=len(body))


def _read(address: str) -> bytes:
    try:
        if address.startswith("s3://"):
            parent, _, name = address.rpartition("/")
            return bytes(open_store(parent).get(name))
        return Path(address).read_bytes()
    except ObjectMissingError as error:
        raise WeightsMissingError(address, "No such object") from error
    except OSError as error:
        raise WeightsMissingError(address, error.strerror or str(error)) from error
