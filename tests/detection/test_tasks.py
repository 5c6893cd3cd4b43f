"""Oriented boxes, masks and keypoints: as Ultralytics' own predictor has them, and where they are in the source."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes
from torch import Tensor, nn

from hatdet import Upscaled, load_upscaler
from hatdet.core.types import Detections, Image
from hatdet.detection.letterbox import Letterbox
from hatdet.detection.tasks import Canvas, one_ring
from hatdet.detection.weights import load_model
from hatdet.detection.yolo import YoloDetector
from hatdet.imaging.files import write_image
from hatdet.imaging.resize import reduced
from tests.detection.untrained import street, task_of, untrained

HEIGHT, WIDTH = 203, 320
CONFIGS = [
    f"{generation}n{task}.yaml" for generation in ("yolov8", "yolo11", "yolo26") for task in ("-obb", "-seg", "-pose")
]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "street.png"
    write_image(Image(street()), path)
    return path


@pytest.mark.parametrize("config", CONFIGS)
def test_all_that_is_found_equals_ultralytics_predict(config, photo, tmp_path):
    """The same network through Ultralytics' own predictor, on a canvas that takes the image as it is."""
    from ultralytics import YOLO

    path = untrained(config, tmp_path / "model.pt", nc=5)
    yolo = YOLO(path)
    theirs = yolo.predict(photo, verbose=False, imgsz=WIDTH, conf=0.5, max_det=20)[0]
    assert load_model(path).task == task_of(config)
    network = yolo.predictor.model.model  # fused once: twice is another order of the same sums
    network.task = task_of(config)
    found = seen_by(network, Image(street()), confidence=0.5, max_detections=20, imgsz=WIDTH)
    box = Letterbox.fit((HEIGHT, WIDTH), WIDTH, 32)
    if theirs.masks is not None:  # an object of which only the grey around the image has a mask is none of ours
        theirs = theirs[theirs.masks.data[:, box.top : box.top + HEIGHT].amax(dim=(1, 2)) > 0]
    boxes = theirs.obb if task_of(config) == "obb" else theirs.boxes
    assert len(found) == len(boxes) >= 4
    assert found.confidence == pytest.approx(boxes.conf.numpy(), abs=1e-6)
    assert found.class_id.tolist() == boxes.cls.tolist()
    if task_of(config) == "obb":
        assert found.corners == pytest.approx(theirs.obb.xyxyxyxy.numpy(), abs=1e-3)
        assert found.polygons is found.keypoints is None
        return
    ends = np.sort(boxes.xyxy.numpy().reshape(-1, 2, 2), axis=1).reshape(-1, 4)  # YOLO26's may be swapped
    assert found.xyxy == pytest.approx(ends, abs=1e-3)
    if task_of(config) == "pose":
        assert found.keypoints == pytest.approx(theirs.keypoints.xy.numpy(), abs=1e-3)
        assert found.keypoint_confidence == pytest.approx(theirs.keypoints.conf.numpy(), abs=1e-6)
        assert found.polygons is found.corners is None
        return
    for rings, mask in zip(found.polygons, theirs.masks.data.numpy(), strict=True):
        points = np.zeros((2 * HEIGHT + 1, 2 * WIDTH + 1), np.uint8)  # twice as many as there are pixels, and edges
        for ring in rings:
            cv2.fillPoly(points, [np.round(ring * 2).astype(np.int32)], 1)
        assert (points[1::2, 1::2] == binary_fill_holes(mask[box.top : box.top + HEIGHT])).all()


class Fixed(nn.Module):
    """A model of a task that says the same whatever it sees: rows of x, y, w, h, confidence, and what the task adds."""

    def __init__(self, task: str, rows, prototypes=None, kpt_shape=None) -> None:
        super().__init__()
        self.task, self.names, self.stride = task, {0: "thing"}, torch.tensor([8.0, 16.0, 32.0])
        self.rows = nn.Parameter(torch.tensor(rows, dtype=torch.float32), requires_grad=False)
        self.prototypes, self.kpt_shape = prototypes, kpt_shape

    def forward(self, batch: Tensor):
        said = self.rows.T[None].clone()
        return said if self.prototypes is None else ((said, self.prototypes), {})


