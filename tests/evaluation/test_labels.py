"""The objects of one image: where they are after clipping and cropping, and everything that labels can have wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hatdet.detection.ultralytics_setup  # noqa: F401 (before ultralytics)
from hatdet.core.errors import OptionsError
from hatdet.evaluation.labels import ClassMap, Labels, map_classes, read_labels
from hatdet.evaluation.samples import CocoBox, Problem, Sample
from hatdet.imaging.files import write_image
from tests.helpers import random_image

NAMES = {0: "car", 2: "bus", 5: "van"}


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Reads the labels of a text, in a file called `a.txt`."""
    monkeypatch.chdir(tmp_path)

    def read(text: str | bytes, size=(10, 10), cropped=None) -> Labels:
        Path("a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_labels(Sample(Path("a.png"), Path("a.png"), Path("a.txt")), NAMES, size, cropped or size)

    return read


def coco_labels(*boxes: CocoBox, size=(10, 10), cropped=None, stated: tuple[int, int] | None = None) -> Labels:
    sample = Sample(Path("images/a.png"), Path("a.png"), Path("set.json"), boxes, stated)
    return read_labels(sample, NAMES, size, cropped or size)


def kinds(found: Labels) -> list[str]:
    return [problem.kind for problem in found.problems]


@pytest.mark.parametrize(
    ("line", "size", "cropped", "box", "problem"),
    [
        # inside; the second in an image that is not square
        ("0 0.3 0.4 0.2 0.4", (10, 10), (10, 10), [2, 2, 4, 6], None),
        ("0 0.25 0.5 0.125 0.25", (16, 8), (16, 8), [3, 3, 5, 5], None),
        # the whole image; clipped at the left and the top, at the right and the bottom, at all sides
        ("0 0.5 0.5 1 1", (16, 8), (16, 8), [0, 0, 16, 8], None),
        ("0 0 0 0.5 0.5", (16, 8), (16, 8), [0, 0, 4, 2], "clipped"),
        ("0 1 1 0.5 0.5", (16, 8), (16, 8), [12, 6, 16, 8], "clipped"),
        ("0 0.5 0.5 2 3", (16, 8), (16, 8), [0, 0, 16, 8], "clipped"),
        # wholly outside, at each side; touching is outside
        ("0 -0.5 0.5 0.5 0.5", (16, 8), (16, 8), None, "outside"),
        ("0 0.5 -0.5 0.5 0.5", (16, 8), (16, 8), None, "outside"),
        ("0 1.25 0.5 0.5 0.5", (16, 8), (16, 8), None, "outside"),
        ("0 0.5 1.5 0.5 0.5", (16, 8), (16, 8), None, "outside"),
        # polygons are their bounding boxes, whatever the order of their points
        ("2 0.25 0.5 0.75 0.25 0.5 1", (16, 8), (16, 8), [4, 2, 12, 8], None),
        ("2 0.5 0.5 0.25 1.5 0.5 0.25 0.375 0.5", (16, 8), (16, 8), [4, 2, 8, 8], "clipped"),
        # the crop cuts, or takes all; neither is a problem
        ("0 0.5 0.5 1 1", (10, 10), (8, 4), [0, 0, 8, 4], None),
        ("0 0.8 0.5 0.4 0.2", (10, 10), (8, 8), [6, 4, 8, 6], None),
        ("0 0.9 0.5 0.2 0.2", (10, 10), (8, 8), None, None),
        ("0 0.5 0.9 0.2 0.2", (10, 10), (8, 8), None, None),
        # outside the image and then cropped
        ("0 1 0.5 0.5 0.5", (16, 8), (14, 8), [12, 2, 14, 6], "clipped"),
        ("0 1 0.5 0.5 0.5", (16, 8), (12, 8), None, "clipped"),
    ],
)
def test_a_box_in_pixels_of_the_part(labels, line, size, cropped, box, problem):
    found = labels(line, size, cropped)
    np.testing.assert_allclose(found.truth.xyxy, np.array([box] if box else []).reshape(-1, 4), rtol=0, atol=1e-12)
    assert kinds(found) == ([problem] if problem else [])
    assert found.cropped_away == (box is None and problem != "outside")


def test_types_and_order(labels):
    found = labels("5 0.5 0.5 0.5 0.5\n\n  0 0.25 0.5 0.5 1\r\n2.0 0.5 0.5 1 1")
    assert found.truth.class_id.tolist() == [5, 0, 2]
    assert found.truth.xyxy[1].tolist() == [0, 0, 5, 10]
    truth = found.truth
    assert (truth.xyxy.dtype, truth.class_id.dtype, truth.crowd.dtype) == (np.float64, np.int64, np.bool_)
    assert not truth.crowd.any()
    empty = labels("").truth
    assert (empty.xyxy.shape, empty.class_id.shape, empty.crowd.shape) == ((0, 4), (0,), (0,))
    assert (empty.xyxy.dtype, empty.class_id.dtype, empty.crowd.dtype) == (np.float64, np.int64, np.bool_)


@pytest.mark.parametrize("text", ["", "\n", "\ufeff", "\ufeff0 0.5 0.5 0.5 0.5\n"])
def test_an_empty_file_and_a_byte_order_mark_are_no_problem(labels, text):
    found = labels(text)
    assert found.problems == ()
    assert len(found.truth) == ("0" in text)


GRAMMAR = "expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 ...' in finite numbers"
IDS = "expected one of 0 (car), 2 (bus), 5 (van)"


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("0 0.5 0.5 0.1", "malformed", f"a.txt:2: {GRAMMAR}, got '0 0.5 0.5 0.1': left out"),
        ("0 .5 .5", "malformed", f"a.txt:2: {GRAMMAR}, got '0 .5 .5': left out"),
        ("0", "malformed", f"a.txt:2: {GRAMMAR}, got '0': left out"),
        ("0 .5 .5 .1 .1 .9", "malformed", f"a.txt:2: {GRAMMAR}, got '0 .5 .5 .1 .1 .9': left out"),
        ("0 0 0 1 1 1 0 1", "malformed", f"a.txt:2: {GRAMMAR}, got '0 0 0 1 1 1 0 1': left out"),
        ("0 .5 .5 .1 wide", "malformed", f"a.txt:2: {GRAMMAR}, got '0 .5 .5 .1 wide': left out"),
        ("0 .5 nan .1 .1", "malformed", f"a.txt:2: {GRAMMAR}, got '0 .5 nan .1 .1': left out"),
        ("0 .5 .5 inf .1", "malformed", f"a.txt:2: {GRAMMAR}, got '0 .5 .5 inf .1': left out"),
        ("0" + " 0.5" * 99, "malformed", f"a.txt:2: {GRAMMAR}, got '0{' 0.5' * 19} 0: left out"),
        (
            "0 .5 .5 0 .1",
            "malformed",
            "a.txt:2: expected a width and a height above 0, got 0 and 1 pixels: left out",
        ),
        (
            "0 .5 .5 .5 -.25",
            "malformed",
            "a.txt:2: expected a width and a height above 0, got 5 and -2.5 pixels: left out",
        ),
        (
            "0 .5 .5 .25 1 .75 .5 1e308 1e308",
            "clipped",
            f"a.txt:2 reaches outside the image: expected x in 0..10 and y in 0..10, got 2.500..{1e309:.3f} and "
            f"5.000..{1e309:.3f}: clipped to it",
        ),
        (
            "0 .5 .5 .75 .5 1 .5",
            "malformed",
            "a.txt:2: expected a width and a height above 0, got 5 and 0 pixels: left out",
        ),
        ("1 .5 .5 .1 .1", "class", f"a.txt:2 has class 1, {IDS}: left out"),
        ("-1 .5 .5 .1 .1", "class", f"a.txt:2 has class -1, {IDS}: left out"),
        ("0.5 .5 .5 .1 .1", "class", f"a.txt:2 has class '0.5', {IDS}: left out"),
        ("car .5 .5 .1 .1", "class", f"a.txt:2 has class 'car', {IDS}: left out"),
        ("nan .5 .5 .1 .1", "class", f"a.txt:2 has class 'nan', {IDS}: left out"),
        ("inf .5 .5 .1 .1", "class", f"a.txt:2 has class 'inf', {IDS}: left out"),
        (
            "0 50 50 10 10",
            "outside",
            "a.txt:2 lies outside the image: expected x in 0..10 and y in 0..10, got 450.000..550.000 and "
            "450.000..550.000: left out",
        ),
        (
            "0 .5 0.0498 .2 .1",
            "clipped",
            "a.txt:2 reaches outside the image: expected x in 0..10 and y in 0..10, got 4.000..6.000 and "
            "-0.002..0.998: clipped to it",
        ),
        (
            "0 0.5 0.5 0.50 0.5",
            "duplicate",
            "a.txt:2 repeats line 1, expected each once: '0 0.5 0.5 0.50 0.5': counted once",
        ),
    ],
)
def test_a_problem_names_the_line_and_the_rest_is_read(labels, line, kind, text):
    found = labels(f"0 0.5 0.5 0.5 0.5\n{line}\n5 0.25 0.5 0.5 1\n")
    assert found.problems == (Problem(kind, text),)
    assert found.truth.class_id.tolist() == ([0, 0, 5] if kind == "clipped" else [0, 5])
    assert found.truth.xyxy[[0, -1]].tolist() == [[2.5, 2.5, 7.5, 7.5], [0, 0, 5, 10]]
    assert found.cropped_away == 0


