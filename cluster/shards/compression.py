"""How a shard's buffers may be compressed: light enough for a spec to import."""

from typing import Literal

Compression = Literal["none", "lz4", "zstd"]
"""`none` lets a reader map the file; the others are the two that Arrow IPC knows."""