def seen_by(model: nn.Module, image: Image, **how) -> Detections:
    return YoloDetector(model, "fixed", **how)(image)


def canvas(height: int, width: int, scale: float = 1) -> Image:
    return Image(torch.zeros(3, height, width), scale=scale)


@pytest.mark.parametrize(
    ("size_hw", "long_side", "scale", "here", "there"),
    [
        ((64, 96), None, 4, (40, 20), (10, 5)),
        ((60, 90), None, 3, (3, 2), (0, 0)),  # 3 and 2 pixels of grey at the left and at the top
        ((60, 90), None, 3, (93, 62), (30, 20)),
        ((32, 64), 640, 1, (320, 160), (32, 16)),
        ((33, 64), 640, 1, (0, 11), (0, 0)),
        ((27, 40), 100, 2, (100 / 3 + 14, 10), (20 / 3, (10 - 14) * 27 / 68 / 2)),  # 27 * 2.5 is 68, not 67.5
    ],
)
def test_a_point_on_the_canvas_is_a_point_of_the_source(size_hw, long_side, scale, here, there):
    found = Canvas(Letterbox.fit(size_hw, long_side, 32), scale).to_source(torch.tensor(here, dtype=torch.float64))
    assert found.tolist() == pytest.approx(there, abs=1e-9)


