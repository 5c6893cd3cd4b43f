"""Windows over a large image: each object once, where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.core.types import Detections, Image
from hatdet.detection.windows import detect_in_windows, window_starts

NAMES = {0: "thing", 1: "other"}
Box = tuple[float, float, float, float]


@pytest.mark.parametrize(
    ("length", "side", "overlap", "starts"),
    [(10, 64, 16, [0]), (64, 64, 16, [0]), (65, 64, 16, [0, 1]), (112, 64, 16, [0, 48]), (113, 64, 16, [0, 24, 49])],
)
def test_windows_by_table(length, side, overlap, starts):
    assert window_starts(length, side, overlap) == starts


@given(st.integers(1, 2000), st.integers(1, 300), st.data())
def test_windows_cover_everything_and_overlap_enough(length, side, data):
    overlap = data.draw(st.integers(0, side - 1))
    starts = window_starts(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] + side >= length
    assert length < side or starts[-1] + side == length
    assert all(b - a <= side - overlap for a, b in pairwise(starts))


@dataclass
class Sees:
    """A detector of a scene: what of each object lies in the window, as large as it is seen there.

    Windows say where they are by their first pixel's colours.
    """

    objects: list[tuple[Box, int]]
    least: float = 4.0  # shares of an object narrower than that are not seen
    blur: float = 0.0  # how far each window is off, at most
    name: str = "sees"
    windows: list[Box] = field(default_factory=list)

    def __call__(self, image: Image) -> Detections:
        x, y = (round(float(value) * 65535) for value in image.pixels[:2, 0, 0])
        self.windows.append((x, y, image.width, image.height))
        rng = np.random.default_rng(len(self.windows))
        found = []
        for (x1, y1, x2, y2), class_id in self.objects:
            inside = [max(x1 - x, 0), max(y1 - y, 0), min(x2 - x, image.width), min(y2 - y, image.height)]
            w, h = inside[2] - inside[0], inside[3] - inside[1]
            if min(w, h) >= min(self.least, x2 - x1, y2 - y1) and min(w, h) > 0:
                share = w * h / ((x2 - x1) * (y2 - y1))
                off = rng.uniform(-self.blur, self.blur, 4)
                box = np.clip(np.array(inside) + off, 0, [image.width, image.height] * 2)
                found.append([*box, 0.5 + 0.4 * share + 0.05 * rng.random(), class_id])
        rows = np.array(found, np.float32).reshape(-1, 6)
        return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), NAMES)


def read(top: int, bottom: int, left: int, right: int) -> Image:
    pixels = torch.zeros(3, bottom - top, right - left)
    pixels[0], pixels[1] = left / 65535, top / 65535
    return Image(pixels, bit_depth=16)


def found_in(scene: Sees, size_hw: tuple[int, int], side: int = 100, **more: object) -> list[tuple[Box, int]]:
    found = detect_in_windows(read, size_hw, scene, side, **more)
    assert (np.diff(found.confidence) <= 0).all()
    return [(tuple(box), int(k)) for box, k in zip(found.xyxy.tolist(), found.class_id, strict=True)]


def test_an_object_over_four_windows_is_one_box():
    scene = Sees([((70, 70, 95, 95), 0)])
    assert found_in(scene, (175, 175)) == [((70, 70, 95, 95), 0)]
    assert len(scene.windows) == 4


def test_what_the_edge_cut_goes_where_the_neighbour_sees_it_whole():
    """Windows 0 to 100 and 75 to 175: 80 to 110 is cut by the first, seen whole by the second, and surer in neither."""
    scene = Sees([((80, 10, 110, 40), 0)])
    assert found_in(scene, (100, 175)) == [((80, 10, 110, 40), 0)]


def test_what_only_one_window_sees_stays_though_it_is_cut():
    class Blind(Sees):
        def __call__(self, image: Image) -> Detections:
            found = super().__call__(image)
            return (
                found
                if len(self.windows) == 1
                else Detections(found.xyxy[:0], found.confidence[:0], found.class_id[:0], NAMES)
            )

    scene = Blind([((80, 10, 110, 40), 0)])
    assert found_in(scene, (100, 175)) == [((80, 10, 100, 40), 0)]


def test_neighbours_of_one_class_and_other_classes_stay_apart():
    objects = [((76, 10, 90, 30), 0), ((82, 10, 96, 30), 0), ((76, 10, 90, 30), 1)]  # the first two overlap by 0.4
    assert sorted(found_in(Sees(objects), (100, 175))) == sorted(objects)


def test_boxes_of_one_window_are_its_detectors_business():
    objects = [((10, 10, 30, 30), 0), ((11, 10, 31, 30), 0)]
    assert len(found_in(Sees(objects), (100, 175))) == 2


def test_an_edge_of_the_image_cuts_nothing():
    objects = [((0, 0, 20, 20), 0), ((150, 60, 175, 100), 1)]
    assert sorted(found_in(Sees(objects), (100, 175))) == sorted(objects)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 8), st.integers(5, 24), st.integers(5, 24)), unique=True),
    st.sampled_from([(230, 320), (100, 317), (260, 100)]),
)
def test_each_of_many_objects_is_found_once_and_whole(cells, size_hw):
    """Objects in cells of 26, up to the overlap of 25 in size, with windows that differ by up to half a pixel."""
    objects = []
    for column, row, w, h in {(c, r): (c, r, w, h) for c, r, w, h in cells}.values():
        box = column * 26, row * 26, column * 26 + w, row * 26 + h
        if box[2] <= size_hw[1] and box[3] <= size_hw[0]:
            objects.append((box, (column + row) % 2))
    found = found_in(Sees(objects, blur=0.2), size_hw)
    assert len(found) == len(objects)
    for expected in objects:
        assert sum(class_id == expected[1] and np.allclose(box, expected[0], atol=0.25) for box, class_id in found) == 1


def test_a_region_alone_is_looked_at():
    scene = Sees([((510, 510, 530, 530), 0), ((10, 10, 30, 30), 0)])
    seen: list[tuple[int, int]] = []
    found = found_in(scene, (10_000, 10_000), region=(450, 460, 650, 640), on_progress=lambda a, b: seen.append((a, b)))
    assert found == [((510, 510, 530, 530), 0)]
    assert {(w, h) for *_, w, h in scene.windows} == {(100, 100)}
    assert min(x for x, *_ in scene.windows) == 450
    assert max(y for _, y, *_ in scene.windows) == 540
    assert seen[-1] == (9, 9)


def test_an_image_with_nothing_in_it():
    assert found_in(Sees([]), (300, 300)) == []


class SeesRotated(Sees):
    """Diamonds in their boxes; a mask like each box and a point in its middle."""

    def __call__(self, image: Image) -> Detections:
        found = super().__call__(image)
        x1, y1, x2, y2 = found.xyxy.T
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        rings = np.stack([np.stack(p, 1) for p in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))], 1)
        return Detections(
            found.xyxy,
            found.confidence,
            found.class_id,
            NAMES,
            corners=np.stack([np.stack(p, 1) for p in ((x, y1), (x2, y), (x, y2), (x1, y))], 1),
            polygons=[[ring] for ring in rings],
            keypoints=np.stack([x, y], 1)[:, None],
            keypoint_confidence=found.confidence[:, None],
        )


def test_corners_masks_and_keypoints_come_with_their_boxes():
    objects = [((70, 70, 95, 95), 0), ((120, 30, 140, 60), 1)]
    found = detect_in_windows(read, (175, 175), SeesRotated(objects), 100)
    assert len(found) == 2
    for one in found:
        x1, y1, x2, y2 = one.xyxy
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        assert (one.xyxy, one.class_id) in objects
        assert one.corners == ((x, y1), (x2, y), (x, y2), (x1, y))
        assert one.polygons == (((x1, y1), (x2, y1), (x2, y2), (x1, y2)),)
        assert one.keypoints == ((x, y, one.confidence),)


def test_oriented_boxes_that_lie_side_by_side_are_not_one():
    """Two ships on a slant: what encloses them overlaps by 0.6, they do not touch."""

    class Ships:
        name = "ships"

        def __call__(self, image: Image) -> Detections:
            left, top = (round(float(image.pixels[c, 0, 0]) * 65535) for c in (0, 1))
            ship = np.array([[78, 41], [80, 40], [97, 79], [95, 80]], np.float32)  # in both windows
            corners = np.stack([ship, ship + np.array([0, -10], np.float32)]) - np.array([left, top], np.float32)
            boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
            sure = np.array([0.9, 0.8] if left == 0 else [0.7, 0.6], np.float32)
            return Detections(boxes, sure, np.zeros(2, np.int64), NAMES, corners=corners)

    found = detect_in_windows(read, (100, 175), Ships(), 100)
    assert found.confidence.tolist() == pytest.approx([0.9, 0.8])
