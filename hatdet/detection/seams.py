"""What lies on the seams of slices: boxes that an edge cut off, and objects that several slices have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.types import Detections
from hatdet.detection.merging import Merge, merge_boxes

__all__ = ["Rectangle", "SeenIn", "merged", "resolve_edges"]

SAME = 0.5  # overlap of two boxes of an object
COVERED = 0.5  # share of a cut box that lies in the whole one
SURE_ENOUGH = 0.25  # of a cut box's confidence: what is less certain is not what it was cut from
EDGE = 2.0  # pixels: a box that ends so close to the edge of a slice is cut off by it

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(eq=False)
class SeenIn:
    """The objects of one slice, in source coordinates.

    Attributes:
        place: of the slice, left, top, right, bottom, in source pixels.
        objects: with all that the detector says of them.
        cut: whether an inner edge of the slice, beyond which the image goes on, cut each box off.
    """

    place: NDArray[np.float32]
    objects: Detections
    cut: NDArray[np.bool_]

    @classmethod
    def slice(cls, objects: Detections, one: Rectangle, within: Rectangle, scale: float) -> SeenIn:
        """What was found in a slice of a picture that has `scale` pixels for each of the source's.

        Args:
            objects: as if the slice were the whole source.
            one: the slice, and
            within: all that is looked at, in the picture's pixels.
        """
        place = np.array(one, np.float32) / np.float32(scale)
        objects = objects.moved(*place[:2].tolist())
        inner, near = np.array(one) != np.array(within), EDGE / scale
        low, high = objects.xyxy[:, :2] < place[:2] + near, objects.xyxy[:, 2:] > place[2:] - near
        return cls(place, objects, (low & inner[:2]).any(1) | (high & inner[2:]).any(1))

    def keep(self, wanted: NDArray[np.bool_]) -> None:
        if not wanted.all():
            self.objects, self.cut = self.objects.taken(wanted), self.cut[wanted]


def resolve_edges(found: Sequence[SeenIn]) -> None:
    """Of cut boxes leave those that no slice has whole; and one of an object: what encloses its parts.

    What decides is not itself removed by another such decision, so the order of the slices changes nothing.
    """
    pairs = list(_neighbours(found))
    lost = [np.zeros(len(one.objects), np.bool_) for one in found]
    for a, b in pairs:
        lost[a] |= _seen_whole(found[a], found[b])
        lost[b] |= _seen_whole(found[b], found[a])
    for one, gone in zip(found, lost, strict=True):
        one.keep(~gone)
    same = [((a, int(i)), (b, int(j))) for a, b in pairs for i, j in _same_cut(found[a], found[b])]
    lost = [np.zeros(len(one.objects), np.bool_) for one in found]
    for parts in _sets(same):
        for n, i in _unite(found, parts):
            lost[n][i] = True
    for one, gone in zip(found, lost, strict=True):
        one.keep(~gone)


def _neighbours(found: Sequence[SeenIn]) -> Iterator[tuple[int, int]]:
    """The numbers of slices that overlap. A look at the whole overlaps all."""
    sizes = np.array([one.place[2:] - one.place[:2] for one in found])
    usual = np.maximum(np.median(sizes, 0), 1e-6)
    cells: dict[tuple[int, int], list[int]] = {}
    for n, one in enumerate(found):
        # In each cell that it reaches into: four of them, or all for a look at the whole.
        (left, top), (right, bottom) = ((edge // usual).astype(int) for edge in (one.place[:2], one.place[2:]))
        for cell in ((x, y) for y in range(top, bottom + 1) for x in range(left, right + 1)):
            cells.setdefault(cell, []).append(n)
    known = {(a, b) for those in cells.values() for i, a in enumerate(those) for b in those[i + 1 :]}
    for a, b in sorted(known):
        shared = _shared(found[a], found[b])
        if (shared[2:] > shared[:2]).all() and (found[a].cut.any() or found[b].cut.any()):
            yield a, b


def _shared(a: SeenIn, b: SeenIn) -> NDArray[np.float32]:
    return np.concatenate([np.maximum(a.place[:2], b.place[:2]), np.minimum(a.place[2:], b.place[2:])])


def _seen_whole(one: SeenIn, other: SeenIn) -> NDArray[np.bool_]:
    """The cut boxes of one slice that most of lies in a whole box of the other."""
    lost = np.zeros(len(one.objects), np.bool_)
    cut, whole = np.flatnonzero(one.cut), np.flatnonzero(~other.cut)
    if len(cut) and len(whole):
        a, b = one.objects.xyxy[cut], other.objects.xyxy[whole]
        alike = one.objects.class_id[cut][:, None] == other.objects.class_id[whole][None]
        alike &= other.objects.confidence[whole] >= SURE_ENOUGH * one.objects.confidence[cut][:, None]
        lost[cut] = (alike & (_inner(a, b) >= COVERED * np.maximum(_area(a), 1e-9)[:, None])).any(1)
    return lost


def _same_cut(a: SeenIn, b: SeenIn) -> NDArray[np.int64]:
    """Pairs of cut boxes that are one where both slices see them. Shape: `(n, 2)`."""
    of_a, of_b = np.flatnonzero(a.cut), np.flatnonzero(b.cut)
    shared = _shared(a, b)
    boxes_a, boxes_b = (
        np.concatenate([np.maximum(boxes[:, :2], shared[:2]), np.minimum(boxes[:, 2:], shared[2:])], 1)
        for boxes in (a.objects.xyxy[of_a], b.objects.xyxy[of_b])
    )
    inner = _inner(boxes_a, boxes_b)
    # Where a box has nothing in the shared part its corners are swapped there, and its area is none.
    area_a, area_b = _area(boxes_a), _area(boxes_b)
    same = inner >= SAME * np.maximum(area_a[:, None] + area_b[None] - inner, 1e-9)
    same &= a.objects.class_id[of_a][:, None] == b.objects.class_id[of_b][None]
    i, j = np.nonzero(same)
    return np.stack([of_a[i], of_b[j]], 1)


def _inner(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """The areas of intersections. Shape: `(n, 4)` and `(m, 4)` to `(n, m)`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    sides: NDArray[np.float32] = np.clip(np.minimum(a[:, None, 2:], b[None, :, 2:]) - low, 0, None)
    inner: NDArray[np.float32] = sides.prod(2)
    return inner


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    return area


