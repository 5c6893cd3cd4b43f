"""What models say about their canvas, in source coordinates: boxes, corners, masks, keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.types import Detections
from hatdet.detection.letterbox import Letterbox
from hatdet.imaging.outlines import outlines

__all__ = ["Canvas", "detections", "one_ring", "separated"]

MASK_PIXELS = 2**26  # of masks that are made at once, in float32


@dataclass(frozen=True)
class Canvas:
    """Where the source is on the detector's canvas.

    Attributes:
        letterbox: how the image is put on it.
        scale: pixels of the image per source pixel.
    """

    letterbox: Letterbox
    scale: float

    def to_source(self, points: Tensor) -> Tensor:
        """Points `(..., 2)` on the canvas to points in the source."""
        return self.letterbox.undo_points(points) / self.scale

    def clipped(self, points: Tensor) -> Tensor:
        """Points `(..., 2)` of the source, those outside moved to its border."""
        h, w = self.letterbox.size_hw
        return torch.minimum(points.clamp(min=0), points.new_tensor([w / self.scale, h / self.scale]))


def separated(predictions: Any, task: str) -> tuple[Any, Tensor | None]:
    """What a model in eval mode gives, as what non-maximum suppression takes and the prototypes of masks."""
    if task != "segment":
        return predictions, None
    # `((predictions, prototypes), what training wants)`
    first, *_ = predictions
    return first[0], first[1]


def detections(
    found: Tensor,
    canvas: Canvas,
    names: Mapping[int, str],
    task: str,
    prototypes: Tensor | None = None,
    keypoint_shape: Sequence[int] | None = None,
) -> Detections:
    """The objects, in source coordinates.

    Args:
        found: `(n, 6 + more)`: four numbers of a box on the canvas, confidence, class, and what the task adds. Boxes
            are x1, y1, x2, y2, or with `obb` centre, width and height, and the angle is last; `segment` adds the
            coefficients of prototypes, `pose` the keypoints.
        canvas: what the model has seen.
        names: of classes.
        task: `detect`, `obb`, `segment` or `pose`.
        prototypes: of masks, `(c, h, w)`.
        keypoint_shape: how many there are, and how many numbers each has.
    """
    polygons: list[list[NDArray[np.float32]]] | None = None
    corners = keypoints = confidence = None
    if task == "obb":
        on_canvas = _corners(torch.cat([found[:, :4], found[:, -1:]], dim=1))
        corners = canvas.to_source(on_canvas)
        xyxy = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    else:
        xyxy = canvas.to_source(found[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
    if task == "segment" and prototypes is not None:
        polygons = _masks(found, prototypes, canvas)
        kept = [index for index, rings in enumerate(polygons) if rings]  # as Ultralytics: no mask, no object
        found, xyxy, polygons = found[kept], xyxy[kept], [polygons[index] for index in kept]
    if task == "pose" and keypoint_shape is not None:
        points = found[:, 6:].reshape(len(found), *keypoint_shape)
        keypoints = canvas.clipped(canvas.to_source(points[..., :2]))
        confidence = points[..., 2] if keypoint_shape[1] > 2 else None
    ends = xyxy.reshape(-1, 2, 2)  # that nothing keeps YOLO26 from swapping
    xyxy = canvas.clipped(torch.cat([ends.amin(dim=1), ends.amax(dim=1)], dim=1).reshape(-1, 2, 2)).reshape(-1, 4)
    rows = torch.cat([xyxy, found[:, 4:6]], dim=1).float().cpu().numpy()  # one copy to the host, of boxes only
    return Detections(
        rows[:, :4].copy(),
        rows[:, 4].copy(),
        rows[:, 5].astype(np.int64),
        names,
        corners=None if corners is None else _array(corners),
        polygons=polygons,
        keypoints=None if keypoints is None else _array(keypoints),
        keypoint_confidence=None if confidence is None else _array(confidence),
    )


def one_ring(polygons: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Several parts as one polygon, by lines there and back, as Ultralytics' labels have them; of none no points."""
    from ultralytics.data.converter import merge_multi_segment

    if len(polygons) < 2:
        return [point for ring in polygons for point in ring]
    rings = [np.asarray(ring, np.float64) for ring in polygons]
    return [(float(x), float(y)) for x, y in np.concatenate(merge_multi_segment(rings))]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy().copy()
    return array


def _corners(xywhr: Tensor) -> Tensor:
    """Corners of rotated boxes, in Ultralytics' order. Shape: `(n, 5)` to `(n, 4, 2)`."""
    from ultralytics.utils.ops import xywhr2xyxyxyxy

    corners: Tensor = xywhr2xyxyxyxy(xywhr)
    return corners


def _masks(found: Tensor, prototypes: Tensor, canvas: Canvas) -> list[list[NDArray[np.float32]]]:
    """Outlines of the masks, in source coordinates; none where nothing of a mask is in the image."""
    from ultralytics.utils.ops import process_mask

    box = canvas.letterbox
    height, width = box.canvas_hw
    rows, columns = (slice(start, start + n) for start, n in zip((box.top, box.left), box.resized_hw, strict=True))
    at_once = max(1, MASK_PIXELS // (height * width))
    polygons = []
    for part in torch.split(found, at_once) if len(found) else ():
        masks = process_mask(prototypes, part[:, 6:], part[:, :4], (height, width), upsample=True)
        for mask in masks[:, rows, columns].to(torch.uint8).cpu().numpy():
            polygons.append(_in_source(_outlines(mask), canvas))
    return polygons


def _outlines(mask: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """`outlines`, looking at no more of the mask than there is of the object."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return []
    top, left = int(ys[0]), int(xs[0])
    return [ring + np.array([left, top]) for ring in outlines(mask[top : ys[-1] + 1, left : xs[-1] + 1])]


def _in_source(rings: list[NDArray[np.float64]], canvas: Canvas) -> list[NDArray[np.float32]]:
    """Rings in pixels of the resized image, in source coordinates."""
    if not rings:
        return []
    corner = torch.tensor([canvas.letterbox.left, canvas.letterbox.top])
    points = _array(canvas.to_source(torch.from_numpy(np.concatenate(rings)) + corner))
    return np.split(points, np.cumsum([len(ring) for ring in rings])[:-1])
