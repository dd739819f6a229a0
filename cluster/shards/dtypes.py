"""What numbers a column may hold: light enough for a spec to import."""

from typing import Literal

DType = Literal["uint8", "uint16", "int32", "float16", "float32"]
