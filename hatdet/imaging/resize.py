"""Resizing as MATLAB's `imresize` does it: the field's definition of "bicubic".

Keys' cubic with a = -0.5, stretched by 1/scale when reducing (antialias), half-pixel aligned, borders mirrored; the
vertical pass first, and after each pass the values are clipped and rounded half up to the bit depth. Bit-exact with
the published Set5 files, which a plain float pipeline is not.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hatdet.core.types import Image

__all__ = [
    "WindowedBicubic",
    "nearest",
    "reduced",
    "reduced_batch",
    "resize_bicubic",
    "resize_samples",
    "round_",
    "to_scale",
]

Window: TypeAlias = tuple[int, int, int, int]  # top, bottom, left, right: the pixels [top, bottom) x [left, right)


def resize_bicubic(image: Image, size_hw: tuple[int, int], scale: float) -> Image:
    """Resize by `scale` to `size_hw` pixels, on the image's device.

    The sampling positions follow from `scale` alone, as in MATLAB; `size_hw` says how many of them are taken.
    """
    on_device = image.pixels.device
    # MPS has no float64, and float32 is not bit-exact.
    pixels = image.pixels.cpu() if on_device.type == "mps" else image.pixels
    rows, columns = _taps(image.height, size_hw[0], scale), _taps(image.width, size_hw[1], scale)
    out = torch.empty(3, *size_hw, device=pixels.device)
    for channel, result in zip(pixels, out, strict=True):  # one by one: float64 of a large canvas is a lot
        values = channel.double().mul_(image.levels).round_()
        for axis, taps in ((0, rows), (1, columns)):
            values = _resize_axis(values, axis, *taps).clamp_(0, image.levels).add_(0.5).floor_()
        result.copy_(values).div_(image.levels)
    return Image(out.to(on_device), image.scale * scale, image.bit_depth)


def resize_samples(
    samples: NDArray[np.uint8 | np.uint16], size_hw: tuple[int, int], scale: float
) -> NDArray[np.uint8 | np.uint16]:
    """`resize_bicubic` of one channel as it is on disk. Shape: `(h, w)` to `size_hw`, of the same type."""
    h, w = samples.shape
    return _resize_in_numpy(samples[..., None], _taps(h, size_hw[0], scale), _taps(w, size_hw[1], scale))[..., 0]


class WindowedBicubic:
    """`resize_bicubic` of parts of an image, from no more of it than they need; equal bit for bit to the whole.

    Args:
        size_hw: of the image.
        scale: how many times larger, along each side.
    """

    def __init__(self, size_hw: tuple[int, int], scale: int) -> None:
        self._axes = tuple(_taps(side, side * scale, scale) for side in size_hw)

    def needed(self, window: Window) -> Window:
        """The part of the image that a part of the result is made from."""
        (top, bottom), (left, right) = (
            (int(used.min()), int(used.max()) + 1)
            for used in (index[first:last] for (index, _), first, last in self._along(window))
        )
        return top, bottom, left, right

    def resize(self, samples: NDArray[Any], window: Window) -> NDArray[Any]:
        """A part of the result. Shape: `(h, w, n)`, the part of the image that is needed, to `(h, w, n)`."""
        starts = self.needed(window)[::2]
        rows, columns = (
            (index[first:last] - start, weight[first:last])
            for ((index, weight), first, last), start in zip(self._along(window), starts, strict=True)
        )
        return _resize_in_numpy(samples, rows, columns)

    def _along(self, window: Window) -> tuple[tuple[tuple[Tensor, Tensor], int, int], ...]:
        top, bottom, left, right = window
        return (self._axes[0], top, bottom), (self._axes[1], left, right)


def to_scale(image: Image, scale: float) -> Image:
    """The image resized so that `scale` of its pixels make one source pixel; sides are rounded up, as in MATLAB."""
    w, h = (math.ceil(round(side * scale, 6)) for side in image.source_size_wh)
    return replace(resize_bicubic(image, (h, w), scale / image.scale), scale=scale)


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


def reduced_batch(batch: Tensor, factor: int) -> Tensor:
    """The same reduction of a batch, neither clipped nor rounded, so that gradients pass: for losses.

    Shape: `(b, c, h, w)` to `(b, c, h // factor, w // factor)`; the sides are multiples of the factor.
    """
    rows, columns = (_matrix(side, factor, batch.dtype, batch.device) for side in batch.shape[2:])
    return rows @ batch @ columns.T


@lru_cache(maxsize=16)
def _matrix(length: int, factor: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The reduction of one axis, as what its samples are multiplied with. Shape: `(length // factor, length)`."""
    index, weight = _taps(length, length // factor, 1 / factor)
    matrix = torch.zeros(length // factor, length, dtype=torch.float64).scatter_add_(1, index, weight)
    return matrix.to(device, dtype)


def _resize_in_numpy(
    samples: NDArray[Any], rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> NDArray[Any]:
    """`resize_bicubic` of samples as they are on disk, in one thread: small parts are not worth more, which would wait
    for each other. Shape: `(h, w, n)` to `(rows, columns, n)`, of the same type.
    """
    values, levels = samples.astype(np.float64), np.iinfo(samples.dtype).max
    for axis, (index, weight) in ((0, rows), (1, columns)):
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        out = None
        for tap in range(index.shape[1]):
            taken = values.take(index[:, tap].numpy(), axis)
            taken *= weight[:, tap].numpy().reshape(shape)
            out = taken if out is None else np.add(out, taken, out=out)
        assert out is not None
        values = np.floor(np.clip(out, 0, levels, out=out) + 0.5)
    return values.astype(samples.dtype)


def _resize_axis(values: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """One axis of `(h, w)`, from the taps of each output sample."""
    index, weight = index.to(values.device), weight.to(values.device)
    out = None
    for tap in range(index.shape[1]):
        taken = values.index_select(axis, index[:, tap])
        taken *= weight[:, tap, None] if axis == 0 else weight[None, :, tap]
        out = taken if out is None else out.add_(taken)
    assert out is not None
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


def round_(pixels: Tensor, levels: int) -> Tensor:
    """In place: values into [0, 1] and to the nearest multiple of `1 / levels`, halves up."""
    return pixels.clamp_(0, 1).mul_(levels).add_(0.5).floor_().div_(levels)
