"""The bytes of a shard: plain Arrow to everyone, arrays without a copy to us, and refused if they are anything else."""

import json
import mmap
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from cluster.shards.compression import Compression
from cluster.shards.encoding import ShardFormatError, decode_shard, encode_shard
from cluster.shards.schema import Column, columns_of

WHERE = "/store/labels/x/data/y.arrow"
ROWS = 5
ARRAYS = {
    "image": np.arange(ROWS * 6, dtype=np.uint8).reshape(ROWS, 2, 3),
    "label": np.array([3, -1, 0, 7, 1], dtype=np.int32),
    "logits": np.linspace(-9, 9, ROWS * 4, dtype=np.float16).reshape(ROWS, 4),
}
COLUMNS = columns_of(ARRAYS)
COMPRESSIONS: tuple[Compression, ...] = ("none", "lz4", "zstd")

VERSION = {"coffey.shard": "1"}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Return one to three columns with the same number of rows and any bits in them, NaNs and infinities included."""
    rows = draw(st.integers(1, 30))
    names = draw(st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True), min_size=1, max_size=3, unique=True))
    dtypes = st.sampled_from([np.uint8, np.uint16, np.int32, np.float16, np.float32])
    shapes = st.lists(st.integers(1, 4), max_size=3)
    return {name: draw(numpy_st.arrays(draw(dtypes), (rows, *draw(shapes)))) for name in names}


def file_of(
    schema: pa.Schema, columns: list[pa.Array], *, batches: int = 1, options: pa.ipc.IpcWriteOptions | None = None
) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for _ in range(batches):
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return bytes(sink.getvalue())


@contextmanager
def arrow_memory() -> Iterator[pa.MemoryPool]:
    """Count what Arrow allocates here."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pa.set_memory_pool(usual)


def field(name: str, arrow_type: pa.DataType, shape: list[int], *, nullable: bool = False) -> pa.Field:
    return pa.field(name, arrow_type, nullable=nullable, metadata={"shape": str(shape).replace(" ", "")})


def vectors(value_type: pa.DataType, length: int, *, child: pa.Field | None = None) -> pa.DataType:
    return pa.list_(child or pa.field("item", value_type, nullable=False), length)


LOGITS = Column(name="logits", dtype="float16", shape=(2,))
LOGITS_TYPE = vectors(pa.float16(), 2)
LOGITS_FIELD = field("logits", LOGITS_TYPE, [2])


def logits(rows: int = ROWS, arrow_type: pa.DataType = LOGITS_TYPE) -> pa.Array:
    values = pa.array(np.zeros(rows * 2, np.float16))
    return pa.FixedSizeListArray.from_arrays(values.cast(arrow_type.value_type), type=arrow_type)


def test_a_file_written_by_arrow_alone_from_the_description_of_the_format_is_a_shard() -> None:
    body = file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [logits()])

    decoded = decode_shard(body, [LOGITS], rows=ROWS, where=WHERE)

    assert np.array_equal(decoded["logits"], np.zeros((ROWS, 2), np.float16))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_any_reader_of_arrow_finds_the_arrays_the_shapes_and_the_version(compression: Compression) -> None:
    reader = pa.ipc.open_file(encode_shard(ARRAYS, compression=compression))
    table = reader.read_all()

    assert table.schema.metadata == {b"coffey.shard": b"1"}
    assert table.schema.names == list(ARRAYS)
    for name, array in ARRAYS.items():
        shape = json.loads(table.schema.field(name).metadata[b"shape"])
        assert np.array_equal(np.array(table[name].to_pylist(), array.dtype).reshape(-1, *shape), array)


@given(table=tables(), compression=st.sampled_from(COMPRESSIONS))
@settings(deadline=None)
def test_every_type_and_shape_comes_back_bit_by_bit(table: dict[str, np.ndarray], compression: Compression) -> None:
    rows = len(next(iter(table.values())))

    decoded = decode_shard(encode_shard(table, compression=compression), columns_of(table), rows=rows, where=WHERE)

    assert list(decoded) == list(table)
    for name, array in table.items():
        assert decoded[name].dtype == array.dtype
        assert decoded[name].shape == array.shape
        assert decoded[name].tobytes() == array.tobytes()


