"""What bf16 may cost: PSNR to the ground truth and mAP, on the photos that ship inside ultralytics.

`hatdet bench --data` measures the same on any data set; docs/performance.md has it for 128 photos.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hatdet import load_detector, load_upscaler
from hatdet.core.types import Detections, Image
from hatdet.deploy.bench import LARGEST_LOSS_DB, sample_pairs
from hatdet.deploy.bench_worker import psnr
from hatdet.evaluation.average_precision import coco_summary
from hatdet.evaluation.boxes import Found, Truth

LARGEST_LOSS_MAP = 0.002
CUT = 128  # of the reduced photos, for time
LEAST = 0.1  # confidence of a box that counts


class Rough:
    """What fp32 makes in four levels instead of 256: the control, which must not pass."""

    def __init__(self, upscaler):
        self.upscaler = upscaler

    def __call__(self, image: Image) -> Image:
        seen = self.upscaler(image)
        return Image(torch.round(seen.pixels * 3) / 3, seen.scale)


def as_found(detections: Detections) -> Found:
    return Found(detections.xyxy.astype(float), detections.confidence.astype(float), detections.class_id)


@pytest.fixture(scope="module")
def measured():
    """By precision: PSNR over the photos, and mAP of the chain against the boxes in the whole photos."""
    detector = load_detector(device="cpu", confidence=LEAST)
    pairs = [(low[:, :CUT, :CUT], high[:, : 4 * CUT, : 4 * CUT]) for low, high in sample_pairs(4)]
    truths = []
    for _, high in pairs:
        boxes = detector(Image(torch.from_numpy(high.copy()), scale=4))
        sure = boxes.confidence > 0.5
        count = int(sure.sum())
        truths.append(Truth(boxes.xyxy[sure].astype(float), boxes.class_id[sure], np.zeros(count, bool)))
    assert sum(len(truth.xyxy) for truth in truths) >= 3
    upscalers = {name: load_upscaler("hat-xs", device="cpu", precision=name) for name in ("fp32", "bf16")}
    numbers = {}
    for name, upscaler in {**upscalers, "rough": Rough(upscalers["fp32"])}.items():
        seen = [upscaler(Image(torch.from_numpy(low.copy()))) for low, _ in pairs]
        mean = np.mean([psnr(image.pixels.numpy(), high) for image, (_, high) in zip(seen, pairs, strict=True)])
        summary = coco_summary(truths, [as_found(detector(image)) for image in seen], detector.class_names)
        numbers[name] = (float(mean), summary.map50_95)
    return numbers


def test_bf16_costs_next_to_nothing(measured):
    (psnr_full, map_full), (psnr_low, map_low) = measured["fp32"], measured["bf16"]
    assert psnr_full > 20
    assert map_full > 0.2
    assert psnr_full - psnr_low <= LARGEST_LOSS_DB
    assert map_full - map_low <= LARGEST_LOSS_MAP


def test_what_costs_more_does_not_pass(measured):
    (psnr_full, map_full), (psnr_rough, map_rough) = measured["fp32"], measured["rough"]
    assert psnr_full - psnr_rough > LARGEST_LOSS_DB
    assert map_full - map_rough > LARGEST_LOSS_MAP
