"""Memory that is kept, and memory that goes back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hatdet.core import allocator
from hatdet.core.allocator import returned_zeros
from hatdet.core.device import is_out_of_memory

GROWTH = """
import re, torch
from hatdet.core.allocator import keep_freed_memory, returned_zeros
assert keep_freed_memory()
make = {make}
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
before, canvas = resident(), make(3, 5000, 5000)
canvas += 1
end = torch.ones(100)  # what is at the end of the heap is given back in any case
held = resident()
del canvas
print(held - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux' C library is told to keep memory")
@pytest.mark.parametrize(("make", "stays"), [("returned_zeros", False), ("torch.zeros", True)])
def test_what_is_as_large_as_a_picture_goes_back_though_freed_memory_is_kept(make, stays):
    """286 MiB, and the control: they stay with what is left of any other tensor."""
    script = GROWTH.format(make=make)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    held, left = (int(number) for number in result.stdout.split())
    assert held >= 286
    assert (left > 200) == stays


@pytest.mark.parametrize("side", [1, 4000])
def test_they_are_zeros_to_write_into(side):
    zeros = returned_zeros(3, side, side)
    assert zeros.shape == (3, side, side)
    assert zeros.dtype == torch.float32
    assert not zeros.any()
    zeros[1, :, 0] += 2
    assert zeros.sum() == 2 * side


def test_too_little_memory_reads_as_it_does_everywhere(monkeypatch):
    def full(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(allocator.mmap, "mmap", full)
    if sys.platform.startswith("linux"):
        with pytest.raises(RuntimeError, match="can't allocate memory: 192000000 bytes") as caught:
            returned_zeros(3, 4000, 4000)
        assert is_out_of_memory(caught.value)
