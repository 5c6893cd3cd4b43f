"""Slices of an image: each object once, where it is."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.core.errors import OptionsError
from hatdet.core.types import Detections, Detector, Image
from hatdet.detection.seams import SeenIn, merged, resolve_edges
from hatdet.detection.slicing import Sliced, slice_starts

NAMES = {0: "thing", 1: "other"}
Box = tuple[float, float, float, float]


@pytest.mark.parametrize(("length", "starts"), [(10, [0]), (64, [0]), (65, [0, 1]), (112, [0, 48]), (113, [0, 24, 49])])
def test_slices_by_table(length, starts):
    assert slice_starts(length, 64, 0.25) == starts


@given(st.integers(1, 2000), st.integers(1, 300), st.data())
def test_slices_cover_everything_and_overlap_enough(length, side, data):
    overlap = data.draw(st.floats(0, 0.99))
    starts = slice_starts(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] + side >= length
    assert length < side or starts[-1] + side == length
    assert all(b - a <= max(1, side - round(side * overlap)) for a, b in pairwise(starts))


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


def looked(scene: Detector, size_hw: tuple[int, int], side: int = 100, **more: object) -> Detections:
    over = {key: more.pop(key) for key in ("region", "overview") if key in more}
    return Sliced(scene, (side, side), **{"overlap": 0.25, **more}).over(read, size_hw, **over)


def found_in(scene: Sees, size_hw: tuple[int, int], side: int = 100, **more: object) -> list[tuple[Box, int]]:
    found = looked(scene, size_hw, side, **more)
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
    found = looked(SeesRotated(objects), (175, 175))
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

    found = looked(Ships(), (100, 175))
    assert found.confidence.tolist() == pytest.approx([0.9, 0.8])


def test_an_object_larger_than_any_slice_is_one_box_of_its_parts():
    """Seen by nine slices of 100, whole by none; the parts of another class are another object."""
    objects = [((20, 30, 235, 225), 0), ((90, 90, 120, 190), 1)]
    assert sorted(found_in(Sees(objects), (250, 250))) == sorted(objects)


def test_a_look_at_the_whole_finds_what_slices_cut():
    """What the look at the whole says of a large object, and its confidence, are kept; parts of it go."""

    class Whole(Sees):
        def __call__(self, image: Image) -> Detections:
            large = np.array([[21, 31, 234, 224]], np.float32)
            return Detections(large, np.array([0.3], np.float32), np.array([0]), NAMES)

    scene = Sees([((20, 30, 235, 225), 0), ((60, 5, 80, 25), 0)])
    found = looked(scene, (250, 250), whole=Whole([]), overview=read(0, 250, 0, 250))
    assert found.xyxy.tolist() == [[60, 5, 80, 25], [21, 31, 234, 224]]


def test_what_is_hardly_there_does_not_take_what_is_cut():
    """At the thresholds of an evaluation a look at the whole sees large things of a confidence of nearly nothing."""

    class Whole(Sees):
        def __call__(self, image: Image) -> Detections:
            return Detections(
                np.array([[0, 0, 175, 100]], np.float32), np.array([0.002], np.float32), np.array([0]), NAMES
            )

    class Blind(Sees):
        def __call__(self, image: Image) -> Detections:
            found = super().__call__(image)
            return found if len(self.windows) == 1 else found.taken(np.zeros(len(found), np.bool_))

    found = looked(Blind([((80, 10, 110, 40), 0)]), (100, 175), whole=Whole([]), overview=read(0, 100, 0, 175))
    assert found.xyxy.tolist() == [[80, 10, 100, 40], [0, 0, 175, 100]]


@pytest.mark.parametrize("merge", ["nms", "nmm", "greedy-nmm"])
def test_two_slices_that_differ_about_an_object_give_one_box(merge):
    """By nms the surer one's, by the others what encloses both. Slices 0 to 100, 75 to 175."""

    class Differs(Sees):
        def __call__(self, image: Image) -> Detections:
            found = super().__call__(image)
            first = len(self.windows) == 1
            return replace(
                found,
                xyxy=found.xyxy + np.array([0, 0, 0, 4 if first else 0], np.float32),
                confidence=np.full(len(found), 0.6 if first else 0.8, np.float32),
            )

    found = looked(Differs([((78, 10, 96, 30), 0)]), (100, 175), merge=merge)
    assert found.xyxy.tolist() == [[78, 10, 96, 30 if merge == "nms" else 34]]
    assert found.confidence.tolist() == pytest.approx([0.8])


