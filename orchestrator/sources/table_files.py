"""Files of tables, read from their beginning in pieces: Parquet, Arrow, CSV and JSON lines."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from cluster.errors import excerpt
from orchestrator.sources.errors import SourceFormatError
from orchestrator.sources.files import open_file
from orchestrator.sources.rows import Chunk, Row
from orchestrator.sources.tables import BATCH_ROWS
from orchestrator.sources.unfit import Unfit

MAX_ROW_BYTES = 64 * 1024 * 1024
"""A row of text that is longer ends the job: where the next one begins cannot be told."""

_CSV_BLOCK_BYTES = 1024 * 1024


def read_table(path: str, *, kind: str) -> Iterator[pa.RecordBatch | Chunk]:
    """Yield the rows of a file in their order; `kind` is parquet, arrow, csv or jsonl.

    Raises:
        SourceMissingError: the file cannot be opened.
        SourceFormatError: it is not of that kind, or ends in the middle.
    """
    readers = {"parquet": _parquet, "arrow": _arrow, "csv": _csv, "jsonl": _json_lines}
    with open_file(path, source=kind) as file:
        try:
            yield from readers[kind](file, path)
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise SourceFormatError(path, excerpt(str(error)), f"a {kind} file") from error


def _parquet(file: BinaryIO, path: str) -> Iterator[pa.RecordBatch]:
    with pyarrow.parquet.ParquetFile(file) as table:
        # Not with threads: a process of Ray has one core, and batches come in their order either way.
        yield from table.iter_batches(batch_size=BATCH_ROWS, use_threads=False)


def _arrow(file: BinaryIO, path: str) -> Iterator[pa.RecordBatch]:
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    if is_file:
        with pa.ipc.open_file(file) as reader:
            yield from _in_pieces(reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        with pa.ipc.open_stream(file) as stream:
            yield from _in_pieces(iter(stream))


def _in_pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        batch.validate(full=True)  # offsets beyond a buffer would be followed
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _csv(file: BinaryIO, path: str) -> Iterator[pa.RecordBatch | Chunk]:
    """Read every cell as bytes: what is no number is one row's fault, and no type is guessed from the first rows."""
    names = _header(file, path)
    file.seek(0)
    uneven: list[tuple[int, str]] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        uneven.append((row.number - 2, f"it has {row.actual_columns} cells, the first line {row.expected_columns}"))
        return "skip"

    reader = pyarrow.csv.open_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=False
        ),
    )
    yield from _with_uneven(reader, uneven)


def _header(file: BinaryIO, path: str) -> list[str]:
    line = file.readline(MAX_ROW_BYTES).decode("utf-8-sig")
    names = next(csv.reader(io.StringIO(line)), [])
    if len(set(names)) < max(1, len(names)):
        raise SourceFormatError(path, f"the first line {excerpt(line.strip())!r}", "a name for each column, once")
    return names


def _with_uneven(
    batches: Iterator[pa.RecordBatch], uneven: Sequence[tuple[int, str]]
) -> Iterator[pa.RecordBatch | Chunk]:
    """Yield rows where they stand, and in between those that the parser passed over, which `uneven` grows to name."""
    at, passed = 0, 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            gap = uneven[passed][0] - at if passed < len(uneven) else batch.num_rows
            if gap <= 0:
                yield [Unfit(uneven[passed][1])]
                passed, at = passed + 1, at + 1
                continue
            piece = batch.slice(start, min(gap, BATCH_ROWS, batch.num_rows - start))
            yield piece
            start, at = start + piece.num_rows, at + piece.num_rows
    yield [Unfit(reason) for _, reason in uneven[passed:]]


def _json_lines(file: BinaryIO, path: str) -> Iterator[Chunk]:
    lines = _lines(file, path)
    while part := list(islice(lines, BATCH_ROWS)):
        yield [_json_row(line) for line in part]


def _lines(file: BinaryIO, path: str) -> Iterator[bytes]:
    while line := file.readline(MAX_ROW_BYTES):
        if len(line) == MAX_ROW_BYTES:
            raise SourceFormatError(path, "a line without an end", f"lines of less than {MAX_ROW_BYTES} bytes")
        if line.strip():
            yield line


def _json_row(line: bytes) -> Row | Unfit:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unfit(f"it is no JSON ({excerpt(str(error))})")
    return row if isinstance(row, dict) else Unfit("it is no JSON object")
