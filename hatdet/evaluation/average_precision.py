"""The numbers of COCO's evaluation of one arm, by faster-coco-eval, and the files from which others can check them.

Equal to pycocotools, but for what COCO writes as -1: there is no number where there is no object, and classes that have
none are in no mean. Detections of those classes leave no trace in COCO's numbers, so they are counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatdet.evaluation.boxes import IOUS, MAX_DETECTIONS, RECALLS, SIZES, Found, Truth, areas
from hatdet.evaluation.matching import match_classes

__all__ = ["ClassSummary", "Summary", "coco_files", "coco_summary"]

CURVES = {0.5: 0, 0.75: 5}  # which of IOUS a precision-recall curve is drawn for


@dataclass(frozen=True)
class ClassSummary:
    """One class that has objects: average precision over the ten thresholds and at 0.5, and how many objects."""

    ap: float
    ap50: float
    objects: int


@dataclass(frozen=True)
class Summary:
    """What COCO says of the detections in a set of images. All in [0, 1]; None where there is no object.

    Attributes:
        map50_95: mean average precision over the ten thresholds of `IOUS` and the classes that have objects.
        map50, map75: at one threshold.
        ar100: average recall of the 100 most confident detections per image and class.
        by_size: `map50_95` of the objects of a range of areas: `tiny`, `small`, `medium`, `large`.
        per_class: by id, those that have objects.
        precision_recall: by threshold, 0.5 and 0.75: the mean over classes of the best precision at each of `RECALLS`;
            empty where there is no object.
        false_positives_of_other_classes: detections of classes that have no object, of which COCO's means know nothing.
    """

    map50_95: float | None
    map50: float | None
    map75: float | None
    ar100: float | None
    by_size: dict[str, float | None]
    per_class: dict[int, ClassSummary]
    precision_recall: dict[float, list[float]]
    false_positives_of_other_classes: int


def coco_summary(truths: Sequence[Truth], founds: Sequence[Found], classes: Mapping[int, str]) -> Summary:
    """Evaluate the detections of every image, areas being those of boxes. Prints nothing.

    Args:
        truths: by image.
        founds: by image, in the frame of the truths.
        classes: names by id.

    Raises:
        ValueError: not as many truths as founds, or none; a class without a name.
    """
    images = len(truths)
    dataset, results = coco_files(truths, founds, classes, [""] * images, [(0, 0)] * images)
    precision, recall = _evaluated(dataset, results)  # (10, 101, classes, sizes), (10, classes, sizes)
    objects = dict.fromkeys(sorted(classes), 0)
    for annotation in dataset["annotations"]:
        objects[annotation["category_id"]] += not annotation["iscrowd"]
    of_all = precision[..., 0]
    others = [class_id for class_id, count in objects.items() if count == 0]
    return Summary(
        map50_95=_mean(of_all),
        map50=_mean(of_all[CURVES[0.5]]),
        map75=_mean(of_all[CURVES[0.75]]),
        ar100=_mean(recall[..., 0]),
        by_size={size: _mean(precision[..., at]) for at, size in enumerate(SIZES) if size != "all"},
        per_class={
            class_id: ClassSummary(float(of_all[..., at].mean()), float(of_all[0, :, at].mean()), count)
            for at, (class_id, count) in enumerate(objects.items())
            if count
        },
        precision_recall={iou: _curve(of_all[at]) for iou, at in CURVES.items()},
        false_positives_of_other_classes=sum(
            int(np.count_nonzero(~matches.ignored[0])) for matches in match_classes(truths, founds, others).values()
        ),
    )


def coco_files(
    truths: Sequence[Truth],
    founds: Sequence[Found],
    classes: Mapping[int, str],
    image_names: Sequence[str],
    sizes_wh: Sequence[tuple[int, int]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The ground truth and the detections as COCO's tools read them from JSON; every number is exact.

    Args:
        truths: by image.
        founds: by image, in the frame of the truths.
        classes: names by id; categories keep these ids.
        image_names: by image.
        sizes_wh: by image, in the frame of the truths.

    Returns:
        The data set and the list of results. Images and annotations are numbered from 1: an annotation of number 0 is
        one that COCO's tools take for unmatched. Images without objects are listed, too, or their detections would not
        count.

    Raises:
        ValueError: not as many of each, or no image; a class without a name.
    """
    counts = [len(values) for values in (truths, founds, image_names, sizes_wh)]
    if len(set(counts)) > 1 or not truths:
        came = "{} truths, {} founds, {} names and {} sizes".format(*counts)
        raise ValueError(f"every image needs its truth, its detections, its name and its size, got {came}")
    ids = np.concatenate([*(image.class_id for image in truths), *(image.class_id for image in founds)])
    if unnamed := set(np.unique(ids).tolist()) - classes.keys():
        raise ValueError(f"every class must have a name, got none for {sorted(unnamed)}")
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(zip(image_names, sizes_wh, strict=True), 1)
    ]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (truth, found) in enumerate(zip(truths, founds, strict=True), 1):
        labelled = zip(truth.class_id.tolist(), _xywh(truth.xyxy), areas(truth.xyxy).tolist(), truth.crowd, strict=True)
        for class_id, xywh, area, crowd in labelled:
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": class_id}
            annotations.append({**place, "bbox": xywh, "area": area, "iscrowd": int(crowd)})
        detected = zip(found.class_id.tolist(), _xywh(found.xyxy), found.confidence.tolist(), strict=True)
        for class_id, xywh, score in detected:
            results.append({"image_id": number, "category_id": class_id, "bbox": xywh, "score": score})
    categories = [{"id": class_id, "name": name} for class_id, name in classes.items()]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def _evaluated(
    dataset: dict[str, Any], results: list[dict[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision `(10, 101, classes, sizes)` and recall `(10, classes, sizes)`; -1 where a class has no object."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(dataset)
    evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox")
    parameters = evaluation.params
    parameters.iouThrs, parameters.recThrs, parameters.maxDets = IOUS, RECALLS, [MAX_DETECTIONS]
    parameters.areaRng, parameters.areaRngLbl = [list(bounds) for bounds in SIZES.values()], list(SIZES)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]


def _mean(values: NDArray[np.float64]) -> float | None:
    """Over the classes that have objects."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else None


def _curve(precision: NDArray[np.float64]) -> list[float]:
    """The mean over the classes that have objects: of `(101, classes)` the 101, or none."""
    known = precision[:, precision[0] > -1]
    return [float(value) for value in known.mean(axis=1)] if known.size else []


def _xywh(xyxy: NDArray[np.float64]) -> list[list[float]]:
    """Corner and sides."""
    boxes: list[list[float]] = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).tolist()
    return boxes
