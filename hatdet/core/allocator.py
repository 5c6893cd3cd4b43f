"""How the C library deals with large blocks of memory, which long runs on the CPU live by."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, for the rest of this process; whether it is there to be told.

    By default it gives large blocks back to the system at once. A network wants blocks of the same sizes at every step
    of training and in every tile, and the page faults on fresh ones take a good part of both
    (`tools/bench_training.py --keep-memory`, `hatdet bench`).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
