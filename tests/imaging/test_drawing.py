"""Boxes are drawn where they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hatdet.core.types import Detections
from hatdet.imaging.drawing import SMALLEST_PANEL, side_by_side, with_boxes


def black(height, width):
    return np.zeros((height, width, 3), np.uint8)


def one_box(xyxy) -> Detections:
    return Detections(np.array([xyxy], np.float32), np.array([0.9], np.float32), np.array([0]), {0: "car"})


def test_a_box_is_drawn_on_its_edges_and_its_inside_stays():
    drawn = with_boxes(black(200, 200), one_box((50, 100, 150, 180)))
    assert drawn.shape == (200, 200, 3)
    for y, x in ((140, 50), (140, 149), (100, 120), (179, 100)):
        assert drawn[y, x].max() > 100, (y, x)
    assert drawn[120:170, 60:140].max() == 0
    assert drawn[190:, :].max() == 0


def test_a_box_on_an_upscaled_image_is_drawn_in_its_pixels():
    drawn = with_boxes(black(200, 200), one_box((12.5, 25, 37.5, 45)), scale=4)
    assert drawn[140, 50].max() > 100
    assert drawn[140, 149].max() > 100


def test_both_panels_have_one_height_and_a_small_source_is_enlarged():
    drawn = side_by_side(black(10, 20), black(40, 80), one_box((1, 1, 5, 5)), "hat-xs-x4")
    panel = (drawn.shape[1] - 8) // 2
    assert panel >= SMALLEST_PANEL
    assert panel % 80 == 0


def test_both_panels_show_the_box_in_the_same_place():
    drawn = side_by_side(black(30, 40), black(120, 160), one_box((10, 10, 30, 20)), "hat-xs-x4")
    caption, panel = drawn.shape[0] - 480 * 30 // 40, (drawn.shape[1] - 8) // 2
    middle = caption + 15 * panel // 40
    for x in (10 * panel // 40, 30 * panel // 40 - 1):
        assert drawn[middle, x].max() > 100
        assert drawn[middle, panel + 8 + x].max() > 100


def test_tracked_objects_have_colours_of_their_own_and_their_numbers():
    def drawn(track_ids):
        boxes = np.array([[10, 60, 90, 190], [110, 60, 190, 190]], np.float32)
        same = np.full(2, 0.9, np.float32), np.array([0, 0]), {0: "car"}
        return with_boxes(black(200, 200), Detections(boxes, *same, track_id=track_ids))

    plain, tracked, later = drawn(None), drawn(np.array([3, 4])), drawn(np.array([3, 5]))
    assert plain[150, 10].tolist() == plain[150, 110].tolist()
    assert tracked[150, 10].tolist() != tracked[150, 110].tolist()
    assert np.array_equal(tracked[:, :100], later[:, :100])
    label = slice(40, 60), slice(10, 100)
    assert (plain[label].max(axis=2) > 0).sum() < (tracked[label].max(axis=2) > 0).sum()


def test_labels_at_the_border_stay_inside():
    for box in ((0, 0, 5, 5), (35, 35, 40, 40), (0, 0, 40, 40), (39, 0, 40, 1)):
        assert with_boxes(black(40, 40), one_box(box), enlarge=4).shape == (160, 160, 3)


def test_sixteen_bits_are_shown_in_eight():
    image = np.full((20, 20, 3), 32768, np.uint16)
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), {})
    assert set(with_boxes(image, nothing).ravel().tolist()) == {128}


def test_a_rotated_box_is_drawn_as_it_is_and_not_what_encloses_it():
    corners = np.array([[[100, 20], [180, 100], [100, 180], [20, 100]]], np.float32)
    drawn = with_boxes(black(200, 200), replace(one_box((20, 20, 180, 180)), corners=corners))
    for y, x in ((60, 139), (140, 140), (139, 60)):
        assert drawn[y - 1 : y + 2, x - 1 : x + 2].max() > 100, (y, x)
    assert drawn[90:110, 60:140].max() == 0
    assert drawn[170:190, 170:190].max() == 0


def test_a_mask_is_tinted_where_it_is_and_its_parts_are():
    left, right = ([[x, 100], [x + 30, 100], [x + 30, 180], [x, 180]] for x in (50, 120))
    polygons = [[np.array(left, np.float32), np.array(right, np.float32)]]
    drawn = with_boxes(black(200, 200), replace(one_box((50, 100, 150, 180)), polygons=polygons))
    for x in (65, 135):
        assert 40 < drawn[140, x].max() < 130, x
    assert drawn[140, 100].max() == 0


def test_a_mask_beyond_the_picture_is_drawn_where_the_picture_is():
    ring = np.array([[-50, -50], [300, -50], [300, 300], [-50, 300]], np.float32)
    drawn = with_boxes(black(200, 200), replace(one_box((0, 0, 200, 200)), polygons=[[ring]]))
    assert 40 < drawn[100, 100].max() < 130


def test_keypoints_are_dots_and_those_of_people_have_limbs():
    points = np.full((1, 17, 2), 150, np.float32)
    points[0, 11], points[0, 13] = (60, 110), (60, 150)  # a hip and its knee
    sure = np.full((1, 17), 0.1, np.float32)
    sure[0, [11, 13]] = 0.9
    person = replace(one_box((40, 100, 180, 190)), keypoints=points, keypoint_confidence=sure)
    drawn = with_boxes(black(200, 200), person)
    for y in (110, 130, 150):
        assert drawn[y - 1 : y + 1, 59:61].max() > 100, y
    assert drawn[140:160, 140:160].max() == 0  # those that nobody is sure of
    four = replace(one_box((40, 100, 180, 190)), keypoints=points[:, 10:14])
    assert with_boxes(black(200, 200), four)[130, 58:62].max() == 0
