"""Several boxes of one object to one box: what is left to do where parts of an image were looked at one by one.

Boxes are taken from the most confident to the least; of equal ones the further left, then the further up, then the
less far to the right and down, then the lower class comes first. That order is total, so the order in which the boxes
were given changes nothing. Two boxes match where their overlap is at least the threshold.

- `nms` (non-maximum suppression): a box that is still there removes all later ones that match it.
- `greedy-nmm` (greedy non-maximum merging): a box that no other has taken takes the later ones that match it, one by
  one. It grows to what encloses both, and what is taken must match the grown box, too.
- `nmm` (non-maximum merging): as that, but a box that was taken goes on taking what matches it, for its taker.

These are SAHI's definitions, with two differences (`docs/slicing.md`): a box that matches, but not the grown box, stays
there for those that come later, or for itself, where SAHI drops it; and with `nmm` boxes of equal confidence merge.

Boxes meet in a grid of cells, and pairs of them are looked at in portions, so that memory does not grow with crowds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["MERGES", "Merge", "Merged", "Overlap", "merge_boxes"]

Merge: TypeAlias = Literal["nms", "nmm", "greedy-nmm"]
Overlap: TypeAlias = Literal["iou", "ios"]
MERGES: tuple[Merge, ...] = get_args(Merge)

Numbers: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]

PORTION = 2**16  # pairs that are looked at together, unless a single box has more
FEW = 32  # boxes that are faster looked at one by one
ROWS = 2**14  # boxes that have their turns together
CELLS_A_BOX = 4  # at most, on average
COLUMNS = 2**20  # of the grid, and rows, at most: the number of a cell stays an int64


@dataclass(frozen=True, eq=False)
class Merged:
    """What is left, the most confident first.

    Attributes:
        keeper: `(m,)` the number of the given box that each result stands for, and whose confidence it has.
        xyxy: `(m, 4)` the keeper's own box for `nms`, for the others what it grew to.
        confidence: `(m,)`.
        class_id: `(m,)` the keeper's. Where classes may mix, the last of equal confidence that it took, as with SAHI.
    """

    keeper: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]


def merge_boxes(
    xyxy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.int64],
    *,
    merge: Merge = "nms",
    overlap: Overlap = "iou",
    threshold: float = 0.5,
    class_aware: bool = True,
    apart: Numbers | None = None,
) -> Merged:
    """One box for each set of boxes that match, whatever the order they are given in.

    Args:
        xyxy: `(n, 4)`.
        confidence: `(n,)`.
        class_id: `(n,)`.
        merge: `nms`, `nmm` or `greedy-nmm`, as at the top of this file.
        overlap: `iou`, intersection over union, or `ios`, intersection over the smaller of the two areas. Boxes without
            an area overlap nothing.
        threshold: the least overlap of boxes that match.
        class_aware: whether only boxes of one class match.
        apart: `(n,)` numbers; boxes of one number do not match, and of equal boxes the lower number comes first. None:
            any two may match.

    Raises:
        ValueError: lengths that differ, numbers that are not finite, boxes whose corners are swapped, a threshold that
            is not above 0 and at most 1, another merge or overlap.
    """
    _check(xyxy, confidence, class_id, merge, overlap, threshold)
    if not len(xyxy):
        return Merged(
            np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
        )
    last = [] if apart is None else [apart]
    order = np.lexsort((*last, class_id, *xyxy.T[::-1], -confidence))
    ranked = np.ascontiguousarray(xyxy[order].T, np.float64)  # (4, n), exact: areas are not rounded to float32
    classes = class_id[order].astype(np.int64)
    groups = classes if class_aware else np.zeros_like(classes)
    walk = _Walk(ranked, confidence[order], classes, overlap, threshold)
    ranked_apart = None if apart is None else apart[order]
    for row, later in _matches(walk, groups, ranked_apart, taken_ones_take=merge == "nmm"):
        if merge == "nms":
            walk.taker[later] = row
        else:
            taker = int(walk.taker[row])
            walk.take(row if taker < 0 else taker, later)
    kept = np.flatnonzero(walk.taker < 0)
    return Merged(
        order[kept].astype(np.int64),
        walk.grown[:, kept].T.astype(np.float32),
        confidence[order[kept]].astype(np.float32),
        walk.class_id[kept],
    )


class _Walk:
    """Boxes in their order, and who was taken by whom so far.

    Attributes:
        boxes: `(4, n)` x1, y1, x2, y2.
        taker: `(n,)` the number of the box that has taken each, -1 for those that are still there.
        grown: `(4, n)` what each has grown to.
        class_id: `(n,)` of the grown ones.
    """

    def __init__(
        self,
        boxes: Values,
        confidence: NDArray[np.float32],
        class_id: Numbers,
        overlap: Overlap,
        threshold: float,
    ) -> None:
        self.boxes, self.confidence, self.class_id = boxes, confidence, class_id.copy()
        self.overlap, self.threshold = overlap, threshold
        self.taker = np.full(len(confidence), -1, np.int64)
        self.grown = boxes.copy()

    def match(self, a: Values, b: Values) -> NDArray[np.bool_]:
        """Whether boxes match. Shape: `(4, m)` or `(4, 1)`, and `(4, m)`, to `(m,)`."""
        width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
        height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
        inner = np.maximum(width, 0) * np.maximum(height, 0)
        area_a, area_b = ((of[2] - of[0]) * (of[3] - of[1]) for of in (a, b))
        whole = area_a + area_b - inner if self.overlap == "iou" else np.minimum(area_a, area_b)
        ratio: Values = np.divide(inner, whole, out=np.zeros_like(inner), where=whole > 0)
        return ratio >= self.threshold

    def take(self, taker: int, later: Numbers) -> None:
        """Give to a box those that match what it grows to, one by one; the others stay there."""
        while len(later) > FEW:
            later = self._take_alike(taker, later)
        x1, y1, x2, y2 = self.grown[:, taker].tolist()
        for row, (left, top, right, bottom) in zip(later.tolist(), self.boxes[:, later].T.tolist(), strict=True):
            inner = max(min(x2, right) - max(x1, left), 0.0) * max(min(y2, bottom) - max(y1, top), 0.0)
            areas = (x2 - x1) * (y2 - y1), (right - left) * (bottom - top)
            whole = areas[0] + areas[1] - inner if self.overlap == "iou" else min(areas)
            if whole > 0 and inner / whole >= self.threshold:
                self.taker[row] = taker
                x1, y1, x2, y2 = min(x1, left), min(y1, top), max(x2, right), max(y2, bottom)
                if self.confidence[row] == self.confidence[taker]:
                    self.class_id[taker] = self.class_id[row]
        self.grown[:, taker] = x1, y1, x2, y2

    def _take_alike(self, taker: int, later: Numbers) -> Numbers:
        """As `take`, at once for all boxes up to the first that makes the taker grow: they see the same box.

        Returns:
            Those that are not decided yet.
        """
        grown, boxes = self.grown[:, taker, None], self.boxes[:, later]
        fits = self.match(grown, boxes)
        grows = fits & ((boxes[:2] < grown[:2]) | (boxes[2:] > grown[2:])).any(0)
        end = int(grows.argmax()) + 1 if grows.any() else len(later)
        taken = later[:end][fits[:end]]
        self.taker[taken] = taker
        equal = taken[self.confidence[taken] == self.confidence[taker]]
        if len(equal):
            self.class_id[taker] = self.class_id[equal[-1]]
        if grows[end - 1]:
            self.grown[:2, taker] = np.minimum(grown[:2, 0], boxes[:2, end - 1])
            self.grown[2:, taker] = np.maximum(grown[2:, 0], boxes[2:, end - 1])
        return later[end:]


def _matches(
    walk: _Walk, groups: Numbers, apart: Numbers | None, *, taken_ones_take: bool
) -> Iterator[tuple[int, Numbers]]:
    """Each box in turn that may take some, and those after it that match it and are still there, in their order.

    What the caller does with one is seen by the next.

    Args:
        walk: the boxes.
        groups: `(n,)` boxes of different ones never match.
        apart: `(n,)` boxes of one number never match.
        taken_ones_take: whether a box that was taken has its turn, too.
    """
    grid = _Grid(walk.boxes, groups)
    n = len(groups)
    row = 0
    while row < n:
        there = walk.taker < 0
        there[: row + 1] = False  # nobody whose turn is to come takes these
        if not there.any():
            return
        grid.thin_out(there)
        rows = np.arange(row, n) if taken_ones_take else row + np.flatnonzero(walk.taker[row:] < 0)
        done, first, second = grid.pairs(rows, there)
        row = n if done == len(rows) else int(rows[done])
        matching = walk.match(walk.boxes[:, first], walk.boxes[:, second])
        if apart is not None:
            matching &= apart[first] != apart[second]
        first, second = first[matching], second[matching]
        if not len(first):
            continue
        by_turn = np.lexsort((second, first))
        first, second = first[by_turn], second[by_turn]
        turns, starts = np.unique(first, return_index=True)
        ends = [*starts[1:].tolist(), len(second)]
        for turn, start, end in zip(turns.tolist(), starts.tolist(), ends, strict=True):
            if taken_ones_take or walk.taker[turn] < 0:
                later = second[start:end]
                later = later[walk.taker[later] < 0]
                if len(later):
                    yield turn, later


class _Grid:
    """Which boxes may overlap: those that lie in one cell, each pair in the cell of its intersection's first corner.

    An entry is a box in one of its cells. Entries stand in the boxes' order; members, which are the entries that are
    still looked for, in that of the cells and within one in the boxes'.
    """

    def __init__(self, boxes: Values, groups: Numbers) -> None:
        self.n = n = len(groups)
        least = boxes[:2].min(1, keepdims=True)
        side = max(float((boxes[2:] - boxes[:2]).mean()), float((boxes[2:] - least).max()) / COLUMNS, 1e-30)
        while True:
            low, high = (np.floor((corner - least) / side).astype(np.int64) for corner in (boxes[:2], boxes[2:]))
            across, down = high - low + 1
            counts = across * down
            if counts.sum() <= CELLS_A_BOX * n:
                break
            side *= 2
        self.low = low
        self.counts = counts
        self.starts = np.cumsum(counts) - counts
        self.box, within = _ranges(np.zeros_like(counts), counts)
        self.x = low[0, self.box] + within % across[self.box]
        self.y = low[1, self.box] + within // across[self.box]
        group = np.unique(groups, return_inverse=True)[1]
        cells = (group[self.box] * (COLUMNS + 1) + self.y) * (COLUMNS + 1) + self.x
        self.cell = np.unique(cells, return_inverse=True)[1]
        self.keys = np.sort(self.cell * n + self.box)
        self.members = self.keys % n
        self.tried = ROWS  # rows whose pairs are counted for the next portion

    def thin_out(self, there: NDArray[np.bool_]) -> None:
        """Look for these boxes only, once they are less than half of the members."""
        looked_for = there[self.members]
        if 2 * int(looked_for.sum()) < len(self.members):
            self.keys, self.members = self.keys[looked_for], self.members[looked_for]

    def pairs(self, rows: Numbers, there: NDArray[np.bool_]) -> tuple[int, Numbers, Numbers]:
        """Pairs of one of the first rows, as many as make a portion, and a later box that is there, each pair once.

        Returns:
            How many of the rows these are, from 1; and the two boxes of each pair, unordered.
        """
        rows = rows[: self.tried]
        _, entries = _ranges(self.starts[rows], self.counts[rows])
        cell = self.cell[entries]
        after = np.searchsorted(self.keys, cell * self.n + self.box[entries], "right")
        count = np.searchsorted(self.keys, (cell + 1) * self.n) - after
        last = np.cumsum(self.counts[rows]) - 1  # the last entry of each row
        done = max(int(np.searchsorted(np.cumsum(count)[last], PORTION, "right")), 1)
        self.tried = min(2 * done + 16, ROWS)
        taken = int(last[done - 1]) + 1
        entry, place = _ranges(after[:taken], count[:taken])
        second = self.members[place]
        kept = there[second]
        entry, second = entries[entry[kept]], second[kept]
        first = self.box[entry]
        once = (np.maximum(self.low[0, first], self.low[0, second]) == self.x[entry]) & (
            np.maximum(self.low[1, first], self.low[1, second]) == self.y[entry]
        )
        return done, first[once], second[once]


def _ranges(starts: Numbers, counts: Numbers) -> tuple[Numbers, Numbers]:
    """The numbers of several ranges in a row, and before them the range that each is of."""
    of = np.repeat(np.arange(len(counts)), counts)
    return of, np.arange(len(of)) + (starts - np.cumsum(counts) + counts)[of]


def _check(
    xyxy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.int64],
    merge: str,
    overlap: str,
    threshold: float,
) -> None:
    n = len(xyxy)
    if xyxy.shape != (n, 4) or confidence.shape != (n,) or class_id.shape != (n,):
        shapes = xyxy.shape, confidence.shape, class_id.shape
        raise ValueError(f"xyxy, confidence and class_id must be (n, 4), (n,) and (n,), got {shapes}")
    if not (np.isfinite(xyxy).all() and np.isfinite(confidence).all()):
        raise ValueError("xyxy and confidence must be finite")
    if (xyxy[:, 2:] < xyxy[:, :2]).any():
        raise ValueError("xyxy must have x1 <= x2 and y1 <= y2")
    for name, value, known in (("merge", merge, get_args(Merge)), ("overlap", overlap, get_args(Overlap))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
