"""What flows through hatdet: an `Image` through an `Upscaler` to a `Detector`, which gives `Detections`.

An image knows how many of its pixels make one source pixel (`scale`). An upscaler multiplies that number, a detector
divides by it; so boxes are in source coordinates whatever ran before, and no caller does coordinate arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

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


Point: TypeAlias = tuple[float, float]
Part = TypeVar("Part")


@dataclass(frozen=True)
class Detection:
    """One object: its box in source pixels (continuous edges), the confidence in [0, 1], the class.

    What only some detectors say is None with the others, all of it in source pixels:

    Attributes:
        corners: the four corners of the rotated box, in turn.
        polygons: the outlines of the object's mask, one for each of its parts.
        keypoints: x, y and the confidence, which is None where the detector says none.
        track_id: the same for one object in all frames of a video; None also where it has none yet.
    """

    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    class_name: str
    corners: tuple[Point, Point, Point, Point] | None = None
    polygons: tuple[tuple[Point, ...], ...] | None = None
    keypoints: tuple[tuple[float, float, float | None], ...] | None = None
    track_id: int | None = None


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects of one image, most confident first.

    Attributes:
        xyxy: `(n, 4)` float32, source coordinates: x in [0, width], y in [0, height] of the source.
        confidence: `(n,)` float32 in [0, 1].
        class_id: `(n,)` int64.
        class_names: the detector's names by id; every id in `class_id` has one.
        corners: of rotated boxes, `(n, 4, 2)` float32, in source coordinates, in turn; `xyxy` is what encloses them.
            They are not clipped: a rotated box at the border stays a rectangle. None where boxes are not rotated.
        polygons: of masks, for each object the outlines of its parts, `(k, 2)` float32 each with k from 3, in source
            coordinates; holes are filled. None where there are no masks.
        keypoints: `(n, k, 2)` float32, source coordinates. None where there are none.
        keypoint_confidence: `(n, k)` float32 in [0, 1]. None where the detector says none.
        track_id: `(n,)` int64, from 1, 0 for an object that has none yet; None where nothing is tracked.

    Raises:
        ValueError: lengths that differ, numbers that are not finite, boxes whose corners are swapped, a class without a
            name.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    class_names: Mapping[int, str] = field(repr=False)
    corners: NDArray[np.float32] | None = None
    polygons: Sequence[Sequence[NDArray[np.float32]]] | None = None
    keypoints: NDArray[np.float32] | None = None
    keypoint_confidence: NDArray[np.float32] | None = None
    track_id: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.xyxy)
        if self.xyxy.shape != (n, 4) or self.confidence.shape != (n,) or self.class_id.shape != (n,):
            shapes = self.xyxy.shape, self.confidence.shape, self.class_id.shape
            raise ValueError(f"xyxy, confidence and class_id must be (n, 4), (n,) and (n,), got {shapes}")
        if not (np.isfinite(self.xyxy).all() and np.isfinite(self.confidence).all()):
            raise ValueError("xyxy and confidence must be finite")
        if n and (self.xyxy[:, 2:] < self.xyxy[:, :2]).any():
            raise ValueError("xyxy must have x1 <= x2 and y1 <= y2")
        unnamed = sorted(set(self.class_id.tolist()) - set(self.class_names))
        if unnamed:
            raise ValueError(f"class ids must have a name, got {unnamed} without one")
        self._check_more(n)

    def _check_more(self, n: int) -> None:
        """What only some detectors say."""
        if self.corners is not None and self.corners.shape != (n, 4, 2):
            raise ValueError(f"corners of {n} boxes must be ({n}, 4, 2), got {self.corners.shape}")
        if self.polygons is not None:
            if len(self.polygons) != n:
                raise ValueError(f"{n} boxes must have {n} masks, got {len(self.polygons)}")
            for ring in (ring for rings in self.polygons for ring in rings):
                if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
                    raise ValueError(f"polygons must be (k, 2) with k from 3, got {ring.shape}")
        if self.keypoints is not None and (self.keypoints.ndim != 3 or self.keypoints.shape[::2] != (n, 2)):
            raise ValueError(f"keypoints of {n} boxes must be ({n}, k, 2), got {self.keypoints.shape}")
        if self.keypoint_confidence is not None:
            points = None if self.keypoints is None else self.keypoints.shape[:2]
            if self.keypoint_confidence.shape != points:
                raise ValueError(f"confidences of keypoints must be {points}, got {self.keypoint_confidence.shape}")
        if self.track_id is not None and self.track_id.shape != (n,):
            raise ValueError(f"track_id must be ({n},), one for each box, got {self.track_id.shape}")

    def __len__(self) -> int:
        return len(self.xyxy)

    def taken(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Detections:
        """Some of the objects: those where a mask `(n,)` is true, or those of the given numbers, in their order."""
        numbers = np.arange(len(self))[rows]
        return Detections(
            self.xyxy[numbers],
            self.confidence[numbers],
            self.class_id[numbers],
            self.class_names,
            None if self.corners is None else self.corners[numbers],
            None if self.polygons is None else [self.polygons[number] for number in numbers],
            None if self.keypoints is None else self.keypoints[numbers],
            None if self.keypoint_confidence is None else self.keypoint_confidence[numbers],
            None if self.track_id is None else self.track_id[numbers],
        )

    def moved(self, x: float, y: float) -> Detections:
        """The objects, moved: from a part of an image to the image, in which the part begins at `x, y`."""
        by = np.array([x, y], np.float32)
        return replace(
            self,
            xyxy=self.xyxy + np.concatenate([by, by]),
            corners=None if self.corners is None else self.corners + by,
            polygons=None if self.polygons is None else [[ring + by for ring in rings] for rings in self.polygons],
            keypoints=None if self.keypoints is None else self.keypoints + by,
        )

    @staticmethod
    def joined(parts: Sequence[Detections]) -> Detections:
        """The objects of several, at least one, of one detector; most confident first."""
        first = parts[0]
        together = Detections(
            np.concatenate([part.xyxy for part in parts]),
            np.concatenate([part.confidence for part in parts]),
            np.concatenate([part.class_id for part in parts]),
            first.class_names,
            None if first.corners is None else np.concatenate([_there(part.corners) for part in parts]),
            None if first.polygons is None else [rings for part in parts for rings in _there(part.polygons)],
            None if first.keypoints is None else np.concatenate([_there(part.keypoints) for part in parts]),
            None
            if first.keypoint_confidence is None
            else np.concatenate([_there(part.keypoint_confidence) for part in parts]),
            None if first.track_id is None else np.concatenate([_there(part.track_id) for part in parts]),
        )
        return together.taken(np.argsort(-together.confidence, kind="stable"))

    def __iter__(self) -> Iterator[Detection]:
        for index, (box, confidence, class_id) in enumerate(
            zip(self.xyxy.tolist(), self.confidence.tolist(), self.class_id.tolist(), strict=True)
        ):
            yield Detection(
                tuple(box),
                confidence,
                class_id,
                self.class_names[class_id],
                None if self.corners is None else cast("Any", _points(self.corners[index])),
                None if self.polygons is None else tuple(_points(ring) for ring in self.polygons[index]),
                self._keypoints(index),
                None if self.track_id is None else int(self.track_id[index]) or None,
            )

    def _keypoints(self, index: int) -> tuple[tuple[float, float, float | None], ...] | None:
        if self.keypoints is None:
            return None
        points = self.keypoints[index].tolist()
        if self.keypoint_confidence is None:
            return tuple((x, y, None) for x, y in points)
        return tuple((x, y, c) for (x, y), c in zip(points, self.keypoint_confidence[index].tolist(), strict=True))


def _there(part: Part | None) -> Part:
    """What one detector says of one image and then also of the next."""
    if part is None:
        raise ValueError("all parts must have what the first has")
    return part


def _points(array: NDArray[np.float32]) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in array.tolist())


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
