"""What `hatdet detect` writes of oriented boxes, masks and keypoints."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from hatdet.cli.app import app
from hatdet.cli.detect_results import Found, Job, image_report, write_results
from hatdet.core.types import Detections, Image
from hatdet.detection.weights import load_model
from hatdet.detection.yolo import YoloDetector
from hatdet.imaging.files import read_image, to_array, write_image
from hatdet.imaging.sources import Source
from tests.detection.untrained import street, task_of, untrained

TASKS = ["-obb", "-seg", "-pose"]
SIZE = (320, 203)  # width and height of the photo that untrained models look at


def hatdet(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {task: untrained(f"yolo11n{task}.yaml", folder / f"tiny{task}.pt", nc=3) for task in TASKS}


@pytest.fixture
def working(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_image(Image(street()), Path("in/street.png"))
    return tmp_path


def found_by_hand(**more) -> Found:
    """A box at 10, 20, 30, 60 of an image of 100 by 80 pixels."""
    xyxy, sure = np.array([[10, 20, 30, 60]], np.float32), np.array([0.75], np.float32)
    detections = Detections(xyxy, sure, np.array([2]), {2: "ship"}, **more)
    return Found(np.zeros((80, 100, 3), np.uint8), None, detections, {"read": 1.0, "upscale": None, "detect": 2.0})


def labels_of(found: Found, folder: Path) -> str:
    job = Job(Source(Path("a.png"), Path("a.png")), folder / "a.png", folder / "a.txt", None)
    write_results(job, found, None)
    return (folder / "a.txt").read_text()


CORNERS = np.array([[[20, 20], [30, 40], [20, 60], [10, 40]]], np.float32)
TRIANGLE = np.array([[10, 20], [30, 20], [30, 60]], np.float32)
POINTS = np.array([[[20, 40], [25, 60]]], np.float32)
SURE = np.array([[0.5, 0.25]], np.float32)


@pytest.mark.parametrize(
    ("more", "field", "said", "line"),
    [
        ({}, None, None, "2 0.200000 0.500000 0.200000 0.500000"),
        (
            {"corners": CORNERS},
            "corners",
            [[20, 20], [30, 40], [20, 60], [10, 40]],
            "2 0.200000 0.250000 0.300000 0.500000 0.200000 0.750000 0.100000 0.500000",
        ),
        (
            {"polygons": [[TRIANGLE]]},
            "polygons",
            [[[10, 20], [30, 20], [30, 60]]],
            "2 0.100000 0.250000 0.300000 0.250000 0.300000 0.750000",
        ),
        (
            {"keypoints": POINTS, "keypoint_confidence": SURE},
            "keypoints",
            [[20, 40, 0.5], [25, 60, 0.25]],
            "2 0.200000 0.500000 0.200000 0.500000 0.200000 0.500000 0.500000 0.250000 0.750000 0.250000",
        ),
        (
            {"keypoints": POINTS},
            "keypoints",
            [[20, 40, None], [25, 60, None]],
            "2 0.200000 0.500000 0.200000 0.500000 0.200000 0.500000 0.250000 0.750000",
        ),
    ],
    ids=["box", "corners", "mask", "keypoints", "keypoints without confidence"],
)
def test_json_and_labels_of_each_task(more, field, said, line, tmp_path):
    found = found_by_hand(**more)
    (detection,) = image_report(Path("a.png"), found)["detections"]
    assert detection["xyxy"] == [10, 20, 30, 60]
    for name in ("corners", "polygons", "keypoints"):
        assert detection[name] == (said if name == field else None)
    assert labels_of(found, tmp_path) == f"{line}\n"


def test_an_object_with_an_empty_mask_has_no_label(tmp_path):
    assert labels_of(found_by_hand(polygons=[[]]), tmp_path) == ""


def numbers(text: str) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in text.splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_those_that_ultralytics_writes(task, models, working):
    from ultralytics import YOLO

    yolo = YOLO(models[task])
    (theirs,) = yolo.predict(working / "in" / "street.png", verbose=False, imgsz=SIZE[0], conf=0.5, max_det=9)
    theirs.save_txt(working / "theirs.txt")
    network = yolo.predictor.model.model
    network.task = task_of(task)
    image = read_image("in/street.png")
    detections = YoloDetector(network, "same", confidence=0.5, max_detections=9, imgsz=SIZE[0])(image)
    ours = numbers(labels_of(Found(to_array(image), None, detections, {}), working))
    expected = numbers((working / "theirs.txt").read_text())
    assert len(ours) == len(expected) > 2
    for a, b in zip(ours, expected, strict=True):
        assert a[0] == b[0]
        if task == "-seg":  # theirs run through the centres of pixels
            assert overlap(a[1:], b[1:]) > 0.9
        else:
            assert a == pytest.approx(b, abs=1e-4)


def overlap(a: list[float], b: list[float]) -> float:
    """Of two polygons in shares of the image, drawn eight times as large."""
    drawn = []
    for ring in (a, b):
        points = np.round(np.array(ring).reshape(-1, 2) * SIZE * 8).astype(np.int32)
        drawn.append(cv2.fillPoly(np.zeros((SIZE[1] * 8, SIZE[0] * 8), np.uint8), [points], 1).astype(bool))
    return float((drawn[0] & drawn[1]).sum() / (drawn[0] | drawn[1]).sum())


@pytest.mark.parametrize(("task", "field"), [("-obb", "corners"), ("-seg", "polygons"), ("-pose", "keypoints")])
def test_detect_with_a_model_of_each_task(task, field, models, working):
    arguments = ("--weights", models[task], "--conf", 0.4, "--max-det", 5, "--save-txt", "--json", "found.json")
    result = hatdet("detect", "--upscale", "--upscaler", "bicubic", "--scale", 2, "in", "-o", "out", *arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(Path("found.json").read_text())
    assert report["schema"] == 1
    (image,) = report["images"]
    assert 1 <= len(image["detections"]) <= 5
    for found in image["detections"]:
        assert found[field]
        assert [name for name in ("corners", "polygons", "keypoints") if found[name] is not None] == [field]
    assert len(Path("out/labels/street.txt").read_text().splitlines()) == len(image["detections"])
    assert read_image("out/street.png").width > 2 * SIZE[0]


@pytest.mark.parametrize("task", TASKS)
def test_detect_finds_what_the_network_finds(task, models, working):
    """From the checkpoint to the file, without upscaling: nothing is lost on the way but digits."""
    result = hatdet("detect", "in", "--weights", models[task], "--imgsz", SIZE[0], "--json", "-", "--max-det", 4)
    network = load_model(models[task])
    expected = YoloDetector(network, "same", max_detections=4, imgsz=SIZE[0])(read_image("in/street.png"))
    found = json.loads(result.stdout)["images"][0]["detections"]
    assert [one["class_id"] for one in found] == expected.class_id.tolist()
    for said, one in zip(found, expected, strict=True):
        assert said["xyxy"] == pytest.approx(one.xyxy, abs=1e-3)
        for ours, theirs in zip(said["corners"] or (), one.corners or (), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)
        for ring, other in zip(said["polygons"] or (), one.polygons or (), strict=True):
            assert np.allclose(ring, other, atol=1e-3)
        assert np.allclose(said["keypoints"] or [], one.keypoints or [], atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("verb", [("eval", "--data", "data.yaml"), ("export", "--chain", "-o", "chain.onnx")])
def test_what_compares_or_exports_boxes_takes_models_of_boxes_only(verb, task, models, working):
    write_image(Image(street()), Path("images/val/a.png"))
    Path("labels/val").mkdir(parents=True)
    Path("labels/val/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    Path("data.yaml").write_text("path: .\nval: images/val\nnames: [a, b, c]\n")
    result = hatdet(*verb, "--weights", models[task])
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    kind = task_of(task)
    assert line.endswith(f"is a model for the task '{kind}': expected a YOLO detection model (boxes)")
    assert not Path("chain.onnx").exists()
