"""How the C library deals with large blocks of memory, which long runs on the CPU live by."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys

import torch
from torch import Tensor

__all__ = ["keep_freed_memory", "returned_zeros"]

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST = 2**31 - 1
WORTH_RETURNING = 2**26  # bytes


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


def returned_zeros(*shape: int, device: torch.device | None = None) -> Tensor:
    """float32 zeros, on the host by default, whose memory the system has again when nobody uses them any more.

    `keep_freed_memory` is for blocks that are wanted again and again. What is as large as a picture is wanted once, and
    kept it would add to all that follows. Small ones are kept all the same.
    """
    count = math.prod(shape)
    elsewhere = device is not None and device.type != "cpu"
    if elsewhere or not sys.platform.startswith("linux") or 4 * count < WORTH_RETURNING:
        return torch.zeros(*shape, device=device)
    try:
        block = mmap.mmap(-1, 4 * count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:  # as PyTorch says it
        raise RuntimeError(f"can't allocate memory: {4 * count} bytes were wanted") from error
    return torch.frombuffer(block, dtype=torch.float32).view(shape)
