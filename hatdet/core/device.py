"""Which device, and in which precision."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from hatdet.core.errors import DeviceError, OptionsError

__all__ = [
    "choose_device",
    "choose_precision",
    "computes_bf16",
    "device_name",
    "is_out_of_memory",
    "placed",
    "release_memory",
    "wait_for",
]

Model = TypeVar("Model", bound=nn.Module)
BF16_CAPABILITY = (8, 0)  # older cards emulate it, slower than fp32


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is the first of CUDA, MPS and the CPU that is there.

    Raises:
        DeviceError: no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if name.isdigit() else name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise NotImplementedError(device.type)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise DeviceError(f"device {name!r} is not usable here: expected one of {', '.join(there)}") from error
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the network's matrix products: `auto`, `fp32` or `bf16`.

    `auto` is bf16 on CUDA where the card computes in it, fp32 everywhere else. fp16 is refused: HAT's activations
    leave its range, and the picture turns black.

    Raises:
        OptionsError: another name.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and computes_bf16(device) else torch.float32
    if name == "fp16":
        raise OptionsError("precision fp16 is refused: HAT overflows in it (black tiles); use bf16 or fp32")
    if name not in ("fp32", "bf16"):
        raise OptionsError(f"precision must be auto, fp32 or bf16, got {name!r}")
    return torch.bfloat16 if name == "bf16" else torch.float32


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bf16; without them it emulates, several times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        # On x86 oneDNN says yes to any AVX-512.
        return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)())


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return " ".join([device.type, model or platform.processor() or platform.machine()])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is an allocator's; the CPU's and MPS's have no class of their own."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def placed(model: Model, device: torch.device, name: str) -> Model:
    """The model on a device.

    Raises:
        DeviceError: it does not fit.
    """
    try:
        return model.to(device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise DeviceError(f"{device} has too little memory for the weights of {name}") from error
        raise


def release_memory(device: torch.device) -> None:
    """Give back to the device what torch holds and does not use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def wait_for(device: torch.device) -> None:
    """Until a device has done all that it was given, so that a clock tells the time of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
