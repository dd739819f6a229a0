"""Tar files of samples, as the WebDataset convention has them, read from front to end.

Nothing is unpacked: names of members, which strangers chose, tell samples apart and are never paths on this machine.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from cluster.errors import excerpt
from orchestrator.sources.errors import SourceFormatError
from orchestrator.sources.files import open_file
from orchestrator.sources.formats import WebDatasetSource
from orchestrator.sources.rows import Chunk, Row
from orchestrator.sources.unfit import Unfit

MAX_MEMBER_BYTES = 64 * 1024 * 1024
"""A member that says to be larger ends the job: passing over it may take as long as it says."""

_SAMPLES_AT_ONCE = 64

Sample = dict[str, "bytes | Unfit"]


def read_archive(path: str, config: WebDatasetSource) -> Iterator[Chunk]:
    """Yield the samples of a tar file, compressed or not, in their order.

    Raises:
        SourceMissingError: it cannot be opened.
        SourceFormatError: it is no tar file, or ends in the middle.
    """
    chunk: list[Row | Unfit] = []
    for sample in _samples(path):
        chunk.append(_row(sample, config))
        if len(chunk) == _SAMPLES_AT_ONCE:
            yield chunk
            chunk = []
    yield chunk


def _samples(path: str) -> Iterator[Sample]:
    """Yield members of one name by their extensions; a name that comes back later begins another sample."""
    current, sample = None, Sample()
    with open_file(path, source="webdataset") as file:
        try:
            with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    if member.size > MAX_MEMBER_BYTES:
                        found = f"a member {excerpt(member.name)} of {member.size:,} bytes"
                        raise SourceFormatError(path, found, f"at most {MAX_MEMBER_BYTES:,}")
                    folder, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    if (folder, stem) != current and sample:
                        yield sample
                        sample = Sample()
                    current, sample[extension.lower()] = (folder, stem), _content(archive, member)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise SourceFormatError(path, excerpt(str(error)), "a complete tar file") from error
    if sample:
        yield sample


class _Member(tarfile.TarInfo):
    """Fails where `tarfile` would take damage, or an early end of the file, for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no member and no end at byte {tarfile_.offset:,}: {error}") from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> "bytes | Unfit":
    if not member.isfile():
        return Unfit(f"its member {excerpt(member.name)} is no file")
    opened = archive.extractfile(member)
    assert opened is not None  # noqa: S101 - it is a file
    return opened.read()


def _row(sample: Sample, config: WebDatasetSource) -> "Row | Unfit":
    wanted = {config.label: (config.label,)} | {name: column.of or (name,) for name, column in config.inputs.items()}
    try:
        return {name: _first(sample, extensions) for name, extensions in wanted.items()}
    except Unfit as error:
        return error


def _first(sample: Mapping[str, "bytes | Unfit"], extensions: tuple[str, ...]) -> object:
    extension = next((extension for extension in extensions if extension.lower() in sample), None)
    if extension is None:
        raise Unfit(f"it has no member .{' or .'.join(extensions)}, only .{excerpt(', .'.join(sample))}")
    body = sample[extension.lower()]
    if isinstance(body, Unfit):
        raise body
    return _array(body, extension) if extension.lower() == "npy" else body


def _array(body: bytes, extension: str) -> np.ndarray:
    try:
        array: np.ndarray = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Unfit(f"its member .{extension} is no array of numpy ({excerpt(str(error))})") from error
    return array