def test_a_rotated_box_on_an_upscaled_image():
    """Centre (200, 120), 80 by 40, turned by 30 degrees; four pixels for one of the source."""
    found = seen_by(Fixed("obb", [[200, 120, 80, 40, 0.9, math.pi / 6]]), canvas(256, 384, 4))
    x, y, c, s = 50, 30, math.cos(math.pi / 6), math.sin(math.pi / 6)
    corners = [
        (x + a * 10 * c - b * 5 * s, y + a * 10 * s + b * 5 * c) for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
    assert found.corners[0].tolist() == [pytest.approx(corner, abs=1e-4) for corner in corners]
    xs, ys = zip(*corners, strict=True)
    assert found.xyxy[0].tolist() == pytest.approx([min(xs), min(ys), max(xs), max(ys)], abs=1e-4)
    assert next(iter(found)).corners == tuple(tuple(corner) for corner in found.corners[0].tolist())


def test_a_rotated_box_at_the_border_stays_a_rectangle_and_what_encloses_it_is_clipped():
    found = seen_by(Fixed("obb", [[10, 50, 60, 20, 0.9, 0.5]]), canvas(64, 96, 4))
    sides = np.linalg.norm(np.diff(found.corners[0], axis=0), axis=1)
    assert sides == pytest.approx([5, 15, 5], abs=1e-3)
    assert found.corners[0].min() < 0
    assert found.xyxy.min() == 0


@settings(max_examples=30)
@given(st.integers(4, 120), st.integers(4, 120), st.sampled_from([1, 2, 3, 4, 8]), st.floats(-2, 2), st.data())
def test_corners_come_out_in_source_coordinates(w, h, scale, angle, data):
    """Where the canvas is stretched by rounding, a rectangle becomes a parallelogram: the corners are the truth."""
    fraction = st.floats(0.1, 0.9)
    image = canvas(h * scale, w * scale, scale)
    box = Letterbox.fit((h * scale, w * scale), None if scale > 1 else 640, 32)
    cx, cy, bw, bh = (data.draw(fraction) * size for size in (*box.canvas_hw[::-1], *box.canvas_hw[::-1]))
    found = seen_by(Fixed("obb", [[cx, cy, bw, bh, 0.9, angle]]), image).corners[0]
    zoom_x, zoom_y = box.resized_hw[1] / w, box.resized_hw[0] / h
    for (a, b), (x, y) in zip(((1, 1), (1, -1), (-1, -1), (-1, 1)), found.tolist(), strict=True):
        on_canvas_x = cx + (a * bw * math.cos(angle) - b * bh * math.sin(angle)) / 2
        on_canvas_y = cy + (a * bw * math.sin(angle) + b * bh * math.cos(angle)) / 2
        assert x == pytest.approx((on_canvas_x - box.left) / zoom_x, abs=0.01)
        assert y == pytest.approx((on_canvas_y - box.top) / zoom_y, abs=0.01)


def test_keypoints_on_an_upscaled_image_and_outside_of_it():
    rows = [[100, 60, 80, 40, 0.9, 100, 60, 0.75, 60, 44, 0.25, 500, -20, 0.5]]
    found = seen_by(Fixed("pose", rows, kpt_shape=(3, 3)), canvas(128, 192, 4))
    assert found.keypoints.tolist() == [[[25, 15], [15, 11], [48, 0]]]
    assert found.keypoint_confidence.tolist() == [[0.75, 0.25, 0.5]]
    assert found.xyxy.tolist() == [[15, 10, 35, 20]]
    assert next(iter(found)).keypoints == ((25, 15, 0.75), (15, 11, 0.25), (48, 0, 0.5))


def test_keypoints_of_models_without_confidences():
    found = seen_by(Fixed("pose", [[100, 60, 80, 40, 0.9, 100, 60, 60, 44]], kpt_shape=(2, 2)), canvas(128, 192, 2))
    assert found.keypoint_confidence is None
    assert next(iter(found)).keypoints == ((50, 30, None), (30, 22, None))


def prototypes(*cells: tuple[int, int, int, int], height: int = 32, width: int = 48) -> Tensor:
    """Masks in cells of four pixels: inside of x1, y1, x2, y2 1, else -1; one for each."""
    maps = torch.full((1, len(cells), height, width), -1.0)
    for index, (x1, y1, x2, y2) in enumerate(cells):
        maps[0, index, y1:y2, x1:x2] = 1
    return maps


def bounds(ring) -> tuple[float, ...]:
    """A rectangle's corners are cut where masks are enlarged; its edges are where they are."""
    return (*np.min(ring, axis=0).tolist(), *np.max(ring, axis=0).tolist())


def test_masks_on_an_upscaled_image():
    """Cells 5 to 10 and 2 to 6 of four pixels: at 20, 8, 40, 24 on the canvas, a quarter of it in the source."""
    model = Fixed("segment", [[30, 16, 60, 32, 0.9, 1]], prototypes((5, 2, 10, 6)))
    found = seen_by(model, canvas(128, 192, 4))
    assert [[bounds(ring) for ring in rings] for rings in found.polygons] == [[(5, 2, 10, 6)]]
    assert found.xyxy.tolist() == [[0, 0, 15, 8]]


def test_masks_end_with_their_box_and_with_the_image():
    """A mask everywhere: cut off by the box at the right, and by the grey around the image elsewhere."""
    model = Fixed("segment", [[42, 64, 100, 200, 0.9, 1]], prototypes((0, 0, 48, 32)))
    found = seen_by(model, canvas(120, 180, 2))  # 6 pixels of grey at the left, 4 at the top
    assert [[ring.tolist() for ring in rings] for rings in found.polygons] == [[[[0, 0], [0, 60], [43, 60], [43, 0]]]]


def test_an_object_without_a_mask_is_none():
    rows = [[30, 16, 60, 32, 0.9, 1], [150, 100, 20, 20, 0.8, 1]]
    found = seen_by(Fixed("segment", rows, prototypes((5, 2, 10, 6))), canvas(128, 192, 4))
    assert found.confidence.tolist() == pytest.approx([0.9])
    assert len(found.polygons) == 1


def test_a_mask_of_two_parts_is_two_polygons_and_one_in_labels():
    both = prototypes((2, 2, 4, 4), (8, 2, 10, 4)).amax(dim=1, keepdim=True)
    found = seen_by(Fixed("segment", [[96, 64, 192, 128, 0.9, 1]], both), canvas(128, 192, 4))
    rings = next(iter(found)).polygons
    assert sorted(bounds(ring) for ring in rings) == [(2, 2, 4, 4), (8, 2, 10, 4)]
    joined = one_ring(rings)
    assert set(joined) == {point for ring in rings for point in ring}
    assert one_ring(rings[:1]) == list(rings[0])


def test_many_masks_are_made_a_few_at_a_time(monkeypatch):
    rows = [[30, 16, 60, 32, 0.9, 1, 0], [100, 16, 60, 32, 0.8, 0, 1], [100, 90, 60, 32, 0.7, 0, 1]]
    model = Fixed("segment", rows, prototypes((5, 2, 10, 6), (22, 3, 28, 25)))
    at_once = seen_by(model, canvas(128, 192, 4))
    monkeypatch.setattr("hatdet.detection.tasks.MASK_PIXELS", 128 * 192)
    one_by_one = seen_by(model, canvas(128, 192, 4))
    assert len(at_once) == 3
    assert [[r.tolist() for r in rings] for rings in at_once.polygons] == [
        [r.tolist() for r in rings] for rings in one_by_one.polygons
    ]


@pytest.mark.parametrize(("task", "extra"), [("detect", []), ("obb", [0.1]), ("pose", [1.0, 2.0, 0.5])])
def test_nothing_found_is_none_of_each(task, extra):
    found = seen_by(Fixed(task, [[5, 5, 5, 5, 0.0, *extra]], kpt_shape=(1, 3)), canvas(64, 64))
    assert len(found) == 0
    assert list(found) == []


def test_no_mask_is_found():
    found = seen_by(Fixed("segment", [[5, 5, 5, 5, 0.0, 1]], prototypes((0, 0, 4, 4))), canvas(128, 192))
    assert (len(found), list(found.polygons)) == (0, [])


def test_a_box_that_a_model_swaps_is_the_right_way_round():
    found = seen_by(Fixed("detect", [[100, 60, -80, 40, 0.9]]), canvas(128, 192, 4))
    assert found.xyxy.tolist() == [[15, 10, 35, 20]]


class Brightest(nn.Module):
    """A model that looks: the rotated box with the moments of what is bright on its canvas."""

    def __init__(self) -> None:
        super().__init__()
        self.task, self.names, self.stride = "obb", {0: "ship"}, torch.tensor([8.0, 16.0, 32.0])
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Tensor) -> Tensor:
        weight = (batch[0].mean(dim=0).double() - 114 / 255).clamp(min=0)
        ys, xs = torch.meshgrid(*(torch.arange(size) + 0.5 for size in weight.shape), indexing="ij")
        points = torch.stack([xs.flatten(), ys.flatten()])
        centre = (points * weight.flatten()).sum(dim=1) / weight.sum()
        values, vectors = torch.linalg.eigh(torch.cov(points, aweights=weight.flatten(), correction=0))
        angle = torch.atan2(vectors[1, 1], vectors[0, 1])  # of the longer axis
        height, width = (12 * values).sqrt()  # a bar of length w has the variance w^2 / 12
        return torch.stack([*centre, width, height, torch.tensor(0.9), angle]).float()[None, :, None]