def test_every_problem_of_a_file_is_told_in_order(labels):
    rows = ["0 1 1 1 1", "7 .5 .5 1 1", "0 x", "0 3 3 1 1", "0 .5 .5 0 0", "0 1 1 1 1", "0 1 1 1 1", "0 .9 .9 .1 .1"]
    found = labels("\n\n".join(rows), cropped=(8, 8))
    expected = ["clipped", "class", "malformed", "outside", "malformed", "duplicate", "duplicate"]
    assert kinds(found) == expected
    assert [problem.text.split()[0].rstrip(":") for problem in found.problems] == [
        f"a.txt:{number}" for number in (1, 3, 5, 7, 9, 11, 13)
    ]
    assert "repeats line 1," in found.problems[-1].text
    assert found.truth.xyxy.tolist() == [[5, 5, 8, 8]]
    assert found.cropped_away == 1


def test_many_classes_are_shown_by_their_ends(tmp_path):
    (tmp_path / "a.txt").write_text("99 .5 .5 .1 .1")
    sample = Sample(tmp_path / "a.png", Path("a.png"), tmp_path / "a.txt")
    for names, shown in (({k: f"c{k}" for k in range(80)}, "0 (c0), 1 (c1), ..., 79 (c79)"), ({}, "none")):
        (problem,) = read_labels(sample, names, (8, 8), (8, 8)).problems
        assert problem.text.endswith(f":1 has class 99, expected one of {shown}: left out")


