"""Where on the map the pixels of a GeoTIFF lie: the tags that say it, and what they say of a larger image.

The coordinate reference system (CRS) is in the GeoKeys, which do not depend on the pixels; the tie points, the size of
a pixel and the affine transform do. OGC GeoTIFF 1.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["GEO_TAGS", "GeoTags"]

PIXEL_SCALE = 33550
TIE_POINTS = 33922
TRANSFORM = 34264
GEO_KEYS, GEO_DOUBLES, GEO_TEXTS = 34735, 34736, 34737
NO_DATA = 42113  # GDAL's: the value of a pixel that is none, in ASCII
GEO_TAGS = (PIXEL_SCALE, TIE_POINTS, TRANSFORM, GEO_KEYS, GEO_DOUBLES, GEO_TEXTS, NO_DATA)

_RASTER_TYPE, _PIXEL_IS_POINT = 1025, 2
Value = tuple[float, ...] | tuple[int, ...] | str


@dataclass(frozen=True)
class GeoTags:
    """The tags of a GeoTIFF by their codes: numbers as a tuple, texts as a string.

    Attributes:
        values: of each tag that is there, in the order of `GEO_TAGS`.
    """

    values: tuple[tuple[int, Value], ...]

    @classmethod
    def found(cls, get: Callable[[int], Any]) -> GeoTags | None:
        """Those of a file, from a function that gives a tag's value or None; None where nothing places the pixels."""
        values: list[tuple[int, Value]] = []
        for code in GEO_TAGS:
            value = get(code)
            if isinstance(value, bytes):
                value = value.decode("ascii", "replace")
            if isinstance(value, str):
                values.append((code, value.rstrip("\0")))
            elif value is not None:
                number = int if code == GEO_KEYS else float
                numbers = value if isinstance(value, tuple | list) else (value,)
                values.append((code, tuple(number(n) for n in numbers)))
        there = {code for code, _ in values}
        placed = TRANSFORM in there or {PIXEL_SCALE, TIE_POINTS} <= there
        return cls(tuple(values)) if placed else None

    @property
    def pixel_is_point(self) -> bool:
        """Whether (0, 0) of the raster is the centre of the first pixel, and not its corner."""
        keys = dict(self.values).get(GEO_KEYS, ())
        entries = [keys[i : i + 4] for i in range(4, len(keys), 4)]
        return any(entry[0] == _RASTER_TYPE and entry[3] == _PIXEL_IS_POINT for entry in entries if len(entry) == 4)

    def scaled(self, scale: float) -> GeoTags:
        """Of an image with `scale` times as many pixels along each side: a pixel covers so much less of the map."""
        half = 0.5 if self.pixel_is_point else 0.0
        changed = {PIXEL_SCALE: _pixel_scale, TIE_POINTS: _tie_points, TRANSFORM: _transform}
        return GeoTags(
            tuple(
                (code, changed[code](value, scale, half) if code in changed and not isinstance(value, str) else value)
                for code, value in self.values
            )
        )


def _pixel_scale(value: tuple[float, ...], scale: float, half: float) -> Value:
    return (value[0] / scale, value[1] / scale, *value[2:])


def _tie_points(value: tuple[float, ...], scale: float, half: float) -> Value:
    """Six numbers each: column, row and height in the raster, and the point of the map there."""
    points = [value[i : i + 6] for i in range(0, len(value), 6)]
    return tuple(
        number for i, j, *rest in points for number in ((i + half) * scale - half, (j + half) * scale - half, *rest)
    )


def _transform(value: tuple[float, ...], scale: float, half: float) -> Value:
    """4x4, row by row: column, row, height and 1 of the raster to the map."""
    shift = half / scale - half
    rows = [value[i : i + 4] for i in range(0, 16, 4)]
    moved = [(a / scale, b / scale, c, d + (a + b) * shift) for a, b, c, d in rows[:2]]
    return tuple(number for row in (*moved, *rows[2:]) for number in row)
