"""Data sets of Hugging Face on a disk or in a bucket, read without the library: `save_to_disk`, or Parquet files."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet

from cluster.errors import excerpt
from orchestrator.sources.errors import SourceFormatError, SourceMissingError
from orchestrator.sources.files import SourceFile, list_files, open_file, path_in, read_file

_SOURCE = "huggingface"
_INFO_KEY = b"huggingface"


def list_saved(directory: str) -> tuple[SourceFile, ...]:
    """Return the files of one split in the order of its rows.

    Raises:
        SourceMissingError: there are none.
        SourceFormatError: the directory's `state.json` does not name them.
    """
    files = list_files((directory,), (".arrow", ".parquet"), source=_SOURCE)
    try:
        state = _json(path_in(directory, "state.json"))
    except SourceMissingError:
        return files
    by_name = {file.path.rpartition("/")[2]: file for file in files}
    try:
        # Only names: a path would leave the directory.
        return tuple(by_name[item["filename"]] for item in state["_data_files"])
    except (KeyError, TypeError) as error:
        where = path_in(directory, "state.json")
        raise SourceFormatError(where, f"no file for {excerpt(str(error))}", "files of the same directory") from error


def saved_classes(directory: str, label: str) -> tuple[str, ...] | None:
    """Return the names of a `ClassLabel`; None where the label is another feature."""
    try:
        info = _json(path_in(directory, "dataset_info.json"))
    except SourceMissingError:
        info = _info_of_parquet(list_saved(directory)[0])
    features = info.get("features")
    feature = features.get(label) if isinstance(features, Mapping) else None
    names = feature.get("names") if isinstance(feature, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, list) and len(names) > 1 else None


def kind_of(path: str) -> str:
    """Return how a file is read."""
    return "parquet" if path.endswith(".parquet") else "arrow"


def _json(path: str) -> Mapping[str, Any]:
    try:
        found = json.loads(read_file(path, source=_SOURCE))
    except (ValueError, RecursionError) as error:
        raise SourceFormatError(path, excerpt(str(error)), "JSON") from error
    return found if isinstance(found, dict) else {}


def _info_of_parquet(file: SourceFile) -> Mapping[str, Any]:
    if kind_of(file.path) != "parquet":
        return {}
    with open_file(file.path, source=_SOURCE) as opened:
        try:
            metadata = pyarrow.parquet.read_schema(opened).metadata or {}
            info = json.loads(metadata.get(_INFO_KEY, b"{}")).get("info", {})
        except (pyarrow.ArrowException, OSError, ValueError, AttributeError) as error:
            raise SourceFormatError(file.path, excerpt(str(error)), "a Parquet file of `datasets`") from error
    return info if isinstance(info, dict) else {}
