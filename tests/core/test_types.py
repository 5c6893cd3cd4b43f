"""Values are checked at birth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hatdet.core.types import Detection, Detections, Image


@pytest.mark.parametrize(
    ("pixels", "changes", "sentence"),
    [
        (torch.zeros(1, 4, 4), {}, r"pixels must be \(3, h, w\)"),
        (torch.zeros(3, 0, 4), {}, "h and w from 1"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), {}, "pixels must be float32"),
        (torch.zeros(3, 4, 4), {"scale": 0}, "scale must be positive, got 0"),
        (torch.zeros(3, 4, 4), {"bit_depth": 12}, "bit_depth must be 8 or 16, got 12"),
    ],
)
def test_an_image_that_cannot_be_is_refused(pixels, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Image(pixels, **changes)


def test_an_image_knows_its_source():
    image = Image(torch.zeros(3, 40, 80), scale=4, bit_depth=16)
    assert (image.width, image.height, image.levels) == (80, 40, 65535)
    assert image.source_size_wh == (20, 10)
    with pytest.raises(AttributeError):
        image.scale = 2


def boxes(xyxy, confidence=(0.5,), class_id=(0,)) -> Detections:
    return Detections(np.array(xyxy, np.float32), np.array(confidence, np.float32), np.array(class_id), {0: "car"})


def test_detections_are_a_sequence_of_objects():
    found = boxes([[1, 2, 3, 4]])
    assert list(found) == [Detection((1.0, 2.0, 3.0, 4.0), 0.5, 0, "car")]
    assert len(found) == 1


def test_detections_hold_what_more_a_detector_says():
    one = boxes([[0, 0, 4, 4]])
    corners = np.array([[[2, 0], [4, 2], [2, 4], [0, 2]]], np.float32)
    triangle = np.array([[0, 0], [4, 0], [0, 4]], np.float32)
    points = np.array([[[1, 2], [3, 4]]], np.float32)
    sure = np.array([[0.25, 0.75]], np.float32)
    more = replace(one, corners=corners, polygons=[[triangle]], keypoints=points, keypoint_confidence=sure)
    found = next(iter(more))
    assert found.corners == ((2, 0), (4, 2), (2, 4), (0, 2))
    assert found.polygons == (((0, 0), (4, 0), (0, 4)),)
    assert found.keypoints == ((1, 2, 0.25), (3, 4, 0.75))
    assert next(iter(replace(one, keypoints=points))).keypoints == ((1, 2, None), (3, 4, None))
    assert next(iter(one)) == Detection((0, 0, 4, 4), 0.5, 0, "car", None, None, None)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"corners": np.zeros((2, 4, 2))}, r"corners of 1 boxes must be \(1, 4, 2\), got \(2, 4, 2\)"),
        ({"polygons": []}, "1 boxes must have 1 masks, got 0"),
        ({"polygons": [[np.zeros((2, 2))]]}, r"polygons must be \(k, 2\) with k from 3, got \(2, 2\)"),
        ({"keypoints": np.zeros((1, 5, 3))}, r"keypoints of 1 boxes must be \(1, k, 2\), got \(1, 5, 3\)"),
        ({"keypoint_confidence": np.zeros((1, 5))}, r"must be None, got \(1, 5\)"),
        ({"keypoints": np.zeros((1, 5, 2)), "keypoint_confidence": np.zeros((1, 4))}, r"must be \(1, 5\), got"),
    ],
)
def test_more_that_cannot_be_is_refused(more, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(boxes([[1, 2, 3, 4]]), **more)


def test_objects_are_taken_moved_and_joined_with_all_that_is_said_of_them():
    one = replace(
        boxes([[0, 0, 4, 4], [1, 1, 3, 3]], [0.5, 0.4], [0, 0]),
        corners=np.arange(16, dtype=np.float32).reshape(2, 4, 2),
        polygons=[[np.zeros((3, 2), np.float32)], [np.ones((4, 2), np.float32)]],
        keypoints=np.arange(4, dtype=np.float32).reshape(2, 1, 2),
        keypoint_confidence=np.array([[0.25], [0.75]], np.float32),
        track_id=np.array([7, 0]),
    )
    assert list(one.taken(np.array([False, True]))) == [list(one)[1]]
    assert list(one.taken(np.array([1, 0]))) == list(one)[::-1]
    moved = next(iter(one.moved(10, 20)))
    assert moved.xyxy == (10, 20, 14, 24)
    assert moved.corners == ((10, 21), (12, 23), (14, 25), (16, 27))
    assert moved.polygons == (((10, 20),) * 3,)
    assert moved.keypoints == ((10, 21, 0.25),)
    assert (moved.confidence, moved.track_id) == (0.5, 7)
    surer = replace(one, confidence=np.array([0.9, 0.45], np.float32))
    (a, b), (c, d) = one, surer
    assert list(Detections.joined([one, surer])) == [c, a, d, b]
    with pytest.raises(ValueError, match="all parts must have what the first has"):
        Detections.joined([one, boxes([[0, 0, 4, 4]])])


def test_tracked_objects_have_a_number_or_none_yet():
    xyxy, half = np.zeros((2, 4), np.float32), np.full(2, 0.5, np.float32)
    found = Detections(xyxy, half, np.array([0, 0]), {0: "car"}, track_id=np.array([7, 0]))
    assert [detection.track_id for detection in found] == [7, None]
    with pytest.raises(ValueError, match=r"track_id must be \(2,\), one for each box, got \(1,\)"):
        Detections(xyxy, half, np.array([0, 0]), {0: "car"}, track_id=np.array([7]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([[1, 2, 3, 4]], (0.5, 0.6)), "must be"),
        (([[3, 2, 1, 4]],), "x1 <= x2"),
        (([[1, 2, 3, float("nan")]],), "must be finite"),
        (([[1, 2, float("inf"), 4]],), "must be finite"),
        (([[1, 2, 3, 4]], (float("nan"),)), "must be finite"),
        (([[1, 2, 3, 4]], (0.5,), (7,)), r"class ids must have a name, got \[7\]"),
    ],
)
def test_detections_that_cannot_be_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        boxes(*arguments)
