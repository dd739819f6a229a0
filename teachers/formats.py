"""What a file of weights is, by its bytes: safetensors and ONNX that hold what they say, or something else."""

import json
from collections.abc import Iterator
from typing import Any

_MAX_HEADER_BYTES = 100 * 1024 * 1024
_ONNX_FIRST_BYTE = b"\x08"
"""The tag of `ir_version`, which every ONNX file starts with; no pickle and no archive starts with a backspace."""
_SIGNATURES: dict[bytes | tuple[bytes, ...], str] = {
    b"PK\x03\x04": "a zip archive, as torch.save, TorchScript, .pt2, .npz and .keras are,",
    (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"): "a pickle",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes,",
    b"\x93NUMPY": "a NumPy array",
    (b"\x1f\x8b", b"BZh", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"): "a compressed file",
}


class FormatError(ValueError):
    """Bytes that are not of the format that was expected; says what they are."""


def safetensors_header(body: bytes) -> dict[str, object]:
    """Return the header of a safetensors file: eight bytes of length, then JSON that accounts for every byte after it.

    Raises:
        FormatError: it is something else, or its header lies about its bytes.
    """
    length = int.from_bytes(body[:8], "little")
    try:
        header = json.loads(body[8 : 8 + length]) if length <= min(len(body) - 8, _MAX_HEADER_BYTES) else None
    except (ValueError, RecursionError) as error:
        raise FormatError(_kind_of(body)) from error
    if not isinstance(header, dict):
        raise FormatError(_kind_of(body))
    _check_offsets(header, num_bytes=len(body) - 8 - length)
    return header


def check_onnx(body: bytes) -> None:
    """Raise `FormatError` unless these are the bytes of a whole ONNX model, its weights included."""
    if body[:1] != _ONNX_FIRST_BYTE:
        raise FormatError(_kind_of(body))
    import onnx  # a third of a second, which only a job with such a teacher pays
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(body)
    except DecodeError as error:
        raise FormatError("something else under that name") from error
    for tensor in (tensor for graph in (model.graph, *model.functions) for tensor in _tensors(graph)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            raise FormatError(f"weights in a file of their own ({place})")


def _check_offsets(header: dict[str, Any], *, num_bytes: int) -> None:
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    try:
        spans = sorted(tuple(map(int, entry["data_offsets"])) for entry in tensors.values())
        ends = [0, *(end for _, end in spans)]
        is_true = ends[:-1] == [begin for begin, _ in spans] and ends[-1] == num_bytes and ends == sorted(ends)
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError("a header that is none of safetensors") from error
    if not is_true:
        raise FormatError("a header that does not describe its bytes")


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield every tensor of a graph or a function, and of the graphs inside their nodes."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _kind_of(body: bytes) -> str:
    kinds = (kind for signature, kind in _SIGNATURES.items() if body.startswith(signature))
    return f"{next(kinds, 'something else')} under that name"
