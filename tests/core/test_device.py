"""Device and precision by name."""

from __future__ import annotations

import pytest
import torch

from hatdet.core.device import choose_device, choose_precision
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
