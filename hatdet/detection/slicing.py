"""Detection in overlapping slices, and one box an object: a detector of slices is itself a detector of images.

    image ──▶ slices, a few at a time ──▶ detector ──▶ moved to the image ──▶ edges resolved ──▶ merged
          └─▶ the whole, reduced ───────▶ detector ───────────────────────┘

An object near the edge of a slice is in its neighbour, too. What the edge cut off is known by where it ends: a cut box
goes where another slice, or the look at the whole, has the object uncut; two cuts of one object that only together are
it become one box. What is left of two slices and overlaps is merged (`hatdet.detection.merging`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from hatdet.core.errors import OptionsError
from hatdet.core.types import Detections, Detector, Image
from hatdet.detection.chain import look
from hatdet.detection.merging import MERGES, Merge
from hatdet.detection.seams import Rectangle, SeenIn, merged, resolve_edges

__all__ = ["SLICE_OVERLAP", "Sliced", "slice_starts"]

STRIDE = 32  # of YOLO models: their canvases are multiples of it
SLICE_OVERLAP = 0.2  # of a slice: objects up to this size are whole in one of two neighbours

Read = Callable[[int, int, int, int], Image]  # top, bottom, left, right


@dataclass(frozen=True, eq=False)
class Sliced:
    """A detector that looks at an image slice by slice.

    Attributes:
        detector: of one slice; upscaling may be part of it.
        slice_wh: width and height of a slice, in pixels of the image it is handed. An image no larger is handed on.
        overlap: of two neighbours, as a share of a slice.
        merge: `nms` keeps the more confident of two boxes that overlap; `nmm` and `greedy-nmm` unite them, if they are
            boxes and no more: oriented boxes, masks and keypoints are never united.
        whole: what looks at the whole image once, for objects larger than the overlap; None for nothing.
        even: slices are made smaller where that makes them no more, so that they do not overlap by more than is wanted.
        batch: slices in one call, of a detector that takes several (`many`).
        on_progress: called with the slices done and the slices in all.

    Raises:
        OptionsError: a slice, overlap, or merge that cannot be.
    """

    detector: Detector
    slice_wh: tuple[int, int]
    overlap: float = SLICE_OVERLAP
    merge: Merge = "nms"
    whole: Detector | None = None
    even: bool = False
    batch: int = 1
    on_progress: Callable[[int, int], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if min(self.slice_wh) < 1:
            raise OptionsError(f"slice must be at least 1x1, got {self.slice_wh[0]}x{self.slice_wh[1]}")
        if not 0 <= self.overlap < 1:
            raise OptionsError(f"slice-overlap must be at least 0 and less than 1, got {self.overlap}")
        if self.merge not in MERGES:
            raise OptionsError(f"merge must be one of {', '.join(MERGES)}, got {self.merge!r}")
        if self.batch < 1:
            raise OptionsError(f"batch must be at least 1, got {self.batch}")

    @property
    def name(self) -> str:
        return self.detector.name

    @property
    def class_names(self) -> Mapping[int, str]:
        names: Mapping[int, str] = getattr(self.detector, "class_names", {})
        return names

    def __call__(self, image: Image) -> Detections:
        """The objects of an image of any `scale`, in source coordinates."""

        def read(top: int, bottom: int, left: int, right: int) -> Image:
            return replace(image, pixels=image.pixels[:, top:bottom, left:right])

        if image.width <= self.slice_wh[0] and image.height <= self.slice_wh[1]:
            return self.detector(image)
        return self.over(read, (image.height, image.width), image.scale, overview=image)

    def over(
        self,
        read: Read,
        size_hw: tuple[int, int],
        scale: float = 1,
        *,
        overview: Image | None = None,
        region: Rectangle | None = None,
    ) -> Detections:
        """The objects of an image of which parts can be had, most confident first, in source coordinates.

        Args:
            read: top, bottom, left, right to that part, as an image of its own.
            size_hw: of the image.
            scale: of the parts: their pixels for each of the source's.
            overview: the whole image, of any scale, for the look at the whole; None for none.
            region: left, top, right, bottom: only this part of the image is looked at.
        """
        within = region or (0, 0, size_hw[1], size_hw[0])
        slices = self.slices(within)
        found = []
        if self.whole is not None and overview is not None:
            found.append(SeenIn.slice(self.whole(overview), within, within, scale))
        looks = len(found) + len(slices)
        waiting = iter(slices)
        while some := list(islice(waiting, self.batch)):
            seen = look(self.detector, [read(top, bottom, left, right) for left, top, right, bottom in some])
            for one, objects in zip(some, seen, strict=True):
                found.append(SeenIn.slice(objects, one, within, scale))
            if self.on_progress is not None:
                self.on_progress(len(found), looks)
        resolve_edges(found)
        return merged(found, self.merge)

    def slices(self, within: Rectangle) -> list[Rectangle]:
        """Where they are, row by row."""
        left, top, right, bottom = within
        w, h = self.slice_wh
        if self.even:
            w, h = (_smallest(length, side, self.overlap) for length, side in ((right - left, w), (bottom - top, h)))
        columns = [left + start for start in slice_starts(right - left, w, self.overlap)]
        rows = [top + start for start in slice_starts(bottom - top, h, self.overlap)]
        return [(x, y, min(x + w, right), min(y + h, bottom)) for y in rows for x in columns]


def slice_starts(length: int, side: int, overlap: float) -> list[int]:
    """Where slices of `side` begin that cover `length`, evenly spaced, and overlap by at least that share of a side.

    Raises:
        ValueError: an overlap that is not at least 0 and less than 1.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and less than 1, got {overlap}")
    shared = min(round(side * overlap), side - 1)
    if length <= side:
        return [0]
    count = -(-(length - shared) // (side - shared))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _smallest(length: int, side: int, overlap: float) -> int:
    """The side of as many slices as cover `length` with those of `side`, that covers it, too; in whole strides."""
    count = len(slice_starts(length, side, overlap))
    least = length / (count - (count - 1) * overlap)
    candidates = range(math.ceil(least / STRIDE) * STRIDE, side, STRIDE)
    return next((one for one in candidates if len(slice_starts(length, one, overlap)) == count), side)
