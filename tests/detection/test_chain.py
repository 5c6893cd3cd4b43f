"""Upscaling in front of the detector: boxes come back in the pixels of the image that was read."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet import Upscaled, load_detector, load_upscaler, read_image, run_chain
from hatdet.core.types import Detector, Image
from hatdet.detection.letterbox import Letterbox
from hatdet.detection.yolo import YoloDetector
from hatdet.imaging.resize import reduced
from hatdet.sr.upscalers import BicubicUpscaler, NearestUpscaler
from tests.helpers import FixedBoxes, iou, random_image, sample_photo

# Boxes of bus.jpg in its own pixels, 810x1080.
BUS = (22, 229, 807, 733)
PEOPLE = [(670, 395, 810, 879), (47, 399, 239, 903), (223, 408, 344, 859), (0, 555, 68, 872)]


def test_the_chain_is_a_detector():
    chain = Upscaled(NearestUpscaler(2), YoloDetector(FixedBoxes([]), "fixed"))
    assert isinstance(chain, Detector)
    assert chain.name == "nearest+fixed"
    assert len(chain(random_image(5, 5))) == 0


@settings(max_examples=40)
@given(st.integers(5, 60), st.integers(5, 60), st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 3]))
def test_chained_upscalers_give_source_coordinates(w, h, first, second):
    box = Letterbox.fit((h * first * second, w * first * second), None if first * second > 1 else 640, 32)
    zoom = box.resized_hw[1] / w, box.resized_hw[0] / h
    rows = [[1 * zoom[0] + box.left, 2 * zoom[1] + box.top, 4 * zoom[0] + box.left, 5 * zoom[1] + box.top, 0.9, 0]]
    inner = Upscaled(BicubicUpscaler(second), YoloDetector(FixedBoxes(rows), "fixed"))
    found = Upscaled(NearestUpscaler(first), inner)(random_image(h, w))
    assert np.allclose(found.xyxy, [[1, 2, 4, 5]], atol=0.01)


def test_the_detector_sees_the_saved_picture():
    """Rounded to 8 bits before the detector, so that a saved upscaled image gives the boxes of the live one."""
    model = FixedBoxes([])
    image = random_image(16, 16)
    result = run_chain(image, BicubicUpscaler(2), YoloDetector(model, "fixed"))
    assert torch.equal(model.seen[0][0], result.seen.pixels)
    levels = result.seen.pixels * 255
    assert float((levels - levels.round()).abs().max()) < 1e-3
    assert result.upscale_ms is not None
    assert result.upscale_ms > 0
    assert run_chain(image, None, YoloDetector(FixedBoxes([]), "fixed")).upscale_ms is None


def test_the_bus_reduced_eight_times_is_found_in_source_coordinates():
    small = reduced(read_image(sample_photo("bus")), 8)
    assert (small.width, small.height) == (101, 135)
    chain = Upscaled(load_upscaler("hat-xs", scale=4, device="cpu"), load_detector(device="cpu"))
    found = [(d.class_name, [8 * edge for edge in d.xyxy]) for d in chain(small)]
    buses = [box for name, box in found if name == "bus"]
    people = [box for name, box in found if name == "person"]
    assert any(iou(box, BUS) >= 0.5 for box in buses)
    assert sum(any(iou(box, truth) >= 0.5 for box in people) for truth in PEOPLE) >= 3


def test_an_image_given_as_its_own_reference_gives_the_same_boxes():
    """A high-resolution reference is an Image with a scale: its boxes are in the frame of the small one."""
    photo = read_image(sample_photo("zidane"))
    detector = load_detector(device="cpu", imgsz=640)
    plain, reference = detector(photo), detector(Image(photo.pixels, scale=4))
    assert np.allclose(plain.xyxy / 4, reference.xyxy, atol=1e-3)
    assert plain.class_id.tolist() == reference.class_id.tolist()
