"""Device and precision by name."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from hatdet.core.device import choose_device, choose_precision, computes_bf16, device_name
from hatdet.core.errors import OptionsError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"


def test_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if device == CUDA else (7, 5))
    assert choose_precision("auto", CPU) == torch.float32
    assert choose_precision("auto", CUDA) == torch.bfloat16
    assert choose_precision("bf16", CPU) == torch.bfloat16
    assert choose_precision("fp32", CUDA) == torch.float32
    assert choose_precision("auto", torch.device("cuda", 1)) == torch.float32
    with pytest.raises(OptionsError, match="fp16 is refused: HAT overflows"):
        choose_precision("fp16", CUDA)


def test_a_device_says_what_it_is(monkeypatch):
    cpu = device_name(torch.device("cpu"))
    assert cpu.startswith("cpu ")
    assert len(cpu) > len("cpu ")
    monkeypatch.setattr(
        Path, "read_text", lambda path: "processor : 0\nmodel name\t: Toaster 3000 @ 2 GHz\nflags : a\n"
    )
    assert device_name(torch.device("cpu")) == "cpu Toaster 3000 @ 2 GHz"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: f"GPU {where.index}")
    assert device_name(torch.device("cuda:1")) == "GPU 1"


@pytest.mark.parametrize(
    ("machine", "instructions", "expected"),
    [
        ("x86_64", ("_is_amx_tile_supported",), True),
        ("x86_64", ("_is_avx512_bf16_supported",), True),
        ("AMD64", (), False),
    ],
)
def test_a_processor_computes_in_bf16_where_it_has_instructions_for_it(monkeypatch, machine, instructions, expected):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in instructions)
    assert computes_bf16(torch.device("cpu")) is expected
    assert computes_bf16(torch.device("mps")) is False