def test_arrays_that_are_not_contiguous_come_back_too() -> None:
    strided = {"image": np.arange(120, dtype=np.uint8).reshape(5, 4, 6)[::2, :, ::3].transpose(0, 2, 1)}

    decoded = decode_shard(encode_shard(strided), columns_of(strided), rows=3, where=WHERE)

    assert np.array_equal(decoded["image"], strided["image"])


def test_equal_arrays_give_equal_bytes() -> None:
    assert encode_shard(ARRAYS) == encode_shard({name: array.copy() for name, array in ARRAYS.items()})


def test_decoding_a_mapped_file_views_it_and_allocates_nothing(tmp_path: Path) -> None:
    large = {"image": np.zeros((4096, 28, 28), np.uint8), "logits": np.ones((4096, 10), np.float16)}
    path = tmp_path / "shard.arrow"
    path.write_bytes(encode_shard(large))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    with arrow_memory() as pool:
        decoded = decode_shard(memoryview(mapped), columns_of(large), rows=4096, where=WHERE)

    assert pool.max_memory() == 0
    assert all(np.shares_memory(array, np.frombuffer(mapped, np.uint8)) for array in decoded.values())


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decoded_arrays_are_read_only(compression: Compression) -> None:
    decoded = decode_shard(encode_shard(ARRAYS, compression=compression), COLUMNS, rows=ROWS, where=WHERE)

    for array in decoded.values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def nulls_in_rows() -> bytes:
    column = pa.array([[1, 2], None, [3, 4], [5, 6], [7, 8]], type=vectors(pa.float16(), 2))
    return file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [column])


def nulls_in_values() -> bytes:
    column = pa.FixedSizeListArray.from_arrays(pa.array([None] + [1.0] * 9, type=pa.float16()), type=LOGITS_TYPE)
    return file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [column])


def with_type(arrow_type: pa.DataType) -> bytes:
    return file_of(pa.schema([field("logits", arrow_type, [2])], metadata=VERSION), [logits(arrow_type=arrow_type)])


def with_field(changed: pa.Field) -> bytes:
    return file_of(pa.schema([changed], metadata=VERSION), [logits(arrow_type=changed.type)])


def dictionary_encoded() -> bytes:
    column = pa.array([1, 2, 1, 2, 1], pa.int32()).dictionary_encode()
    return file_of(pa.schema([field("logits", column.type, [])], metadata=VERSION), [column])


