"""Which boxes come and go, by hand and by what must hold for any boxes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatdet.evaluation.boxes import Found, Truth
from hatdet.evaluation.changes import ImageChanges, JudgedBox, compare_boxes, judged, total


def at(x: float, share: float = 1.0) -> tuple[float, float, float, float]:
    """The upper share of a square of 10 by 10 pixels: its overlap with the whole square is exactly that share."""
    return (float(x), 0.0, x + 10.0, 10.0 * share)


def objects(*rows, crowds=()) -> Truth:
    """Rows of box and class."""
    rows = [(*row, False) for row in rows] + [(*row, True) for row in crowds]
    box, class_id, crowd = zip(*rows, strict=True) if rows else ((), (), ())
    return Truth(np.array(box, float).reshape(-1, 4), np.array(class_id, np.int64), np.array(crowd, bool))


def detections(*rows) -> Found:
    """Rows of box, confidence and class."""
    box, confidence, class_id = zip(*rows, strict=True) if rows else ((), (), ())
    return Found(np.array(box, float).reshape(-1, 4), np.array(confidence, float), np.array(class_id, np.int64))


def said(boxes) -> list[tuple]:
    """Where a box starts, and what it is."""
    return [(box.xyxy[0], box.status, box.change) for box in boxes]


def test_right_wrong_and_missed():
    truth = objects((at(0), 0), (at(20), 0), (at(40), 1))
    found = detections((at(60), 0.9, 0), (at(20, 0.8), 0.8, 0), (at(40), 0.7, 0), (at(20), 0.6, 0))
    assert judged(truth, found) == [
        JudgedBox(at(60), 0, 0.9, "wrong"),
        JudgedBox(at(20, 0.8), 0, 0.8, "right"),
        JudgedBox(at(40), 0, 0.7, "wrong"),  # another class's object
        JudgedBox(at(20), 0, 0.6, "wrong"),  # found already, if not as well
        JudgedBox(at(0), 0, None, "missed"),
        JudgedBox(at(40), 1, None, "missed"),
    ]


def test_values_are_plain():
    boxes = judged(objects((at(0), 0)), detections((at(20), 0.5, 3)))
    assert json.loads(json.dumps([asdict(box) for box in boxes])) == [
        {"xyxy": [20, 0, 30, 10], "class_id": 3, "confidence": 0.5, "status": "wrong", "change": None},
        {"xyxy": [0, 0, 10, 10], "class_id": 0, "confidence": None, "status": "missed", "change": None},
    ]


@pytest.mark.parametrize(("confidence", "statuses"), [(0.25, ["right"]), (0.26, ["missed"])])
def test_the_least_confidence(confidence, statuses):
    boxes = judged(objects((at(0), 0)), detections((at(0), 0.25, 0)), confidence)
    assert [box.status for box in boxes] == statuses


def test_what_is_not_confident_enough_takes_no_object():
    changes = compare_boxes(objects((at(0), 0)), detections((at(0), 0.2, 0)), detections((at(0), 0.3, 0)))
    assert total([changes]) == {"gained": 1, "lost": 0, "added": 0, "removed": 0}


@pytest.mark.parametrize(("iou", "statuses"), [(0.5, ["right"]), (0.51, ["wrong", "missed"])])
def test_the_least_overlap(iou, statuses):
    boxes = judged(objects((at(0), 0)), detections((at(0, 0.5), 0.9, 0)), iou=iou)
    assert [box.status for box in boxes] == statuses


@pytest.mark.parametrize("iou", [0, -0.5, 1.01])
def test_an_overlap_that_is_none(iou):
    nothing = objects(), detections()
    for call in (lambda: judged(*nothing, iou=iou), lambda: compare_boxes(*nothing, detections(), iou=iou)):
        with pytest.raises(ValueError, match="iou must be above 0 and at most 1"):
            call()


def test_the_more_confident_takes_the_best_object():
    truth = objects((at(0), 0), (at(4), 0))
    boxes = judged(truth, detections((at(3), 0.9, 0), (at(1), 0.8, 0)), iou=0.3)
    assert [box.status for box in boxes] == ["right", "right"]
    boxes = judged(truth, detections((at(1), 0.9, 0), (at(0), 0.8, 0)), iou=0.5)
    assert said(boxes) == [(1, "right", None), (0, "wrong", None), (4, "missed", None)]


@pytest.mark.parametrize(
    ("share", "class_id", "statuses"),
    [(0.5, 0, ["right"]), (0.49, 0, ["right", "wrong"]), (0.5, 1, ["right", "wrong"])],
)
def test_in_a_crowd_a_box_is_neither_right_nor_wrong(share, class_id, statuses):
    truth = objects((at(0), 0), crowds=[(at(40, share), 0)])
    found = detections((at(0), 0.9, 0), (at(40), 0.8, class_id))
    assert [box.status for box in judged(truth, found)] == statuses


def test_an_object_in_a_crowd_is_found_all_the_same():
    truth = objects((at(0), 0), crowds=[(at(0), 0)])
    assert [box.status for box in judged(truth, detections((at(0), 0.9, 0), (at(0), 0.8, 0)))] == ["right"]


def test_both_sides_are_marked():
    truth = objects((at(0), 0), (at(20), 0), (at(40), 0), (at(60), 0))
    before = detections((at(0), 0.9, 0), (at(20), 0.8, 0), (at(100), 0.7, 0), (at(120), 0.6, 0))
    after = detections((at(120, 0.8), 0.9, 0), (at(40), 0.8, 0), (at(140), 0.7, 0), (at(0), 0.6, 0))
    changes = compare_boxes(truth, before, after)
    assert said(changes.before) == [
        (0, "right", None),
        (20, "right", "lost"),
        (100, "wrong", "removed"),
        (120, "wrong", None),
        (40, "missed", "gained"),
        (60, "missed", None),
    ]
    assert said(changes.after) == [
        (120, "wrong", None),
        (40, "right", "gained"),
        (140, "wrong", "added"),
        (0, "right", None),
        (20, "missed", "lost"),
        (60, "missed", None),
    ]
    assert (changes.gained, changes.lost, changes.added, changes.removed) == (1, 1, 1, 1)


def test_wrong_boxes_are_paired_one_to_one_and_the_more_confident_first():
    before = detections((at(1), 0.9, 0))
    after = detections((at(2), 0.9, 0), (at(1), 0.8, 0))
    changes = compare_boxes(objects(), before, after)
    assert said(changes.before) == [(1, "wrong", None)]
    assert said(changes.after) == [(2, "wrong", None), (1, "wrong", "added")]


@pytest.mark.parametrize(("share", "class_id", "same"), [(1, 0, True), (0.5, 0, True), (0.49, 0, False), (1, 1, False)])
def test_wrong_boxes_are_the_same_by_class_and_overlap(share, class_id, same):
    changes = compare_boxes(objects(), detections((at(0), 0.9, 0)), detections((at(0, share), 0.9, class_id)))
    assert (changes.added, changes.removed) == ((0, 0) if same else (1, 1))


def test_a_wrong_box_that_becomes_right_is_removed():
    truth = objects((at(0), 0))
    changes = compare_boxes(truth, detections((at(0, 0.4), 0.9, 0)), detections((at(0, 0.6), 0.9, 0)))
    assert said(changes.before) == [(0, "wrong", "removed"), (0, "missed", "gained")]
    assert said(changes.after) == [(0, "right", "gained")]


def test_what_only_a_crowd_excuses_is_no_change():
    truth = objects(crowds=[(at(0), 0)])
    changes = compare_boxes(truth, detections(), detections((at(0), 0.9, 0)))
    assert changes == ImageChanges((), ())


def test_total():
    truth = objects((at(0), 0))
    found, nothing, wrong = detections((at(0), 0.9, 0)), detections(), detections((at(50), 0.9, 0), (at(90), 0.9, 0))
    pairs = [(nothing, found), (nothing, found), (nothing, found), (found, nothing), (found, wrong), (wrong, nothing)]
    summed = total(compare_boxes(truth, *pair) for pair in pairs)
    assert summed == {"gained": 3, "lost": 2, "added": 2, "removed": 2}
    assert total([]) == {"gained": 0, "lost": 0, "added": 0, "removed": 0}


BOX = st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(1, 8), st.integers(1, 8)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
CLASS = st.integers(0, 1)
TRUTH = st.builds(
    lambda rows, crowds: objects(*rows, crowds=crowds),
    st.lists(st.tuples(BOX, CLASS), max_size=4),
    st.lists(st.tuples(BOX, CLASS), max_size=1),
)
FOUND = st.lists(st.tuples(BOX, st.integers(1, 100).map(lambda n: n / 100), CLASS), max_size=8).map(
    lambda rows: detections(*sorted(rows, key=lambda row: -row[1]))
)
IOU = st.sampled_from([0.1, 0.5, 0.75, 1.0])


def number(boxes, status: str, change: str | None = None) -> int:
    return sum(box.status == status and change in (None, box.change) for box in boxes)


@given(TRUTH, FOUND, FOUND, IOU)
def test_the_changes_are_the_difference(truth, before, after, iou):
    changes = compare_boxes(truth, before, after, iou=iou)
    for status, more, fewer in (("right", changes.gained, changes.lost), ("wrong", changes.added, changes.removed)):
        assert number(changes.after, status) - number(changes.before, status) == more - fewer


@given(TRUTH, FOUND, FOUND, IOU)
def test_marks_are_where_they_belong(truth, before, after, iou):
    changes = compare_boxes(truth, before, after, iou=iou)
    for boxes, gained, lost, wrong in (
        (changes.before, "missed", "right", "removed"),
        (changes.after, "right", "missed", "added"),
    ):
        marks = Counter((box.status, box.change) for box in boxes if box.change is not None)
        assert marks[gained, "gained"] == changes.gained
        assert marks[lost, "lost"] == changes.lost
        assert set(marks) <= {(gained, "gained"), (lost, "lost"), ("wrong", wrong)}
        # Every object is on either side, right or missed.
        assert number(boxes, "right") + number(boxes, "missed") == (~truth.crowd).sum()


@given(TRUTH, FOUND, FOUND, IOU)
def test_without_their_changes_they_are_the_judged_boxes(truth, before, after, iou):
    changes = compare_boxes(truth, before, after, iou=iou)
    for found, boxes in ((before, changes.before), (after, changes.after)):
        plain = [JudgedBox(box.xyxy, box.class_id, box.confidence, box.status) for box in boxes]
        assert plain == judged(truth, found, iou=iou)


@given(TRUTH, FOUND, FOUND, IOU)
def test_backwards_what_was_gained_is_lost(truth, before, after, iou):
    forth, back = compare_boxes(truth, before, after, iou=iou), compare_boxes(truth, after, before, iou=iou)
    assert (forth.gained, forth.lost) == (back.lost, back.gained)


@given(TRUTH, FOUND, IOU)
def test_the_same_detections_change_nothing(truth, found, iou):
    changes = compare_boxes(truth, found, found, iou=iou)
    assert total([changes]) == {"gained": 0, "lost": 0, "added": 0, "removed": 0}
    assert changes.before == changes.after