def test_the_same_box_of_two_classes_or_of_two_polygons_is_no_duplicate(labels):
    found = labels("0 .5 .5 .5 .5\n2 .5 .5 .5 .5\n5 0 0 1 1 1 0\n5 0 0 1 1 0 1\n")
    assert found.problems == ()
    assert len(found.truth) == 4


@pytest.mark.parametrize(
    ("size", "out", "problem"),
    [
        (10, 0.0009, False),
        (10, 0.0011, True),
        (4000, 0.0038, False),  # a millionth of the side
        (4000, 0.0042, True),
    ],
)
@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_rounded_labels_are_no_problem(labels, size, out, problem, side):
    """A box of 2 pixels that sticks out by so many pixels on one side."""
    centre = {"left": (1 - out, size / 2), "top": (size / 2, 1 - out)}
    centre |= {"right": (size - 1 + out, size / 2), "bottom": (size / 2, size - 1 + out)}
    x, y = (value / size for value in centre[side])
    found = labels(f"0 {x!r} {y!r} {2 / size!r} {2 / size!r}", (size, size))
    assert kinds(found) == ["clipped"] * problem
    assert found.truth.xyxy.min() >= 0
    assert found.truth.xyxy.max() <= size


def test_a_missing_an_unreadable_and_a_foreign_file(labels):
    sample = Sample(Path("a.png"), Path("a.png"), Path("none/a.txt"))
    found = read_labels(sample, NAMES, (10, 10), (10, 10))
    text = "none/a.txt does not exist, expected a label file: counted as an image without objects"
    assert found.problems == (Problem("missing", text),)
    assert len(found.truth) == 0

    Path("folder.txt").mkdir()
    found = read_labels(Sample(Path("a.png"), Path("a.png"), Path("folder.txt")), NAMES, (10, 10), (10, 10))
    text = "folder.txt cannot be read: Is a directory: its objects are left out"
    assert found.problems == (Problem("unreadable", text),)
    assert len(found.truth) == 0

    found = labels(b"0 .5 .5 .1 .1\n\xff\n")
    text = "a.txt is not text: expected UTF-8, got invalid start byte at byte 14: its objects are left out"
    assert found.problems == (Problem("unreadable", text),)
    assert len(found.truth) == 0


