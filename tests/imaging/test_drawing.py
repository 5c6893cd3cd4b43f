"""Boxes are drawn where they are."""

from __future__ import annotations

import numpy as np
import torch

from hatdet.core.types import Detections, Image
from hatdet.imaging.drawing import SMALLEST_PANEL, side_by_side, with_boxes


def one_box(xyxy) -> Detections:
    return Detections(np.array([xyxy], np.float32), np.array([0.9], np.float32), np.array([0]), {0: "car"})


def test_a_box_is_drawn_on_its_edges_and_its_inside_stays():
    image = Image(torch.zeros(3, 200, 200))
    drawn = with_boxes(image, one_box((50, 100, 150, 180)))
    assert drawn.shape == (200, 200, 3)
    for y, x in ((140, 50), (140, 149), (100, 120), (179, 100)):
        assert drawn[y, x].max() > 100, (y, x)
    assert drawn[120:170, 60:140].max() == 0
    assert drawn[190:, :].max() == 0


def test_a_box_on_an_upscaled_image_is_drawn_in_its_pixels():
    image = Image(torch.zeros(3, 200, 200), scale=4)
    drawn = with_boxes(image, one_box((12.5, 25, 37.5, 45)))
    assert drawn[140, 50].max() > 100
    assert drawn[140, 149].max() > 100


def test_both_panels_have_one_height_and_a_small_source_is_enlarged():
    source, seen = Image(torch.zeros(3, 10, 20)), Image(torch.zeros(3, 40, 80), scale=4)
    drawn = side_by_side(source, seen, one_box((1, 1, 5, 5)), "hat-xs-x4")
    panel = (drawn.shape[1] - 8) // 2
    assert panel >= SMALLEST_PANEL
    assert panel % 80 == 0


def test_labels_at_the_border_stay_inside():
    image = Image(torch.zeros(3, 40, 40))
    for box in ((0, 0, 5, 5), (35, 35, 40, 40), (0, 0, 40, 40), (39, 0, 40, 1)):
        assert with_boxes(image, one_box(box), enlarge=4).shape == (160, 160, 3)


def test_sixteen_bits_are_shown_in_eight():
    image = Image(torch.full((3, 20, 20), 0.5), bit_depth=16)
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), {})
    assert set(with_boxes(image, nothing).ravel().tolist()) == {128}
