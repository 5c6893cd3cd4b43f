"""Which detections find which objects: the greedy matching of COCO's evaluation, and average precision from it.

Written from COCO's rules and equal to its evaluation, but keeping what the bootstrap needs: the image of every match.

Per image, class and range of areas, at every threshold of intersection over union: detections choose in the order of
their confidence. Each takes the object that it overlaps most of those still free, of equals the later one. Crowds and
objects outside the range are ignored: they are taken only where no other object can be, and make the detection neither
right nor wrong, as does being unmatched and outside the range itself. A crowd is taken any number of times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hatdet.evaluation.boxes import IOUS, MAX_DETECTIONS, RECALLS, SIZES, Found, Truth, areas, overlaps

__all__ = ["ClassMatches", "average_precision", "match_classes", "recalls_reached"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

THRESHOLDS = IOUS[:, None]
# The precision at a recall of 0 is that of the first detection that is right.
LEAST_RECALLS = np.maximum(RECALLS, np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """One class in one range of areas, across the images: I images, D detections, most confident first.

    Attributes:
        image: `(D,)` which image a detection is in, from 0. Of equal confidence, the earlier image's is first.
        true: `(10, D)` by `IOUS`: it found an object.
        ignored: `(10, D)` by `IOUS`: it is neither right nor wrong. Never true as well.
        objects: `(I,)` how many objects there are to be found.
    """

    image: Integers
    true: Bools
    ignored: Bools
    objects: Integers


def match_classes(
    truths: Sequence[Truth], founds: Sequence[Found], class_ids: Sequence[int], size: str = "all"
) -> dict[int, ClassMatches]:
    """Match the detections of every image with its objects, class by class; the most confident 100 of each.

    Args:
        truths: by image.
        founds: by image, in the frame of the truths.
        class_ids: which classes; one that appears nowhere has no detections and no objects.
        size: the range of areas, one of `SIZES`.

    Raises:
        ValueError: not as many truths as founds, or none; an unknown size.
    """
    if len(truths) != len(founds) or not truths:
        raise ValueError(f"every image needs its truth and its detections, got {len(truths)} and {len(founds)}")
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    truth = Truth(
        np.concatenate([image.xyxy for image in truths]),
        np.concatenate([image.class_id for image in truths]),
        np.concatenate([image.crowd for image in truths]),
    )
    found = Found(
        np.concatenate([image.xyxy for image in founds]),
        np.concatenate([image.confidence for image in founds]),
        np.concatenate([image.class_id for image in founds]),
    )
    truth_image = np.repeat(np.arange(len(truths)), [len(t) for t in truths])
    found_image = np.repeat(np.arange(len(founds)), [len(f) for f in founds])
    truth_outside, found_outside = _outside(truth.xyxy, size), _outside(found.xyxy, size)
    of_class = dict(_by_class(truth.class_id)), dict(_by_class(found.class_id))
    none = np.empty(0, np.int64)
    out = {}
    for class_id in class_ids:
        t, f = (rows.get(class_id, none) for rows in of_class)
        f = _most_confident(f, found_image)
        true = np.zeros((len(IOUS), len(f)), np.bool_)
        ignored = np.repeat(found_outside[None, f], len(IOUS), axis=0)
        spans = [np.searchsorted(image, np.arange(len(truths) + 1)) for image in (truth_image[t], found_image[f])]
        (t_start, t_end), (f_start, f_end) = ((span[:-1], span[1:]) for span in spans)
        for image in np.flatnonzero((t_end > t_start) & (f_end > f_start)):
            here, there = slice(f_start[image], f_end[image]), t[t_start[image] : t_end[image]]
            crowd = truth.crowd[there]
            iou = overlaps(found.xyxy[f[here]], truth.xyxy[there], crowd)
            hit, hit_ignored = _match(iou, crowd, crowd | truth_outside[there])
            true[:, here] = hit & ~hit_ignored
            ignored[:, here] = np.where(hit, hit_ignored, ignored[:, here])
        counts = ~(truth.crowd[t] | truth_outside[t])
        objects = np.bincount(truth_image[t][counts], minlength=len(truths))
        order = np.argsort(-found.confidence[f], kind="stable")
        out[class_id] = ClassMatches(found_image[f][order], true[:, order], ignored[:, order], objects)
    return out


def average_precision(matches: ClassMatches) -> Floats:
    """COCO's average precision at every threshold of `IOUS`: the mean over 101 recalls of the best precision there.

    Returns:
        `(10,)` in [0, 1]; NaN if there is no object.
    """
    objects = int(matches.objects.sum())
    if objects == 0:
        return np.full(len(IOUS), np.nan)
    true = np.cumsum(matches.true, axis=1)
    counted = np.cumsum(~matches.ignored, axis=1)
    precision = true / np.maximum(counted, 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    gained = np.diff(recalls_reached(true / objects), axis=1, prepend=0)
    return np.asarray((gained * best).sum(axis=1) / len(RECALLS))


def recalls_reached(recall: Floats) -> Floats:
    """How many of `RECALLS` a recall in [0, 1] reaches, of any shape; none of them where nothing is found."""
    # All before the nearest lie well below it and all after well above, so it alone is compared: with COCO's own grid,
    # whose rounding errors decide. The division's do not, as it is COCO's as well.
    nearest = np.rint(100 * recall)
    return np.asarray(nearest + (LEAST_RECALLS[nearest.astype(np.intp)] <= recall))


def _match(iou: Floats, crowd: Bools, ignored: Bools) -> tuple[Bools, Bools]:
    """Of one image and class.

    Args:
        iou: `(n, m)` of detections, most confident first, with objects.
        crowd: `(m,)`.
        ignored: `(m,)`.

    Returns:
        Whether a detection took an object, and whether that one is ignored: `(10, n)` each.
    """
    hit = np.zeros((len(IOUS), len(iou)), np.bool_)
    hit_ignored = np.zeros_like(hit)
    free = np.ones((len(IOUS), len(crowd)), np.bool_)
    every = np.arange(len(IOUS))
    # Whom a detection prefers does not depend on the threshold: only who is free, and who overlaps enough.
    later_first = np.broadcast_to(-np.arange(len(crowd)), iou.shape)
    preferred = np.lexsort((later_first, -iou, np.broadcast_to(ignored, iou.shape)))  # (n, m)
    for index in np.flatnonzero((iou >= IOUS[0]).any(axis=1)):
        choice = preferred[index]
        possible = free[:, choice] & (iou[index, choice] >= THRESHOLDS)
        first = possible.argmax(axis=1)
        taken, matched = choice[first], possible[every, first]
        hit[:, index] = matched
        hit_ignored[:, index] = matched & ignored[taken]
        free[every[matched], taken[matched]] = crowd[taken[matched]]
    return hit, hit_ignored


def _by_class(class_id: Integers) -> Iterator[tuple[int, Integers]]:
    """Every class and where it is, in order."""
    order = np.argsort(class_id, kind="stable")
    classes, starts = np.unique(class_id[order], return_index=True)
    for each, rows in zip(classes, np.split(order, starts[1:]), strict=False):
        yield int(each), rows


def _most_confident(rows: Integers, image: Integers) -> Integers:
    """The first `MAX_DETECTIONS` rows of every image; rows of one image are neighbours, and sorted by confidence."""
    of_row = image[rows]
    return rows[np.arange(len(rows)) - np.searchsorted(of_row, of_row) < MAX_DETECTIONS]


def _outside(xyxy: Floats, size: str) -> Bools:
    low, high = SIZES[size]
    area = areas(xyxy)
    return (area < low) | (area > high)
