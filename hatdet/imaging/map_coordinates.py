"""From pixels of a georeferenced file to longitude and latitude, as GDAL (rasterio, the extra `geo`) reads the file."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hatdet.core.errors import InputError, OptionsError
from hatdet.imaging.tiff import open_tiff

__all__ = ["MapFrame", "map_frame", "outline", "require_rasterio", "ring"]

WGS84 = "OGC:CRS84"  # longitude first, as GeoJSON has it
DIGITS = 9  # of a degree: a tenth of a millimetre
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class MapFrame:
    """Where on the map an image lies.

    Attributes:
        crs: the file's coordinate reference system, as `EPSG:32633` where it has such a number, else as WKT.
        affine: a, b, c, d, e, f: pixel (x, y), in continuous edges of the file's own raster, is at
            (a x + b y + c, d x + e y + f).
    """

    crs: str
    affine: tuple[float, float, float, float, float, float]

    def in_file(self, points: Sequence[tuple[float, float]]) -> Points:
        """Pixels to coordinates of the file's own system."""
        a, b, c, d, e, f = self.affine
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in points]

    def longitude_latitude(self, points: Sequence[tuple[float, float]]) -> Points:
        """Pixels to degrees of WGS 84.

        Raises:
            InputError: the system cannot be turned into WGS 84, or not at these points.
        """
        import rasterio.warp
        from rasterio.errors import RasterioError

        if not points:
            return []
        xs, ys = zip(*self.in_file(points), strict=True)
        try:
            with rasterio.Env():
                lon, lat = rasterio.warp.transform(self.crs, WGS84, xs, ys)[:2]
        except RasterioError as error:
            raise InputError(f"{self.crs[:60]} cannot be turned into WGS 84: {error}") from error
        found = [(float(x), float(y)) for x, y in zip(lon, lat, strict=True)]
        if not all(abs(x) <= 180 and abs(y) <= 90 for x, y in found):  # infinities too
            raise InputError(f"{self.crs[:60]} has no longitude and latitude for some of these points")
        return [(round(x, DIGITS), round(y, DIGITS)) for x, y in found]


def require_rasterio() -> None:
    """Raise an OptionsError that names the extra, where rasterio is not installed."""
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise OptionsError("--geojson needs rasterio: pip install 'hatdet[geo]'") from error


def map_frame(path: Path) -> MapFrame | None:
    """The frame of a file; None of one that lies nowhere on the map, or is of a format that GDAL does not read."""
    import rasterio
    from rasterio.errors import RasterioError

    with warnings.catch_warnings(), contextlib.suppress(RasterioError):
        warnings.simplefilter("ignore")  # that a file has no place is what is asked here
        with rasterio.open(path) as file:
            if file.crs is None or file.transform.is_identity:
                return None
            if _turned(path):
                return None
            number = file.crs.to_epsg()
            return MapFrame(f"EPSG:{number}" if number else file.crs.to_wkt(), tuple(file.transform)[:6])
    return None


def _turned(path: Path) -> bool:
    """Whether the raster of the map is not the upright image."""
    with contextlib.suppress(Exception):  # of a kind that has no such tag, or that only others read
        tiff = open_tiff(path)
        if tiff is not None:
            with tiff:
                return tiff.orientation != 1
    return False


def ring(xyxy: Sequence[float], to_map: Callable[[Sequence[tuple[float, float]]], Points]) -> Points:
    """The closed outline of a box on the map, counter-clockwise as RFC 7946 wants it."""
    x1, y1, x2, y2 = xyxy
    return outline([(x1, y2), (x2, y2), (x2, y1), (x1, y1)], to_map)


def outline(points: Sequence[tuple[float, float]], to_map: Callable[[Sequence[tuple[float, float]]], Points]) -> Points:
    """As `ring`, of corners in turn."""
    corners = to_map(points)
    twice_area = sum(
        x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(corners, [*corners[1:], corners[0]], strict=True)
    )
    if twice_area < 0:  # the rows of the file go north, or the corners the other way
        corners.reverse()
    return [*corners, corners[0]]
