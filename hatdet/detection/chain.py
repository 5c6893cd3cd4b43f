"""Upscale, then detect: the chain is itself a detector, and its boxes are in source coordinates."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hatdet.core.types import Detections, Detector, Image, Upscaler

__all__ = ["ChainResult", "Upscaled", "run_chain"]


@dataclass(frozen=True, eq=False)
class ChainResult:
    """What happened to one image.

    Attributes:
        seen: the image that the detector was given.
        detections: in source coordinates.
        upscale_ms, detect_ms: wall time of each step, in milliseconds; None for a step that was not taken.
    """

    seen: Image
    detections: Detections
    upscale_ms: float | None
    detect_ms: float


@dataclass(frozen=True)
class Upscaled:
    """A detector that looks at an upscaled image."""

    upscaler: Upscaler
    detector: Detector

    @property
    def name(self) -> str:
        return f"{self.upscaler.name}+{self.detector.name}"

    def __call__(self, image: Image) -> Detections:
        return self.detector(self.upscaler(image))


def run_chain(image: Image, upscaler: Upscaler | None, detector: Detector) -> ChainResult:
    """Run both steps (or only the second), keep what the detector saw and how long each took.

    The pixels stay on their device from one step to the other.
    """
    start = time.perf_counter()
    seen = image if upscaler is None else upscaler(image)
    _finish(seen)
    middle = time.perf_counter()
    detections = detector(seen)
    end = time.perf_counter()
    upscale_ms = None if upscaler is None else (middle - start) * 1e3
    return ChainResult(seen, detections, upscale_ms, (end - middle) * 1e3)


def _finish(image: Image) -> None:
    """Wait for the device, so that a step's time is its own."""
    if image.pixels.is_cuda:
        torch.cuda.synchronize(image.pixels.device)
