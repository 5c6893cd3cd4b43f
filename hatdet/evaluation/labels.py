"""The labelled objects of one image, and what is wrong with its labels.

Nothing is wrong enough to stop an evaluation: what can be used is used, and everything else is told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hatdet.core.errors import OptionsError
from hatdet.evaluation.boxes import Truth
from hatdet.evaluation.samples import Problem, Sample

__all__ = ["ClassMap", "Labels", "map_classes", "read_labels"]

# How far a box may reach outside the image untold. Labels are written in shares of the image with six decimals, as a
# centre and a size: an edge is then off by up to 0.75e-6 of the side.
TOLERANCE_PIXELS = 1e-3
TOLERANCE_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class Labels:
    """What the labels of one image say.

    Attributes:
        truth: the objects in pixels of the image's top left part, clipped to it, in the order of the labels.
        problems: everything that is wrong with the labels, in their order.
        cropped_away: objects of the whole image of which nothing is in that part.
    """

    truth: Truth
    problems: tuple[Problem, ...]
    cropped_away: int


@dataclass(frozen=True)
class ClassMap:
    """Which class of a data set each class of a detector is.

    Attributes:
        to_data: id in the data set by id in the detector; one to one. Other detections count for nothing.
        unknown: names of the data set's classes that no class of the detector is.
    """

    to_data: Mapping[int, int]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """One label before its class and place are looked at.

    Attributes:
        where: the place, for problems.
        category: the class id, or the text of what is no integer.
        xyxy: pixels of the whole image, not clipped.
        crowd: as in `Truth`.
    """

    where: str
    category: int | str
    xyxy: tuple[float, float, float, float]
    crowd: bool = False


def read_labels(
    sample: Sample, names: Mapping[int, str], size_wh: tuple[int, int], cropped_wh: tuple[int, int]
) -> Labels:
    """Read the objects of an image: from its label file, or from the annotations of COCO data.

    Rows of a label file are `class cx cy w h` or polygons `class x1 y1 x2 y2 x3 y3 ...`, in shares of the whole image;
    a polygon is its bounding box.

    Problems by kind: `missing` (no label file: no objects), `unreadable` (one that cannot be read, or is not UTF-8: no
    objects), `size` (the image is not of the size that COCO data state); a row is left out when it is `malformed` (not
    so many finite numbers, nothing wide or high), its `class` is not in `names`, it is a `duplicate` of another, or it
    lies `outside` the image; it is kept when it was `clipped` to the image. A box that only the crop cuts is none.

    Args:
        sample: the image.
        names: the data set's classes by id.
        size_wh: width and height of the whole image in pixels.
        cropped_wh: of its top left part that is looked at.

    Raises:
        ValueError: a part that is empty or larger than the whole.
    """
    if any(not 0 < part <= whole for part, whole in zip(cropped_wh, size_wh, strict=True)):
        raise ValueError(f"cropped_wh must be a part of {size_wh}, got {cropped_wh}")
    problems: list[Problem] = []
    boxes: list[list[float]] = []
    classes: list[int] = []
    crowds: list[bool] = []
    cropped_away = 0
    rows = _yolo_rows(sample.label, size_wh) if sample.annotations is None else _coco_rows(sample, size_wh)
    for row in rows:
        if isinstance(row, Problem):
            problems.append(row)
            continue
        if not isinstance(row.category, int) or row.category not in names:
            text = f"{row.where} has class {row.category!r}, expected one of {_known(names)}: left out"
            problems.append(Problem("class", text))
            continue
        problem = _misplaced(row, size_wh)
        if problem is not None:
            problems.append(problem)
            if problem.kind != "clipped":
                continue
        box = _clipped(row.xyxy, cropped_wh)
        if box is None:
            cropped_away += 1
            continue
        boxes.append(box)
        classes.append(row.category)
        crowds.append(row.crowd)
    truth = Truth(np.array(boxes, np.float64).reshape(-1, 4), np.array(classes, np.int64), np.array(crowds, np.bool_))
    return Labels(truth, tuple(problems), cropped_away)


def map_classes(names: Mapping[int, str], detector_names: Mapping[int, str]) -> ClassMap:
    """Match a detector's classes with a data set's by name: letter case aside, `traffic_light` is `traffic light`.

    Where a side has several classes of one name, those with the same id on both are matched; without any, the first
    (lowest id) of each side.

    Args:
        names: the data set's class names by id.
        detector_names: the detector's.

    Raises:
        OptionsError: no name in common.
    """
    ours, theirs = _ids_by_name(names), _ids_by_name(detector_names)
    to_data: dict[int, int] = {}
    for name, ids in theirs.items():
        if name in ours:
            both = [class_id for class_id in ids if class_id in ours[name]]
            to_data |= {class_id: class_id for class_id in both} or {ids[0]: ours[name][0]}
    if not to_data:
        raise OptionsError(
            f"the data set and the detector have no class in common: {_a_few(names)} against {_a_few(detector_names)}"
        )
    matched = set(to_data.values())
    return ClassMap(to_data, tuple(name for class_id, name in sorted(names.items()) if class_id not in matched))


def _yolo_rows(label: Path, size_wh: tuple[int, int]) -> Iterator[_Row | Problem]:
    try:
        text = label.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        yield Problem("missing", f"{label} does not exist, expected a label file: counted as an image without objects")
        return
    except OSError as error:
        yield Problem("unreadable", f"{label} cannot be read: {error.strerror or error}: its objects are left out")
        return
    except UnicodeDecodeError as error:
        reason = f"expected UTF-8, got {error.reason} at byte {error.start}"
        yield Problem("unreadable", f"{label} is not text: {reason}: its objects are left out")
        return
    w, h = size_wh
    first: dict[tuple[float | str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{label}:{number}"
        values = _finite(fields[1:])
        if values is None or len(values) < 4 or len(values) % 2:
            expected = "expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 ...' in finite numbers"
            yield Problem("malformed", f"{where}: {expected}, got {_short(line)}: left out")
            continue
        category = _category(fields[0])
        same = first.setdefault((category, *values), number)
        if same != number:
            yield Problem("duplicate", f"{where} repeats line {same}, expected each once: {_short(line)}: counted once")
            continue
        if len(values) == 4:
            cx, cy, bw, bh = values
            edges = (cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2)
        else:
            xs, ys = values[0::2], values[1::2]
            edges = (min(xs), min(ys), max(xs), max(ys))
        yield _Row(where, category, (edges[0] * w, edges[1] * h, edges[2] * w, edges[3] * h))


def _coco_rows(sample: Sample, size_wh: tuple[int, int]) -> Iterator[_Row | Problem]:
    stated = sample.stated_wh
    if stated is not None and stated != size_wh:
        sizes = f"expected {stated[0]}x{stated[1]} pixels, got {size_wh[0]}x{size_wh[1]}"
        yield Problem("size", f"{sample.label}: {sample.relative}: {sizes}: boxes are taken as pixels of what is there")
    for box in sample.annotations or ():
        where = f"{sample.label}: annotation {box.annotation!r} of {sample.relative}"
        values = _finite(box.xywh)
        if values is None or len(values) != 4:
            text = f"{where}: expected a bbox of four finite numbers, got {_short(box.xywh)}: left out"
            yield Problem("malformed", text)
            continue
        x, y, w, h = values
        yield _Row(where, _category(box.category), (x, y, x + w, y + h), box.crowd)


def _misplaced(row: _Row, size_wh: tuple[int, int]) -> Problem | None:
    """What is wrong with a box's size or place in the whole image."""
    x1, y1, x2, y2 = row.xyxy
    if not (x1 < x2 and y1 < y2):
        got = f"expected a width and a height above 0, got {x2 - x1:g} and {y2 - y1:g} pixels"
        return Problem("malformed", f"{row.where}: {got}: left out")
    w, h = size_wh
    got = f"expected x in 0..{w} and y in 0..{h}, got {x1:.3f}..{x2:.3f} and {y1:.3f}..{y2:.3f}"
    if _clipped(row.xyxy, size_wh) is None:
        return Problem("outside", f"{row.where} lies outside the image: {got}: left out")
    for low, high, size in ((x1, x2, w), (y1, y2, h)):
        if max(-low, high - size) > max(TOLERANCE_PIXELS, TOLERANCE_SHARE * size):
            return Problem("clipped", f"{row.where} reaches outside the image: {got}: clipped to it")
    return None


