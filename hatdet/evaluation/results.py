"""From boxes and comparisons to the report: a row for each detector and arm, and the verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatdet.core.pareto import pareto_front
from hatdet.evaluation.arms import Arm
from hatdet.evaluation.average_precision import Summary, coco_summary
from hatdet.evaluation.bootstrap import draw_weights, resampled_map
from hatdet.evaluation.boxes import SIZE_NAMES, SIZES, Truth, areas
from hatdet.evaluation.changes import ImageChanges, compare_boxes, total
from hatdet.evaluation.error_types import ErrorBreakdown, error_breakdown
from hatdet.evaluation.fidelity import Fidelity, mean_fidelity
from hatdet.evaluation.joint import DetectorUnderTest, JointEvaluation
from hatdet.evaluation.matching import average_precision, match_classes
from hatdet.evaluation.verdict import (
    Contrast,
    Resampled,
    after_holm,
    compare_arms,
    planned_pairs,
)

__all__ = ["CHANGE_CONFIDENCE", "CHANGE_IOU", "Results", "csv_rows", "describe_data", "measure"]

COMMON_IMAGES = 10  # a class in fewer images moves the mean by chance
CHANGE_CONFIDENCE, CHANGE_IOU = 0.25, 0.5  # what `hatdet detect` shows by default, and the loosest of COCO's overlaps


@dataclass(frozen=True, eq=False)
class ArmNumbers:
    """All that is measured of one arm behind one detector. `metrics` are those that verdicts are about, by name."""

    detector: str
    arm: Arm
    summary: Summary
    errors: ErrorBreakdown
    metrics: Mapping[str, Resampled]
    detect_ms: float
    upscale_ms: float | None
    share: float | None


@dataclass(frozen=True, eq=False)
class Results:
    """The numbers of a whole evaluation.

    Attributes:
        rows: of the report: plain values, missing ones None.
        verdicts: the primary one first, then the planned, then the exploratory.
        primary_changes: for each image what the first upscaler changed against its control, behind the first detector;
            empty without an upscaler or without a control.
    """

    rows: list[dict[str, Any]]
    verdicts: list[Contrast]
    primary_changes: list[ImageChanges]


def measure(
    evaluation: JointEvaluation,
    classes: Mapping[int, str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    margin: float = 0.01,
    arm_done: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Compute all numbers of an evaluation that has seen its images.

    Args:
        evaluation: with at least one image.
        classes: those that are evaluated, by the data's id.
        resamples, seed: of the bootstrap.
        groups: for each image the sequence that it belongs to; None: images are resampled one by one.
        margin: a gain in mAP50-95 below it is not worth an upscaler.
        arm_done: called with the arms done and the arms in all.
    """
    truths = [image.truth for image in evaluation.images]
    weights = draw_weights(len(truths), resamples, seed, groups)
    common = _common_classes(truths, classes)
    numbers: dict[str, dict[str, ArmNumbers]] = {detector.name: {} for detector in evaluation.detectors}
    total_arms = len(evaluation.detectors) * len(evaluation.arms)
    for detector in evaluation.detectors:
        for arm in evaluation.arms:
            numbers[detector.name][arm.name] = _arm_numbers(evaluation, detector, arm, truths, classes, common, weights)
            arm_done(sum(len(done) for done in numbers.values()), total_arms)
    units = len(truths) if groups is None else len(set(groups))
    verdicts = _verdicts(numbers, len(truths), units, margin, common, classes)
    changes = _all_changes(evaluation, numbers, truths)
    rows = [_row(evaluation, numbers, of, changes, classes) for by_arm in numbers.values() for of in by_arm.values()]
    upscalers = [arm.name for arm in evaluation.arms if arm.is_candidate]
    first = changes.get((evaluation.detectors[0].name, upscalers[0])) if upscalers else None
    return Results(rows, verdicts, first[1] if first is not None else [])


