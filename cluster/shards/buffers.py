"""How much memory a compressed record batch asks for, read before anything is decompressed.

Arrow allocates what the file says. These few fields of its metadata (flatbuffers: Message.fbs) say it first.
"""

import struct

import pyarrow as pa

_MESSAGE_HEADER, _BATCH_BUFFERS, _BATCH_COMPRESSION = 2, 2, 3  # places of fields in their tables
_STORED_AS_IS = -1


def decompressed_bytes(message: pa.Message) -> int:
    """Return the sum of the lengths that the batch's compressed buffers claim to have; 0 if it is not compressed.

    Raises:
        struct.error: the metadata is shorter than its own offsets say.
    """
    metadata, body = message.metadata.to_pybytes(), memoryview(message.body or b"")
    batch = _target(metadata, _field(metadata, _target(metadata, 0), _MESSAGE_HEADER))
    if not _field(metadata, batch, _BATCH_COMPRESSION):
        return 0
    buffers = _target(metadata, _field(metadata, batch, _BATCH_BUFFERS))
    (num_buffers,) = struct.unpack_from("<I", metadata, buffers)
    places = (struct.unpack_from("<qq", metadata, buffers + 4 + 16 * number) for number in range(num_buffers))
    return sum(_claimed(body, offset) for offset, num_bytes in places if num_bytes)


def _claimed(body: memoryview, offset: int) -> int:
    (num_bytes,) = struct.unpack_from("<q", body, offset)
    return 0 if num_bytes == _STORED_AS_IS else abs(num_bytes)


def _target(metadata: bytes, at: int) -> int:
    """Follow the relative offset that stands at `at`."""
    (distance,) = struct.unpack_from("<I", metadata, at)
    return at + int(distance)


def _field(metadata: bytes, table: int, number: int) -> int:
    """Return where a field of a table stands; 0 if it is absent."""
    (distance,) = struct.unpack_from("<i", metadata, table)
    (num_bytes,) = struct.unpack_from("<H", metadata, table - distance)
    if num_bytes < 6 + 2 * number:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, table - distance + 4 + 2 * number)
    return table + int(offset) if offset else 0
