"""Images too large for memory, from the command line."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.core.types import Detections, Image
from hatdet.imaging.files import read_image, to_array
from hatdet.imaging.windows import held, open_windows, overview
from tests.helpers import random_image

SQUARES = [(10, 10, 30, 40), (90, 20, 110, 45), (180, 95, 205, 120), (370, 270, 400, 300)]


class Bright:
    """A detector of what is white; it looks at 200 pixels of a canvas at once."""

    name, imgsz, class_names = "bright", 200, {0: "white"}

    def __call__(self, image: Image) -> Detections:
        assert max(image.height, image.width) <= self.imgsz
        white = (image.pixels[0] > 0.9).numpy().astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(white)
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in stats[1:]], np.float32).reshape(-1, 4)
        boxes = (boxes / image.scale).astype(np.float32)
        n = len(boxes)
        return Detections(boxes, np.full(n, 0.75, np.float32), np.zeros(n, np.int64), {0: "white"})


def detect(*arguments: object) -> Result:
    command = ["detect", "--upscale", "--upscaler", "nearest", "--scale", 2, "--device", "cpu", *arguments]
    result = CliRunner().invoke(app, [str(argument) for argument in command])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def scene(tmp_path: Path, monkeypatch) -> np.ndarray:
    """in/a.tif: 400x300, dark, with white squares over the edges of windows; budget for nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hatdet.sr.upscalers.CANVAS_BUDGET", 1000)
    monkeypatch.setattr("hatdet.detection.yolo.load_detector", lambda *_, **__: Bright())
    samples = np.full((300, 400, 3), 40, np.uint8)
    for x1, y1, x2, y2 in SQUARES:
        samples[y1:y2, x1:x2] = 255
    Path("in").mkdir()
    tifffile.imwrite("in/a.tif", samples, photometric="rgb", tile=(64, 64), compression="zlib", metadata=None)
    return samples


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_objects_of_a_huge_image_are_found_once_in_its_own_pixels(scene, suffix):
    if suffix == "png":
        cv2.imwrite("in/a.png", scene)
        Path("in/a.tif").unlink()
    done = detect("in", "-o", "out", "--json", "boxes.json", "--save-txt")
    assert done.exit_code == 0, done.output
    (image,) = json.loads(Path("boxes.json").read_text())["images"]
    assert (image["width"], image["height"]) == (400, 300)
    assert sorted(tuple(found["xyxy"]) for found in image["detections"]) == sorted(SQUARES)
    assert len(Path("out/labels/a.txt").read_text().splitlines()) == 4
    assert read_image("out/a.png").width == 400
    assert detect("in", "-o", "out", "--json", "boxes.json", "--save-txt").stdout == ""  # done


def test_its_upscaled_image_is_not_written(scene):
    done = detect("in", "-o", "out", "--save-sr")
    assert done.exit_code == 1
    assert "in/a.tif is too large for --save-sr: `hatdet sr --format tiff` writes it" in done.stderr
    assert not list(Path("out").glob("*.png"))


def test_crops_of_a_huge_image_are_its_own_pixels(scene):
    done = detect("in", "-o", "out", "--save-crop", "--json", "boxes.json")
    assert done.exit_code == 0, done.output
    (image,) = json.loads(Path("boxes.json").read_text())["images"]
    assert len(image["detections"]) == 4
    for found in image["detections"]:
        x1, y1, x2, y2 = (int(edge) for edge in found["xyxy"])
        assert np.array_equal(to_array(read_image(Path("out", found["crop"]))), scene[y1:y2, x1:x2])


def test_a_damaged_one_is_one_line(scene):
    Path("in/a.tif").write_bytes(Path("in/a.tif").read_bytes()[:-300])
    done = detect("in", "-o", "out")
    assert done.exit_code == 1
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: in/a.tif")]) == 1


@pytest.mark.parametrize(("h", "w", "factor"), [(2048, 100, 1), (2049, 300, 2), (7, 5000, 3), (1, 3000, 2)])
def test_an_overview_is_the_mean_of_squares(h, w, factor):
    from hatdet.imaging.carried import NOTHING

    image = random_image(h, w, bit_depth=16)
    picture, scale = overview(held(image, NOTHING))
    assert scale == 1 / factor
    assert picture.shape == (max(1, h // factor), w // factor, 3)
    first = to_array(image)[:factor, -(w % factor) - factor : w - w % factor].astype(float).mean((0, 1)) / 257
    assert np.abs(picture[0, -1] - first).max() <= 1


@pytest.fixture
def measure(monkeypatch) -> ModuleType:
    """tools/measure_huge.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "tools"))
    return importlib.import_module("measure_huge")


@pytest.mark.slow
@pytest.mark.parametrize("upscaler", ["bicubic", "tiny"])
def test_the_peak_at_6000_pixels_is_within_a_tenth_of_that_at_2000(measure, tmp_path, upscaler):
    peaks = measure.peaks_of_sr(tmp_path, upscaler, [2000, 6000])
    assert peaks[6000][0] < 1.1 * peaks[2000][0], peaks


@pytest.mark.slow
def test_an_image_of_30000_pixels_is_opened_a_window_read_and_a_region_detected(measure, tmp_path):
    found = measure.window_of_30000(tmp_path)
    assert found.side == 30_000
    assert found.window == (640, 640, 3)
    assert found.classes.count("person") >= 3
    assert found.off_px < 40
    assert found.grown_mib < 1000


def test_a_sparse_mosaic_is_read_in_windows(measure, tmp_path):
    """The same as the slow one, with a side of 3000."""
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    measure.write_mosaic(tmp_path / "a.tif", 3000, {(3, 5): picture})
    source = open_windows(tmp_path / "a.tif")
    assert source is not None
    assert (source.height, source.width) == (3000, 3000)
    assert np.array_equal(source.read(768, 1024, 1280, 1536), picture)
    assert (source.read(0, 10, 2990, 3000) == 128).all()
    source.close()
