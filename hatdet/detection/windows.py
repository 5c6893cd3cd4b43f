"""Detection in overlapping windows of an image that is too large to be looked at as a whole, and one box an object.

An object near the edge of a window is in its neighbour too. Of two boxes of one class from different windows that are
the same object one goes: the one that the edge cut off, where the other is whole, else the less confident.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.types import Detections, Detector, Image

__all__ = ["WINDOW_OVERLAP", "detect_in_windows", "window_starts"]

WINDOW_OVERLAP = 0.25  # of a window: objects up to this size are whole in one of two neighbours
SAME = 0.5  # intersection over union of two boxes of an object that both windows saw whole
COVERED = 0.5  # share of a cut box that lies in the whole one
EDGE = 2.0  # source pixels: a box that ends so close to the edge of a window is cut off by it

Read = Callable[[int, int, int, int], Image]


@dataclass
class _Found:
    """The objects of one window that are kept, in source coordinates.

    Attributes:
        window: left, top, right, bottom.
        objects: with all that the detector says of them.
        cut: whether an inner edge of the window, beyond which the image goes on, cut each box off.
    """

    window: tuple[int, int, int, int]
    objects: Detections
    cut: NDArray[np.bool_]

    def keep(self, wanted: NDArray[np.bool_]) -> None:
        if not wanted.all():
            self.objects, self.cut = self.objects.taken(wanted), self.cut[wanted]


def window_starts(length: int, side: int, overlap: int) -> list[int]:
    """Where windows of `side` begin that cover `length`, evenly spaced, and overlap by at least `overlap`.

    Raises:
        ValueError: an overlap that is not less than the side.
    """
    if not 0 <= overlap < side:
        raise ValueError(f"overlap must be at least 0 and less than the window {side}, got {overlap}")
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def detect_in_windows(
    read: Read,
    size_hw: tuple[int, int],
    detector: Detector,
    side: int,
    *,
    region: tuple[int, int, int, int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Detections:
    """The objects of an image, most confident first, in its own pixels.

    Args:
        read: top, bottom, left, right to that part, as an image of its own (its `scale` is 1).
        size_hw: of the image.
        detector: of a window; upscaling belongs to it.
        side: of a window, in pixels of the image.
        region: left, top, right, bottom: only this part of the image is looked at.
        on_progress: called with the windows done and the windows in all.
    """
    left, top, right, bottom = region or (0, 0, size_hw[1], size_hw[0])
    overlap = round(side * WINDOW_OVERLAP)
    columns = [left + start for start in window_starts(right - left, side, overlap)]
    rows = [top + start for start in window_starts(bottom - top, side, overlap)]
    done: list[_Found] = []
    near: list[_Found] = []  # what windows to come may overlap
    for row, y in enumerate(rows):
        for column, x in enumerate(columns):
            window = x, y, min(x + side, right), min(y + side, bottom)
            detections = detector(read(y, window[3], x, window[2]))
            found = _found(detections, window, (left, top, right, bottom))
            for other in near:
                if _meet(window, other.window):
                    _merge(found, other)
            near.append(found)
            if on_progress is not None:
                on_progress(row * len(columns) + column + 1, len(rows) * len(columns))
        beyond = rows[row + 1] if row + 1 < len(rows) else bottom
        done += [found for found in near if found.window[3] <= beyond]
        near = [found for found in near if found.window[3] > beyond]
    return Detections.joined([found.objects for found in [*done, *near]])


def _found(detections: Detections, window: tuple[int, int, int, int], within: tuple[int, int, int, int]) -> _Found:
    x1, y1, x2, y2 = window
    objects = detections.moved(x1, y1)
    xyxy = objects.xyxy
    cut = np.zeros(len(xyxy), np.bool_)
    if x1 > within[0]:
        cut |= xyxy[:, 0] < x1 + EDGE
    if y1 > within[1]:
        cut |= xyxy[:, 1] < y1 + EDGE
    if x2 < within[2]:
        cut |= xyxy[:, 2] > x2 - EDGE
    if y2 < within[3]:
        cut |= xyxy[:, 3] > y2 - EDGE
    return _Found(window, objects, cut)


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _merge(a: _Found, b: _Found) -> None:
    """Remove from two windows the boxes that the other has better."""
    of_a, of_b = a.objects, b.objects
    if not len(of_a) or not len(of_b):
        return
    corner = np.maximum(of_a.xyxy[:, None, :2], of_b.xyxy[None, :, :2])
    inner = np.clip(np.minimum(of_a.xyxy[:, None, 2:], of_b.xyxy[None, :, 2:]) - corner, 0, None).prod(2)
    area_a, area_b = (np.maximum((of.xyxy[:, 2:] - of.xyxy[:, :2]).prod(1), 1e-9) for of in (of_a, of_b))
    alike = of_a.class_id[:, None] == of_b.class_id[None]
    if of_a.corners is not None and of_b.corners is not None:
        # What encloses oriented boxes overlaps where they lie side by side.
        same = alike & (_overlap_of_rotated(of_a.corners, of_b.corners) >= SAME)
    else:
        same = alike & (inner >= SAME * (area_a[:, None] + area_b[None] - inner))
    cut_a, cut_b = a.cut[:, None], b.cut[None]
    lost_a = alike & cut_a & ~cut_b & (inner >= COVERED * area_a[:, None])
    lost_b = alike & cut_b & ~cut_a & (inner >= COVERED * area_b[None])
    equal = same & (cut_a == cut_b)
    surer = of_a.confidence[:, None] > of_b.confidence[None]
    lost_a |= equal & ~surer
    lost_b |= equal & surer
    a.keep(~lost_a.any(1))
    b.keep(~lost_b.any(0))


def _overlap_of_rotated(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """As Ultralytics' non-maximum suppression measures it. Shape: `(n, 4, 2)` and `(m, 4, 2)` corners to `(n, m)`."""
    from ultralytics.utils.metrics import batch_probiou

    return np.asarray(batch_probiou(_rotated(a), _rotated(b)), np.float32)


def _rotated(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre, sides and angle. Shape: `(n, 4, 2)` to `(n, 5)`."""
    along, across = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]
    sides = np.stack([np.hypot(*along.T), np.hypot(*across.T), np.arctan2(along[:, 1], along[:, 0])], 1)
    return np.concatenate([corners.mean(1), sides], 1).astype(np.float32)
