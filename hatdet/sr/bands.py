"""Upscaling an image from top to bottom: what is finished leaves, and memory does not grow with the image's height.

The pixels are those of the upscaler on the whole image, bit for bit: the same tiles, added in the same order. Of a row
of tiles only the strip that the next row overlaps is kept, as sums.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hatdet.core.errors import DeviceError, WeightsError
from hatdet.core.types import Upscaler
from hatdet.imaging.encoding import grey_of
from hatdet.imaging.resize import Window, WindowedBicubic
from hatdet.imaging.windows import Windows, colours
from hatdet.sr import upscalers
from hatdet.sr.tiling import Axis, Tile, plan_axis, plan_tiles
from hatdet.sr.upscalers import (
    BicubicUpscaler,
    HatUpscaler,
    NearestUpscaler,
    TooLittleMemoryError,
    canvas_bytes,
    sent,
)

__all__ = ["enlarged_bands", "needs_bands"]

BAND = 256  # rows of a result that interpolation makes at once, and columns of a part of them
WIDE = 512

Block: TypeAlias = tuple[Window, NDArray[Any]]  # part of the result, and its (h, w, 3) samples


def needs_bands(upscaler: Upscaler, height: int, width: int, budget: int | None = None) -> bool:
    """Whether the result of an image of that size takes more than `budget` bytes; `CANVAS_BUDGET` by default."""
    budget = upscalers.CANVAS_BUDGET if budget is None else budget
    return canvas_bytes(height * upscaler.scale, width * upscaler.scale) > budget


def enlarged_bands(upscaler: Upscaler, source: Windows) -> Iterator[NDArray[Any]]:
    """The upscaled image from top to bottom. Yields `(rows, scale * width, channels)`, as `source.read` has them.

    A band is there until the next one is asked for: all are made in the same memory.
    Alpha is resized bicubically, and of a grey image's three colours the mean is taken, as for a whole image.

    Raises:
        InputError: the file is damaged. DeviceError: too little memory.
        WeightsError: the network gives values that are not finite.
        ValueError: an upscaler of another kind.
    """
    width = source.width * upscaler.scale
    alpha = WindowedBicubic((source.height, source.width), upscaler.scale) if source.has_alpha else None
    rows = _Rows(source)
    tallest = upscaler.tile * upscaler.scale if isinstance(upscaler, HatUpscaler) else BAND
    tallest = min(tallest, source.height * upscaler.scale)
    kind = np.dtype(f"u{source.bit_depth // 8}")
    # As wide as the picture, and so apart from the memory that tiles have again and again.
    apart = mmap.mmap(-1, tallest * width * source.channels * kind.itemsize)
    band = memory = np.frombuffer(apart, kind).reshape(tallest, width, source.channels)
    for window, rgb in _blocks(upscaler, source):
        top, bottom, left, right = window
        if left == 0:
            band = memory[: bottom - top]
        here = band[:, left:right]
        here[..., : source.channels - source.has_alpha] = grey_of(rgb)[..., None] if source.carried.grey else rgb
        if alpha is not None:
            here[..., -1:] = alpha.resize(rows.read(*alpha.needed(window))[..., -1:], window)
        if right == width:
            yield band


@dataclass
class _Rows:
    """Parts of an image, of which whole rows are read: what lies beside a part is wanted next, and is there."""

    source: Windows
    top: int = 0
    bottom: int = 0
    samples: NDArray[Any] | None = None

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        if self.samples is None or top < self.top or bottom > self.bottom:
            self.samples = self.source.read(top, bottom, 0, self.source.width)
            self.top, self.bottom = top, bottom
        return self.samples[top - self.top : bottom - self.top, left:right]


def _blocks(upscaler: Upscaler, source: Windows) -> Iterator[Block]:
    """Parts of the result, left to right in bands of equal rows."""
    if isinstance(upscaler, HatUpscaler):
        return _network_blocks(upscaler, source)
    if isinstance(upscaler, BicubicUpscaler):
        return _bicubic_blocks(source, upscaler.scale)
    if isinstance(upscaler, NearestUpscaler):
        return _nearest_blocks(source, upscaler.scale)
    raise ValueError(f"upscaler must be a network's, bicubic or nearest, got {upscaler.name}")


def _bicubic_blocks(source: Windows, scale: int) -> Iterator[Block]:
    bicubic = WindowedBicubic((source.height, source.width), scale)
    rows = _Rows(source)
    for window in _grid(source.height * scale, source.width * scale, BAND, WIDE):
        samples = colours(rows.read(*bicubic.needed(window)), source.has_alpha)
        yield window, bicubic.resize(samples, window)


def _nearest_blocks(source: Windows, scale: int) -> Iterator[Block]:
    rows = _Rows(source)
    for window in _grid(source.height, source.width, max(1, BAND // scale), WIDE):
        samples = colours(rows.read(*window), source.has_alpha)
        top, bottom, left, right = (edge * scale for edge in window)
        yield (top, bottom, left, right), samples.repeat(scale, 0).repeat(scale, 1)


def _grid(height: int, width: int, tall: int, wide: int) -> Iterator[Window]:
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            yield top, min(top + tall, height), left, min(left + wide, width)


def _network_blocks(upscaler: HatUpscaler, source: Windows) -> Iterator[Block]:
    tile, begun = upscaler.whole_tile(), False
    while True:
        try:
            for block in _blended(upscaler, source, tile):
                begun = True
                yield block
        except TooLittleMemoryError as error:
            used = min(tile, max(source.height, source.width))
            if begun:  # a part is written, which other tiles would not fit
                raise DeviceError(
                    f"{upscaler.device} ran out of memory in the middle of a picture, with tiles of {used}: "
                    f"give a smaller --tile"
                ) from error
            tile = upscaler.smaller_tile(used, error)
        else:
            return


def _blended(upscaler: HatUpscaler, source: Windows, tile: int) -> Iterator[Block]:
    scale, overlap = upscaler.scale, min(upscaler.overlap, tile // 2)
    rows = plan_axis(source.height, tile, overlap, upscaler.window)
    columns = plan_axis(source.width, tile, overlap, upscaler.window)
    tops, lefts = ([*(start * scale for start in axis.starts), axis.length * scale] for axis in (rows, columns))
    height, width = rows.size * scale, columns.size * scale
    levels = 2**source.bit_depth - 1
    below = torch.zeros(3, max(height - b + a for a, b in pairwise(tops)), source.width * scale)
    beside = torch.zeros(3, height, 0)
    for part, result in _results(upscaler, source, rows, columns):
        top, bottom = tops[part.row : part.row + 2]
        left, right = lefts[part.column : part.column + 2]
        from_above = tops[part.row - 1] + height - top if part.row else 0
        from_left = beside.shape[2] if part.column else 0
        # Sums of the tiles before this one, in rows above and in this row.
        sums = torch.zeros(3, height, width)
        sums[:, :from_above, from_left:] = below[:, :from_above, left + from_left : left + width]
        sums[:, :, :from_left] = beside[:, :, :from_left]
        sums += result
        if not sums.sum().isfinite():  # one that is not finite, anywhere, makes the sum so
            raise WeightsError(
                f"{upscaler.name} gives values that are not finite for an image of {source.width}x{source.height}"
            )
        beside = sums[:, :, right - left :].clone()
        # Columns that no later tile of this row asks for: those of the next row find their sums there.
        below[:, : height - bottom + top, left:right] = sums[:, bottom - top :, : right - left]
        done = sums[:, : bottom - top, : right - left].clamp_(0, 1).mul_(levels).add_(0.5).floor_()
        samples = done.permute(1, 2, 0).numpy().astype(f"u{source.bit_depth // 8}")
        yield (top, bottom, left, right), samples


def _results(upscaler: HatUpscaler, source: Windows, rows: Axis, columns: Axis) -> Iterator[tuple[Tile, Tensor]]:
    """Each tile's share of the result, weighted, on the host, row by row."""
    device = upscaler.device
    row_weights, column_weights = (axis.weights(upscaler.scale).to(device) for axis in (rows, columns))
    tiles, read = plan_tiles(rows, columns), _Rows(source)
    seen = replace(source, read=read.read)
    for first in range(0, len(tiles), upscaler.batch):
        chunk = tiles[first : first + upscaler.batch]
        cut = [seen.image(t.y, t.y + rows.size, t.x, t.x + columns.size).pixels for t in chunk]
        with torch.no_grad():
            results = upscaler.run(sent(torch.stack(cut), device))
            for part, result in zip(chunk, results, strict=True):
                result *= row_weights[part.row][:, None]
                result *= column_weights[part.column][None, :]
        upscaler.report(first + len(chunk), len(tiles))
        yield from zip(chunk, results.cpu(), strict=True)