def test_two_overlapping_objects_of_a_class_stay_two_in_every_merge():
    objects = [((76, 10, 90, 30), 0), ((82, 10, 96, 30), 0)]  # intersection over union 0.4
    for merge in ("nms", "nmm", "greedy-nmm"):
        assert sorted(found_in(Sees(objects), (100, 175), merge=merge)) == sorted(objects)


def boxes_of(found: Detections) -> list[tuple[float, ...]]:
    rows = np.concatenate([found.xyxy, found.confidence[:, None], found.class_id[:, None]], 1)
    return sorted(tuple(row) for row in rows.tolist())


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(0, 2**32 - 1))
def test_the_order_of_the_slices_changes_nothing(random, seed):
    """Random boxes, many of them at edges, in all slices, and a look at the whole."""
    rng = np.random.default_rng(seed)
    within = (0, 0, 250, 250)
    slices = [*Sliced(Sees([]), (100, 100), 0.25).slices(within), within]

    def results(order: list[int]) -> list[tuple[float, ...]]:
        found = [SeenIn.slice(objects[n], slices[n], within, 1) for n in order]
        resolve_edges(found)
        return boxes_of(merged([found[order.index(n)] for n in range(len(found))], "nms"))

    objects = []
    for left, top, right, bottom in slices:
        corners = np.sort(rng.integers(0, 5, (6, 2, 2)) / 4, 1) * [right - left, bottom - top]
        corners = corners[(corners[:, 1] > corners[:, 0]).all(1)].reshape(-1, 4).astype(np.float32)
        n = len(corners)
        objects.append(Detections(corners, rng.integers(1, 4, n).astype(np.float32) / 4, rng.integers(0, 2, n), NAMES))
    order = list(range(len(slices)))
    expected = results(order)
    random.shuffle(order)
    assert results(order) == expected


@pytest.mark.parametrize("step", [75, 150])
def test_a_scene_moved_by_a_step_of_the_slices_is_found_moved(step):
    objects = [((30, 30, 50, 52), 0), ((80, 12, 104, 40), 1), ((10, 70, 95, 95), 0)]
    moved = [((x1 + step, y1, x2 + step, y2), k) for (x1, y1, x2, y2), k in objects]
    first, second = (found_in(Sees(those), (250, 325)) for those in (objects, moved))
    assert sorted(((x1 + step, y1, x2 + step, y2), k) for (x1, y1, x2, y2), k in first) == sorted(second)
    assert sorted(second) == sorted(moved)


