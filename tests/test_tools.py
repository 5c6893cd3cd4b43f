"""The tools that make the numbers of docs/performance.md measure what they say."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

TOOLS = Path(__file__).resolve().parent.parent / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compared_is_the_same(dtype):
    kernels = tool("bench_kernels")
    with torch.no_grad():
        trials = list(kernels.trials(dtype))
        assert len(trials) >= 6
        for trial in trials:
            assert kernels._difference(trial.now(), trial.tried()) <= trial.same, trial.what
            assert kernels._difference(trial.now(), trial.now() * 1.1) > trial.same, trial.what


def test_the_start_ends_with_the_first_line():
    start = tool("bench_start")
    script = "import time; time.sleep(0.3); print('a box', flush=True); time.sleep(2.5); print('another')"
    took = start.seconds_to_first_line([sys.executable, "-c", script], dict(os.environ))
    assert 0.3 <= took < 2.8


@pytest.mark.parametrize("script", ["print('a box'); raise SystemExit(2)", "pass"])
def test_a_start_without_a_box_is_no_start(script):
    with pytest.raises(RuntimeError, match="ended with exit code"):
        tool("bench_start").seconds_to_first_line([sys.executable, "-c", script], dict(os.environ))
