"""hatdet's detectors under SAHI and supervision: the same boxes, in the pixels of the picture that was given."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import supervision
from sahi.predict import get_prediction, get_sliced_prediction

from hatdet import Upscaled, read_image, write_image
from hatdet.core.errors import OptionsError
from hatdet.core.types import Detections, Image
from hatdet.detection.adapters import sahi_model, supervision_callback
from hatdet.imaging.resize import reduced
from hatdet.sr.upscalers import NearestUpscaler
from tests.helpers import sample_photo

ROOT = Path(__file__).resolve().parents[2]
NAMES = {0: "red thing", 7: "blue thing"}
# Squares far enough from each other; with slices of 100 and an overlap of 20 each lies in one at least.
REDS, BLUES = [(10, 20), (85, 40), (150, 130)], [(40, 90), (84, 150)]
SIDE = 8


def picture() -> np.ndarray:
    """`(180, 200, 3)`, RGB: red and blue squares of 8 pixels on black."""
    rgb = np.zeros((180, 200, 3), np.uint8)
    for channel, corners in ((0, REDS), (2, BLUES)):
        for x, y in corners:
            rgb[y : y + SIDE, x : x + SIDE, channel] = 255
    return rgb


@dataclass
class SeesColours:
    """Finds each whole square by its colour: red ones at 0.9, blue ones at 0.6."""

    more: Callable[[Detections], Detections] = field(default=lambda found: found)
    name: str = "colours"

    def __call__(self, image: Image) -> Detections:
        rows = []
        side = round(SIDE * image.scale)
        for channel, class_id, confidence in ((0, 0, 0.9), (2, 7, 0.6)):
            there = image.pixels[channel].numpy() > 0.5
            first = there & ~np.pad(there, 1)[:-2, 1:-1] & ~np.pad(there, 1)[1:-1, :-2]
            for y, x in np.argwhere(first):
                if there[y : y + side, x : x + side].sum() == side * side:
                    rows.append([x, y, x + side, y + side, confidence * image.scale, class_id])
        table = np.array(rows, np.float32).reshape(-1, 6) / [*[image.scale] * 5, 1]
        found = Detections(
            table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64), NAMES
        )
        return self.more(found)


DETECTORS = {"plain": SeesColours(), "upscaled": Upscaled(NearestUpscaler(3), SeesColours())}
WANTED = sorted(
    [(x, y, x + SIDE, y + SIDE, name) for squares, name in ((REDS, NAMES[0]), (BLUES, NAMES[7])) for x, y in squares]
)


def told(predictions: list) -> list[tuple]:
    return sorted((*map(float, found.bbox.to_xyxy()), found.category.name) for found in predictions)


def read(detections: supervision.Detections) -> list[tuple]:
    return sorted((*box, str(k)) for box, k in zip(detections.xyxy.tolist(), detections["class_name"], strict=True))


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
@pytest.mark.parametrize(("batch_size", "whole"), [(1, False), (3, True)])
def test_sahi_gets_the_boxes_of_its_slices_where_they_are(detector, batch_size, whole):
    model = sahi_model(detector)
    found = get_sliced_prediction(
        picture(), model, 100, 100, perform_standard_pred=whole, batch_size=batch_size, verbose=0
    ).object_prediction_list
    assert told(found) == WANTED
    assert {(p.category.id, p.category.name, round(p.score.value, 4)) for p in found} == {
        (0, "red thing", 0.9),
        (7, "blue thing", 0.6),
    }
    assert model.category_mapping == {"0": "red thing", "7": "blue thing"}


def test_sahi_sees_the_whole_and_drops_what_is_below_its_threshold(tmp_path):
    model = sahi_model(DETECTORS["upscaled"])
    PIL.Image.fromarray(picture()).save(tmp_path / "a.png")
    assert told(get_prediction(str(tmp_path / "a.png"), model).object_prediction_list) == WANTED
    sure = get_prediction(picture(), model, confidence_threshold=0.7).object_prediction_list
    assert {p.category.name for p in sure} == {"red thing"}
    assert len(told(sure)) == len(REDS)
    assert told(get_prediction(picture(), sahi_model(SeesColours(), 0.95)).object_prediction_list) == []
    assert get_prediction(np.zeros((40, 50, 3), np.uint8), model).object_prediction_list == []


def test_sahi_chooses_no_device_for_the_process(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    sahi_model(SeesColours())
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
@pytest.mark.parametrize("kind", ["bgr", "pillow"])
def test_supervision_gets_the_boxes_of_its_slices_where_they_are(detector, kind):
    slicer = supervision.InferenceSlicer(supervision_callback(detector), slice_wh=100, overlap_wh=20)
    given = picture()[..., ::-1] if kind == "bgr" else PIL.Image.fromarray(picture())
    found = slicer(given)
    assert read(found) == WANTED
    assert dict(zip(found.class_id.tolist(), found.confidence.round(4).tolist(), strict=True)) == pytest.approx(
        {0: 0.9, 7: 0.6}
    )
    nothing = slicer(np.zeros((180, 200, 3), np.uint8))
    assert len(nothing) == 0


def rotated(found: Detections) -> Detections:
    x1, y1, x2, y2 = found.xyxy.T
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    corners = np.stack([middle_x, y1, x2, middle_y, middle_x, y2, x1, middle_y], 1).reshape(-1, 4, 2)
    return Detections(found.xyxy, found.confidence, found.class_id, NAMES, corners=corners)


def masked(found: Detections) -> Detections:
    """Two parts each: the upper left and the lower right quarter."""
    parts = [
        [np.array([[x1, y1], [x1 + 3, y1], [x1 + 3, y1 + 3], [x1, y1 + 3]], np.float32) + by for by in (0, 4)]
        for x1, y1, _, _ in found.xyxy
    ]
    return Detections(found.xyxy, found.confidence, found.class_id, NAMES, polygons=parts)


@pytest.mark.parametrize("more", [rotated, masked])
def test_rotated_boxes_and_masks_move_with_their_slices(more):
    model = sahi_model(SeesColours(more))
    found = get_sliced_prediction(
        picture(), model, 100, 100, perform_standard_pred=False, postprocess_type="NMS", verbose=0
    ).object_prediction_list
    assert len(found) == len(WANTED)
    whole = {tuple(np.float32(p.bbox.to_xyxy())): p.mask.segmentation for p in found}
    at = next(box for box in whole if box[:2] == REDS[2])
    x, y = REDS[2]
    if more is rotated:
        assert whole[at] == [[x + 4, y, x + 8, y + 4, x + 4, y + 8, x, y + 4]]
    else:
        assert len(whole[at]) == 2
        assert whole[at][1] == [x + 4, y + 4, x + 7, y + 4, x + 7, y + 7, x + 4, y + 7]
    boxes = supervision_callback(SeesColours(more))(picture()[..., ::-1])
    row = boxes.xyxy.tolist().index([x, y, x + 8, y + 8])
    if more is rotated:
        assert boxes.mask is None
        assert boxes.data["xyxyxyxy"][row].tolist() == [[x + 4, y], [x + 8, y + 4], [x + 4, y + 8], [x, y + 4]]
    else:
        rows, columns = np.nonzero(boxes.mask[row])
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (x, y, x + 7, y + 7)
        assert not boxes.mask[row, y + 6, x + 1]
        assert boxes.mask[row, y + 1, x + 1]


@pytest.mark.parametrize("heading", ["With SAHI", "With supervision"])
def test_the_lines_of_the_documentation_run(heading, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "slicing.md").read_text()
    lines = re.search(r"```python\n(.*?)```", page.split(f"\n## {heading}\n", 1)[1], re.DOTALL)
    assert lines is not None
    monkeypatch.chdir(tmp_path)
    write_image(reduced(read_image(sample_photo("bus")), 6), Path("street.png"))
    names: dict[str, Any] = {}
    exec(lines[1], names)
    found = names["found"]
    told_names = (
        [p.category.name for p in found.object_prediction_list]
        if heading == "With SAHI"
        else found["class_name"].tolist()
    )
    assert "bus" in told_names
    assert told_names.count("person") >= 3
    assert lines[1].split("\n\n")[1].count("\n") == 3  # below the imports


@pytest.mark.parametrize("wrong", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3))])
def test_pictures_of_another_kind_are_refused(wrong):
    with pytest.raises(ValueError, match=r"a picture must be \(h, w, 3\) in 8 or 16 bits, got"):
        supervision_callback(SeesColours())(wrong)


@pytest.mark.parametrize(("adapter", "package"), [(sahi_model, "sahi"), (supervision_callback, "supervision")])
def test_a_package_that_is_missing_is_named(adapter, package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionsError, match=f"not installed here: pip install {package}$"):
        adapter(SeesColours())
