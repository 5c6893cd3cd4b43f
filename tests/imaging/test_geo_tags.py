"""Places on the map: by exact tables, and as GDAL reads the files that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hatdet.imaging.carried import Carried
from hatdet.imaging.encoding import FORMATS
from hatdet.imaging.files import read_carried, to_array, write_carried
from hatdet.imaging.geo_tags import GEO_KEYS, PIXEL_SCALE, TIE_POINTS, TRANSFORM, GeoTags
from hatdet.imaging.resize import resize_bicubic

AREA, POINT = (1, 1, 0, 1, 1025, 0, 1, 1), (1, 1, 0, 1, 1025, 0, 1, 2)


def tags(**values: tuple[float, ...]) -> GeoTags:
    codes = {"scale": PIXEL_SCALE, "ties": TIE_POINTS, "transform": TRANSFORM, "keys": GEO_KEYS}
    found = GeoTags.found({codes[name]: value for name, value in values.items()}.get)
    assert found is not None
    return found


@pytest.mark.parametrize(("keys", "tie"), [(AREA, (4.0, 8.0)), (POINT, (5.5, 9.5))])
def test_a_pixel_covers_less_and_the_tie_point_stays_where_it_is(keys, tie):
    """Column 1, row 2 of the source: a corner of a pixel, or (1.5, 2.5) from the corner of the image."""
    larger = dict(tags(scale=(10.0, 20.0, 0.0), ties=(1, 2, 0, 500.0, 600.0, 0), keys=keys).scaled(4).values)
    assert larger[PIXEL_SCALE] == (2.5, 5.0, 0.0)
    assert larger[TIE_POINTS] == (*tie, 0, 500.0, 600.0, 0)
    assert larger[GEO_KEYS] == keys


@pytest.mark.parametrize("keys", [AREA, POINT])
def test_an_affine_transform_takes_every_point_to_where_it_was(keys):
    matrix = np.array([[3.0, 1.0, 0, 100], [0.5, -2.0, 0, 200], [0, 0, 0, 0], [0, 0, 0, 1]])
    scale = 3.5
    larger = dict(tags(transform=tuple(matrix.ravel()), keys=keys).scaled(scale).values)[TRANSFORM]
    half = 0.5 if keys is POINT else 0.0
    for x, y in ((0.0, 0.0), (3.25, 7.5)):  # from the corner of the source
        before = matrix @ [x - half, y - half, 0, 1]
        after = np.reshape(larger, (4, 4)) @ [x * scale - half, y * scale - half, 0, 1]
        assert np.allclose(before, after, rtol=0, atol=1e-12)


def test_a_file_that_says_nothing_of_a_place_has_none():
    assert GeoTags.found({}.get) is None
    assert GeoTags.found({GEO_KEYS: AREA}.get) is None
    assert GeoTags.found({PIXEL_SCALE: (1.0, 1.0, 0.0)}.get) is None


def on_map(file: Any, x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = tuple(file.transform)[:6]
    return a * x + b * y + c, d * x + e * y + f


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(("kind", "bands"), [("uint8", 3), ("uint16", 1), ("uint16", 3)])
def test_gdal_sees_the_same_place_in_smaller_pixels(tmp_path: Path, point, rotated, kind, bands):
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.Affine(10, 2 if rotated else 0, 500_000, 1 if rotated else 0, -10, 5_200_000)
    samples = np.random.default_rng(0).integers(0, 200, (bands, 20, 30)).astype(kind)
    settings = {"driver": "GTiff", "height": 20, "width": 30, "count": bands, "dtype": kind}
    with rasterio.open(
        tmp_path / "a.tif", "w", crs="EPSG:32633", transform=transform, nodata=7, compress="deflate", **settings
    ) as file:
        file.write(samples)
        file.update_tags(AREA_OR_POINT="Point" if point else "Area")
    image, carried = read_carried(tmp_path / "a.tif")
    assert carried.geo is not None
    assert carried.geo.pixel_is_point == point
    larger = resize_bicubic(image, (80, 120), 4)
    write_carried(to_array(larger), carried.enlarged((80, 120), 4), tmp_path / "b.tif", FORMATS["tif"])
    with rasterio.open(tmp_path / "a.tif") as before, rasterio.open(tmp_path / "b.tif") as after:
        assert after.crs == before.crs
        assert after.nodata == 7
        assert after.tags()["AREA_OR_POINT"] == before.tags()["AREA_OR_POINT"]
        for x, y in ((0, 0), (30, 0), (13, 19)):
            assert on_map(after, 4 * x, 4 * y) == pytest.approx(on_map(before, x, y), abs=1e-6)
        assert np.array_equal(after.read(1), to_array(larger)[..., 0])


def test_a_map_is_lost_in_other_formats_and_that_is_said(tmp_path: Path, caplog):
    geo = tags(scale=(1.0, 1.0, 0.0), ties=(0, 0, 0, 0, 0, 0))
    write_carried(np.zeros((2, 2, 3), np.uint8), Carried(geo=geo), tmp_path / "a.png", FORMATS["png"], of="in.tif")
    assert caplog.messages == ["in.tif: the place on the map lost in a file of the kind PNG"]
