"""Folders of images, one for each class."""

from collections.abc import Iterator, Sequence

from orchestrator.sources.errors import SourceFormatError
from orchestrator.sources.files import SourceFile, list_files, read_file
from orchestrator.sources.rows import Chunk, Row

SUFFIXES = tuple(
    form for name in ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm") for form in (name, name.upper())
)
IMAGE, LABEL = "image", "label"

_FILES_AT_ONCE = 64


def list_images(directory: str) -> tuple[SourceFile, ...]:
    """Return the images of a directory, sorted by class and name; raises `SourceMissingError`."""
    return list_files((directory,), [f".{suffix}" for suffix in SUFFIXES], source="images")


def classes_of(directory: str) -> tuple[str, ...]:
    """Return the names of the folders that hold images, sorted.

    Raises:
        SourceMissingError: there are no images.
        SourceFormatError: they are all in one folder.
    """
    names = tuple(sorted({file.parent for file in list_images(directory)}))
    if len(names) < 2:
        raise SourceFormatError(directory, f"images in {', '.join(names)}", "a folder for each of at least two classes")
    return names


def read_images(paths: Sequence[str]) -> Iterator[Chunk]:
    """Yield the bytes of each file, with its folder's name as the class; raises `SourceMissingError`."""
    for start in range(0, len(paths), _FILES_AT_ONCE):
        yield [_row(path) for path in paths[start : start + _FILES_AT_ONCE]]


def _row(path: str) -> Row:
    return {IMAGE: read_file(path, source="images"), LABEL: path.split("/")[-2]}
