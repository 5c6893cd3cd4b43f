"""COCO's numbers against pycocotools', and the files for it."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools.coco import COCO

from hatdet.evaluation.average_precision import ClassSummary, coco_files, coco_summary
from hatdet.evaluation.boxes import SIZES, areas
from hatdet.evaluation.matching import average_precision, match_classes
from tests.evaluation.test_matching import CLASSES, coarse_data, evaluated, found, random_data, reference, truth

BOX = (0, 0, 40, 40)
PLAIN = {0: "car", 1: "person"}


def mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return pytest.approx(known.mean(), abs=1e-12) if len(known) else None


def assert_equal_to_pycocotools(truths, founds, classes) -> None:
    summary = coco_summary(truths, founds, classes)
    results = reference(truths, founds, classes).eval
    precision, recall = results["precision"][..., -1], results["recall"][..., -1]
    assert summary.map50_95 == mean(precision[..., 0])
    assert summary.map50 == mean(precision[0, ..., 0])
    assert summary.map75 == mean(precision[5, ..., 0])
    assert summary.ar100 == mean(recall[..., 0])
    assert summary.by_size == {size: mean(precision[..., a]) for a, size in enumerate(SIZES) if size != "all"}
    present = [k for k in range(len(classes)) if precision[0, 0, k, 0] > -1]
    assert list(summary.per_class) == [sorted(classes)[k] for k in present]
    for k in present:
        class_id = sorted(classes)[k]
        of_class = summary.per_class[class_id]
        assert (of_class.ap, of_class.ap50) == (mean(precision[:, :, k, 0]), mean(precision[0, :, k, 0]))
        assert of_class.objects == sum(int(((t.class_id == class_id) & ~t.crowd).sum()) for t in truths)
    for iou, t in ((0.5, 0), (0.75, 5)):
        curve = precision[t][:, present, 0].mean(axis=1) if present else []
        assert summary.precision_recall[iou] == pytest.approx(list(curve), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pycocotools(seed, capfd):
    truths, founds = random_data(seed)
    assert_equal_to_pycocotools(truths, founds, CLASSES)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60)
@given(coarse_data())
def test_equal_to_pycocotools_on_thresholds_and_bounds(data):
    assert_equal_to_pycocotools(*data, PLAIN)


def test_equal_to_our_own_matching():
    truths, founds = random_data(11, images=30)
    summary = coco_summary(truths, founds, CLASSES)
    for size in SIZES:
        own = [average_precision(matches) for matches in match_classes(truths, founds, list(CLASSES), size).values()]
        expected = summary.map50_95 if size == "all" else summary.by_size[size]
        assert np.nanmean(own) == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    # The car is found, below a wrong one; the person is not.
    data = [truth((*BOX, 0), (*BOX, 1)), truth()], [found((*BOX, 0, 0.8)), found((*BOX, 0, 0.9))]
    summary = coco_summary(*data, PLAIN)
    assert (summary.map50_95, summary.map50, summary.map75, summary.ar100) == (0.25, 0.25, 0.25, 0.5)
    assert summary.by_size == {"tiny": None, "small": None, "medium": 0.25, "large": None}
    assert summary.per_class == {0: ClassSummary(0.5, 0.5, 1), 1: ClassSummary(0.0, 0.0, 1)}
    assert summary.precision_recall == {0.5: [0.25] * 101, 0.75: [0.25] * 101}
    assert summary.false_positives_of_other_classes == 0


@pytest.mark.parametrize("boxes", [(), ((*BOX, 0, 0.8),)])
@pytest.mark.parametrize("labels", [truth(), truth((*BOX, 1), crowd=(0,))])
def test_without_objects_there_are_no_numbers(boxes, labels):
    summary = coco_summary([labels, truth()], [found(*boxes), found()], PLAIN)
    assert (summary.map50_95, summary.map50, summary.map75, summary.ar100) == (None,) * 4
    assert summary.by_size == dict.fromkeys(("tiny", "small", "medium", "large"))
    assert summary.per_class == {}
    assert summary.precision_recall == {0.5: [], 0.75: []}
    assert summary.false_positives_of_other_classes == len(boxes)


def test_without_classes_there_are_no_numbers():
    summary = coco_summary([truth()], [found()], {})
    assert (summary.map50_95, summary.per_class, summary.false_positives_of_other_classes) == (None, {}, 0)


def test_without_detections_everything_is_missed():
    summary = coco_summary([truth((*BOX, 1))], [found()], PLAIN)
    assert (summary.map50_95, summary.ar100, summary.per_class) == (0.0, 0.0, {1: ClassSummary(0.0, 0.0, 1)})


def test_detections_of_classes_without_objects_are_counted_apart():
    labels = truth((*BOX, 0), (*BOX, 1), crowd=(1,))
    boxes = found((*BOX, 0, 0.9), (*BOX, 1, 0.8), (200, 200, 240, 240, 1, 0.8), (*BOX, 2, 0.7), (*BOX, 2, 0.6))
    summary = coco_summary([labels], [boxes], {**PLAIN, 2: "kite"})
    assert summary.map50_95 == 1
    assert summary.false_positives_of_other_classes == 3  # what lies in a crowd is not wrong


def test_no_bit_of_a_confidence_or_a_box_is_lost():
    # In single precision both detections would be as sure, and the right one, in the first image, would come first.
    data = [truth((*BOX, 0)), truth()], [found((*BOX, 0, 0.5)), found((*BOX, 0, np.nextafter(0.5, 1)))]
    assert coco_summary(*data, PLAIN).map50_95 == 0.5
    # And here the object would not be small any more, or the detection miss a threshold.
    edge = np.nextafter(32.0, 0)
    summary = coco_summary([truth((0, 0, 32, edge, 0))], [found((0, 0, 32, edge, 0, 0.5))], PLAIN)
    assert (summary.by_size["small"], summary.by_size["medium"]) == (1.0, None)


def test_the_files_are_exact_as_json_and_pycocotools_reads_them():
    truths, founds = random_data(5)
    names, sizes = [f"{number}.png" for number in range(len(truths))], [(640, 480)] * len(truths)
    files = coco_files(truths, founds, CLASSES, names, sizes)
    dataset, results = json.loads(json.dumps(files))
    assert (dataset, results) == files
    assert [image["id"] for image in dataset["images"]] == list(range(1, len(truths) + 1))
    assert dataset["images"][3] == {"id": 4, "file_name": "3.png", "width": 640, "height": 480}
    annotations = dataset["annotations"]
    assert [row["id"] for row in annotations] == list(range(1, len(annotations) + 1))
    assert [row["area"] for row in annotations] == np.concatenate([areas(each.xyxy) for each in truths]).tolist()
    assert [row["score"] for row in results] == np.concatenate([each.confidence for each in founds]).tolist()
    assert results[0].keys() == {"image_id", "category_id", "bbox", "score"}
    with contextlib.redirect_stdout(io.StringIO()):
        pycoco = COCO()
        pycoco.dataset = dataset
        pycoco.createIndex()
        detected = pycoco.loadRes(results).dataset["annotations"]
    evaluation = evaluated(annotations, detected, dataset["images"], dataset["categories"])
    assert coco_summary(truths, founds, CLASSES).map50_95 == mean(evaluation.eval["precision"][..., 0, -1])


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(ValueError, match="got 1 truths, 2 founds, 1 names and 1 sizes"):
        coco_summary([truth()], [found(), found()], PLAIN)
    with pytest.raises(ValueError, match="got 0 truths"):
        coco_summary([], [], PLAIN)
    with pytest.raises(ValueError, match=r"every class must have a name, got none for \[2, 3\]"):
        coco_summary([truth((*BOX, 3))], [found((*BOX, 0, 0.5), (*BOX, 2, 0.5))], PLAIN)
