"""A YOLO detector: `Image` to `Detections` in source coordinates, without leaving the device in between."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.device import choose_device, placed
from hatdet.core.errors import OptionsError, WeightsError
from hatdet.core.fetch import Progress
from hatdet.core.types import Detections, Image
from hatdet.detection.weights import find_detector, load_model

__all__ = ["Letterbox", "YoloDetector", "load_detector"]

log = logging.getLogger(__name__)

PLAIN_IMGSZ = 640  # Ultralytics' own default, for images as they are
LARGEST_IMGSZ = 2560  # an upscaled canvas beyond it is shrunk
PADDING = 114 / 255  # the grey that YOLO models are trained with


@dataclass(frozen=True)
class Letterbox:
    """How an image of `size_hw` is put on the detector's canvas: resized to `resized_hw`, grey around it.

    A coordinate on the canvas is `(x - left) * width / resized width` in the image, exactly.
    """

    size_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    top: int
    left: int
    canvas_hw: tuple[int, int]

    @classmethod
    def fit(cls, size_hw: tuple[int, int], long_side: int | None, stride: int) -> Letterbox:
        """The smallest canvas of whole strides around the image, resized so that its long side is `long_side`.

        Without a `long_side` the image keeps its size. Rounding and placing as Ultralytics' predictor does.
        """
        gain = 1.0 if long_side is None else long_side / max(size_hw)
        h, w = (max(1, round(side * gain)) for side in size_hw)
        spare_h, spare_w = -h % stride, -w % stride
        top, left = round(spare_h / 2 - 0.1), round(spare_w / 2 - 0.1)
        return cls(size_hw, (h, w), top, left, (h + spare_h, w + spare_w))

    def apply(self, pixels: Tensor) -> Tensor:
        """`(3, h, w)` to `(1, 3, H, W)`: bilinear without antialias, rounded to 8 bits, as the detector's training."""
        batch = pixels[None]
        if self.resized_hw != self.size_hw:
            batch = F.interpolate(batch, self.resized_hw, mode="bilinear", align_corners=False)
            batch = batch.mul(255).round().div(255)
        (h, w), (canvas_h, canvas_w) = self.resized_hw, self.canvas_hw
        around = (self.left, canvas_w - w - self.left, self.top, canvas_h - h - self.top)
        return F.pad(batch, around, value=PADDING)

    def undo(self, xyxy: Tensor) -> Tensor:
        """Boxes on the canvas to boxes in the image. Shape: `(n, 4)` to the same."""
        (h, w), (resized_h, resized_w) = self.size_hw, self.resized_hw
        offset = xyxy.new_tensor([self.left, self.top, self.left, self.top])
        return (xyxy - offset) * xyxy.new_tensor([w / resized_w, h / resized_h, w / resized_w, h / resized_h])