@pytest.mark.parametrize(
    ("upscaler", "degrees"),
    [*((name, degrees) for name in ("bicubic", "nearest") for degrees in (0, 17, 45, 80, 121)), ("hat-xs", 17)],
)
def test_the_box_of_a_rotated_object_in_a_reduced_image_is_on_the_object(upscaler, degrees):
    """A ship of 120 by 40 pixels in a photo that is reduced four times, and found after it is enlarged again."""
    angle, centre = math.radians(degrees), (131.0, 106.0)
    ys, xs = torch.meshgrid(torch.arange(208) + 0.5, torch.arange(272) + 0.5, indexing="ij")
    along = (xs - centre[0]) * math.cos(angle) + (ys - centre[1]) * math.sin(angle)
    across = (ys - centre[1]) * math.cos(angle) - (xs - centre[0]) * math.sin(angle)
    ship = (60 - along.abs()).add(0.5).clamp(0, 1) * (20 - across.abs()).add(0.5).clamp(0, 1)
    sharp = Image((0.2 + 0.7 * ship).mul(255).round().div(255).float().repeat(3, 1, 1))
    chain = Upscaled(load_upscaler(upscaler, scale=4, device="cpu"), YoloDetector(Brightest(), "brightest"))
    found = chain(reduced(sharp, 4)).corners[0]
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    c, s = math.cos(angle), math.sin(angle)
    expected = (
        np.array([[centre[0] + a * 60 * c - b * 20 * s, centre[1] + a * 60 * s + b * 20 * c] for a, b in signs]) / 4
    )
    # The longer axis may point either way.
    distance = min(np.abs(found - np.roll(expected, turn, axis=0)).max() for turn in (0, 2))
    assert distance < 0.5  # source pixels, of a ship of 30 by 10
