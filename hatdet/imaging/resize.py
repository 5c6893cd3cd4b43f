"""Resizing as MATLAB's `imresize` does it: the field's definition of "bicubic".

Keys' cubic with a = -0.5, stretched by 1/scale when reducing (antialias), half-pixel aligned, borders mirrored; the
vertical pass first, and after each pass the values are clipped and rounded half up to the bit depth. Bit-exact with
the published Set5 files, which a plain float pipeline is not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hatdet.core.types import Image

__all__ = ["nearest", "quantized", "reduced", "resize_bicubic"]


def quantized(pixels: Tensor, levels: int) -> Tensor:
    """Clamp to [0, 1] and round half up to multiples of 1/`levels`, in float32."""
    # In place after the first step: a canvas may be most of the memory.
    return pixels.float().clamp(0, 1).mul_(levels).add_(0.5).floor_().div_(levels)


def resize_bicubic(image: Image, size_hw: tuple[int, int], scale: float) -> Image:
    """Resize by `scale` to `size_hw` pixels, on the image's device.

    The sampling positions follow from `scale` alone, as in MATLAB; `size_hw` says how many of them are taken.
    """
    on_device = image.pixels.device
    # MPS has no float64, and float32 is not bit-exact.
    pixels = image.pixels.cpu() if on_device.type == "mps" else image.pixels
    values = pixels.double().mul(image.levels).round()
    for axis, size in ((1, size_hw[0]), (2, size_hw[1])):
        values = _resize_axis(values, axis, size, scale).clamp(0, image.levels).add(0.5).floor()
    return Image(values.div(image.levels).float().to(on_device), image.scale * scale, image.bit_depth)


def nearest(image: Image, scale: int) -> Image:
    """Every pixel repeated `scale` times along both sides."""
    pixels = image.pixels.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Image(pixels, image.scale * scale, image.bit_depth)


def reduced(image: Image, factor: int) -> Image:
    """The image cropped to a multiple of `factor` (right and bottom) and reduced bicubically by it; `scale` is 1.

    It stands for a low-resolution photo, so its own pixels are the source's.

    Raises:
        ValueError: a side shorter than the factor.
    """
    h, w = image.height // factor, image.width // factor
    if not h or not w:
        raise ValueError(f"an image must have at least {factor}x{factor} pixels, got {image.width}x{image.height}")
    cropped = Image(image.pixels[:, : h * factor, : w * factor], bit_depth=image.bit_depth)
    small = resize_bicubic(cropped, (h, w), 1 / factor)
    return Image(small.pixels, 1, small.bit_depth)


def _resize_axis(values: Tensor, axis: int, size: int, scale: float) -> Tensor:
    index, weight = _taps(values.shape[axis], size, scale)
    shape = [1, 1, 1]
    shape[axis] = size
    out = torch.zeros_like(values.narrow(axis, 0, 1)).expand(
        *(size if i == axis else n for i, n in enumerate(values.shape))
    )
    out = out.clone()
    for tap in range(index.shape[1]):
        taken = values.index_select(axis, index[:, tap].to(values.device))
        out.addcmul_(taken, weight[:, tap].view(shape).to(values.device))
    return out


def _taps(length: int, size: int, scale: float) -> tuple[Tensor, Tensor]:
    """For each output sample the input samples it is made of, and their weights. Shape: `(size, taps)` each."""
    width = 4.0 / min(scale, 1.0)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5
    first = (centre - width / 2).floor().long() + 1
    index = first[:, None] + torch.arange(math.ceil(width) + 1)
    distance = (centre[:, None] - index).mul(min(scale, 1.0)).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = torch.where(distance <= 1, near, torch.where(distance <= 2, far, 0.0))
    weight = weight / weight.sum(1, keepdim=True)
    # Mirrored borders: ... 1 0 | 0 1 ... n-1 | n-1 ...
    index = index.remainder(2 * length)
    index = torch.where(index < length, index, 2 * length - 1 - index)
    used = weight.abs().amax(0) > 0  # columns of zeros come from rounding the width up
    return index[:, used], weight[:, used]
