"""Our matching against pycocotools', detection by detection, and average precision from it."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hatdet.evaluation.boxes import IOUS, RECALLS, SIZES, Found, Truth
from hatdet.evaluation.matching import average_precision, match_classes, recalls_reached

CLASSES = {0: "car", 1: "person", 2: "kite", 7: "only crowds", 9: "never labelled"}


def truth(*rows: tuple[float, ...], crowd: tuple[int, ...] = ()) -> Truth:
    """Rows of x1, y1, x2, y2, class; `crowd` are the indices of crowds."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    return Truth(table[:, :4], table[:, 4].astype(np.int64), np.isin(np.arange(len(table)), crowd))


def found(*rows: tuple[float, ...]) -> Found:
    """Rows of x1, y1, x2, y2, class, confidence."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    table = table[np.argsort(-table[:, 5], kind="stable")]
    return Found(table[:, :4], table[:, 5], table[:, 4].astype(np.int64))


def random_data(seed: int, images: int = 12, ties: bool = True) -> tuple[list[Truth], list[Found]]:
    """Objects of all sizes, detections near them and elsewhere, of other classes too; images without either, crowds."""
    random = np.random.default_rng(seed)
    truths, founds = [], []
    for image in range(images):
        n = 0 if image % 5 == 3 else random.integers(1, 9)
        corner, sides = random.uniform(0, 300, (n, 2)), np.exp(random.normal(3.5, 1.1, (n, 2))).clip(2, 300)
        class_id = random.choice([0, 0, 0, 1, 1, 2, 7], n)
        boxes = np.concatenate([corner, corner + sides], axis=1)
        truths.append(Truth(boxes, class_id, (class_id == 7) | (random.random(n) < 0.1)))
        source = np.repeat(np.arange(n), random.integers(0, 5, n))
        near = boxes[source] + random.normal(0, 0.12, (len(source), 4)) * np.tile(sides[source], 2)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        m = 0 if image % 7 == 5 else int(random.integers(0, 12)) + 250 * (image == 1)
        corner = random.uniform(0, 300, (m, 2))
        far = np.concatenate([corner, corner + random.uniform(1, 120, (m, 2))], axis=1)
        confidence = random.random(len(near) + m)
        confidence = np.round(confidence, 1) if ties else confidence
        class_id = np.concatenate([class_id[source], random.choice([0, 1, 2, 7, 9], m)])
        order = np.argsort(-confidence, kind="stable")
        founds.append(Found(np.concatenate([near, far])[order], confidence[order], class_id[order]))
    return truths, founds


@st.composite
def coarse_data(draw: st.DrawFn) -> tuple[list[Truth], list[Found]]:
    """Few boxes on a coarse grid: overlaps on a threshold, equal overlaps, areas on a bound, equal confidences."""
    unit = draw(st.sampled_from([1, 4, 8, 24, 0.1]))
    sides = st.integers(1, 6)
    box = st.tuples(st.integers(0, 4), st.integers(0, 4), sides, sides)
    class_id = st.sampled_from([0, 0, 1])
    truths, founds = [], []
    for _ in range(draw(st.integers(1, 3))):
        labels = draw(st.lists(st.tuples(box, class_id), max_size=6))
        crowds = draw(st.lists(st.integers(0, 5), max_size=2))
        boxes = draw(st.lists(st.tuples(box, class_id, st.sampled_from([0.2, 0.5, 0.5001, 0.9])), max_size=9))
        rows = [(*placed(xywh, unit), each) for xywh, each in labels]
        truths.append(truth(*rows, crowd=tuple(crowds)))
        founds.append(found(*((*placed(xywh, unit), each, score) for xywh, each, score in boxes)))
    return truths, founds


def placed(xywh: tuple[int, ...], unit: float) -> tuple[float, ...]:
    x, y, w, h = (unit * value for value in xywh)
    return x, y, x + w, y + h


def reference(truths: list[Truth], founds: list[Found], classes=CLASSES) -> COCOeval:
    """What pycocotools makes of it, in our ranges of areas; classes in the order of their ids."""
    images = [{"id": number} for number in range(1, len(truths) + 1)]
    annotations, results = [], []
    for number, (labels, boxes) in enumerate(zip(truths, founds, strict=True), 1):
        for (x1, y1, x2, y2), each, crowd in zip(labels.xyxy, labels.class_id, labels.crowd, strict=True):
            where = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": int(each), **where})
        for (x1, y1, x2, y2), each, score in zip(boxes.xyxy, boxes.class_id, boxes.confidence, strict=True):
            where = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            ids = {"id": len(results) + 1, "image_id": number, "category_id": int(each)}
            results.append({**ids, **where, "score": float(score)})
    return evaluated(annotations, results, images, [{"id": each, "name": name} for each, name in classes.items()])


def evaluated(annotations: list, results: list, images: list, categories: list) -> COCOeval:
    """Run pycocotools, quietly."""
    with contextlib.redirect_stdout(io.StringIO()):
        both = COCO(), COCO()
        for coco, rows in zip(both, (annotations, results), strict=True):
            coco.dataset = {"images": images, "categories": categories, "annotations": rows}
            coco.createIndex()
        evaluation = COCOeval(*both, "bbox")
        evaluation.params.areaRng = [list(bounds) for bounds in SIZES.values()]
        evaluation.params.areaRngLbl = list(SIZES)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def assert_equal_to_pycocotools(truths: list[Truth], founds: list[Found], classes=CLASSES) -> None:
    evaluation = reference(truths, founds, classes)
    images = len(truths)
    for a, size in enumerate(SIZES):
        ours = match_classes(truths, founds, list(classes), size)
        assert list(ours) == list(classes)
        for k, class_id in enumerate(sorted(classes)):
            start = (k * len(SIZES) + a) * images
            per_image = evaluation.evalImgs[start : start + images]
            matches = ours[class_id]
            counts = [0 if each is None else int((each["gtIgnore"] == 0).sum()) for each in per_image]
            assert matches.objects.tolist() == counts
            there = [(number, each) for number, each in enumerate(per_image) if each is not None]
            if there:
                order = np.argsort(-np.concatenate([each["dtScores"] for _, each in there]), kind="stable")
                image = np.concatenate([np.full(len(each["dtScores"]), number) for number, each in there])
                matched = np.concatenate([each["dtMatches"] > 0 for _, each in there], axis=1)
                ignored = np.concatenate([each["dtIgnore"] for _, each in there], axis=1)
                assert np.array_equal(matches.image, image[order])
                assert np.array_equal(matches.true, (matched & ~ignored)[:, order])
                assert np.array_equal(matches.ignored, ignored[:, order])
            else:
                assert len(matches.image) == 0
            expected = evaluation.eval["precision"][:, :, k, a, -1].mean(axis=1)
            precision = average_precision(matches)
            assert precision.shape == (10,)
            assert np.nan_to_num(precision, nan=-1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [True, False])
def test_equal_to_pycocotools(seed, ties):
    assert_equal_to_pycocotools(*random_data(seed, ties=ties))


@settings(max_examples=150)
@given(coarse_data())
def test_equal_to_pycocotools_on_thresholds_and_bounds(data):
    assert_equal_to_pycocotools(*data, {0: "car", 1: "person"})


BOX = (0, 0, 40, 40, 0)


def test_of_equal_overlaps_the_later_object_is_taken():
    # The first detection overlaps both by a half; the second overlaps only the later one.
    objects = truth((0, 0, 10, 10, 0), (10, 0, 20, 10, 0))
    boxes = found((0, 0, 20, 10, 0, 0.9), (11, 0, 20, 10, 0, 0.8))
    matches = match_classes([objects], [boxes], [0])[0]
    assert matches.true[0].tolist() == [True, False]
    assert matches.true[1].tolist() == [False, True]


def test_an_object_is_taken_once_and_a_crowd_any_number_of_times():
    boxes = found(*((*BOX, 0.9 - number / 10) for number in range(4)))
    once = match_classes([truth(BOX)], [boxes], [0])[0]
    assert once.true[0].tolist() == [True, False, False, False]
    assert not once.ignored.any()
    crowd = match_classes([truth(BOX, BOX, crowd=(0,))], [boxes], [0])[0]
    assert crowd.true[9].tolist() == [True, False, False, False]
    assert crowd.ignored[9].tolist() == [False, True, True, True]
    assert crowd.objects.tolist() == [1]


def test_a_detection_within_a_crowd_is_ignored_however_small():
    matches = match_classes([truth((0, 0, 100, 100, 0), crowd=(0,))], [found((0, 0, 5, 5, 0, 0.5))], [0])[0]
    assert matches.ignored.all()


def test_an_object_outside_the_range_is_taken_only_if_no_other_can_be():
    # Better overlap with the large object, but the small one is there.
    objects = truth((0, 0, 32, 36, 0), (0, 0, 32, 32, 0))
    boxes = found((0, 0, 32, 36, 0, 0.9), (0, 0, 32, 36, 0, 0.8))
    matches = match_classes([objects], [boxes], [0], "small")[0]
    overlap = 32 / 36
    assert matches.true[:, 0].tolist() == (overlap >= IOUS).tolist()
    assert matches.ignored[:, 0].tolist() == (overlap < IOUS).tolist()
    assert matches.ignored[:, 1].tolist() == [True] * 10  # an outside object, or its own area is outside
    assert matches.objects.tolist() == [1]


@pytest.mark.parametrize(
    ("side", "sizes"),
    [
        (10, {"tiny", "small"}),
        (16, {"tiny", "small"}),
        (16.001, {"small"}),
        (32, {"small", "medium"}),
        (96, {"medium", "large"}),
        (97, {"large"}),
    ],
)
def test_bounds_of_areas_belong_to_both_sides(side, sizes):
    data = [truth((0, 0, side, side, 0))], [found((500, 500, 500 + side, 500 + side, 0, 0.5))]
    for size in SIZES:
        matches = match_classes(*data, [0], size)[0]
        inside = size in sizes | {"all"}
        assert matches.objects.tolist() == [int(inside)]
        assert (~matches.ignored).all() == inside


def test_a_hundred_detections_count_of_an_image_and_class():
    wrong = [(100, 100, 140, 140, 0, 0.9 - number / 1000) for number in range(100)]
    right, other = (*BOX, 0.5), (0, 0, 40, 40, 1, 0.4)
    matches = match_classes(
        [truth(BOX, (0, 0, 40, 40, 1))] * 2, [found(*wrong[:99], right), found(*wrong, right, other)], [0, 1]
    )
    assert len(matches[0].image) == 200
    assert np.flatnonzero(matches[0].true[0]).tolist() == [199]
    assert matches[0].image[199] == 0
    assert matches[1].true[0].tolist() == [True]


def test_equal_confidences_keep_the_order_of_images():
    matches = match_classes(
        [truth()] * 3, [found((*BOX, 0.5), (*BOX, 0.5)), found(), found((*BOX, 0.5), (*BOX, 0.6))], [0]
    )[0]
    assert matches.image.tolist() == [2, 0, 0, 2]
    assert matches.objects.tolist() == [0, 0, 0]


def test_a_class_that_is_nowhere():
    matches = match_classes([truth(BOX)], [found((*BOX, 0.5))], [5])[5]
    assert matches.true.shape == matches.ignored.shape == (10, 0)
    assert matches.objects.tolist() == [0]
    assert np.isnan(average_precision(matches)).all()


def test_average_precision_by_hand():
    # Right, wrong, right; one object of three is never found: recall 1/3 at precision 1, 2/3 at precision 2/3.
    far = (200, 200, 240, 240, 0)
    data = [truth(BOX, far, (300, 300, 340, 340, 0))], [found((*BOX, 0.9), (100, 100, 140, 140, 0, 0.8), (*far, 0.7))]
    assert average_precision(match_classes(*data, [0])[0]) == pytest.approx([(34 + 33 * 2 / 3) / 101] * 10)
    assert average_precision(match_classes(data[0], [found()], [0])[0]).tolist() == [0] * 10


def test_seven_of_ten_do_not_reach_the_seventieth_recall_of_cocos_grid():
    assert RECALLS[70] > 0.7
    assert recalls_reached(np.array([0.7, 0.0, 1.0, 1e-9])).tolist() == [70, 0, 101, 1]


def test_recalls_reached_is_a_search_in_the_grid():
    for objects in range(1, 301):
        recall = np.arange(1, objects + 1) / objects
        assert np.array_equal(recalls_reached(recall), np.searchsorted(RECALLS, recall, side="right"))


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(ValueError, match="got 1 and 2"):
        match_classes([truth()], [found(), found()], [0])
    with pytest.raises(ValueError, match="got 0 and 0"):
        match_classes([], [], [0])
    with pytest.raises(ValueError, match="size must be one of all, tiny, small, medium, large, got 'huge'"):
        match_classes([truth()], [found()], [0], "huge")
