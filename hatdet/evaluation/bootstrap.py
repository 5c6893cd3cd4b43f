"""Mean average precision on resamples of the images: how much it depends on which images there were.

A resample draws as many images as there are, with replacement, and counts each as often as it was drawn. Matching is
done once, because it never looks across images; a resample only weighs its outcome. That is exact: equal to COCO's
evaluation of the images with copies of those drawn more than once. (A tie in confidence within one image is the one
exception, where the order of copies is arbitrary.)

Classes that have no object in a resample are not in its mean, so the mean over resamples is biased upwards: report the
plain estimate. Arms are compared on the same weights, by the percentiles of their difference.

Precedent: M. Everingham et al., "Assessing the significance of performance differences on the PASCAL VOC challenges
via bootstrapping", 2013.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from hatdet.evaluation.boxes import IOUS, RECALLS
from hatdet.evaluation.matching import Bools, ClassMatches, Floats, Integers, recalls_reached

__all__ = ["ResampledMap", "draw_weights", "resampled_map"]

Weights = NDArray[np.int32]
BLOCK = 2**16  # numbers in one array while resampling: few enough to stay in the processor's cache
LARGEST_BLOCK = 2**21  # numbers in one array of weights, which is read but once
DECIMALS = 12


@dataclass(frozen=True, eq=False)
class ResampledMap:
    """Of every resample, the mean over the classes that have an object in it, to twelve decimals; NaN if none has.

    Attributes:
        map50_95: `(B,)` over the ten thresholds of `IOUS` too.
        map50: `(B,)` at the threshold of 0.5.
    """

    map50_95: Floats
    map50: Floats


def draw_weights(images: int, resamples: int, seed: int, groups: Sequence[Hashable] | None = None) -> Weights:
    """How often every image is drawn in every resample; the same for the same arguments.

    Args:
        images: how many there are, I.
        resamples: how many are wanted, B.
        seed: any whole number from 0.
        groups: `(I,)` what belongs together, as the frames of a video do: whole groups are drawn, as many as there are.

    Returns:
        `(B, I)` int32. Without groups every row adds up to I.

    Raises:
        ValueError: no images, no resamples, or a number of groups' labels that is not I.
    """
    if images < 1 or resamples < 1:
        raise ValueError(f"there must be images and resamples, got {images} and {resamples}")
    if groups is not None and len(groups) != images:
        raise ValueError(f"every image needs a group, got {len(groups)} for {images} images")
    numbers: dict[Hashable, int] = {}
    group = [numbers.setdefault(label, len(numbers)) for label in (range(images) if groups is None else groups)]
    random = np.random.default_rng(seed)
    weights = np.empty((resamples, images), np.int32)
    for row in weights:
        row[:] = np.bincount(random.integers(0, len(numbers), len(numbers)), minlength=len(numbers))[group]
    return weights


def resampled_map(
    matches: Mapping[int, ClassMatches], weights: Weights, class_ids: Iterable[int] | None = None
) -> ResampledMap:
    """Mean average precision of every resample. Besides the weights, memory does not grow with their number.

    Args:
        matches: by class, all of the same images.
        weights: `(B, I)` from `draw_weights`.
        class_ids: of which classes; all by default.
    """
    by_image = np.ascontiguousarray(weights.T)  # a class takes the rows of its images
    total, present = np.zeros((2, len(weights))), np.zeros(len(weights))
    for class_id in matches if class_ids is None else class_ids:
        if not matches[class_id].objects.any():
            continue
        outcome = _outcome(matches[class_id])
        width = min(BLOCK // outcome.rows, LARGEST_BLOCK // len(outcome.images))
        width |= 1  # odd, as the columns of a power of two share their places in the cache
        for start in range(0, len(weights), width):
            block = slice(start, start + width)
            precisions, objects = _resampled(outcome, by_image[outcome.images, block].astype(np.float64))
            total[:, block] += np.where(objects > 0, [precisions.mean(axis=0), precisions[0]], 0)
            present[block] += objects > 0
    mean = np.divide(total, present, out=np.full_like(total, np.nan), where=present > 0)
    # Without what the order of a sum changes: arms between which a resample sees no difference must not seem to differ.
    mean = np.round(mean, DECIMALS)
    return ResampledMap(map50_95=mean[0], map50=mean[1])


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What a class's matches mean for its average precision: J images matter, and P detections that are true anywhere.

    Precision is needed at true detections only, and there it needs how many detections count so far: most of those
    between two true ones are of no further interest, and what comes after the last true one is of none.

    Attributes:
        images: `(J,)` which.
        counted: `(P + 1, J)` sparse: detections since the last true one, itself included, that count at every
            threshold; the last row is the objects.
        more: per threshold, `(P, J)` sparse: those that count there and not at every threshold. None if there are none.
        position: per threshold, which of the P are true.
        image: per threshold, which of the J each of them is in.
    """

    images: Integers
    counted: Any
    more: list[Any | None]
    position: list[Integers]
    image: list[Integers]

    @property
    def rows(self) -> int:
        return int(self.counted.shape[0])


def _outcome(matches: ClassMatches) -> _Outcome:
    ends = np.flatnonzero(matches.true.any(axis=0))
    length = ends[-1] + 1 if len(ends) else 0
    interval = np.searchsorted(ends, np.arange(length))
    counts = ~matches.ignored[:, :length]
    always = counts.all(axis=0)
    images, number = np.unique(
        np.concatenate([matches.image[:length], np.flatnonzero(matches.objects)]), return_inverse=True
    )
    image, with_objects = number[:length], number[length:]

    def summed(rows: Integers, columns: Integers, values: NDArray[Any], height: int) -> Any:
        return csr_array((values.astype(np.float64), (rows, columns)), shape=(height, len(images)))

    def since_last(which: Bools) -> Any:
        return summed(interval[which], image[which], np.ones(which.sum()), len(ends))

    counted = summed(
        np.concatenate([interval[always], np.full(len(with_objects), len(ends))]),
        np.concatenate([image[always], with_objects]),
        np.concatenate([np.ones(always.sum()), matches.objects[images[with_objects]]]),
        len(ends) + 1,
    )
    extra = [row & ~always for row in counts]
    positions = [np.flatnonzero(row[ends]) for row in matches.true]
    return _Outcome(
        images,
        counted,
        [since_last(which) if which.any() else None for which in extra],
        positions,
        [image[ends[position]] for position in positions],
    )


def _resampled(outcome: _Outcome, weights: Floats) -> tuple[Floats, Floats]:
    """Average precision `(10, b)` under `(J, b)` weights, and how many objects there are: `(b,)`."""
    sums = outcome.counted @ weights
    objects = sums[-1].copy()
    counted = np.cumsum(sums[:-1], axis=0)
    at_least_one = np.maximum(objects, 1)
    out = np.zeros((len(IOUS), weights.shape[1]))
    for threshold, (more, position) in enumerate(zip(outcome.more, outcome.position, strict=True)):
        if not len(position):
            continue
        true = np.cumsum(weights[outcome.image[threshold]], axis=0)
        so_far = counted[position]
        if more is not None:
            so_far += np.cumsum(more @ weights, axis=0)[position]
        # A true detection that was not drawn adds no recall, and its precision is at most that of the one before.
        precision = np.divide(true, np.maximum(so_far, 1, out=so_far), out=so_far)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        gained = np.diff(recalls_reached(true / at_least_one), axis=0, prepend=0)
        out[threshold] = np.einsum("pb,pb->b", gained, best) / len(RECALLS)
    return out, objects
