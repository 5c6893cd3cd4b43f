"""Objects keep their numbers from frame to frame; boxes stay the detector's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hatdet.core.errors import OptionsError
from hatdet.core.types import Detections, Image
from hatdet.detection import tracking
from hatdet.detection.tracking import TRACKERS, Tracker

NAMES = {0: "car", 1: "bus"}
GROUND = torch.from_numpy(np.random.default_rng(0).random((3, 240, 320), dtype=np.float32))


def seen(*rows: tuple[float, float, float, int]) -> Detections:
    """Boxes of 20x30 pixels at x, y with a confidence and a class."""
    boxes = np.array([[x, y, x + 20, y + 30] for x, y, _, _ in rows], np.float32).reshape(-1, 4)
    confidence = np.array([row[2] for row in rows], np.float32)
    return Detections(boxes, confidence, np.array([row[3] for row in rows], np.int64), NAMES)


def image(shift: int = 0) -> Image:
    """The ground, moved to the right by so many pixels."""
    return Image(GROUND.roll(shift, 2))


@pytest.mark.parametrize("kind", TRACKERS)
def test_moving_objects_keep_their_numbers(kind):
    """Two that cross each other's way, in whichever order the detector gives them."""
    tracker = Tracker(kind)
    for frame in range(20):
        rows = [(20 + 6 * frame, 40, 0.9, 0), (160 - 6 * frame, 100, 0.8, 1)]
        found = tracker(seen(*rows[:: 1 if frame % 2 else -1]), image())
        assert {box.class_name: box.track_id for box in found} == {"bus": 1, "car": 2}


@pytest.mark.parametrize("kind", TRACKERS)
def test_boxes_confidences_and_classes_stay_the_detectors(kind):
    tracker = Tracker(kind)
    for frame in range(4):
        given = seen((20.25 + 3 * frame, 40, 0.9, 0), (100, 100.5, 0.5, 1))
        found = tracker(given, image())
        assert np.array_equal(found.xyxy, given.xyxy)
        assert np.array_equal(found.confidence, given.confidence)
        assert np.array_equal(found.class_id, given.class_id)
        assert found.class_names == NAMES


def test_a_new_object_is_shown_at_once_and_numbered_when_it_is_seen_again():
    tracker = Tracker("bytetrack")
    tracker(seen((20, 40, 0.9, 0)), image())
    ids = [[box.track_id for box in tracker(seen((20, 40, 0.9, 0), (100, 100, 0.9, 1)), image())] for _ in range(3)]
    assert ids == [[1, None], [1, 2], [1, 2]]


def test_a_faint_box_goes_on_with_a_track_and_begins_none():
    tracker = Tracker("bytetrack", confidence=0.4)
    rows = [(20, 40, 0.9, 0)], [(22, 40, 0.15, 0), (100, 100, 0.15, 1)], [(24, 40, 0.3, 0), (100, 100, 0.39, 1)]
    found = [[(box.track_id, box.class_name) for box in tracker(seen(*row), image())] for row in rows]
    assert found == [[(1, "car")]] * 3


def test_an_object_that_was_hidden_has_its_number_again():
    tracker = Tracker("bytetrack")
    for frame in range(5):
        tracker(seen((20 + 4 * frame, 40, 0.9, 0)), image())
    for _ in range(6):
        assert len(tracker(seen(), image())) == 0
    (back,) = tracker(seen((20 + 4 * 11, 40, 0.9, 0)), image())
    assert back.track_id == 1


def test_botsort_follows_the_camera_and_bytetrack_does_not():
    """Everything stands still, then the camera turns by more than a box is wide."""
    kept = {}
    for kind in TRACKERS:
        tracker = Tracker(kind)
        for _ in range(4):
            tracker(seen((100, 100, 0.9, 0)), image())
        (box,) = tracker(seen((126, 100, 0.9, 0)), image(26))
        kept[kind] = box.track_id
    assert kept == {"bytetrack": None, "botsort": 1}


def test_each_video_begins_with_one():
    for _ in range(2):
        (box,) = Tracker("bytetrack")(seen((20, 40, 0.9, 0)), image())
        assert box.track_id == 1


def test_boxes_without_an_area_are_no_objects():
    tracker = Tracker("bytetrack")
    flat = Detections(np.array([[5, 5, 5, 9]], np.float32), np.array([0.9], np.float32), np.array([0]), NAMES)
    assert [box.track_id for box in tracker(flat, image())] == [None]


def test_what_there_is_not_is_said(monkeypatch):
    with pytest.raises(OptionsError, match="--track must be bytetrack or botsort, got 'deepsort'"):
        Tracker("deepsort")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(OptionsError, match=r'--track needs lap: pip install "hatdet\[video\]"'):
        Tracker("bytetrack")
