"""Memory of processes that run models on a CPU, and of those that read mapped files."""

import contextlib
import ctypes
import mmap
from functools import cache

import numpy as np

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK_BYTES = 32 * 1024 * 1024  # the most that glibc takes
_KEPT_BYTES = 1024 * 1024 * 1024
_MADV_POPULATE_READ = 22
_WORTH_A_CALL_BYTES = 256 * 1024


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next batch, in place of giving each back to the kernel.

    Activations are allocated and freed at every batch. Each page that comes back from the kernel costs a fault: on a
    small CNN these took half of the time of the forward pass. Without glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = _libc()
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def page_in(array: np.ndarray) -> None:
    """Have the kernel enter all pages of a mapped `array`, contiguous in memory, in one call.

    Otherwise each few pages cost a fault when they are first read, which took a third of the time of copying a file
    from the page cache. A kernel that does not know the call (Linux before 5.14) changes nothing.
    """
    if array.nbytes < _WORTH_A_CALL_BYTES:
        return
    start = array.ctypes.data & -mmap.PAGESIZE
    with contextlib.suppress(OSError, AttributeError):
        length = ctypes.c_size_t(array.ctypes.data + array.nbytes - start)
        _libc().madvise(ctypes.c_void_p(start), length, _MADV_POPULATE_READ)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL("libc.so.6")
