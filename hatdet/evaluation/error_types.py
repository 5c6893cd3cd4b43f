"""Why a detector's AP50 is no higher: TIDE's types of error, and what the AP50 would be without each.

D. Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, as its authors' tidecv
1.0.1 has it where the paper is silent, with two differences: a class without objects does not lower the mean, and a
detection on a crowd is counted as no error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hatdet.evaluation.boxes import RECALLS, Floats, Found, Truth, overlaps

__all__ = ["ErrorBreakdown", "ErrorType", "error_breakdown", "matched"]

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

FOREGROUND, BACKGROUND = 0.5, 0.1  # overlaps: of a detection with the object it finds, and with what it has no part in
MAX_PER_IMAGE = 100  # detections of all classes together, unlike COCO's
RIGHT = -1
# What a wrong detection can be; the position in this table is its code.
WRONG = ("classification", "localisation", "both", "duplicate", "background")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, NO_OBJECT = range(len(WRONG))


@dataclass(frozen=True)
class ErrorType:
    """One type of error.

    Attributes:
        count: how often it was made: detections, and objects for `missed` and `false_negative`.
        dap: by how much the AP50 would be higher without these errors alone, in [0, 1]; NaN where one of the two does
            not exist. They do not add up to what the AP50 lacks.
    """

    count: int
    dap: float


@dataclass(frozen=True)
class ErrorBreakdown:
    """The AP50 of a set of images, and the errors that keep it below 1.

    Attributes:
        ap50: mean over the classes with objects, in [0, 1], of COCO's 101-point AP at an overlap of 0.5; NaN without
            any object. Not quite COCO's: of an image's detections the best 100 of all classes together are taken.
        errors: by name. Every wrong detection is in one of the first five, every object that nothing found and that
            no correction of a class or of a box would find is in `missed`; the last two are views of the same.

            - `classification`: over an object of another class.
            - `localisation`: over an object of its class, but not enough, whether that one was found or not.
            - `both`: over an object of another class, and not enough.
            - `duplicate`: over an object that a more confident detection found.
            - `background`: over no object.
            - `missed`: an object that is in none of the errors above.
            - `false_positive`: all wrong detections, as if the right ones were more confident than every one of them.
            - `false_negative`: all objects that nothing found, as if they were not there.
    """

    ap50: float
    errors: dict[str, ErrorType]


@dataclass(frozen=True, eq=False)
class _Detections:
    """What became of detections, most confident first; classes as positions in the table of classes.

    Attributes:
        confidence: `(n,)`.
        class_id: `(n,)`.
        kind: `(n,)`, `RIGHT` or a position in `WRONG`.
        on_crowd: `(n,)`; such a detection is in no AP, but may be the one by which a correction finds an object.
        finds: `(n,)`: corrected, it would find an object that nothing found.
        becomes: `(n,)`: the class of that object.
    """

    confidence: Floats
    class_id: Ids
    kind: Ids
    on_crowd: Flags
    finds: Flags
    becomes: Ids


def error_breakdown(truths: Sequence[Truth], founds: Sequence[Found], class_ids: Sequence[int]) -> ErrorBreakdown:
    """TIDE's errors, with its thresholds of 0.5 and 0.1.

    A detection is held against the objects of its image, most confident first. A crowd is no object. A detection that
    found nothing and lies in a crowd of its class (by more than half of its area) is no error; as in tidecv it may
    still be the most confident one on an object beside the crowd that a correction would find.

    What a correction does: of the wrong detections of a class or a box (of both types together) the most confident one
    on each object that nothing found becomes right, at its confidence; all others of the type vanish. Duplicates,
    background and both vanish. Missed objects vanish. A class that has no object left has an AP of 0 if detections of
    it are left, and is in no mean otherwise.

    Args:
        truths: the objects of each image, also of those without any.
        founds: the detections in the same images, in the same order.
        class_ids: the classes that are evaluated. Objects and detections of others are left out.

    Raises:
        ValueError: truths and founds of different length.
    """
    classes = np.unique(np.asarray(class_ids, np.int64))
    judged, missed = [], [np.zeros(0, np.int64)]
    objects = np.zeros(len(classes), np.int64)
    for truth, found in zip(truths, founds, strict=True):
        truth, found = _evaluated(truth, found, classes)
        objects += np.bincount(truth.class_id[~truth.crowd], minlength=len(classes))
        detections, without = _judged(truth, found)
        judged.append(detections)
        missed.append(without)
    return _breakdown(_joined(judged), objects, np.bincount(np.concatenate(missed), minlength=len(classes)))


def matched(shared: Floats, threshold: float) -> Ids:
    """What each detection finds: of the objects not found yet the one it overlaps most, the first of equals.

    Args:
        shared: `(n, m)` overlaps of detections, most confident first, with objects; 0 where the classes differ.
        threshold: the least overlap, above 0.

    Returns:
        `(n,)` positions of objects, no two the same; -1 for a detection that finds none.
    """
    match = np.full(len(shared), -1, np.int64)
    free = shared.copy()
    for row in np.flatnonzero((shared >= threshold).any(axis=1)):
        best = free[row].argmax()
        if free[row, best] >= threshold:
            match[row] = best
            free[:, best] = 0
    return match


def _evaluated(truth: Truth, found: Found, classes: Ids) -> tuple[Truth, Found]:
    """What takes part, with classes as positions in a sorted table."""
    a = np.isin(truth.class_id, classes)
    b = np.flatnonzero(np.isin(found.class_id, classes))[:MAX_PER_IMAGE]
    return (
        Truth(truth.xyxy[a], np.searchsorted(classes, truth.class_id[a]), truth.crowd[a]),
        Found(found.xyxy[b], found.confidence[b], np.searchsorted(classes, found.class_id[b])),
    )


def _judged(truth: Truth, found: Found) -> tuple[_Detections, Ids]:
    """One image: its detections, and the classes of the objects that none of them stands for."""
    shared = overlaps(found.xyxy, truth.xyxy, truth.crowd)
    same = found.class_id[:, None] == truth.class_id
    in_crowd = ((shared > FOREGROUND) & same & truth.crowd).any(axis=1)
    shared, same, object_class = shared[:, ~truth.crowd], same[:, ~truth.crowd], truth.class_id[~truth.crowd]
    if not len(object_class):
        kind, nothing = np.full(len(found), NO_OBJECT), np.zeros(len(found), np.bool_)
        return _Detections(found.confidence, found.class_id, kind, in_crowd, nothing, found.class_id), object_class

    own, other = np.where(same, shared, 0), np.where(same, 0, shared)
    match = matched(own, FOREGROUND)
    own_object, other_object = own.argmax(axis=1), other.argmax(axis=1)
    own_overlap, other_overlap = own.max(axis=1), other.max(axis=1)
    # The first that holds. Exactly half of an object that was found is a place error and no duplicate: TIDE's order.
    kind = np.select(
        [
            match >= 0,
            (own_overlap >= BACKGROUND) & (own_overlap <= FOREGROUND),
            other_overlap >= FOREGROUND,
            own_overlap > FOREGROUND,  # the object is in use, or this detection had found it
            other_overlap <= BACKGROUND,  # with its own class it shares less: the second condition did not hold
        ],
        [RIGHT, LOCALISATION, CLASSIFICATION, DUPLICATE, NO_OBJECT],
        BOTH,
    )
    lost = np.ones(len(object_class), np.bool_)
    lost[match[match >= 0]] = False
    target = np.where(kind == LOCALISATION, own_object, other_object)
    pointing = np.flatnonzero(((kind == LOCALISATION) | (kind == CLASSIFICATION)) & lost[target])
    pointed, first = np.unique(target[pointing], return_index=True)  # the first is the most confident
    finds = np.zeros(len(found), np.bool_)
    finds[pointing[first]] = True
    lost[pointed] = False
    in_crowd &= match < 0
    detections = _Detections(found.confidence, found.class_id, kind, in_crowd, finds, object_class[target])
    return detections, object_class[lost]


def _joined(judged: list[_Detections]) -> _Detections:
    """All images' detections, most confident first, of equals the earlier image's."""
    parts = [(d.confidence, d.class_id, d.kind, d.on_crowd, d.finds, d.becomes) for d in judged]
    if not parts:
        none = np.zeros(0, np.int64)
        return _Detections(np.zeros(0), none, none, none > 0, none > 0, none)
    confidence, class_id, kind, on_crowd, finds, becomes = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(-confidence, kind="stable")
    return _Detections(confidence[order], class_id[order], kind[order], on_crowd[order], finds[order], becomes[order])


def _breakdown(found: _Detections, objects: Ids, missed: Ids) -> ErrorBreakdown:
    """All APs from one matching; `objects` and `missed` are counts per class."""
    right, counted = found.kind == RIGHT, ~found.on_crowd
    wrong = counted & ~right
    hits = np.bincount(found.class_id[right], minlength=len(objects))
    classes = np.flatnonzero(objects)
    ap50 = _mean_ap(found.class_id[counted], right[counted], objects, classes)

    errors = {}
    for code, name in enumerate(WRONG):
        chosen = found.kind == code
        corrected = chosen & found.finds
        kept = (counted & ~chosen) | corrected
        class_id = np.where(corrected, found.becomes, found.class_id)
        ap = _mean_ap(class_id[kept], (right | corrected)[kept], objects, classes)
        errors[name] = ErrorType(int(np.sum(chosen & counted)), ap - ap50)
    ap = _mean_ap(found.class_id[counted], right[counted], objects - missed, classes)
    errors["missed"] = ErrorType(int(missed.sum()), ap - ap50)
    ap = _mean_ap(found.class_id[right], right[right], objects, classes)  # behind the right ones they change nothing
    errors["false_positive"] = ErrorType(int(wrong.sum()), ap - ap50)
    ap = _mean_ap(found.class_id[counted], right[counted], hits, classes)
    errors["false_negative"] = ErrorType(int((objects - hits).sum()), ap - ap50)
    return ErrorBreakdown(ap50, errors)


def _mean_ap(class_id: Ids, right: Flags, objects: Ids, classes: Ids) -> float:
    """Mean AP of detections, most confident first.

    Args:
        class_id: `(n,)`.
        right: `(n,)`.
        objects: how many objects each class has.
        classes: which are in the mean, unless they have neither objects nor detections.

    Returns:
        In [0, 1], or NaN where no class is in the mean.
    """
    order = np.argsort(class_id, kind="stable")
    class_id, right = class_id[order], right[order]
    starts, ends = (np.searchsorted(class_id, classes, side) for side in ("left", "right"))
    aps = [
        _ap(right[start:end], int(count))
        for start, end, count in zip(starts, ends, objects[classes], strict=True)
        if count or end > start
    ]
    return float(np.mean(aps)) if aps else math.nan


def _ap(right: Flags, objects: int) -> float:
    """COCO's AP of one class: the best precision at or beyond each of 101 recalls, 0 beyond what was found."""
    if not objects:
        return 0.0
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
    reached = np.searchsorted(hits / objects, RECALLS, side="left")
    return float(np.append(precision, 0)[np.minimum(reached, len(right))].mean())