def describe_data(
    truths: Sequence[Truth], classes: Mapping[int, str], problems: Sequence[str], counts: Mapping[str, int]
) -> dict[str, Any]:
    """What the data hold, for the report: `data` of the schema."""
    boxes = np.concatenate([areas(truth.xyxy[~truth.crowd]) for truth in truths]) if truths else np.empty(0)
    images_of = _images_by_class(truths, classes)
    return {
        "images": len(truths),
        "boxes": len(boxes),
        "boxes_by_size": {name: int(np.sum((boxes >= low) & (boxes <= high))) for name, (low, high) in SIZES.items()}
        | {"all": len(boxes)},
        "images_without_objects": sum(not (~truth.crowd).any() for truth in truths),
        "classes": len(classes),
        "classes_with_boxes": len(images_of),
        "median_images_per_class": float(np.median(list(images_of.values()))) if images_of else None,
        "problems": list(problems),
        "counts": dict(counts),
    }


def csv_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what is itself a table, for a spreadsheet; TIDE's errors as columns."""
    flat = []
    for row in rows:
        tables = ("errors", "changes", "per_class", "precision_recall")
        values = {key: value for key, value in row.items() if key not in tables}
        for name, error in row["errors"].items():
            values |= {f"error_{name}_count": error["count"], f"error_{name}_dap": error["dap"]}
        for name in ("gained", "lost", "added", "removed"):
            values[name] = row["changes"][name] if row["changes"] else None
        flat.append(values)
    return flat


def _arm_numbers(
    evaluation: JointEvaluation,
    detector: DetectorUnderTest,
    arm: Arm,
    truths: Sequence[Truth],
    classes: Mapping[int, str],
    common: Sequence[int],
    weights: NDArray[Any],
) -> ArmNumbers:
    founds = evaluation.founds(detector, arm)
    summary = coco_summary(truths, founds, classes)
    matches = match_classes(truths, founds, list(classes))
    drawn = resampled_map(matches, weights)
    metrics = {
        "map50_95": Resampled(_number(summary.map50_95), drawn.map50_95),
        "map50": Resampled(_number(summary.map50), drawn.map50),
    }
    if common and len(common) < len(summary.per_class):
        estimate = float(np.mean([average_precision(matches[class_id]) for class_id in common]))
        metrics["map50_95_common"] = Resampled(estimate, resampled_map(matches, weights, common).map50_95)
    for size in SIZE_NAMES:
        if summary.by_size[size] is not None:
            drawn = resampled_map(match_classes(truths, founds, list(classes), size), weights)
            metrics[f"ap_{size}"] = Resampled(_number(summary.by_size[size]), drawn.map50_95)
    upscale_ms = [image.upscale_ms[arm.name] for image in evaluation.images if arm.name in image.upscale_ms]
    return ArmNumbers(
        detector.name,
        arm,
        summary,
        error_breakdown(truths, founds, list(classes)),
        metrics,
        float(np.mean(evaluation.detect_ms(detector, arm))),
        float(np.mean(upscale_ms)) if upscale_ms else None,
        float(np.mean([image.upscaled_share[arm.name] for image in evaluation.images])) if upscale_ms else None,
    )