@dataclass(frozen=True, eq=False)
class YoloDetector:
    """An Ultralytics detection model behind hatdet's `Detector`.

    The model runs in float32: box coordinates of a large canvas do not survive fewer bits.

    Attributes:
        model: the model, in eval mode, on the device that computes.
        name: for reports.
        confidence: boxes below it are dropped.
        iou: of two boxes of one class that overlap by more, the less confident is dropped (class-aware NMS).
        max_detections: kept per image.
        class_ids: the classes to look for; None for all.
        imgsz: the long side on the detector's canvas, in pixels. None: 640 for an image as it was read; an upscaled one
            keeps its pixels, at most 2560 along its long side.

    Raises:
        OptionsError: a number out of its range.
    """

    model: nn.Module
    name: str
    confidence: float = 0.25
    iou: float = 0.7
    max_detections: int = 300
    class_ids: Sequence[int] | None = None
    imgsz: int | None = None
    class_names: Mapping[int, str] = field(init=False, repr=False)
    stride: int = field(init=False)

    def __post_init__(self) -> None:
        for name, value in (("conf", self.confidence), ("iou", self.iou)):
            if not 0 <= value <= 1:
                raise OptionsError(f"{name} must be between 0 and 1, got {value}")
        if self.max_detections < 1:
            raise OptionsError(f"max-det must be at least 1, got {self.max_detections}")
        model = cast(Any, self.model)
        object.__setattr__(self, "class_names", {int(k): str(v) for k, v in model.names.items()})
        object.__setattr__(self, "stride", max(int(model.stride.max()), 32))
        if self.imgsz is not None and self.imgsz < self.stride:
            raise OptionsError(f"imgsz must be at least {self.stride} (the model's stride), got {self.imgsz}")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, image: Image) -> Detections:
        from ultralytics.utils.nms import non_max_suppression

        size_hw = (image.height, image.width)
        letterbox = Letterbox.fit(size_hw, self._long_side(image), self.stride)
        with torch.no_grad():
            # Letterboxed where the image is: a canvas too large for the device may be on the host.
            predictions = self.model(letterbox.apply(image.pixels).to(self.device))
            _check_finite(predictions, self.name)
            found = non_max_suppression(
                predictions,
                self.confidence,
                self.iou,
                list(self.class_ids) if self.class_ids is not None else None,
                max_det=self.max_detections,
                nc=len(self.class_names),
                end2end=getattr(self.model, "end2end", False),
            )[0]
            width, height = image.source_size_wh
            xyxy = letterbox.undo(found[:, :4]) / image.scale
            xyxy = torch.minimum(xyxy.clamp(min=0), xyxy.new_tensor([width, height, width, height]))
        rows = torch.cat([xyxy, found[:, 4:6]], dim=1).float().cpu().numpy()  # one copy to the host, of boxes only
        return Detections(rows[:, :4].copy(), rows[:, 4].copy(), rows[:, 5].astype(np.int64), self.class_names)

    def _long_side(self, image: Image) -> int | None:
        longest = max(image.height, image.width)
        if self.imgsz is not None:
            wanted = self.imgsz
        elif image.scale == 1:
            return PLAIN_IMGSZ
        elif longest <= LARGEST_IMGSZ:
            return None
        else:
            wanted = LARGEST_IMGSZ
        if image.scale > 1 and wanted < longest:
            log.warning(
                "the detector's letterbox (imgsz %d) shrinks the upscaled image: it sees %.3g pixels per source pixel",
                wanted,
                image.scale * wanted / longest,
            )
        return wanted


def load_detector(
    weights: str | Path | None = None,
    *,
    confidence: float = 0.25,
    iou: float = 0.7,
    max_detections: int = 300,
    classes: Sequence[int | str] | None = None,
    imgsz: int | None = None,
    device: str = "auto",
    trust: bool = False,
    on_fetch: Progress | None = None,
) -> YoloDetector:
    """Load a detector.

    Args:
        weights: None for the embedded one; an Ultralytics model's name (`yolo11s`); a `.pt` or `.safetensors` file.
        classes: ids or names of the classes to look for.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        trust: whether a `.pt` file may have any class and run any code.
        on_fetch: called with the bytes so far and in all of a download.

    The other arguments are `YoloDetector`'s.

    Raises:
        WeightsError: weights that are not there, damaged, or not a detection model's.
        OptionsError: a number out of its range, a class that the model does not know.
        DeviceError: a device that is not there.
    """
    on = choose_device(device)
    path = find_detector(weights, on_fetch)
    model = placed(load_model(path, trust), on, path.stem)
    name = path.stem
    detector = YoloDetector(model, name, confidence, iou, max_detections, None, imgsz)
    if not classes:
        return detector
    ids = [_class_id(wanted, detector.class_names) for wanted in classes]
    return YoloDetector(model, name, confidence, iou, max_detections, ids, imgsz)


def _check_finite(predictions: Any, name: str) -> None:
    """Non-maximum suppression takes boxes whose confidence is no number for none, so an image would seem empty.

    Raises:
        WeightsError: there are some.
    """
    while isinstance(predictions, tuple | list):  # after what is asked for come the features that it was made from
        predictions = predictions[0]
    if not predictions.sum().isfinite():
        raise WeightsError(f"{name} gives values that are not finite")


def _class_id(wanted: int | str, names: Mapping[int, str]) -> int:
    for class_id, name in names.items():
        if str(wanted) in (str(class_id), name):
            return class_id
    known = ", ".join(list(names.values())[:8]) + (", ..." if len(names) > 8 else "")
    raise OptionsError(
        f"class {wanted!r} is not the detector's: expected an id from 0 to {len(names) - 1} or one of {known}"
    )
