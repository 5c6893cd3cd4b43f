"""Slices of `hatdet detect`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.core.types import Detections, Image

SQUARES = [(10, 10, 30, 40), (90, 20, 110, 45), (180, 95, 205, 120), (370, 270, 400, 300), (120, 130, 260, 280)]
LARGE = SQUARES[-1]


@dataclass(frozen=True)
class Bright:
    """A detector of what is white, as large as it sees it; it says what it was shown."""

    shown: list[tuple[int, int]]
    imgsz: int | None = None
    task: str = "detect"
    name: str = "bright"
    class_names = {0: "white"}  # noqa: RUF012

    def __call__(self, image: Image) -> Detections:
        self.shown.append((image.width, image.height))
        white = (image.pixels[0] > 0.9).numpy().astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(white)
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in stats[1:]], np.float32).reshape(-1, 4)
        n = len(boxes)
        boxes = (boxes / image.scale).astype(np.float32)
        return Detections(boxes, np.full(n, 0.75, np.float32), np.zeros(n, np.int64), {0: "white"})


@pytest.fixture
def shown(tmp_path: Path, monkeypatch) -> list[tuple[int, int]]:
    """in/a.png: 400x300, dark with white squares; the sizes of what the detector is shown."""
    monkeypatch.chdir(tmp_path)
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr("hatdet.detection.yolo.load_detector", lambda *_, imgsz, **__: Bright(sizes, imgsz))
    monkeypatch.setattr("hatdet.cli.resumable.detected_by", lambda *_: {})
    picture = np.full((300, 400, 3), 40, np.uint8)
    for x1, y1, x2, y2 in SQUARES:
        picture[y1:y2, x1:x2] = 255
    Path("in").mkdir()
    cv2.imwrite("in/a.png", picture)
    return sizes


def detect(*arguments: object) -> Result:
    command = ["detect", "in", "--device", "cpu", "--json", "boxes.json", *arguments]
    result = CliRunner().invoke(app, [str(argument) for argument in command])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def boxes() -> list[tuple[int, ...]]:
    (image,) = json.loads(Path("boxes.json").read_text())["images"]
    return sorted(tuple(found["xyxy"]) for found in image["detections"])


TWICE = ("--upscale", "--upscaler", "nearest", "--scale", 2)


def test_an_image_is_not_sliced_unless_it_is_asked_for(shown):
    assert detect().exit_code == 0
    assert shown == [(400, 300)]


@pytest.mark.parametrize("more", [(), TWICE])
def test_slices_are_meant_in_pixels_of_the_image(shown, more):
    """And the whole image is looked at once. No object is found twice, those that edges cut are whole."""
    done = detect("--slice", "150x100", *more)
    assert done.exit_code == 0, done.output
    scale = 2 if more else 1
    assert shown[0] == (400 * scale, 300 * scale)
    assert set(shown[1:]) == {(150 * scale, 100 * scale)}
    assert len(shown) == 1 + 4 * 4
    assert boxes() == sorted(SQUARES)


def test_slices_as_large_as_the_detector_takes_them(shown):
    assert detect("--slice", "auto", "--imgsz", 250).exit_code == 0
    assert shown[1:] == [(224, 192)] * 4  # no larger than four need to be
    assert boxes() == sorted(SQUARES)


def test_an_upscaled_image_too_large_for_the_detector_is_sliced(shown, monkeypatch):
    monkeypatch.setattr("hatdet.detection.yolo.LARGEST_IMGSZ", 500)
    done = detect(*TWICE)
    assert done.exit_code == 0, done.output
    assert shown[0] == (800, 600)
    assert set(shown[1:]) == {(448, 352)}
    assert "shrinks" not in done.stderr
    assert boxes() == sorted(SQUARES)


def test_with_imgsz_it_is_not(shown, monkeypatch):
    monkeypatch.setattr("hatdet.detection.yolo.LARGEST_IMGSZ", 500)
    assert detect(*TWICE, "--imgsz", 300).exit_code == 0
    assert shown == [(800, 600)]


def test_slices_share_what_was_asked_for(shown):
    assert detect("--slice", "100x300", "--slice-overlap", 0.5).exit_code == 0
    assert len(shown) == 1 + math.ceil((400 - 50) / 50)


@pytest.mark.parametrize("merge", ["nmm", "greedy-nmm"])
def test_merges(shown, merge):
    assert detect("--slice", "150x100", "--merge", merge).exit_code == 0
    assert boxes() == sorted(SQUARES)


def test_other_slices_are_other_results(shown):
    assert detect("--slice", "150x100").exit_code == 0
    assert "1 of 1 images were done before" in detect("--slice", "150x100").stderr
    assert "made with other settings before, made again: 1 images (slice)" in detect("--slice", "200x200").stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--slice", "big"), "--slice must be auto or WIDTHxHEIGHT in pixels of the image, got 'big'"),
        (("--slice", "0x100"), "--slice must be auto or WIDTHxHEIGHT in pixels of the image, got '0x100'"),
        (("--merge", "wbf"), "--merge must be one of nms, nmm, greedy-nmm, got 'wbf'"),
        (("--engine", "a.onnx", "--slice", "auto"), "--slice does not go with --engine: a.onnx decides it"),
    ],
)
def test_what_cannot_be_is_one_line(shown, options, sentence):
    done = detect(*options)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert not Path("results").exists()


def test_only_boxes_are_united(shown, monkeypatch):
    monkeypatch.setattr("hatdet.detection.yolo.load_detector", lambda *_, **__: Bright([], None, "obb"))
    done = detect("--slice", "auto", "--merge", "nmm")
    assert done.exit_code == 2
    assert "--merge nmm unites boxes, and bright finds more than boxes: use nms" in done.stderr