def _clipped(xyxy: Sequence[float], size_wh: tuple[int, int]) -> list[float] | None:
    """The part of a box in the top left `size_wh` pixels, if there is one."""
    x1, y1, x2, y2 = (min(max(edge, 0.0), float(size)) for edge, size in zip(xyxy, size_wh * 2, strict=True))
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else None


def _finite(values: Iterable[Any]) -> list[float] | None:
    """The values as numbers, if every one is finite."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _category(value: Any) -> int | str:
    """The integer that a value is, 2.0 being 2 as for Ultralytics; or the text of what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)[:80]
    return int(number) if number.is_integer() else str(value)[:80]


def _known(names: Mapping[int, str]) -> str:
    """The classes in few words."""
    shown = [f"{class_id} ({name})" for class_id, name in sorted(names.items())]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:2], "...", shown[-1]]) or "none"


def _short(value: object) -> str:
    return repr(value)[:80]


def _ids_by_name(names: Mapping[int, str]) -> dict[str, list[int]]:
    """Ascending ids by the form of the name that is compared."""
    ids: dict[str, list[int]] = {}
    for class_id, name in sorted(names.items()):
        ids.setdefault(re.sub(r"[\s_-]+", " ", name).strip().casefold(), []).append(class_id)
    return ids


def _a_few(names: Mapping[int, str]) -> str:
    shown = [name for _, name in sorted(names.items())[:5]]
    return (", ".join(shown) or "none") + (", ..." if len(names) > len(shown) else "")
