"""What flows through hatdet: an `Image` through an `Upscaler` to a `Detector`, which gives `Detections`.

An image knows how many of its pixels make one source pixel (`scale`). An upscaler multiplies that number, a detector
divides by it; so boxes are in source coordinates whatever ran before, and no caller does coordinate arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Detection", "Detections", "Detector", "Image", "Upscaler"]


@dataclass(frozen=True, eq=False)
class Image:
    """Pixels, and what they measure.

    Attributes:
        pixels: `(3, h, w)`, RGB, float32 in [0, 1], on the compute device. A multiple of 1/255 or 1/65535, by
            `bit_depth`: what an upscaler makes is rounded before anybody sees it.
        scale: pixels here per source pixel, along each side. 1 for the image as it was read.
        bit_depth: of the source, 8 or 16.

    Raises:
        ValueError: pixels of another shape or type, a scale that is not positive, another bit depth.
    """

    pixels: Tensor
    scale: float = 1
    bit_depth: int = 8

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[0] != 3 or 0 in self.pixels.shape:
            raise ValueError(f"pixels must be (3, h, w) with h and w from 1, got {tuple(self.pixels.shape)}")
        if self.pixels.dtype != torch.float32:
            raise ValueError(f"pixels must be float32 in [0, 1], got {self.pixels.dtype}")
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}")
        if self.bit_depth not in (8, 16):
            raise ValueError(f"bit_depth must be 8 or 16, got {self.bit_depth}")

    @property
    def height(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[2])

    @property
    def source_size_wh(self) -> tuple[float, float]:
        """Width and height of the source, in its own pixels."""
        return self.width / self.scale, self.height / self.scale

    @property
    def levels(self) -> int:
        """The largest value of a pixel on disk: 255 or 65535."""
        return int(2**self.bit_depth - 1)

    def to(self, device: torch.device | str) -> Image:
        """The same image with its pixels on `device`."""
        return Image(self.pixels.to(device), self.scale, self.bit_depth)


@dataclass(frozen=True)
class Detection:
    """One object: its box in source pixels (continuous edges), the confidence in [0, 1], the class.

    `track_id` is the same for one object in all frames of a video; None where nothing is tracked, or not yet.
    """

    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    class_name: str
    track_id: int | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects of one image, most confident first.

    Attributes:
        xyxy: `(n, 4)` float32, source coordinates: x in [0, width], y in [0, height] of the source.
        confidence: `(n,)` float32 in [0, 1].
        class_id: `(n,)` int64.
        class_names: the detector's names by id; every id in `class_id` has one.
        track_id: `(n,)` int64, from 1, 0 for an object that has none yet; None where nothing is tracked.

    Raises:
        ValueError: lengths that differ, boxes whose corners are swapped, a class without a name.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    class_names: Mapping[int, str] = field(repr=False)
    track_id: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.xyxy)
        if self.xyxy.shape != (n, 4) or self.confidence.shape != (n,) or self.class_id.shape != (n,):
            shapes = self.xyxy.shape, self.confidence.shape, self.class_id.shape
            raise ValueError(f"xyxy, confidence and class_id must be (n, 4), (n,) and (n,), got {shapes}")
        if self.track_id is not None and self.track_id.shape != (n,):
            raise ValueError(f"track_id must be ({n},), one for each box, got {self.track_id.shape}")
        if n and (self.xyxy[:, 2:] < self.xyxy[:, :2]).any():
            raise ValueError("xyxy must have x1 <= x2 and y1 <= y2")
        unnamed = sorted(set(self.class_id.tolist()) - set(self.class_names))
        if unnamed:
            raise ValueError(f"class ids must have a name, got {unnamed} without one")

    def __len__(self) -> int:
        return len(self.xyxy)

    def __iter__(self) -> Iterator[Detection]:
        track_ids = [None] * len(self) if self.track_id is None else [int(i) or None for i in self.track_id]
        rows = zip(self.xyxy, self.confidence, self.class_id, track_ids, strict=True)
        for box, confidence, class_id, track_id in rows:
            x1, y1, x2, y2 = (float(edge) for edge in box)
            name = self.class_names[int(class_id)]
            yield Detection((x1, y1, x2, y2), float(confidence), int(class_id), name, track_id)


@runtime_checkable
class Upscaler(Protocol):
    """Image to larger image: exactly `scale` times as many pixels along each side, rounded to the bit depth."""

    @property
    def name(self) -> str: ...

    @property
    def scale(self) -> int: ...

    def __call__(self, image: Image) -> Image: ...


@runtime_checkable
class Detector(Protocol):
    """Image to boxes, in source coordinates."""

    @property
    def name(self) -> str: ...

    def __call__(self, image: Image) -> Detections: ...
