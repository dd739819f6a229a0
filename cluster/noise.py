"""What other libraries write to our terminal goes to a file; our own lines have descriptors of their own."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def noise_in(path: Path) -> Iterator[None]:
    """Append whatever this process, or one that it starts, writes to descriptors 1 and 2 to the file `path` instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)


@contextlib.contextmanager
def own_descriptor(stream: TextIO) -> Iterator[TextIO]:
    """Yield a stream to the same place on a descriptor of its own, so that `noise_in` leaves it alone."""
    try:
        descriptor = os.dup(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):  # nothing that noise could follow into
        yield stream
        return
    with open(descriptor, "w", encoding=stream.encoding, errors=stream.errors, buffering=1) as own:
        yield own