@settings(max_examples=25)
@given(
    st.integers(1, 4),
    st.tuples(st.integers(40, 130), st.integers(40, 130)),
    st.sampled_from([0.0, 0.2, 0.5, 0.7]),
    st.tuples(st.integers(20, 200), st.integers(20, 200)),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(2, 90), st.integers(2, 90)), max_size=3),
)
def test_coordinates_are_exact_for_any_slice_and_scale(scale, slice_wh, overlap, size_wh, drawn):
    """One object of each class; what is seen of it in slices of an enlarged picture, in source pixels."""
    w, h = size_wh
    expected = []
    for class_id, (x, y, dx, dy) in enumerate(drawn):
        box = (min(x, w - 1), min(y, h - 1), min(x + dx, w), min(y + dy, h))
        if box[2] > box[0] and box[3] > box[1]:
            expected.append((tuple(float(v) for v in box), class_id))

    class SeesAll:
        name = "sees all"

        def __call__(self, image: Image) -> Detections:
            x, y = (round(float(value) * 65535) for value in image.pixels[:2, 0, 0])
            rows = []
            for box, class_id in expected:
                inside = np.clip(np.array(box) * scale - [x, y, x, y], 0, [image.width, image.height] * 2)
                if inside[2] > inside[0] and inside[3] > inside[1]:
                    rows.append([*inside / scale, 0.9, class_id])
            array = np.array(rows, np.float32).reshape(-1, 6)
            return Detections(array[:, :4], array[:, 4], array[:, 5].astype(np.int64), {0: "a", 1: "b", 2: "c"})

    pixels = torch.zeros(3, h * scale, w * scale)
    pixels[0] = torch.arange(w * scale) / 65535
    pixels[1] = torch.arange(h * scale)[:, None] / 65535
    found = Sliced(SeesAll(), slice_wh, overlap)(Image(pixels, scale, 16))
    if overlap:
        assert sorted((tuple(b), int(k)) for b, k in zip(found.xyxy.tolist(), found.class_id, strict=True)) == [
            (pytest.approx(box, abs=1e-3), class_id) for box, class_id in sorted(expected)
        ]
    else:  # slices that share nothing cannot know what belongs together
        assert len(found) >= len(expected)


def test_an_image_that_fits_is_handed_on():
    image = Image(torch.zeros(3, 50, 100), 2)
    scene = Sees([((5, 5, 20, 20), 0)])
    assert Sliced(scene, (100, 50), whole=scene)(image).xyxy.tolist() == [[5, 5, 20, 20]]
    assert scene.windows == [(0, 0, 100, 50)]


def test_slices_are_cut_when_they_are_looked_at_and_come_in_batches():
    alive: list[int] = []
    handed: list[int] = []

    class Many(Sees):
        def many(self, images: list[Image]) -> list[Detections]:
            handed.append(len(images))
            return [self(image) for image in images]

    def counted(top: int, bottom: int, left: int, right: int) -> Image:
        image = read(top, bottom, left, right)
        alive.append(0)
        weakref.finalize(image, alive.pop)
        assert len(alive) <= 3
        return image

    sliced = Sliced(Many([((70, 70, 95, 95), 0)]), (100, 100), 0.25, batch=3)
    assert len(sliced.over(counted, (325, 250))) == 1
    assert handed == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"slice_wh": (0, 10)}, "slice must be at least 1x1, got 0x10"),
        ({"overlap": 1.0}, "slice-overlap must be at least 0 and less than 1, got 1.0"),
        ({"merge": "wbf"}, "merge must be one of nms, nmm, greedy-nmm, got 'wbf'"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_said(options, sentence):
    with pytest.raises(OptionsError, match=re.escape(sentence)):
        Sliced(Sees([]), **{"slice_wh": (10, 10), **options})


@pytest.mark.parametrize(
    ("size_wh", "side", "overlap", "even"),
    [
        ((3232, 3240), 2560, 0.2, (1824, 1824)),  # two slices each way, of 1796 and 1800 at least
        ((2561, 100), 2560, 0.2, (1440, 128)),
        ((2560, 2560), 2560, 0.2, (2560, 2560)),
        ((10000, 5200), 2560, 0.0, (2528, 1760)),
    ],
)
def test_even_slices_are_as_many_and_no_larger_than_they_need_to_be(size_wh, side, overlap, even):
    usual = Sliced(Sees([]), (side, side), overlap)
    within = (0, 0, *size_wh)
    slices = replace(usual, even=True).slices(within)
    assert len(slices) == len(usual.slices(within))
    assert {(min(even[0], size_wh[0]), min(even[1], size_wh[1]))} == {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in slices}
    assert (slices[0][:2], slices[-1][2:]) == ((0, 0), size_wh)
