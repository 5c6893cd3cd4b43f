"""`hatdet doctor`: is this installation sound, and if not, what mends it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable

import typer

__all__ = ["run"]

PACKAGES = ("hatdet", "torch", "torchvision", "ultralytics", "opencv-python", "scikit-image", "einops", "basicsr")
CV2_OWNERS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def run() -> None:
    """Check versions, GPU, the torch/torchvision pair and the embedded weights. Exit code 1 if something is wrong."""
    print(f"python         {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        print(f"{name:14} {_version(name) or 'not installed'}")
    problems = [problem for check in (_opencv, _torch_pair, _device, _training, _weights) for problem in check()]
    for problem in problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(1)
    print("everything is in order")


def _version(name: str) -> str | None:
    import importlib.metadata  # not at the top: `hatdet --help` does without

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _opencv() -> list[str]:
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        if "libGL" in str(error) or "libgthread" in str(error):
            return [f"OpenCV lacks a system library ({error}): on Debian, `apt-get install libgl1 libglib2.0-0`"]
        return [f"OpenCV does not load ({error}): `pip install --force-reinstall opencv-python`"]
    owners = [name for name in CV2_OWNERS if _version(name)]
    if len(owners) > 1:
        return [
            f"{' and '.join(owners)} both own cv2: `pip uninstall {' '.join(owners)}`, then `pip install opencv-python`"
        ]
    return []


def _torch_pair() -> list[str]:
    """Resolve torchvision's compiled operators: versions alone do not tell a CPU build from a CUDA build."""
    torch_version, vision_version = _version("torch"), _version("torchvision")
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())
        return [
            f"torch {torch_version} and torchvision {vision_version} do not fit each other ({reason}): "
            "`pip install --force-reinstall torch torchvision` from one index"
        ]
    return []


def _device() -> list[str]:
    def describe() -> str:
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
            return f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {bf16}"
        if torch.backends.mps.is_available():
            return "Apple GPU (MPS)"
        return f"none: the CPU computes, {torch.get_num_threads()} threads"

    return _printed("GPU", describe)


def _training() -> list[str]:
    if _version("basicsr") is None:
        why = "basicsr does not build on Python 3.13 and later" if sys.version_info >= (3, 13) else "basicsr is missing"
        print(f"{'training':14} not available: {why}; everything else works")
    return []


def _weights() -> list[str]:
    def describe() -> str:
        from hatdet.core.fetch import cache_dir
        from hatdet.detection.weights import find_detector
        from hatdet.sr.catalogue import CATALOGUE
        from hatdet.sr.weights import find_weights, record_path

        names = [find_detector(None).stem]
        cached = 0
        for record in CATALOGUE:
            if record.kind == "embedded":
                names.append(find_weights(record.name, record.scale).name)
            elif record_path(record) is not None:
                find_weights(record.name, record.scale)
                cached += 1
        return f"embedded {', '.join(names)}; {cached} in {cache_dir()}; all hashes right"

    return _printed("weights", describe)


def _printed(what: str, describe: Callable[[], str]) -> list[str]:
    """Print what a check finds, or return its error as a problem."""
    try:
        print(f"{what:14} {describe()}")
    except Exception as error:  # a doctor reports whatever is wrong
        return [f"{what}: {error}"]
    return []
