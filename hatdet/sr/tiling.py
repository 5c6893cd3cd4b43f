"""Cutting an image into overlapping tiles and joining the results without a seam. Pure geometry: no model, no files.

Along each side the tiles are equally long, evenly spaced, and overlap by at least what was asked: there is no sliver at
the end. The outer quarter of an overlap is thrown away (a network sees least there), the half in the middle is blended
smoothly, and the weights of all tiles add up to one everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Axis", "Tile", "plan_axis", "plan_tiles"]


@dataclass(frozen=True)
class Axis:
    """The tiles along one side: `starts[i] : starts[i] + size` for each i, of `length` pixels in all."""

    length: int
    size: int
    starts: tuple[int, ...]
    overlap: int

    def weights(self, scale: int) -> Tensor:
        """Blending weights in output pixels. Shape: `(tiles, size * scale)`; they add up to 1 at each position."""
        size = self.size * scale
        position = torch.arange(size, dtype=torch.float64) + 0.5
        weights = torch.ones(len(self.starts), size, dtype=torch.float64)
        overlap = self.overlap * scale
        if overlap:
            ramp = ((position - overlap / 4) / (overlap / 2)).clamp(0, 1)
            ramp = ramp * ramp * (3 - 2 * ramp)
            weights[1:] *= ramp
            weights[:-1] *= ramp.flip(0)
        total = torch.zeros(self.length * scale, dtype=torch.float64)
        for start, weight in zip(self.starts, weights, strict=True):
            total[start * scale : start * scale + size] += weight
        for start, weight in zip(self.starts, weights, strict=True):
            weight /= total[start * scale : start * scale + size]
        return weights.float()


@dataclass(frozen=True)
class Tile:
    """One tile: where it is, in input pixels, and its place in the rows and columns of tiles."""

    row: int
    column: int
    y: int
    x: int


def plan_axis(length: int, tile: int, overlap: int, multiple: int = 1) -> Axis:
    """Cover `length` pixels with the fewest tiles of at most `tile` that overlap by at least `overlap`.

    The tiles are then made as short as that number allows, rounded up to `multiple` (the network's window).

    Raises:
        ValueError: a tile that is not longer than the overlap, or not a multiple of `multiple`.
    """
    if tile < multiple or tile % multiple:
        raise ValueError(f"tile must be a multiple of {multiple} (the window), got {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be at least 0 and less than the tile {tile}, got {overlap}")
    if length <= tile:
        return Axis(length, length, (0,), 0)
    count = -(-(length - overlap) // (tile - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    size += -size % multiple
    starts = tuple(round(i * (length - size) / (count - 1)) for i in range(count))
    return Axis(length, size, starts, overlap)


def plan_tiles(rows: Axis, columns: Axis) -> list[Tile]:
    """All tiles, row by row."""
    return [Tile(i, j, y, x) for i, y in enumerate(rows.starts) for j, x in enumerate(columns.starts)]