@pytest.mark.parametrize("cropped", [(0, 8), (8, 0), (9, 8), (8, 9)])
def test_a_part_that_is_none_is_misuse(labels, cropped):
    with pytest.raises(ValueError, match=r"cropped_wh must be a part of \(8, 8\), got"):
        labels("", (8, 8), cropped)


@st.composite
def boxes_in_an_image(draw: st.DrawFn) -> tuple[tuple[int, int], list[tuple[int, float, float, float, float]]]:
    size = draw(st.tuples(*[st.integers(1, 1000)] * 2))
    share = st.floats(0, 1)
    rows = []
    for _ in range(draw(st.integers(0, 5))):
        edges = []
        for side in size:
            extent = draw(st.floats(min(1, side), side))
            low = draw(share) * (side - extent)
            edges.append((low, low + extent))
        (x1, x2), (y1, y2) = edges
        rows.append((draw(st.sampled_from(sorted(NAMES))), x1, y1, x2, y2))
    return size, rows


@given(boxes_in_an_image(), st.data())
def test_boxes_written_and_read_again(tmp_path_factory, drawn, data):
    """With six decimals, as everyone writes them; the crop is what is left of the true boxes."""
    (w, h), rows = drawn
    lines = [
        f"{class_id} {(x1 + x2) / 2 / w:.6f} {(y1 + y2) / 2 / h:.6f} {(x2 - x1) / w:.6f} {(y2 - y1) / h:.6f}"
        for class_id, x1, y1, x2, y2 in rows
    ]
    rows = [row for line, row in dict(zip(lines, rows, strict=True)).items()]
    path = tmp_path_factory.mktemp("labels") / "a.txt"
    path.write_text("\n".join(dict.fromkeys(lines)))
    sample = Sample(path, Path("a.png"), path)
    found = read_labels(sample, NAMES, (w, h), (w, h))
    assert (found.problems, found.cropped_away) == ((), 0)
    assert found.truth.class_id.tolist() == [class_id for class_id, *_ in rows]
    np.testing.assert_allclose(found.truth.xyxy, np.array([box for _, *box in rows]).reshape(-1, 4), rtol=0, atol=1e-3)

    part = (data.draw(st.integers(1, w)), data.draw(st.integers(1, h)))
    cropped = read_labels(sample, NAMES, (w, h), part)
    kept = np.minimum(found.truth.xyxy, part * 2)
    kept = kept[(kept[:, 0] < kept[:, 2]) & (kept[:, 1] < kept[:, 3])]
    np.testing.assert_array_equal(cropped.truth.xyxy, kept)
    assert cropped.cropped_away == len(rows) - len(kept)
    assert cropped.problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "0 0.3 0.4 0.2 0.4\n2 0.5 0.5 1 1\n0 0.3 0.4 0.2 0.4\n1 0.1 0.1 0.05 0.05\n0 0.30 0.4 0.2 0.4\n",
        "\ufeff2.0 0.25 0.5 0.75 0.25 0.5 1\n0 0 0 1 0 1 1\n0 0 0 1 1 0 1\n0 0 0 1 0 1 1\n",
        "",
    ],
)
def test_ultralytics_reads_the_same(tmp_path, text):
    """The same rows, without the repeated ones, are the same boxes to Ultralytics' own reader."""
    from ultralytics.data.utils import verify_image_label

    write_image(random_image(32, 32), tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(text)
    names = {0: "a", 1: "b", 2: "c"}
    theirs = verify_image_label((str(tmp_path / "a.png"), str(tmp_path / "a.txt"), "", False, 3, 0, 0, False))
    rows = np.array(theirs[1], np.float64)
    centres, halves = rows[:, 1:3], rows[:, 3:5] / 2
    expected = np.hstack([rows[:, :1], 32 * (centres - halves), 32 * (centres + halves)])
    sample = Sample(tmp_path / "a.png", Path("a.png"), tmp_path / "a.txt")
    found = read_labels(sample, names, (32, 32), (32, 32))
    ours = np.hstack([found.truth.class_id[:, None], found.truth.xyxy])
    assert ours.shape == expected.shape
    np.testing.assert_allclose(sorted(ours.tolist()), sorted(expected.tolist()), rtol=0, atol=1e-4)
    # in lines, less those that are repeated
    assert Counter(kinds(found)) == Counter({"duplicate": len(text.splitlines()) - len(expected)})


def test_coco_boxes_are_pixels_and_crowds_stay_crowds():
    found = coco_labels(
        CocoBox(1, 5, (1, 2, 3.5, 4), crowd=False),
        CocoBox(2, 0, (0, 0, 10, 10), crowd=True),
        CocoBox(3, 0, (8, 8, 2, 2), crowd=False),
        CocoBox(4, 0, (0, 0, 10, 10), crowd=True),  # another object in the same place is another annotation
        cropped=(8, 4),
        stated=(10, 10),
    )
    assert found.truth.xyxy.tolist() == [[1, 2, 4.5, 4], [0, 0, 8, 4], [0, 0, 8, 4]]
    assert found.truth.class_id.tolist() == [5, 0, 0]
    assert found.truth.crowd.tolist() == [False, True, True]
    assert (found.problems, found.cropped_away) == ((), 1)


@pytest.mark.parametrize(
    ("category", "xywh", "kind", "text"),
    [
        (1, (1, 1, 2, 2), "class", f" has class 1, {IDS}: left out"),
        (None, (1, 1, 2, 2), "class", f" has class 'None', {IDS}: left out"),
        ([0], (1, 1, 2, 2), "class", f" has class '[0]', {IDS}: left out"),
        (10**400, (1, 1, 2, 2), "class", f" has class '1{'0' * 79}', {IDS}: left out"),
        (0, (1, 1, 2), "malformed", ": expected a bbox of four finite numbers, got (1, 1, 2): left out"),
        (0, (1, 1, 2, 2, 2), "malformed", ": expected a bbox of four finite numbers, got (1, 1, 2, 2, 2): left out"),
        (
            0,
            (10**400, 1, 2, 2),
            "malformed",
            f": expected a bbox of four finite numbers, got (1{'0' * 78}: left out",
        ),
        (0, (None,), "malformed", ": expected a bbox of four finite numbers, got (None,): left out"),
        (0, ("all", 1, 2, 2), "malformed", ": expected a bbox of four finite numbers, got ('all', 1, 2, 2): left out"),
        (0, ([1], 1, 2, 2), "malformed", ": expected a bbox of four finite numbers, got ([1], 1, 2, 2): left out"),
        (
            0,
            (1, 1, float("nan"), 2),
            "malformed",
            ": expected a bbox of four finite numbers, got (1, 1, nan, 2): left out",
        ),
        (0, (1, 1, 2, 0), "malformed", ": expected a width and a height above 0, got 2 and 0 pixels: left out"),
        (0, (1, 1, -2, 2), "malformed", ": expected a width and a height above 0, got -2 and 2 pixels: left out"),
        (
            0,
            (10, 1, 2, 2),
            "outside",
            " lies outside the image: expected x in 0..10 and y in 0..10, got 10.000..12.000 and 1.000..3.000: "
            "left out",
        ),
        (
            0,
            (8, 1, 2.5, 2),
            "clipped",
            " reaches outside the image: expected x in 0..10 and y in 0..10, got 8.000..10.500 and 1.000..3.000: "
            "clipped to it",
        ),
    ],
)
def test_a_problem_names_the_annotation(category: Any, xywh, kind, text):
    found = coco_labels(CocoBox(41, category, xywh, crowd=False), CocoBox(42, 2, (0, 0, 5, 5), crowd=False))
    assert found.problems == (Problem(kind, f"set.json: annotation 41 of a.png{text}"),)
    assert found.truth.xyxy.tolist() == [[8, 1, 10, 3]] * (kind == "clipped") + [[0, 0, 5, 5]]


def test_an_image_of_another_size_than_stated_is_told():
    found = coco_labels(CocoBox(1, 0, (1, 5, 2, 2), crowd=False), size=(8, 6), stated=(6, 8))
    text = "set.json: a.png: expected 6x8 pixels, got 8x6: boxes are taken as pixels of what is there"
    assert found.problems[0] == Problem("size", text)
    assert kinds(found) == ["size", "clipped"]
    assert found.truth.xyxy.tolist() == [[1, 5, 3, 6]]


def test_an_image_without_annotations_shows_nothing_and_looks_for_no_file():
    found = coco_labels()
    assert (len(found.truth), found.problems, found.cropped_away) == (0, (), 0)


@pytest.mark.parametrize(
    ("names", "detector", "to_data", "unknown"),
    [
        # by name, not by id; what only the detector knows is left out
        ({0: "bus", 1: "car"}, {0: "car", 3: "bus", 4: "cat"}, {0: 1, 3: 0}, ()),
        ({1: "car", 90: "bus", 7: "ox"}, {2: "car"}, {2: 1}, ("ox", "bus")),
        # case, spaces, underscores and hyphens; but not letters
        ({0: "Traffic_Light"}, {9: "traffic light"}, {9: 0}, ()),
        ({0: " traffic - light"}, {9: "TRAFFIC-LIGHT"}, {9: 0}, ()),
        ({0: "trafficlight", 1: "x"}, {9: "traffic light", 1: "x"}, {1: 1}, ("trafficlight",)),
        # the same on both sides is the identity, duplicates and all
        ({0: "Crane", 1: "x", 2: "crane"}, {0: "Crane", 1: "x", 2: "crane"}, {0: 0, 1: 1, 2: 2}, ()),
        # duplicates: the same id if there is one, else the first on either side
        ({0: "crane", 2: "Crane"}, {2: "crane", 5: "crane"}, {2: 2}, ("crane",)),
        ({4: "Crane", 3: "crane"}, {2: "crane"}, {2: 3}, ("Crane",)),
        ({3: "crane"}, {2: "crane", 1: "Crane"}, {1: 3}, ()),
    ],
)
def test_classes_are_matched_by_name(names, detector, to_data, unknown):
    assert map_classes(names, detector) == ClassMap(to_data, unknown)


def test_nothing_in_common_shows_a_few_of_both():
    with pytest.raises(OptionsError) as caught:
        map_classes({k: f"d{k}" for k in range(9)}, {3: "car", 1: "bus"})
    assert str(caught.value) == (
        "the data set and the detector have no class in common: d0, d1, d2, d3, d4, ... against bus, car"
    )
    with pytest.raises(OptionsError, match=r"no class in common: none against car$"):
        map_classes({}, {0: "car"})