def _verdicts(
    numbers: Mapping[str, Mapping[str, ArmNumbers]],
    images: int,
    units: int,
    margin: float,
    common: Sequence[int],
    classes: Mapping[int, str],
) -> list[Contrast]:
    primary: list[Contrast] = []
    planned: list[Contrast] = []
    exploratory: list[Contrast] = []

    def contrast(kind: Any, detector: str, pair: tuple[str, str], metric: str) -> Contrast:
        of = {name: arm.metrics[metric] for name, arm in numbers[detector].items() if metric in arm.metrics}
        return compare_arms(kind, detector, pair, metric, of, images, units, margin)

    for detector, arms in numbers.items():
        candidates, controls = _candidates_and_controls(arms)
        pairs = planned_pairs(candidates, controls)
        for pair in pairs:
            is_primary = pair == pairs[0] and detector == next(iter(numbers))
            (primary if is_primary else planned).append(
                contrast("primary" if is_primary else "planned", detector, pair, "map50_95")
            )
        for arm in arms:
            for control in controls:
                if arm != control and (arm, control) not in pairs and arm != "lr":
                    exploratory.append(contrast("exploratory", detector, (arm, control), "map50_95"))
        for candidate in candidates if pairs else ():
            for metric in arms[candidate].metrics:
                if metric != "map50_95":
                    exploratory.append(contrast("exploratory", detector, (candidate, pairs[0][1]), metric))
    planned = after_holm(planned, images, units, margin)
    told = [_told(one, exploratory, numbers[one.detector]) for one in primary + planned]
    return told + [_named(one, common, classes) for one in exploratory]


def _told(one: Contrast, exploratory: Sequence[Contrast], arms: Mapping[str, ArmNumbers]) -> Contrast:
    """With the size of objects that gains most, where that is resolved, and the cost."""
    words = one.words
    if one.outcome == "better":
        gains = {
            other.metric.removeprefix("ap_"): other.difference.value
            for other in exploratory
            if other.metric.startswith("ap_")
            and (other.detector, other.arm, other.control) == (one.detector, one.arm, one.control)
            and other.difference is not None
            and other.difference.low > 0
        }
        if gains:
            words += f"; {max(gains, key=lambda size: gains[size])} objects gain most"
    cost = _milliseconds(arms[one.arm]) / max(_milliseconds(arms[one.control]), 1e-9)
    return replace(one, words=f"{words}; cost {cost:.1f}x per image")


def _named(one: Contrast, common: Sequence[int], classes: Mapping[int, str]) -> Contrast:
    if one.metric != "map50_95_common":
        return one
    names = ", ".join(classes[class_id] for class_id in common[:6]) + (", ..." if len(common) > 6 else "")
    many = f"{len(common)} classes" if len(common) != 1 else "class"
    return replace(one, words=f"{one.words} (the {many} in at least {COMMON_IMAGES} images: {names})")


def _candidates_and_controls(arms: Mapping[str, ArmNumbers]) -> tuple[list[str], dict[str, float]]:
    """The networks, in their order, and what they have to beat, with its mAP50-95."""
    candidates = [name for name, arm in arms.items() if arm.arm.is_candidate]
    controls = {name: arm.metrics["map50_95"].estimate for name, arm in arms.items() if arm.arm.is_control}
    return candidates, controls


def _all_changes(
    evaluation: JointEvaluation, numbers: Mapping[str, Mapping[str, ArmNumbers]], truths: Sequence[Truth]
) -> dict[tuple[str, str], tuple[str, list[ImageChanges]]]:
    """By detector and upscaled arm: the control, and what changed against it in every image."""
    found = {}
    for detector in evaluation.detectors:
        arms = numbers[detector.name]
        candidates, controls = _candidates_and_controls(arms)
        if not candidates or not controls:
            continue
        pairs = planned_pairs(candidates, controls)
        control = pairs[0][1] if pairs else max(controls, key=lambda name: controls[name])
        before = evaluation.founds(detector, arms[control].arm)
        for arm in candidates:
            after = evaluation.founds(detector, arms[arm].arm)
            changes = [
                compare_boxes(truth, one, other, CHANGE_CONFIDENCE, CHANGE_IOU)
                for truth, one, other in zip(truths, before, after, strict=True)
            ]
            found[detector.name, arm] = (control, changes)
    return found


