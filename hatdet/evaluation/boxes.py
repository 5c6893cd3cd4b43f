"""What a detection evaluation compares: labelled objects and detections of one image, and COCO's fixed tables.

All boxes of an evaluation are in one frame, whatever picture a detector saw, so that areas mean the same for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["IOUS", "MAX_DETECTIONS", "RECALLS", "SIZES", "SIZE_NAMES", "Found", "Truth", "areas", "overlaps"]

Floats = NDArray[np.float64]

# Of COCO's evaluation. `linspace`, and not tenths: 0.7000000000000001 of 10 objects is 8 of them.
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # per image and class
# Bounds of a box's area in square pixels, both inclusive. Tiny is a part of small, which is COCO's.
SIZES = {
    "all": (0.0, 1e10),
    "tiny": (0.0, 16.0**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
SIZE_NAMES = tuple(name for name in SIZES if name != "all")


@dataclass(frozen=True, eq=False)
class Truth:
    """The labelled objects of one image.

    Attributes:
        xyxy: `(n, 4)` float64.
        class_id: `(n,)` int64.
        crowd: `(n,)` bool. A crowd is no object to be found; detections in it are neither right nor wrong.
    """

    xyxy: Floats
    class_id: NDArray[np.int64]
    crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.xyxy)


@dataclass(frozen=True, eq=False)
class Found:
    """The detections in one image, most confident first.

    Attributes:
        xyxy: `(n, 4)` float64.
        confidence: `(n,)` float64 in [0, 1].
        class_id: `(n,)` int64.
    """

    xyxy: Floats
    confidence: Floats
    class_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.xyxy)


def areas(xyxy: Floats) -> Floats:
    """Square pixels of `(n, 4)` boxes. Shape: `(n,)`."""
    sides = xyxy[:, 2:] - xyxy[:, :2]
    return np.asarray(sides[:, 0] * sides[:, 1])


def overlaps(found: Floats, truth: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """Intersection over union of every detection with every object; over the detection's area for a crowd.

    In COCO's order of operations (corner plus side), so that a box on a threshold falls to the same side of it.

    Args:
        found: `(n, 4)`.
        truth: `(m, 4)`.
        crowd: `(m,)`.

    Returns:
        `(n, m)`; 0 where both have no area.
    """
    near_f, near_t = found[:, None, :2], truth[None, :, :2]
    far_f = near_f + (found[:, 2:] - found[:, :2])[:, None]
    far_t = near_t + (truth[:, 2:] - truth[:, :2])[None]
    sides = np.clip(np.minimum(far_f, far_t) - np.maximum(near_f, near_t), 0, None)  # (n, m, 2)
    shared = sides[..., 0] * sides[..., 1]
    area = areas(found)[:, None]
    whole = np.where(crowd[None], area, area + areas(truth)[None] - shared)
    out = np.zeros(shared.shape)
    np.divide(shared, whole, out=out, where=whole > 0)
    return out