def stream_not_file() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([LOGITS_FIELD], metadata=VERSION)) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([logits()], schema=pa.schema([LOGITS_FIELD], metadata=VERSION)))
    return bytes(sink.getvalue())


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "no version": (lambda: file_of(pa.schema([LOGITS_FIELD]), [logits()]), "version none"),
    "a later version": (
        lambda: file_of(pa.schema([LOGITS_FIELD], metadata={"coffey.shard": "2"}), [logits()]),
        "version 2",
    ),
    "a version of nonsense": (
        lambda: file_of(pa.schema([LOGITS_FIELD], metadata={"coffey.shard": b"\xff"}), [logits()]),
        "version",
    ),
    "another shape": (lambda: with_field(field("logits", LOGITS_TYPE, [1, 2])), "[1,2]"),
    "no shape": (lambda: with_field(pa.field("logits", LOGITS_TYPE, nullable=False)), "?"),
    "another length": (
        lambda: file_of(
            pa.schema([field("logits", vectors(pa.float16(), 1), [2])], metadata=VERSION),
            [pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5, np.float16)), type=vectors(pa.float16(), 1))],
        ),
        "[1]",
    ),
    "another type": (lambda: with_type(vectors(pa.float32(), 2)), "float"),
    "a type that is not offered": (lambda: with_type(vectors(pa.int64(), 2)), "int64"),
    "another name": (lambda: with_field(field("Logits", LOGITS_TYPE, [2])), "Logits"),
    "more metadata": (
        lambda: with_field(LOGITS_FIELD.with_metadata({"shape": "[2]", "PANDAS": "?"})),
        "logits",
    ),
    "metadata on the values": (
        lambda: with_type(
            vectors(pa.float16(), 2, child=pa.field("item", pa.float16(), nullable=False, metadata={"unit": "nat"}))
        ),
        "logits",
    ),
    "metadata on the table": (
        lambda: file_of(pa.schema([LOGITS_FIELD], metadata=VERSION | {"pandas": "{}"}), [logits()]),
        "logits",
    ),
    "a nullable column": (lambda: with_field(field("logits", LOGITS_TYPE, [2], nullable=True)), "logits"),
    "one column more": (
        lambda: file_of(
            pa.schema([LOGITS_FIELD, field("label", pa.int32(), [])], metadata=VERSION),
            [logits(), pa.array(range(ROWS), pa.int32())],
        ),
        "label",
    ),
    "no column": (lambda: file_of(pa.schema([], metadata=VERSION), []), ""),
    "a missing row": (nulls_in_rows, "missing values"),
    "a missing value": (nulls_in_values, "missing values"),
    "two batches": (
        lambda: file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [logits()], batches=2),
        "2 record batches",
    ),
    "no batch": (
        lambda: file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [logits()], batches=0),
        "0 record batches",
    ),
    "a row too few": (lambda: file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [logits(ROWS - 1)]), "4 rows"),
    "a row too many": (lambda: file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [logits(ROWS + 1)]), "6 rows"),
    "a dictionary": (dictionary_encoded, "dictionary"),
    "a stream": (stream_not_file, "no Arrow IPC file"),
    "an empty file": (lambda: b"", "no Arrow IPC file"),
    "a text": (lambda: b'{"version":1}', "no Arrow IPC file"),
    "zeros": (lambda: bytes(4096), "no Arrow IPC file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_is_not_the_promised_shard_is_refused_by_name(kind: str) -> None:
    build, found = REFUSED[kind]

    with pytest.raises(ShardFormatError) as refusal:
        decode_shard(build(), [LOGITS], rows=ROWS, where=WHERE)

    assert str(refusal.value).startswith(WHERE)
    assert found in refusal.value.found
    assert refusal.value.exit_code == 7
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


def test_columns_in_another_order_are_refused() -> None:
    with pytest.raises(ShardFormatError):
        decode_shard(encode_shard(ARRAYS), COLUMNS[::-1], rows=ROWS, where=WHERE)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_file_cut_short_anywhere_is_refused(compression: Compression) -> None:
    body = encode_shard(ARRAYS, compression=compression)

    for length in range(len(body)):
        with pytest.raises(ShardFormatError):
            decode_shard(body[:length], COLUMNS, rows=ROWS, where=WHERE)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_damaged_file_is_refused_or_gives_arrays_of_the_promised_shape_and_nothing_else_happens(
    compression: Compression,
) -> None:
    body = encode_shard(ARRAYS, compression=compression)
    rng = np.random.default_rng(8)

    for _ in range(500):
        damaged = np.frombuffer(body, np.uint8).copy()
        damaged[rng.integers(len(body), size=rng.integers(1, 9))] = rng.integers(256)
        try:
            decoded = decode_shard(damaged.tobytes(), COLUMNS, rows=ROWS, where=WHERE)
        except ShardFormatError:
            continue
        assert {name: array.shape for name, array in decoded.items()} == {
            name: array.shape for name, array in ARRAYS.items()
        }
        assert all(len(array.tobytes()) == array.nbytes for array in decoded.values())  # every byte can be read


def test_a_file_that_claims_more_rows_than_its_buffers_hold_is_refused() -> None:
    honest = file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [logits(1001)])
    claims = ((1001, 100_001), (2002, 200_002))  # of the batch and its lists, and of the values in them
    forged = honest
    for held, claimed in claims:
        assert held.to_bytes(8, "little") in forged
        forged = forged.replace(held.to_bytes(8, "little"), claimed.to_bytes(8, "little"))

    with pytest.raises(ShardFormatError, match="no Arrow IPC file"):
        decode_shard(forged, [LOGITS], rows=100_001, where=WHERE)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_small_file_that_decompresses_into_more_than_promised_is_refused_before_it_does(compression: str) -> None:
    pixels = pa.array(np.zeros(64 << 20, np.uint8))
    schema = pa.schema([field("pixel", pa.uint8(), [])], metadata=VERSION)
    body = file_of(schema, [pixels], options=pa.ipc.IpcWriteOptions(compression=compression))
    assert len(body) < 1 << 20

    with arrow_memory() as pool, pytest.raises(ShardFormatError, match=f"{64 << 20} bytes when decompressed"):
        decode_shard(body, [Column(name="pixel", dtype="uint8")], rows=ROWS, where=WHERE)

    assert pool.max_memory() < 1 << 20


