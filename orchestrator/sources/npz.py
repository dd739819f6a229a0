"""NumPy archives; arrays of objects, which are pickles, are refused."""

import zipfile
import zlib

import numpy as np
from numpy.lib.npyio import NpzFile
from pydantic import ValidationError

from cluster.shards.schema import LABEL, ROW, columns_of
from orchestrator.sources.arrays import Rows, class_indices
from orchestrator.sources.errors import SourceFormatError, SourceMissingError

_UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_npz_rows(path: str) -> Rows:
    """Return the columns of an archive and its `label`.

    Raises:
        SourceMissingError: the file does not exist.
        SourceFormatError: it is no archive, has no `label` or nothing else, or holds what cannot be stored.
    """
    columns = _read_arrays(path)
    if LABEL not in columns or len(columns) == 1:
        raise SourceFormatError(path, f"the arrays {', '.join(columns) or '(none)'}", f"{LABEL!r} and another one")
    labels_N = class_indices(columns.pop(LABEL), where=f"{path}: {LABEL}")
    for name, array in columns.items():
        _check_column(f"{path}: {name}", name, array, rows=len(labels_N))
    return Rows(columns, labels_N)


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, NpzFile):
            raise ValueError("a single array")  # noqa: TRY004 - a file of the wrong form, as all that is caught below
        with archive:
            members: dict[str, object] = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise SourceMissingError(path, "npz", error.strerror or str(error)) from error
    except _UNREADABLE as error:
        raise SourceFormatError(path, str(error), "a .npz archive of numeric arrays") from error
    arrays = {name: member for name, member in members.items() if isinstance(member, np.ndarray)}
    if strangers := members.keys() - arrays.keys():
        raise SourceFormatError(path, f"{min(strangers)}, which is no array", "a .npz archive of numeric arrays")
    return arrays


def _check_column(where: str, name: str, array: np.ndarray, *, rows: int) -> None:
    found = f"{array.dtype} {list(array.shape)}"
    if array.shape[:1] != (rows,):
        raise SourceFormatError(where, found, f"{rows} rows, one for each label")
    if name == ROW:
        raise SourceFormatError(where, f"a column called {ROW!r}", "another name: rows are numbered under this one")
    try:
        columns_of({name: array})
    except ValidationError as error:
        expected = "uint8, int32, float16 or float32, under a name of small letters, digits and '_'"
        raise SourceFormatError(where, found, expected) from error
