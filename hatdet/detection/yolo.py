"""A YOLO detector: `Image` to `Detections` in source coordinates, without leaving the device in between."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.device import choose_device, placed
from hatdet.core.errors import OptionsError, WeightsError
from hatdet.core.fetch import Progress
from hatdet.core.types import Detections, Image
from hatdet.detection.letterbox import Letterbox
from hatdet.detection.tasks import Canvas, detections, separated
from hatdet.detection.weights import TASKS, find_detector, load_model

__all__ = ["YoloDetector", "load_detector"]

log = logging.getLogger(__name__)

PLAIN_IMGSZ = 640  # Ultralytics' own default, for images as they are
LARGEST_IMGSZ = 2560  # of an upscaled canvas; one beyond it is looked at in slices


@dataclass(frozen=True, eq=False)
class YoloDetector:
    """An Ultralytics model behind hatdet's `Detector`: boxes, and with it rotated boxes, masks or keypoints.

    The model runs in float32: box coordinates of a large canvas do not survive fewer bits.

    Attributes:
        model: the model, in eval mode, on the device that computes; its attribute `task` says what it finds.
        name: for reports.
        confidence: boxes below it are dropped.
        iou: of two boxes of one class that overlap by more, the less confident is dropped (class-aware NMS).
        max_detections: kept per image.
        class_ids: the classes to look for; None for all.
        imgsz: the long side on the detector's canvas, in pixels. None: 640 for an image as it was read; an upscaled one
            keeps its pixels, at most 2560 along its long side.
        shrinks: whether an upscaled image may be shrunk without a warning.

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
    shrinks: bool = False
    class_names: Mapping[int, str] = field(init=False, repr=False)
    stride: int = field(init=False)
    task: str = field(init=False)

    def __post_init__(self) -> None:
        for name, value in (("conf", self.confidence), ("iou", self.iou)):
            if not 0 <= value <= 1:
                raise OptionsError(f"{name} must be between 0 and 1, got {value}")
        if self.max_detections < 1:
            raise OptionsError(f"max-det must be at least 1, got {self.max_detections}")
        model = cast(Any, self.model)
        object.__setattr__(self, "class_names", {int(k): str(v) for k, v in model.names.items()})
        object.__setattr__(self, "stride", max(int(model.stride.max()), 32))
        object.__setattr__(self, "task", getattr(model, "task", "detect"))
        if self.imgsz is not None and self.imgsz < self.stride:
            raise OptionsError(f"imgsz must be at least {self.stride} (the model's stride), got {self.imgsz}")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, image: Image) -> Detections:
        return self.many([image])[0]

    def many(self, images: Sequence[Image]) -> list[Detections]:
        """What is in each of several images: one call of the model for all that have a canvas of one size."""
        from ultralytics.utils.nms import non_max_suppression

        boxes = [Letterbox.fit((one.height, one.width), self._long_side(one), self.stride) for one in images]
        found: dict[int, Detections] = {}
        for canvas in dict.fromkeys(box.canvas_hw for box in boxes):
            alike = [n for n, box in enumerate(boxes) if box.canvas_hw == canvas]
            with torch.no_grad():
                # Letterboxed where the image is: a canvas too large for the device may be on the host.
                seen = torch.cat([boxes[n].apply(images[n].pixels).to(self.device) for n in alike])
                predictions, prototypes = separated(self.model(seen), self.task)
                _check_finite(predictions, self.name)
                _check_finite(prototypes, self.name)
                rows = non_max_suppression(
                    predictions,
                    self.confidence,
                    self.iou,
                    list(self.class_ids) if self.class_ids is not None else None,
                    max_det=self.max_detections,
                    nc=len(self.class_names),
                    end2end=getattr(self.model, "end2end", False),
                    rotated=self.task == "obb",
                )
                for place, n in enumerate(alike):
                    found[n] = detections(
                        rows[place],
                        Canvas(boxes[n], images[n].scale),
                        self.class_names,
                        self.task,
                        None if prototypes is None else prototypes[place],
                        getattr(self.model, "kpt_shape", None),
                    )
        return [found[n] for n in range(len(images))]

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
        if image.scale > 1 and wanted < longest and not self.shrinks:
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
    tasks: Collection[str] = TASKS,
    trust: bool = False,
    on_fetch: Progress | None = None,
) -> YoloDetector:
    """Load a detector.

    Args:
        weights: None for the embedded one; an Ultralytics model's name (`yolo11s`); a `.pt` or `.safetensors` file.
        classes: ids or names of the classes to look for.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        tasks: what the model may be for: `detect`, `obb`, `segment`, `pose`.
        trust: whether a `.pt` file may have any class and run any code.
        on_fetch: called with the bytes so far and in all of a download.

    The other arguments are `YoloDetector`'s.

    Raises:
        WeightsError: weights that are not there, damaged, or not a model's for one of the tasks.
        OptionsError: a number out of its range, a class that the model does not know.
        DeviceError: a device that is not there.
    """
    on = choose_device(device)
    path = find_detector(weights, on_fetch)
    model = placed(load_model(path, tasks, trust=trust), on, path.stem)
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
    if predictions is not None and not predictions.sum().isfinite():
        raise WeightsError(f"{name} gives values that are not finite")


def _class_id(wanted: int | str, names: Mapping[int, str]) -> int:
    for class_id, name in names.items():
        if str(wanted) in (str(class_id), name):
            return class_id
    known = ", ".join(list(names.values())[:8]) + (", ..." if len(names) > 8 else "")
    raise OptionsError(
        f"class {wanted!r} is not the detector's: expected an id from 0 to {len(names) - 1} or one of {known}"
    )