def _row(
    evaluation: JointEvaluation,
    numbers: Mapping[str, Mapping[str, ArmNumbers]],
    of: ArmNumbers,
    changes: Mapping[tuple[str, str], tuple[str, list[ImageChanges]]],
    classes: Mapping[int, str],
) -> dict[str, Any]:
    summary, arm = of.summary, of.arm.name
    changed = changes.get((of.detector, arm))
    return {
        "detector": of.detector,
        "arm": arm,
        "images": len(evaluation.images),
        **_fidelity_columns(evaluation, arm),
        "map50_95": summary.map50_95,
        "map50": summary.map50,
        "map75": summary.map75,
        "ar100": summary.ar100,
        **{f"ap_{size}": summary.by_size[size] for size in SIZE_NAMES},
        "ms_per_image": _milliseconds(of),
        "upscale_ms": of.upscale_ms,
        "detect_ms": of.detect_ms,
        "upscaled_share": of.share,
        "pareto": _is_pareto(of, numbers[of.detector].values()),
        "gap_closed": _gap_closed(summary.map50_95, next(iter(numbers.values()))),
        "false_positives_of_other_classes": summary.false_positives_of_other_classes,
        "errors": {
            name: {"count": error.count, "dap": _or_none(error.dap)} for name, error in of.errors.errors.items()
        },
        "changes": None
        if changed is None
        else {
            "control": changed[0],
            "confidence": CHANGE_CONFIDENCE,
            "iou": CHANGE_IOU,
            **total(changed[1]),
        },
        "per_class": {
            classes[class_id]: {"ap": one.ap, "ap50": one.ap50, "boxes": one.objects}
            for class_id, one in summary.per_class.items()
        },
        "precision_recall": {str(iou): curve for iou, curve in summary.precision_recall.items()},
    }


def _is_pareto(of: ArmNumbers, arms: Iterable[ArmNumbers]) -> bool | None:
    """Whether no other arm is as good and costs less, or as dear and better; None of the reference."""
    if of.arm.kind == "reference":
        return None
    rivals = [one for one in arms if one.arm.kind != "reference"]
    front = pareto_front([(_milliseconds(one), -(one.summary.map50_95 or 0.0)) for one in rivals])
    return any(rivals[index] is of for index in front)


def _fidelity_columns(evaluation: JointEvaluation, arm: str) -> dict[str, float | int | None]:
    values = [image.fidelity[arm] for image in evaluation.images if arm in image.fidelity]
    columns: dict[str, float | int | None] = {"psnr_images": len(values)}
    for end in ("y", "rgb"):
        mean = mean_fidelity(Fidelity(value[f"psnr_{end}"], value[f"ssim_{end}"]) for value in values)
        columns |= {f"psnr_{end}": _or_none(mean.psnr), f"ssim_{end}": _or_none(mean.ssim)}
    distances = [value["lpips"] for value in values if "lpips" in value]
    return columns | {"lpips": float(np.mean(distances)) if distances else None}


def _gap_closed(value: float | None, arms: Mapping[str, ArmNumbers]) -> float | None:
    """Which share of the way from the first detector's `lr` (or `lr@...`) to its `hr`."""
    low = next((name for name in arms if name == "lr"), next((name for name in arms if name.startswith("lr@")), None))
    if value is None or low is None or "hr" not in arms:
        return None
    start, end = arms[low].summary.map50_95, arms["hr"].summary.map50_95
    return None if start is None or end is None or end <= start else (value - start) / (end - start)


def _milliseconds(of: ArmNumbers) -> float:
    return of.detect_ms + (of.upscale_ms or 0.0)


def _common_classes(truths: Sequence[Truth], classes: Mapping[int, str]) -> list[int]:
    return [class_id for class_id, images in _images_by_class(truths, classes).items() if images >= COMMON_IMAGES]


def _images_by_class(truths: Sequence[Truth], classes: Mapping[int, str]) -> dict[int, int]:
    """In how many images each class has an object; classes without any are not there."""
    counts: dict[int, int] = {}
    for truth in truths:
        for class_id in np.unique(truth.class_id[~truth.crowd]).tolist():
            if class_id in classes:
                counts[class_id] = counts.get(class_id, 0) + 1
    return dict(sorted(counts.items()))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
