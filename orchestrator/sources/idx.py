"""The IDX format of MNIST: two zero bytes, a type, the number of axes, their lengths (big-endian), then the values."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from orchestrator.sources.arrays import Rows, class_indices
from orchestrator.sources.errors import SourceFormatError, SourceMissingError
from orchestrator.sources.spec import IdxFiles

_UINT8 = 0x08


def read_idx_rows(files: IdxFiles) -> Rows:
    """Return images uint8 `[rows, height, width]` and their labels.

    Raises:
        SourceMissingError: a file does not exist.
        SourceFormatError: a file is no IDX file of bytes, or the two do not have the same number of rows.
    """
    images, labels_N = _read_idx(files.images), read_idx_labels(files.labels)
    if images.ndim != 3 or not images.size:
        raise SourceFormatError(files.images, f"an array {list(images.shape)}", "rows, height and width")
    if len(images) != len(labels_N):
        raise SourceFormatError(files.labels, f"{len(labels_N)} labels", f"{len(images)}, one for each image")
    return Rows({"image": images}, labels_N)


def read_idx_labels(path: str) -> np.ndarray:
    """Return the class indices in one IDX file, int32 `[rows]`; raises as `read_idx_rows` does."""
    return class_indices(_read_idx(path), where=path)


def _read_idx(path: str) -> np.ndarray:
    try:
        body = Path(path).read_bytes()
    except OSError as error:
        raise SourceMissingError(path, "idx", error.strerror or str(error)) from error
    try:
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    except (OSError, EOFError, zlib.error) as error:
        raise SourceFormatError(path, f"damaged gzip ({error})", "a complete .gz file") from error
    if len(body) < 4 or body[:2] != b"\0\0" or body[2] != _UINT8:
        raise SourceFormatError(path, f"the first bytes {body[:4].hex()}", "0000 08, an IDX file of bytes")
    header_bytes = 4 + 4 * body[3]
    shape = [int.from_bytes(body[at : at + 4], "big") for at in range(4, header_bytes, 4)]
    if not 1 <= len(shape) <= 3 or math.prod(shape) != len(body) - header_bytes:
        expected = f"a header of {header_bytes} and {' x '.join(map(str, shape[:3]))} values"
        raise SourceFormatError(path, f"{len(body)} bytes and {len(shape)} axes", expected)
    return np.frombuffer(body, dtype=np.uint8, offset=header_bytes).reshape(shape)
