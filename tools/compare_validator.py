"""Where mAP50-95 of `hatdet eval` and of the Ultralytics validator differ, step by step, on the same pictures.

    python tools/compare_validator.py coco128.yaml DETECTOR.pt WORK

For each arm: what the validator prints; its own boxes by COCO's protocol (which integrates the curve otherwise); the
boxes of our chain at the validator's canvas, first with several classes a box as the validator has them (what is left
is its padding, half a stride more), then with one class a box as the predictor and `hatdet` do; and the chain at our
default canvas, the image's own size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.types import Image
from hatdet.detection.letterbox import Letterbox
from hatdet.detection.weights import load_model
from hatdet.detection.yolo import YoloDetector, load_detector
from hatdet.evaluation.average_precision import coco_summary
from hatdet.evaluation.boxes import Found, Truth
from hatdet.evaluation.low_resolution import LowResolution, Pair, read_pair
from hatdet.evaluation.samples import Sample, cropped_labels, read_detection_data
from hatdet.imaging.files import read_image, write_image
from hatdet.sr.upscalers import load_upscaler

SCALE, CANVAS = 4, 640
ARMS = ("hr", "bicubic", "nearest", "lr@imgsz", "lr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("detector", type=Path)
    parser.add_argument("work", type=Path)
    given = parser.parse_args()
    found = read_detection_data(given.data)
    samples = found.split("val")
    print(f"mAP50-95, {len(samples)} images")
    columns = ("validator", "its boxes, COCO", "640, several classes", "640, one class", "own size")
    print(f"{'':10}" + "".join(f"{column:>22}" for column in columns))
    for arm in ARMS:
        truths: list[Truth] = []
        several: list[Found] = []
        founds: dict[int | None, list[Found]] = {CANVAS: [], None: []}
        for sample in samples:
            pair = read_pair(sample, found.names, LowResolution(SCALE))
            image = picture(pair, arm)
            prepare(sample, pair, image, given.work / arm)
            truths.append(pair.truth(SCALE))
            several.append(several_classes(image, arm, given.detector))
            for canvas, boxes in founds.items():
                boxes.append(detected(image, arm, canvas, given.detector))
        printed, theirs = validated(given.work / arm, found.names, given.detector, samples, arm)
        ours = [coco_summary(truths, one, found.names).map50_95 for one in (theirs, several, *founds.values())]
        print(f"{arm:10}" + "".join(f"{number:>22.4f}" for number in (printed, *ours)), flush=True)


def picture(pair: Pair, arm: str) -> Image:
    if arm == "hr":
        assert pair.reference is not None
        return pair.reference
    return pair.low if arm.startswith("lr") else load_upscaler(arm, SCALE)(pair.low)


def prepare(sample: Sample, pair: Pair, image: Image, folder: Path) -> None:
    """A picture and its labels, as the validator reads them."""
    write_image(image, folder / "images" / f"{sample.image.stem}.png")
    label = folder / "labels" / f"{sample.image.stem}.txt"
    label.parent.mkdir(exist_ok=True)
    assert pair.reference is not None
    whole = read_image(sample.image)
    cropped = (pair.reference.width, pair.reference.height)
    label.write_text(cropped_labels(sample.label, (whole.width, whole.height), cropped))


@cache
def detector_at(weights: Path, canvas: int | None) -> YoloDetector:
    return load_detector(weights, confidence=0.001, imgsz=canvas)


def detected(image: Image, arm: str, canvas: int | None, weights: Path) -> Found:
    if arm == "lr":
        canvas = max(image.width, image.height)
    elif arm == "lr@imgsz" and canvas is None:
        canvas = max(image.width, image.height) * SCALE
    boxes = detector_at(weights, canvas)(image)
    xyxy = boxes.xyxy.astype(np.float64) * SCALE
    return Found(xyxy, boxes.confidence.astype(np.float64), boxes.class_id)


def several_classes(image: Image, arm: str, weights: Path) -> Found:
    """Our chain at the validator's canvas; a box is there once for each class that is likely enough."""
    from ultralytics.utils.nms import non_max_suppression

    detector = detector_at(weights, CANVAS)
    long_side = max(image.width, image.height) if arm == "lr" else CANVAS
    letterbox = Letterbox.fit((image.height, image.width), long_side, detector.stride)
    with torch.no_grad():
        said = detector.model(letterbox.apply(image.pixels))
        found = non_max_suppression(said, 0.001, 0.7, multi_label=True, max_det=300, nc=len(detector.class_names))[0]
    xyxy = (letterbox.undo(found[:, :4]) / image.scale * SCALE).double().numpy()
    return Found(xyxy, found[:, 4].double().numpy(), found[:, 5].long().numpy())


def validated(
    folder: Path, names: dict[int, str], weights: Path, samples: Sequence[Sample], arm: str
) -> tuple[float, list[Found]]:
    """What the validator prints, and the boxes it does so from, in pixels of the high-resolution frame."""
    from ultralytics import YOLO

    data = folder / "data.yaml"
    data.write_text(yaml.safe_dump({"path": str(folder.resolve()), "train": "images", "val": "images", "names": names}))
    torch.set_num_threads(2)
    if weights.suffix == ".safetensors":
        wrapped = folder / "detector.pt"
        torch.save({"model": load_model(weights), "train_args": {"task": "detect"}}, wrapped)
        weights = wrapped
    result = YOLO(weights).val(
        data=str(data),
        imgsz=160 if arm == "lr" else CANVAS,
        batch=16,
        workers=0,
        plots=False,
        verbose=False,
        save_json=True,
        project=str(folder.resolve() / "val"),
        exist_ok=True,
    )
    rows: dict[str, list[dict]] = {}
    for row in json.loads((Path(result.save_dir) / "predictions.json").read_text()):
        rows.setdefault(Path(row["file_name"]).stem, []).append(row)
    scale = SCALE if arm.startswith("lr") else 1
    founds = []
    for sample in samples:
        of = sorted(rows.get(sample.image.stem, []), key=lambda row: -row["score"])
        xywh = np.array([row["bbox"] for row in of], np.float64).reshape(-1, 4) * scale
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        class_id = np.array([row["category_id"] - 1 for row in of], np.int64)
        founds.append(Found(xyxy, np.array([row["score"] for row in of], np.float64), class_id))
    return float(result.box.map), founds


if __name__ == "__main__":
    main()
