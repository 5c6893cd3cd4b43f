"""Boxes on the map: against closed formulas, and from the command line."""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.cli.geojson import write_geojson
from hatdet.cli.session import Session
from hatdet.core.errors import InputError
from hatdet.imaging.files import read_image, to_array, write_image
from hatdet.imaging.geo_tags import GEO_TAGS
from hatdet.imaging.map_coordinates import MapFrame, map_frame, ring
from hatdet.imaging.resize import reduced
from tests.helpers import FixedBoxes, random_image, sample_photo

rasterio = pytest.importorskip("rasterio")

EARTH = 6_378_137.0  # metres: the radius of EPSG:3857's sphere


def degrees(x: float, y: float) -> tuple[float, float]:
    """Web Mercator's inverse."""
    return math.degrees(x / EARTH), math.degrees(math.atan(math.sinh(y / EARTH)))


def write_tiff(path: Path, samples: np.ndarray, transform: Any, crs: str = "EPSG:3857") -> None:
    path.parent.mkdir(exist_ok=True)
    h, w, bands = samples.shape
    settings = {"driver": "GTiff", "height": h, "width": w, "count": bands, "dtype": samples.dtype}
    with rasterio.open(path, "w", crs=crs, transform=transform, **settings) as file:
        file.write(samples.transpose(2, 0, 1))


def doubled_area(points: list[tuple[float, float]]) -> float:
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(points))


@pytest.mark.parametrize(
    "transform",
    [
        rasterio.Affine(0.5, 0, 1_000_000, 0, -0.5, 6_000_000),
        rasterio.Affine(0.5, 0.1, -1_000_000, 0.2, 0.5, -6_000_000),  # rows go north, and it is turned
    ],
)
def test_corners_of_boxes_are_where_the_formulas_say(tmp_path: Path, transform):
    write_tiff(tmp_path / "a.tif", np.zeros((20, 30, 3), np.uint8), transform)
    frame = map_frame(tmp_path / "a.tif")
    assert frame is not None
    assert frame.crs == "EPSG:3857"
    outline = ring((2.5, 3, 10, 12.25), frame.longitude_latitude)
    assert outline[0] == outline[-1]
    a, b, c, d, e, f = tuple(transform)[:6]
    expected = {
        tuple(round(angle, 7) for angle in degrees(a * x + b * y + c, d * x + e * y + f))
        for x in (2.5, 10)
        for y in (3, 12.25)
    }
    assert {tuple(round(angle, 7) for angle in point) for point in outline} == expected
    assert doubled_area(outline) > 0  # counter-clockwise


def test_degrees_stay_degrees_with_longitude_first(tmp_path: Path):
    transform = rasterio.Affine(0.001, 0, 14.0, 0, -0.001, 48.0)
    write_tiff(tmp_path / "a.tif", np.zeros((20, 30, 3), np.uint8), transform, "EPSG:4326")
    frame = map_frame(tmp_path / "a.tif")
    assert frame is not None
    assert frame.longitude_latitude([(10, 5)]) == [(14.01, 47.995)]
    assert frame.longitude_latitude([]) == []


def test_files_that_lie_nowhere_have_no_frame(tmp_path: Path):
    write_image(random_image(4, 4), tmp_path / "a.png")
    (tmp_path / "b.tif").write_text("no picture")
    assert map_frame(tmp_path / "a.png") is None
    assert map_frame(tmp_path / "b.tif") is None


def test_a_raster_that_is_read_turned_has_no_frame(tmp_path: Path):
    import tifffile

    transform = rasterio.Affine(2, 0, 0, 0, -2, 100)
    write_tiff(tmp_path / "a.tif", np.zeros((20, 30, 1), np.uint8), transform)
    assert map_frame(tmp_path / "a.tif") is not None
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = [(t.code, t.dtype, t.count, t.value, True) for t in file.pages[0].tags if t.code in GEO_TAGS]
    for orientation in (1, 6):
        more = [*tags, (274, 3, 1, orientation, True)]
        tifffile.imwrite(tmp_path / "b.tif", np.zeros((20, 30), np.uint8), extratags=more, metadata=None)
        assert (map_frame(tmp_path / "b.tif") is None) == (orientation == 6)


