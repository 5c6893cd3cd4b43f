"""TIDE's errors: by hand, by a plain reading of the definitions, and against its authors' tidecv."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatdet.evaluation import error_types
from hatdet.evaluation.boxes import RECALLS, Found, Truth
from hatdet.evaluation.error_types import ErrorType, error_breakdown, matched

DETECTION_ERRORS = ("classification", "localisation", "both", "duplicate", "background")
NAMES = (*DETECTION_ERRORS, "missed", "false_positive", "false_negative")


def at(x: float, share: float = 1.0) -> tuple[float, float, float, float]:
    """The upper share of a square of 10 by 10 pixels: its overlap with the whole square is exactly that share."""
    return (x, 0.0, x + 10.0, 10.0 * share)


def objects(*rows, crowds=()) -> Truth:
    """Rows of box and class."""
    rows = [(*row, False) for row in rows] + [(*row, True) for row in crowds]
    box, class_id, crowd = zip(*rows, strict=True) if rows else ((), (), ())
    return Truth(np.array(box, float).reshape(-1, 4), np.array(class_id, np.int64), np.array(crowd, bool))


def detections(*rows) -> Found:
    """Rows of box, confidence and class."""
    box, confidence, class_id = zip(*rows, strict=True) if rows else ((), (), ())
    return Found(np.array(box, float).reshape(-1, 4), np.array(confidence, float), np.array(class_id, np.int64))


def counts(truth: Truth, found: Found, classes=(0, 1)) -> dict[str, int]:
    """Of one image, the errors that were made."""
    errors = error_breakdown([truth], [found], classes).errors
    return {name: error.count for name, error in errors.items() if error.count}


# By hand. With half of the objects found, 51 of the 101 recalls are reached (0, .01 ... .50); with a third 34, with two
# thirds 67. What is not named was not made and is worth nothing.
BY_HAND = {
    # Of class 1 a wrong box before the right one: 1/2. Nothing found of class 0: 0.
    "classification": (
        objects((at(0), 0), (at(20), 1)),
        detections((at(0), 0.9, 1), (at(20), 0.8, 1)),
        0.25,
        {
            "classification": (1, 0.75),  # right as class 0, and gone from class 1
            "false_positive": (1, 0.25),  # gone from class 1
            "false_negative": (1, 0.25),  # class 0 has nothing left and is in no mean
        },
    ),
    # A wrong one, then a right one: 1/2 up to a recall of 1/2.
    "localisation": (
        objects((at(0), 0), (at(20), 0)),
        detections((at(20, 0.3), 0.9, 0), (at(0), 0.8, 0)),
        25.5 / 101,
        {
            "localisation": (1, 1 - 25.5 / 101),
            "false_positive": (1, 25.5 / 101),
            "false_negative": (1, 0.5 - 25.5 / 101),
        },
    ),
    "both": (
        objects((at(0), 0), (at(20), 1)),
        detections((at(20, 0.3), 0.9, 0), (at(0), 0.8, 0), (at(20), 0.7, 1)),
        0.75,
        {"both": (1, 0.25), "false_positive": (1, 0.25)},
    ),
    # Right, wrong, right: a precision of 1 up to half, of 2/3 at the other 50 recalls.
    "duplicate": (
        objects((at(0), 0), (at(20), 0)),
        detections((at(0), 0.9, 0), (at(0, 0.8), 0.8, 0), (at(20), 0.7, 0)),
        (51 + 50 * 2 / 3) / 101,
        {"duplicate": (1, 50 / 3 / 101), "false_positive": (1, 50 / 3 / 101)},
    ),
    "background": (
        objects((at(0), 0), (at(20), 0)),
        detections((at(0), 0.9, 0), (at(100), 0.8, 0), (at(20), 0.7, 0)),
        (51 + 50 * 2 / 3) / 101,
        {"background": (1, 50 / 3 / 101), "false_positive": (1, 50 / 3 / 101)},
    ),
    "missed": (
        objects((at(0), 0), (at(20), 0)),
        detections((at(0), 0.9, 0)),
        51 / 101,
        {"missed": (1, 50 / 101), "false_negative": (1, 50 / 101)},
    ),
    # Nothing found the second object, but a better place would; nothing is near the third.
    "missed is less than false negative": (
        objects((at(0), 0), (at(20), 0), (at(40), 0)),
        detections((at(0), 0.9, 0), (at(20, 0.3), 0.8, 0)),
        34 / 101,
        {
            "localisation": (1, 33 / 101),  # two of three
            "missed": (1, 17 / 101),  # one of two
            "false_positive": (1, 0.0),
            "false_negative": (2, 67 / 101),  # one of one
        },
    ),
    # It is no second find: right, it would make a recall of 1.
    "a place error at an object that was found only vanishes": (
        objects((at(0), 0), (at(20), 0)),
        detections((at(0), 0.9, 0), (at(0, 0.3), 0.8, 0)),
        51 / 101,
        {
            "localisation": (1, 0.0),
            "missed": (1, 50 / 101),
            "false_positive": (1, 0.0),
            "false_negative": (1, 50 / 101),
        },
    ),
    "a class error at an object that was found only vanishes": (
        objects((at(0), 0), (at(20), 1)),
        detections((at(0), 0.9, 0), (at(0), 0.8, 1), (at(20), 0.7, 1)),
        0.75,
        {"classification": (1, 0.25), "false_positive": (1, 0.25)},
    ),
    # Wrong, wrong, right: 1/3 at 51 recalls.
    "of two errors at an object one becomes right": (
        objects((at(0), 0), (at(20), 0)),
        detections((at(20, 0.3), 0.9, 0), (at(20, 0.4), 0.8, 0), (at(0), 0.7, 0)),
        17 / 101,
        {
            "localisation": (2, 84 / 101),
            "false_positive": (2, 34 / 101),
            "false_negative": (1, 1 / 3 - 17 / 101),
        },
    ),
    # The class error has the first claim to the object, so a better place does not find it.
    "errors of two types at one object": (
        objects((at(0), 0), (at(20), 1)),
        detections((at(0), 0.9, 1), (at(0, 0.3), 0.8, 0), (at(20), 0.7, 1)),
        0.25,
        {
            "classification": (1, 0.75),
            "localisation": (1, 0.0),
            "false_positive": (2, 0.25),
            "false_negative": (1, 0.0),  # class 0 has no object left but a detection, so its AP stays 0
        },
    ),
    "a class without objects is in no mean": (
        objects((at(0), 0)),
        detections((at(0), 0.9, 0), (at(100), 0.8, 1)),
        1.0,
        {"background": (1, 0.0), "false_positive": (1, 0.0)},
    ),
    "a class of which nothing is left leaves the mean": (
        objects((at(0), 0), (at(20), 1)),
        detections((at(0), 0.9, 0)),
        0.5,
        {"missed": (1, 0.5), "false_negative": (1, 0.5)},
    ),
    "a class of which detections are left stays": (
        objects((at(0), 0), (at(20), 1)),
        detections((at(0), 0.9, 0), (at(100), 0.8, 1)),
        0.5,
        {"missed": (1, 0.0), "false_negative": (1, 0.0), "background": (1, 0.0), "false_positive": (1, 0.0)},
    ),
    # In a crowd, so no error; but with another box it would find the second object.
    "a detection in a crowd beside a missed object": (
        objects((at(0), 0), (at(20), 0), crowds=[(at(20), 0)]),
        detections((at(0), 0.9, 0), (at(20, 0.3), 0.8, 0)),
        51 / 101,
        {"localisation": (0, 50 / 101), "false_negative": (1, 50 / 101)},
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case):
    truth, found, ap50, errors = BY_HAND[case]
    breakdown = error_breakdown([truth], [found], [0, 1])
    assert breakdown.ap50 == pytest.approx(ap50, abs=1e-12)
    assert tuple(breakdown.errors) == NAMES
    assert {name: error.count for name, error in breakdown.errors.items()} == {
        name: errors.get(name, (0, 0))[0] for name in NAMES
    }
    expected = {name: errors.get(name, (0, 0))[1] for name in NAMES}
    assert {name: error.dap for name, error in breakdown.errors.items()} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("share", "same_class", "found_before", "kind"),
    [
        (0.5, True, False, None),
        (0.49, True, False, "localisation"),
        (0.1, True, False, "localisation"),
        (0.09, True, False, "background"),
        (0.5, True, True, "localisation"),  # and no duplicate, though the object is in use
        (0.51, True, True, "duplicate"),
        (0.1, True, True, "localisation"),
        (0.5, False, False, "classification"),
        (0.49, False, False, "both"),
        (0.11, False, False, "both"),
        (0.1, False, False, "background"),
        (0.5, False, True, "classification"),
    ],
)
def test_on_the_thresholds(share, same_class, found_before, kind):
    first = [(at(0), 0.9, 0)] if found_before else []
    made = counts(objects((at(0), 0)), detections(*first, (at(0, share), 0.8, 0 if same_class else 1)))
    assert {name: made[name] for name in DETECTION_ERRORS if name in made} == ({} if kind is None else {kind: 1})


def test_place_goes_before_class():
    truth = objects((at(0, 0.3), 0), (at(0), 1))
    assert counts(truth, detections((at(0), 0.9, 0))) == {
        "localisation": 1,
        "missed": 1,  # class 1's: the error is at the object of class 0
        "false_positive": 1,
        "false_negative": 2,
    }


def test_class_goes_before_duplicate():
    truth = objects((at(0), 0), (at(0), 1))
    made = counts(truth, detections((at(0), 0.9, 0), (at(0), 0.8, 0)))
    assert made == {"classification": 1, "false_positive": 1, "false_negative": 1}


@pytest.mark.parametrize(
    ("share", "class_id", "made"),
    [
        (0.51, 0, {}),
        (0.5, 0, {"background": 1, "false_positive": 1}),  # not more than half of the detection, as in tidecv
        (0.51, 1, {"background": 1, "false_positive": 1}),
    ],
)
def test_in_a_crowd(share, class_id, made):
    truth = objects((at(0), 0), crowds=[(at(50, share), 0)])
    found = detections((at(50), 0.9, class_id), (at(0), 0.8, 0))
    breakdown = error_breakdown([truth], [found], [0, 1])
    assert {name: error.count for name, error in breakdown.errors.items() if error.count} == made
    assert breakdown.ap50 == (0.5 if made and class_id == 0 else 1)


def test_a_crowd_covers_no_right_detection():
    truth = objects((at(0), 0), crowds=[(at(0), 0)])
    assert error_breakdown([truth], [detections((at(0), 0.9, 0))], [0]).ap50 == 1


def test_images_without_objects_and_without_detections():
    truths = [objects(), objects((at(0), 0)), objects((at(0), 0)), objects()]
    founds = [detections((at(0), 0.9, 0)), detections((at(0), 0.8, 0)), detections(), detections()]
    breakdown = error_breakdown(truths, founds, [0])
    assert breakdown.ap50 == pytest.approx(25.5 / 101)
    assert breakdown.errors["background"] == ErrorType(1, pytest.approx(25.5 / 101))
    assert breakdown.errors["missed"] == ErrorType(1, pytest.approx(0.5 - 25.5 / 101))


@pytest.mark.parametrize("images", [0, 2])
def test_without_any_object_there_is_no_number(images):
    breakdown = error_breakdown([objects()] * images, [detections((at(0), 0.9, 0))] * images, [0])
    assert math.isnan(breakdown.ap50)
    assert all(math.isnan(error.dap) for error in breakdown.errors.values())
    assert breakdown.errors["background"].count == images


def test_with_nothing_found_and_every_missed_object_gone_there_is_no_ap():
    breakdown = error_breakdown([objects((at(0), 0))], [detections()], [0])
    assert breakdown.ap50 == 0
    assert breakdown.errors["missed"].count == 1
    assert math.isnan(breakdown.errors["missed"].dap)


def test_other_classes_are_left_out():
    truth = objects((at(0), 7), (at(20), 3))
    found = detections(*[(at(0), 0.9, 3)] * 120, (at(0), 0.8, 7))
    breakdown = error_breakdown([truth], [found], [9, 7])
    assert breakdown.ap50 == 1
    assert not any(error.count for error in breakdown.errors.values())


def test_hundred_detections_of_all_classes_together():
    truth = objects((at(0), 0))
    for others, ap50 in ((99, 1), (100, 0)):
        found = detections(*[(at(50), 0.9, 1)] * others, (at(0), 0.8, 0))
        breakdown = error_breakdown([truth], [found], [0, 1])
        assert breakdown.ap50 == ap50
        assert breakdown.errors["background"].count == others


def test_of_equal_confidence_the_earlier_image_is_first():
    right = objects((at(0), 0)), detections((at(0), 0.5, 0))
    wrong = objects(), detections((at(0), 0.5, 0))
    aps = [error_breakdown(*zip(*pair, strict=True), [0]).ap50 for pair in ((right, wrong), (wrong, right))]
    assert aps == [1, 0.5]


def test_images_come_in_pairs():
    with pytest.raises(ValueError, match="longer"):
        error_breakdown([objects()], [detections()] * 2, [0])


def test_matched_takes_the_best_free_object_and_of_equals_the_first():
    shared = np.array([[0.6, 0.6, 0.2], [0.9, 0.5, 0.4], [0.9, 0.8, 0.4], [0.0, 0.0, 0.4]])
    assert matched(shared, 0.5).tolist() == [0, 1, -1, -1]
    assert matched(shared, 0.4).tolist() == [0, 1, 2, -1]
    assert matched(np.zeros((2, 0)), 0.5).tolist() == [-1, -1]


def overlap(a, b, of_first: bool = False) -> float:
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (area[0] if of_first else sum(area) - shared)


def plain_map(rows, number_of) -> float:
    """Mean AP of rows of confidence, class and right."""
    aps = []
    for class_id, number in number_of.items():
        rights = [right for _, c, right in sorted(rows, key=lambda row: -row[0]) if c == class_id]
        if number == 0:
            aps += [0] if rights else []
            continue
        curve = [(sum(rights[:n]) / number, sum(rights[:n]) / n) for n in range(1, len(rights) + 1)]
        aps.append(np.mean([max((p for r, p in curve if r >= recall), default=0) for recall in RECALLS]))
    return float(np.mean(aps)) if aps else math.nan


def plain(truths, founds) -> tuple[float, dict[str, tuple[int, float]]]:
    """The definitions as they read: one detection, one object at a time, and every AP from the rows."""
    rows, number_of, missed_of, found_of = [], {}, {}, {}
    for truth, found in zip(truths, founds, strict=True):
        things = list(zip(truth.xyxy.tolist(), truth.class_id.tolist(), truth.crowd.tolist(), strict=True))
        real, crowds = [t for t in things if not t[2]], [t for t in things if t[2]]
        for _, class_id, _ in real:
            number_of[class_id] = number_of.get(class_id, 0) + 1
        boxes = list(zip(found.xyxy.tolist(), found.class_id.tolist(), found.confidence.tolist(), strict=True))[:100]
        used, match = set(), []
        for box, class_id, _ in boxes:
            free = [i for i, t in enumerate(real) if t[1] == class_id and i not in used and overlap(box, t[0]) >= 0.5]
            match.append(max(free, key=lambda i: overlap(box, real[i][0])) if free else None)
            used |= {match[-1]} - {None}
        fixed_by = {}
        for (box, class_id, confidence), own in zip(boxes, match, strict=True):
            in_crowd = any(c == class_id and overlap(box, b, of_first=True) > 0.5 for b, c, _ in crowds)
            # The nearest object of the same class, of others, and of any, each with its overlap.
            same, other = (
                max(
                    ((overlap(box, t[0]), -i) for i, t in enumerate(real) if (t[1] == class_id) == is_same),
                    default=(0, 0),
                )
                for is_same in (True, False)
            )
            target = None
            if own is not None:
                kind = "right"
            elif not real:
                kind = "background"
            elif 0.1 <= same[0] <= 0.5:
                kind, target = "localisation", -same[1]
            elif other[0] >= 0.5:
                kind, target = "classification", -other[1]
            elif any(t[1] == class_id and i in used and overlap(box, t[0]) >= 0.5 for i, t in enumerate(real)):
                kind = "duplicate"
            elif max(same[0], other[0]) <= 0.1:
                kind = "background"
            else:
                kind = "both"
            fixed = None
            if target is not None and target not in used and target not in fixed_by:
                fixed_by[target] = fixed = real[target][1]
            rows.append((confidence, class_id, kind, in_crowd and own is None, fixed))
        for index, (_, class_id, _) in enumerate(real):
            if index not in used and index not in fixed_by:
                missed_of[class_id] = missed_of.get(class_id, 0) + 1
            if index in used:
                found_of[class_id] = found_of.get(class_id, 0) + 1

    def fixed_map(error):
        out = []
        for confidence, class_id, kind, ignored, fixed in rows:
            if kind == error:
                out += [] if fixed is None else [(confidence, fixed, True)]
            elif not ignored:
                out.append((confidence, class_id, kind == "right"))
        return plain_map(out, number_of)

    base = fixed_map(None)
    all_rows = [(row[0], row[1], row[2] == "right") for row in rows if not row[3]]
    wrong = sum(not right for _, _, right in all_rows)
    result = {
        name: (sum(row[2] == name and not row[3] for row in rows), fixed_map(name) - base) for name in DETECTION_ERRORS
    }
    without = {c: n - missed_of.get(c, 0) for c, n in number_of.items()}
    result["missed"] = sum(missed_of.values()), plain_map(all_rows, without) - base
    pushed_back = [(1 if right else 0, c, right) for _, c, right in all_rows]
    result["false_positive"] = wrong, plain_map(pushed_back, number_of) - base
    only_found = {c: found_of.get(c, 0) for c in number_of}
    result["false_negative"] = (
        sum(number_of.values()) - sum(found_of.values()),
        plain_map(all_rows, only_found) - base,
    )
    return base, result


BOX = st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(1, 10), st.integers(1, 10)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
CLASS = st.integers(0, 2)


@st.composite
def images(draw) -> tuple[list[Truth], list[Found]]:
    """A few images of many overlaps, of whole pixels so that they often lie on a threshold."""
    truths, founds = [], []
    for _ in range(draw(st.integers(1, 3))):
        truths.append(
            objects(
                *draw(st.lists(st.tuples(BOX, CLASS), max_size=4)),
                crowds=draw(st.lists(st.tuples(BOX, CLASS), max_size=1)),
            )
        )
        near = BOX if not len(truths[-1]) else BOX | st.sampled_from([tuple(box) for box in truths[-1].xyxy.tolist()])
        rows = draw(st.lists(st.tuples(near, st.integers(1, 100).map(lambda n: n / 100), CLASS), max_size=8))
        founds.append(detections(*sorted(rows, key=lambda row: -row[1])))
    return truths, founds


@settings(max_examples=200)
@given(images())
def test_equal_to_a_plain_reading_of_the_definitions(scene):
    ap50, errors = plain(*scene)
    breakdown = error_breakdown(*scene, [0, 1, 2])
    assert breakdown.ap50 == pytest.approx(ap50, abs=1e-12, nan_ok=True)
    assert {name: error.count for name, error in breakdown.errors.items()} == {n: c for n, (c, _) in errors.items()}
    for name, (_, dap) in errors.items():
        assert breakdown.errors[name].dap == pytest.approx(dap, abs=1e-12, nan_ok=True), name


@given(images())
def test_errors_add_up_and_correcting_never_harms(scene):
    breakdown = error_breakdown(*scene, [0, 1, 2])
    errors = breakdown.errors
    assert sum(errors[name].count for name in DETECTION_ERRORS) == errors["false_positive"].count
    assert errors["missed"].count <= errors["false_negative"].count
    for name, error in errors.items():
        assert not error.dap < 0, name
        assert not breakdown.ap50 + error.dap > 1 + 1e-12, name


@given(images())
def test_detections_equal_to_the_objects_are_without_error(scene):
    truths, _ = scene
    same = []
    for truth in truths:
        real = ~truth.crowd
        same.append(Found(truth.xyxy[real], np.ones(real.sum()), truth.class_id[real]))
    breakdown = error_breakdown(truths, same, [0, 1, 2])
    assert not any(error.count for error in breakdown.errors.values())
    assert breakdown.ap50 == 1 or not any(len(found) for found in same)


def random_images(seed: int, classes: int) -> tuple[list[Truth], list[Found]]:
    """Forty images with objects, crowds, and detections on and beside them, more than the limit in some images."""
    random = np.random.default_rng(seed)
    truths, founds = [], []
    for index in range(40):
        m, n = random.integers(0, 9), random.integers(80, 130) if index % 10 == 0 else random.integers(0, 40)
        near = random.uniform(0, 200, (m, 2))
        side = random.uniform(10, 60, (m, 2))
        truth = Truth(np.hstack([near, near + side]), random.integers(0, classes, m), random.random(m) < 0.1)
        source = random.integers(0, max(m, 1), n)
        corner, size = random.uniform(0, 200, (n, 2)), random.uniform(10, 60, (n, 2))
        box, class_id = np.hstack([corner, corner + size]), random.integers(0, classes, n)
        if m:
            shift = random.choice([0.03, 0.15, 0.4], (n, 1)) * random.normal(0, 1, (n, 4)) * np.tile(side[source], 2)
            beside = random.random(n) < 0.7
            box[beside] = (truth.xyxy[source] + shift)[beside]
            box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
            class_id = np.where(beside & (random.random(n) < 0.8), truth.class_id[source], class_id)
        truths.append(truth)
        founds.append(Found(box, np.sort(random.random(n))[::-1], class_id))
    return truths, founds


@pytest.fixture(scope="module")
def tidecv():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of the plotting that it brings
        return pytest.importorskip(
            "tidecv", reason="tidecv is in none of our extras, as it brings seaborn and pandas; pip install tidecv"
        )


def xywh(box) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_tidecv(tidecv, monkeypatch, seed):
    classes = (1, 4, 12)[seed % 3]
    truths, founds = random_images(seed, classes)
    with_objects = {int(c) for truth in truths for c in truth.class_id[~truth.crowd]}  # it counts the others as 0
    truth_data, found_data = tidecv.Data("truth"), tidecv.Data("found")
    for image, (truth, found) in enumerate(zip(truths, founds, strict=True)):
        truth_data.add_image(image, str(image))
        for box, class_id, crowd in zip(truth.xyxy, truth.class_id, truth.crowd, strict=True):
            add = truth_data.add_ignore_region if crowd else truth_data.add_ground_truth
            add(image, int(class_id), box=xywh(box))
        for box, confidence, class_id in zip(found.xyxy, found.confidence, found.class_id, strict=True):
            if int(class_id) in with_objects:
                found_data.add_detection(image, int(class_id), float(confidence), box=xywh(box))
    run = tidecv.TIDE().evaluate(truth_data, found_data, mode=tidecv.TIDE.BOX)
    dap = {kind.short_name: value for kind, value in (run.fix_main_errors() | run.fix_special_errors()).items()}
    # Its counts hold what lies in a crowd, marked by `used` being None.
    count = {
        kind.short_name: sum(getattr(error, "pred", {"used": False})["used"] is not None for error in errors)
        for kind, errors in run.error_dict.items()
    }
    short = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FalsePos", "FalseNeg"), NAMES, strict=True))

    # Its recalls, which differ from COCO's by rounding: 7 of 10 objects are its 70%.
    monkeypatch.setattr(error_types, "RECALLS", np.arange(101) / 100)
    breakdown = error_breakdown(truths, founds, sorted(with_objects))
    assert 100 * breakdown.ap50 == pytest.approx(run.ap, abs=1e-9)
    assert {name: 100 * error.dap for name, error in breakdown.errors.items()} == pytest.approx(
        {short[name]: value for name, value in dap.items()}, abs=1e-9
    )
    assert {name: breakdown.errors[name].count for name in NAMES[:6]} == {
        short[name]: number for name, number in count.items()
    }
