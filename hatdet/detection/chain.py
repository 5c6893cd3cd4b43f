"""Upscale, then detect: the chain is itself a detector, and its boxes are in source coordinates."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hatdet.core.types import Detections, Detector, Image, Upscaler
from hatdet.detection.regions import SelectiveUpscaler

__all__ = ["ChainResult", "Upscaled", "look", "run_chain"]


@dataclass(frozen=True, eq=False)
class ChainResult:
    """What happened to one image.

    Attributes:
        seen: the image that the detector was given.
        detections: in source coordinates.
        upscale_ms, detect_ms: wall time of each step, in milliseconds; None for a step that was not taken.
        share: of the image's pixels that the upscaler's network saw; None without an upscaler.
    """

    seen: Image
    detections: Detections
    upscale_ms: float | None
    detect_ms: float
    share: float | None = None


@dataclass(frozen=True)
class Upscaled:
    """A detector that looks at an upscaled image."""

    upscaler: Upscaler
    detector: Detector

    @property
    def name(self) -> str:
        return f"{self.upscaler.name}+{self.detector.name}"

    @property
    def class_names(self) -> Mapping[int, str]:
        names: Mapping[int, str] = getattr(self.detector, "class_names", {})
        return names

    def __call__(self, image: Image) -> Detections:
        return self.detector(self.upscaler(image))

    def many(self, images: Sequence[Image]) -> Sequence[Detections]:
        """What is in each of several images; the detector sees them in one call if it can."""
        return look(self.detector, [self.upscaler(image) for image in images])


def look(detector: Detector, images: Sequence[Image]) -> Sequence[Detections]:
    """What a detector finds in each of several images, in one call where it takes them together (`many`)."""
    many = getattr(detector, "many", None)
    if many is None or len(images) < 2:
        return [detector(image) for image in images]
    found: Sequence[Detections] = many(images)
    return found


def run_chain(image: Image, upscaler: Upscaler | None, detector: Detector) -> ChainResult:
    """Run both steps (or only the second), keep what the detector saw and how long each took.

    The pixels stay on their device from one step to the other.
    """
    start = time.perf_counter()
    seen, share = image, None
    if isinstance(upscaler, SelectiveUpscaler):
        regions = upscaler.regions(image)
        seen, share = regions.picture, regions.share
    elif upscaler is not None:
        seen, share = upscaler(image), 1.0
    _finish(seen)
    middle = time.perf_counter()
    detections = detector(seen)
    end = time.perf_counter()
    upscale_ms = None if upscaler is None else (middle - start) * 1e3
    return ChainResult(seen, detections, upscale_ms, (end - middle) * 1e3, share)


def _finish(image: Image) -> None:
    """Wait for the device, so that a step's time is its own."""
    if image.pixels.is_cuda:
        torch.cuda.synchronize(image.pixels.device)