def test_points_beyond_the_map_are_refused():
    beyond = MapFrame("EPSG:4326", (1, 0, 0, 0, 1, 200))
    with pytest.raises(InputError, match="EPSG:4326 has no longitude and latitude"):
        beyond.longitude_latitude([(0, 0)])


def detect(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["detect", *(str(argument) for argument in arguments), "--device", "cpu"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def boxes(monkeypatch) -> None:
    """A detector that always finds the same thing, on a canvas of 64x64."""
    from hatdet.detection import yolo

    model = FixedBoxes([[16, 8, 48, 40, 0.9, 0]])
    monkeypatch.setattr(yolo, "load_detector", lambda *_, **__: yolo.YoloDetector(model, "fixed", imgsz=64))


def test_boxes_of_a_reduced_image_are_where_they_are_on_the_map(tmp_path, monkeypatch, boxes):
    """Found with upscaling, in pixels of the file, on the map of the file; images without a place get a line."""
    from hatdet.cli import resumable

    monkeypatch.setattr(resumable, "detected_by", lambda *_: {})
    monkeypatch.chdir(tmp_path)
    write_tiff(Path("in/a.tif"), np.zeros((16, 16, 3), np.uint8), rasterio.Affine(100, 0, 0, 0, -100, 0))
    write_image(random_image(16, 16), Path("in/b.png"))
    for _ in range(2):  # the second time from what the first one found
        done = detect("in", "-o", "out", "--upscale", "--upscaler", "nearest", "--geojson", "out/map.geojson")
        assert done.exit_code == 0, done.output
        assert "b.png is not georeferenced" in done.stderr
        found = json.loads(Path("out/map.geojson").read_text())
        assert found["type"] == "FeatureCollection"
        (feature,) = found["features"]
        assert feature["properties"] == {
            "source": "in/a.tif",
            "source_crs": "EPSG:3857",
            "xyxy": [4.0, 2.0, 12.0, 10.0],
            "confidence": 0.9,
            "class_id": 0,
            "class_name": "thing",
            **dict.fromkeys(("corners", "polygons", "keypoints", "crop", "track_id")),
        }
        west, north = degrees(400, -200)
        east, south = degrees(1200, -1000)
        (outline,) = feature["geometry"]["coordinates"]
        expected = [(west, south), (east, south), (east, north), (west, north), (west, south)]
        assert np.allclose(outline, expected, rtol=0, atol=1e-8)
        assert "crs" not in found  # RFC 7946 has one only


def test_an_oriented_box_is_its_corners_on_the_map(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiff(Path("a.tif"), np.zeros((16, 16, 3), np.uint8), rasterio.Affine(100, 0, 0, 0, -100, 0))
    corners = [[8.0, 2.0], [12.0, 6.0], [8.0, 10.0], [4.0, 6.0]]
    found = {"xyxy": [4.0, 2.0, 12.0, 10.0], "corners": corners}
    with Session(quiet=True, debug=False) as session:
        for given in (corners, corners[::-1]):  # whichever way they go round
            image = {"source": "a.tif", "detections": [{**found, "corners": given}]}
            write_geojson([image], Path("map.geojson"), session)
            (feature,) = json.loads(Path("map.geojson").read_text())["features"]
            (outline,) = feature["geometry"]["coordinates"]
            assert outline[0] == outline[-1]
            expected = sorted(degrees(100 * x, -100 * y) for x, y in corners)
            assert np.allclose(sorted(outline[:-1]), expected, rtol=0, atol=1e-8)
            assert doubled_area([tuple(point) for point in outline]) > 0  # counter-clockwise


def test_without_rasterio_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    refused = detect("--geojson", "map.geojson")
    assert refused.exit_code == 2
    assert "pip install 'hatdet[geo]'" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_bus_on_the_map(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = reduced(read_image(sample_photo("bus")), 8)
    write_tiff(Path("in/a.tif"), to_array(small), rasterio.Affine(2, 0, 0, 0, -2, 0))
    torch.manual_seed(0)
    assert detect("in", "--upscale", "--geojson", "map.geojson", "--json", "boxes.json").exit_code == 0
    report = json.loads(Path("boxes.json").read_text())["images"][0]["detections"]
    features = json.loads(Path("map.geojson").read_text())["features"]
    assert [feature["properties"]["class_name"] for feature in features] == [found["class_name"] for found in report]
    assert "bus" in {found["class_name"] for found in report}
