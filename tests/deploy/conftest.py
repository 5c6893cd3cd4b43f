"""Tiny weights, and what is exported of them, once for all tests that only read it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from hatdet.deploy.export import export_upscaler
from hatdet.sr.weights import WeightsFile
from tests.helpers import tiny_hat

TILE = 16
SUFFIX = {"onnx": ".onnx", "torchscript": ".torchscript", "openvino": ".xml"}


def needs_openvino(form: str) -> None:
    if form == "openvino" and find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> WeightsFile:
    """Of `tiny_hat()`, for x2, window 8."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(tiny_hat().state_dict(), path)
    return WeightsFile("tiny", path, None)


@pytest.fixture(scope="session", params=SUFFIX)
def engine_file(request, tiny_weights, tmp_path_factory) -> Path:
    """`tiny_hat()` in each format, for tiles of 16."""
    needs_openvino(request.param)
    path = tmp_path_factory.mktemp("engines") / f"tiny{SUFFIX[request.param]}"
    export_upscaler(tiny_weights, 2, request.param, TILE, path)
    return path
