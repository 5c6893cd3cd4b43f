"""What another way to look at an image found or lost: two sets of detections against the same objects.

At one confidence, as a user sees them. AP says how good a ranking is; this says which boxes come and go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hatdet.evaluation.boxes import Floats, Found, Truth, overlaps
from hatdet.evaluation.error_types import matched

__all__ = ["Change", "ImageChanges", "JudgedBox", "Status", "compare_boxes", "judged", "total"]

Status = Literal["right", "wrong", "missed"]
Change = Literal["gained", "lost", "added", "removed"]


@dataclass(frozen=True)
class JudgedBox:
    """A detection, or an object that has none.

    Attributes:
        xyxy: the detection's box, or the missed object's.
        class_id: likewise.
        confidence: in [0, 1]; None for a missed object.
        status: what it is in its own image.
        change: what it is against the other detections of that image; None where nothing changed.
    """

    xyxy: tuple[float, float, float, float]
    class_id: int
    confidence: float | None
    status: Status
    change: Change | None = None


@dataclass(frozen=True)
class ImageChanges:
    """One image's boxes before and after: on each side the detections, most confident first, then missed objects.

    After there are `gained - lost` more right boxes than before, and `added - removed` more wrong ones.

    Attributes:
        before: what is gained is missed here, what is lost is right, what is removed is wrong.
        after: what is gained is right here, what is lost is missed, what is added is wrong.
    """

    before: tuple[JudgedBox, ...]
    after: tuple[JudgedBox, ...]

    @property
    def gained(self) -> int:
        """Objects missed before and found after."""
        return _count(self.after, "gained")

    @property
    def lost(self) -> int:
        """Objects found before and missed after."""
        return _count(self.after, "lost")

    @property
    def added(self) -> int:
        """Wrong boxes after that have no like before."""
        return _count(self.after, "added")

    @property
    def removed(self) -> int:
        """Wrong boxes before that have no like after."""
        return _count(self.before, "removed")


def judged(truth: Truth, found: Found, confidence: float = 0.25, iou: float = 0.5) -> list[JudgedBox]:
    """What each detection of an image is, and which objects none of them found.

    Detections, most confident first, each take the free object of their class that they overlap most. One that finds
    none and shares at least `iou` of its area with a crowd of its class is neither right nor wrong and is left out.

    Args:
        truth: the objects.
        found: the detections.
        confidence: the least of a detection that counts.
        iou: the least overlap with an object, in (0, 1].

    Returns:
        Detections, most confident first, then missed objects in their order.

    Raises:
        ValueError: an `iou` out of its range.
    """
    side = _judged(truth, found, confidence, iou)
    return list(side.boxes([None] * len(side.objects), [None] * len(side.found)))


def compare_boxes(
    truth: Truth, before: Found, after: Found, confidence: float = 0.25, iou: float = 0.5
) -> ImageChanges:
    """What two sets of detections in one image, both in its pixels, make of its objects.

    An object is gained or lost when only the detections after or before find it. Of wrong boxes each one after, most
    confident first, is paired with the free one before, of its class, that it overlaps most and by at least `iou`;
    whatever has no partner was added or removed.

    Args:
        truth: the objects.
        before: detections, without upscaling for instance.
        after: detections, with it for instance.
        confidence: the least of a detection that counts, of both sides.
        iou: the least overlap, in (0, 1], with an object or of two wrong boxes.

    Raises:
        ValueError: an `iou` out of its range.
    """
    old, new = _judged(truth, before, confidence, iou), _judged(truth, after, confidence, iou)
    objects: list[Change | None] = [
        None if was_missed == is_missed else "gained" if was_missed else "lost"
        for was_missed, is_missed in zip(old.missed.tolist(), new.missed.tolist(), strict=True)
    ]
    old_wrong, new_wrong = np.flatnonzero(old.match < 0), np.flatnonzero(new.match < 0)
    shared = overlaps(new.found.xyxy[new_wrong], old.found.xyxy[old_wrong], np.zeros(len(old_wrong), np.bool_))
    same = new.found.class_id[new_wrong, None] == old.found.class_id[old_wrong]
    partner = matched(np.where(same, shared, 0), iou)
    removed: list[Change | None] = [None] * len(old.found)
    added: list[Change | None] = [None] * len(new.found)
    for row in np.delete(old_wrong, partner[partner >= 0]):
        removed[row] = "removed"
    for row in new_wrong[partner < 0]:
        added[row] = "added"
    return ImageChanges(old.boxes(objects, removed), new.boxes(objects, added))


def total(changes: Iterable[ImageChanges]) -> dict[str, int]:
    """`gained`, `lost`, `added` and `removed` of many images."""
    counts = {"gained": 0, "lost": 0, "added": 0, "removed": 0}
    for change in changes:
        for name in counts:
            counts[name] += getattr(change, name)
    return counts


@dataclass(frozen=True, eq=False)
class _Judged:
    """An image's detections that are right or wrong, and its objects.

    Attributes:
        found: `n` detections.
        objects: `m` objects, no crowd among them.
        match: `(n,)` the position of the object that a detection finds; -1 for a wrong one.
    """

    found: Found
    objects: Truth
    match: NDArray[np.int64]

    @property
    def missed(self) -> NDArray[np.bool_]:
        """Shape: `(m,)`."""
        return ~np.isin(np.arange(len(self.objects)), self.match)

    def boxes(self, objects: list[Change | None], wrong: list[Change | None]) -> tuple[JudgedBox, ...]:
        """All detections, then the missed objects.

        Args:
            objects: what became of each object, `m`.
            wrong: what became of each detection that is wrong, `n`.
        """
        found, truth = self.found, self.objects
        boxes = [
            JudgedBox(_corners(xyxy), int(class_id), float(confidence), "right", objects[match])
            if match >= 0
            else JudgedBox(_corners(xyxy), int(class_id), float(confidence), "wrong", change)
            for xyxy, class_id, confidence, match, change in zip(
                found.xyxy, found.class_id, found.confidence, self.match, wrong, strict=True
            )
        ]
        boxes += [
            JudgedBox(_corners(truth.xyxy[index]), int(truth.class_id[index]), None, "missed", objects[index])
            for index in np.flatnonzero(self.missed)
        ]
        return tuple(boxes)


def _judged(truth: Truth, found: Found, confidence: float, iou: float) -> _Judged:
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be above 0 and at most 1, got {iou}")
    seen = found.confidence >= confidence
    found = Found(found.xyxy[seen], found.confidence[seen], found.class_id[seen])
    shared = overlaps(found.xyxy, truth.xyxy, truth.crowd)
    shared[found.class_id[:, None] != truth.class_id] = 0
    match = matched(shared[:, ~truth.crowd], iou)
    kept = (match >= 0) | ~(shared[:, truth.crowd] >= iou).any(axis=1)
    return _Judged(
        Found(found.xyxy[kept], found.confidence[kept], found.class_id[kept]),
        Truth(truth.xyxy[~truth.crowd], truth.class_id[~truth.crowd], truth.crowd[~truth.crowd]),
        match[kept],
    )


def _corners(xyxy: Floats) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = xyxy.tolist()
    return x1, y1, x2, y2


def _count(boxes: tuple[JudgedBox, ...], change: Change) -> int:
    return sum(box.change == change for box in boxes)