DESERIALIZED: list[bytes] = []


class Exploding(pa.ExtensionType):  # type: ignore[misc]
    """A type whose reader runs whatever the file says."""

    def __init__(self, storage: pa.DataType, payload: bytes = b"") -> None:
        self._payload = payload
        super().__init__(storage, "tests.exploding")

    def __arrow_ext_serialize__(self) -> bytes:
        return self._payload

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "Exploding":
        DESERIALIZED.append(serialized)
        if serialized:
            pickle.loads(serialized)
        return cls(storage, serialized)


class Payload:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._path),)


@pytest.fixture
def exploding() -> Iterator[None]:
    pa.register_extension_type(Exploding(LOGITS_TYPE))
    DESERIALIZED.clear()
    yield
    pa.unregister_extension_type("tests.exploding")


def extension_file(extension: pa.ExtensionType) -> bytes:
    column = pa.ExtensionArray.from_storage(extension, logits(arrow_type=extension.storage_type))
    return file_of(pa.schema([field("logits", extension, [2])], metadata=VERSION), [column])


def extension_inside_a_list() -> bytes:
    inner = Exploding(pa.float16())
    arrow_type = vectors(inner, 2, child=pa.field("item", inner, nullable=False))
    values = pa.ExtensionArray.from_storage(inner, pa.array(np.zeros(ROWS * 2, np.float16)))
    column = pa.FixedSizeListArray.from_arrays(values, type=arrow_type)
    return file_of(pa.schema([field("logits", arrow_type, [2])], metadata=VERSION), [column])


def start_of_footer(body: bytes) -> int:
    return len(body) - 10 - int.from_bytes(body[-10:-6], "little")


@pytest.mark.usefixtures("exploding")
def test_a_careless_reader_would_run_the_payload_of_this_type(tmp_path: Path) -> None:
    pa.ipc.open_file(extension_file(Exploding(LOGITS_TYPE, pickle.dumps(Payload(tmp_path / "ran")))))

    assert (tmp_path / "ran").exists()


@pytest.mark.usefixtures("exploding")
def test_we_refuse_the_type_and_its_payload_does_not_run(tmp_path: Path) -> None:
    body = extension_file(Exploding(LOGITS_TYPE, pickle.dumps(Payload(tmp_path / "ran"))))

    with pytest.raises(ShardFormatError, match="an extension type"):
        decode_shard(body, [LOGITS], rows=ROWS, where=WHERE)

    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("exploding")
@pytest.mark.parametrize(
    "build",
    [
        lambda: extension_file(Exploding(LOGITS_TYPE)),
        extension_inside_a_list,
        lambda: extension_file(pa.fixed_shape_tensor(pa.float16(), [2])),
        lambda: extension_file(pa.opaque(LOGITS_TYPE, "unknown", "nobody")),
        lambda: with_field(LOGITS_FIELD.with_metadata({"shape": "[2]", "ARROW:extension:name": "registered.nowhere"})),
    ],
    ids=["registered", "registered, inside a list", "fixed_shape_tensor", "opaque", "unregistered"],
)
def test_extension_types_are_refused_before_they_are_looked_up(build: Callable[[], bytes]) -> None:
    body = build()
    DESERIALIZED.clear()

    with pytest.raises(ShardFormatError, match="an extension type"):
        decode_shard(body, [LOGITS], rows=ROWS, where=WHERE)

    assert not DESERIALIZED


@pytest.mark.usefixtures("exploding")
def test_an_extension_type_named_only_in_the_leading_schema_is_not_looked_up() -> None:
    honest = file_of(pa.schema([LOGITS_FIELD], metadata=VERSION), [logits()])
    hostile = extension_file(Exploding(LOGITS_TYPE))
    honest_footer, hostile_footer = (
        len(body) - 10 - int.from_bytes(body[-10:-6], "little") for body in (honest, hostile)
    )
    DESERIALIZED.clear()

    # Arrow takes the schema from the footer, and the batch's place in the file is the same in both.
    decoded = decode_shard(hostile[:hostile_footer] + honest[honest_footer:], [LOGITS], rows=ROWS, where=WHERE)

    assert not DESERIALIZED
    assert decoded["logits"].shape == (ROWS, 2)