Part = tuple[int, int]  # the number of a slice, and of a box in it


def _sets(pairs: Sequence[tuple[Part, Part]]) -> list[list[Part]]:
    """Parts that are joined, directly or by others."""
    parent: dict[Part, Part] = {}

    def root(one: Part) -> Part:
        parent.setdefault(one, one)
        while parent[one] != one:
            parent[one] = one = parent[parent[one]]
        return one

    for a, b in pairs:
        parent[root(a)] = root(b)
    sets: dict[Part, list[Part]] = {}
    for one in parent:
        sets.setdefault(root(one), []).append(one)
    return list(sets.values())


def _unite(found: Sequence[SeenIn], parts: Sequence[Part]) -> list[Part]:
    """Let the most confident part stand for all of them, or the largest of what cannot be united.

    Returns the others.
    """
    boxes = np.array([found[n].objects.xyxy[i] for n, i in parts])
    sure = np.array([found[n].objects.confidence[i] for n, i in parts])
    one = found[parts[0][0]].objects
    only_boxes = one.corners is None and one.polygons is None and one.keypoints is None
    equal = [*np.array([found[n].place for n, _ in parts]).T, *boxes.T[::-1], -sure]
    ranked = np.lexsort(equal if only_boxes else [*equal, -_area(boxes)])
    n, i = parts[ranked[0]]
    if only_boxes:
        xyxy = found[n].objects.xyxy.copy()
        xyxy[i] = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
        found[n].objects = replace(found[n].objects, xyxy=xyxy)
    return [parts[other] for other in ranked[1:]]


def merged(found: Sequence[SeenIn], merge: Merge) -> Detections:
    """One box an object, where several slices have it; boxes of one slice are its detector's business.

    Args:
        found: what is in each slice, at least one. Of equal boxes that of the earlier slice counts.
        merge: as `Sliced`'s. Of oriented boxes, masks and keypoints the more confident is kept in any case.
    """
    objects = Detections.joined([one.objects for one in found])
    if len(found) == 1:
        return objects
    by_confidence = np.argsort(-np.concatenate([one.objects.confidence for one in found]), kind="stable")
    seen_in = np.concatenate([np.full(len(one.objects), n) for n, one in enumerate(found)])[by_confidence]
    if objects.corners is not None:
        return objects.taken(_kept_of_rotated(objects, objects.corners, seen_in))
    united = merge != "nms" and objects.polygons is None and objects.keypoints is None
    left = merge_boxes(
        objects.xyxy,
        objects.confidence,
        objects.class_id,
        merge=merge if united else "nms",
        threshold=SAME,
        apart=seen_in,
    )
    return replace(objects.taken(left.keeper), xyxy=left.xyxy)


def _kept_of_rotated(
    objects: Detections, corners: NDArray[np.float32], seen_in: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Non-maximum suppression of oriented boxes: what encloses them overlaps where they lie side by side."""
    order = np.lexsort((seen_in, objects.class_id, *objects.xyxy.T[::-1], -objects.confidence))
    there = np.ones(len(objects), np.bool_)
    low, high = objects.xyxy[:, :2], objects.xyxy[:, 2:]
    for place, number in enumerate(order):
        if not there[number]:
            continue
        rest = order[place + 1 :]
        near = there[rest] & (seen_in[rest] != seen_in[number]) & (objects.class_id[rest] == objects.class_id[number])
        near &= ((low[rest] < high[number]) & (high[rest] > low[number])).all(1)
        rest = rest[near]
        if len(rest):
            there[rest[_overlap_of_rotated(corners[number][None], corners[rest])[0] >= SAME]] = False
    return order[there[order]]


def _overlap_of_rotated(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """As Ultralytics' non-maximum suppression measures it. Shape: `(n, 4, 2)` and `(m, 4, 2)` corners to `(n, m)`."""
    from ultralytics.utils.metrics import batch_probiou

    return np.asarray(batch_probiou(_rotated(a), _rotated(b)), np.float32)


def _rotated(corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre, sides and angle. Shape: `(n, 4, 2)` to `(n, 5)`."""
    along, across = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]
    sides = np.stack([np.hypot(*along.T), np.hypot(*across.T), np.arctan2(along[:, 1], along[:, 0])], 1)
    return np.concatenate([corners.mean(1), sides], 1).astype(np.float32)
