"""The page that shows an evaluation to people: one HTML file that needs no network, no server and no library.

Numbers, tables and charts are made here and are in the page as text and SVG, so it reads and prints without JavaScript;
that only switches, filters and moves the slider. Everything that came from outside (names, paths, commands) is escaped
by the templates, `report.html.j2` with `report.css` and `report.js` beside it.
"""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hatdet.evaluation.boxes import SIZES
from hatdet.evaluation.changes import ImageChanges, JudgedBox
from hatdet.evaluation.verdict import METRIC_WORDS

__all__ = ["GalleryImage", "html_report"]

Json = Mapping[str, Any]
NOT_AVAILABLE = "n/a"
LOW, CEILING = "lr", "hr"
COLOURS = 5  # besides those of lr and hr; further arms repeat them with dashes
SIZE_NAMES = [name for name in SIZES if name != "all"]


@dataclass(frozen=True)
class GalleryImage:
    """One picture of the gallery, as two arms saw it.

    Attributes:
        name: of the source image.
        before_arm: the control's.
        after_arm: the upscaler's.
        before_jpeg, after_jpeg: what each detector saw, both of one picture size.
        size_wh: the frame that the boxes are in, whatever pixels the JPEGs have.
        changes: the boxes of both arms, judged.
        class_names: by class id.
    """

    name: str
    before_arm: str
    after_arm: str
    before_jpeg: bytes
    after_jpeg: bytes
    size_wh: tuple[float, float]
    changes: ImageChanges
    class_names: Mapping[int, str]


def html_report(report: Json, gallery: Sequence[GalleryImage]) -> str:
    """The whole page.

    Args:
        report: what `hatdet eval --json` writes.
        gallery: pictures with the first detector's boxes, in any order: those with most changes come first.
    """
    rows, verdicts = report["rows"] or [], report["verdicts"] or []
    names = list(dict.fromkeys(item["detector"] for item in [*rows, *verdicts]))
    styles = _arm_styles(rows, verdicts)
    columns = [column for column in COLUMNS if not column.optional or any(row[column.key] is not None for row in rows)]
    detectors = []
    for name in names:
        own = [row for row in rows if row["detector"] == name]
        judged = [verdict for verdict in verdicts if verdict["detector"] == name]
        detectors.append(_detector(name, own, judged, columns, styles, report["data"] or {}))
    cards = [_card(image) for image in sorted(gallery, key=lambda image: -_changed(image))]
    classes = {box.class_id: _class_name(image, box) for image in gallery for box in _boxes(image)}
    page = _environment().get_template("report.html.j2")
    return page.render(
        report=report,
        settings=defaultdict(lambda: None, report["settings"] or {}),
        data=defaultdict(lambda: None, report["data"] or {}),
        sizes=[(name, _size_explanation(name)) for name in SIZE_NAMES],
        columns=columns,
        column_groups=_runs([column.group for column in columns]),
        ceiling=CEILING,
        detectors=detectors,
        cards=cards,
        classes=sorted(classes.items(), key=lambda item: item[1].casefold()),
        outcomes=OUTCOMES,
        metric_words=METRIC_WORDS,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hatdet.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(points=points, signed=signed, p_value=p_value, text=text, number=number)
    return environment


# ---------------------------------------------------------------- numbers as people read them


def points(fraction: float | None) -> str:
    """A fraction in percent points, one decimal."""
    return fixed(None if fraction is None else 100 * fraction, 1)


def signed(fraction: float | None) -> str:
    """A difference in percent points."""
    shown = points(fraction)
    return shown if shown.startswith("−") or shown in ("0.0", NOT_AVAILABLE) else f"+{shown}"


def fixed(value: float | None, digits: int) -> str:
    """So many decimals, a true minus, no negative zero."""
    if value is None or not math.isfinite(value):
        return NOT_AVAILABLE
    shown = f"{value:,.{digits}f}"
    return shown.replace("-", "") if float(shown.replace(",", "")) == 0 else shown.replace("-", "−")


def number(value: float | None) -> str:
    """A count, or milliseconds: decimals only where they say something."""
    return fixed(value, 1 if value is not None and value % 1 and abs(value) < 10 else 0)


def p_value(p: float | None) -> str:
    """Three decimals."""
    return "< 0.001" if p is not None and p < 0.001 else fixed(p, 3)


def text(value: object) -> str:
    """A setting."""
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


OUTCOMES = {
    "better": ("▲", "Better"),
    "worse": ("▼", "Worse"),
    "enough": ("=", "Control is enough"),
    "not resolved": ("?", "Not resolved"),
    "none": ("–", "No verdict"),
}


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Column:
    """One column of the table of arms.

    Attributes:
        key: of a row of the report.
        explanation: for the caption.
        low_is_good: the best value is the lowest.
        optional: left out where no row has a value.
    """

    group: str
    label: str
    key: str
    shown: Callable[[float | None], str]
    explanation: str = ""
    low_is_good: bool = False
    optional: bool = False


def _size_explanation(name: str) -> str:
    low, high = (math.isqrt(round(bound)) for bound in SIZES[name])
    return f"over {low}×{low} px" if name == "large" else f"up to {high}×{high} px"


def _decimals(digits: int) -> Callable[[float | None], str]:
    return lambda value: fixed(value, digits)


COLUMNS = (
    Column(
        "Detection, %",
        "mAP50-95",
        "map50_95",
        points,
        "Mean average precision: over classes, and over ten demands on how well a box fits (IoU 0.5 to 0.95).",
    ),
    Column("Detection, %", "mAP50", "map50", points, "The same where a rough fit is enough (IoU 0.5)."),
    Column("Detection, %", "mAP75", "map75", points, "The same where a good fit is needed (IoU 0.75)."),
    Column(
        "Detection, %", "AR100", "ar100", points, "Share of the objects found by up to 100 boxes an image and class."
    ),
    *(Column("AP by object size, %", name, f"ap_{name}", points) for name in SIZE_NAMES),
    Column("Fidelity", "PSNR-Y", "psnr_y", _decimals(2)),
    Column("Fidelity", "SSIM-Y", "ssim_y", _decimals(4)),
    Column("Fidelity", "PSNR-RGB", "psnr_rgb", _decimals(2), optional=True),
    Column("Fidelity", "SSIM-RGB", "ssim_rgb", _decimals(4), optional=True),
    Column("Fidelity", "LPIPS", "lpips", _decimals(4), low_is_good=True, optional=True),
    Column(
        "Cost and gain",
        "ms/image",
        "ms_per_image",
        number,
        "Time for one image: upscaling and detection.",
        low_is_good=True,
    ),
    Column(
        "Cost and gain",
        "gap closed",
        "gap_closed",
        lambda share: NOT_AVAILABLE if share is None else f"{fixed(100 * share, 0)} %",
        "How much of the way in mAP50-95 an arm goes from lr to hr, both with the first detector.",
    ),
)


def _table(rows: Sequence[Json], columns: Sequence[Column]) -> list[list[tuple[str, str]]]:
    """Of every row its cells: what is shown, and whether it is `best` of its column, `missing` or neither."""
    best = {}
    for column in columns:
        values = [row[column.key] for row in rows if row["arm"] != CEILING and row[column.key] is not None]
        if len(values) > 1:
            best[column.key] = column.shown(min(values) if column.low_is_good else max(values))

    def cell(row: Json, column: Column) -> tuple[str, str]:
        shown = column.shown(row[column.key])
        if shown == NOT_AVAILABLE:
            return shown, "missing"
        return shown, "best" if row["arm"] != CEILING and shown == best.get(column.key) else ""

    return [[cell(row, column) for column in columns] for row in rows]


def _runs(labels: Iterable[str]) -> list[tuple[str, int]]:
    """Equal neighbours and how many they are."""
    runs: list[tuple[str, int]] = []
    for label in labels:
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1] + 1)
        else:
            runs.append((label, 1))
    return runs


# ---------------------------------------------------------------- charts


@dataclass(frozen=True)
class Axis:
    """A range of values, and where in a drawing it lies."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The position of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Round values in the range, at most seven: where they are and what they say."""
        rough = (self.high - self.low) / 6
        power = math.floor(math.log10(rough))
        step = next(step for m in (1, 2, 5, 10) if (step := m * 10**power) >= rough * (1 - 1e-9))
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.at(i * step), fixed(i * step, digits)) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Rectangle:
    """A place in a drawing."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2

    def anchor(self, x: float, towards: bool) -> tuple[str, float]:
        """How a text of unknown width stands in this place, and where: at its side towards `x`, or away from it."""
        if self.left < x < self.right:
            return "middle", round(self.middle, 1)
        at_end = (self.middle < x) == towards
        return ("end", round(self.right, 1)) if at_end else ("start", round(self.left, 1))

    def shared(self, other: Rectangle) -> float:
        """The area that two places have in common."""
        w = min(self.right, other.right) - max(self.left, other.left)
        h = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, w) * max(0.0, h)


# Charts are drawn in these units and scaled to the page's width.
PLOT = Rectangle(58, 12, 408, 276)
LETTER_WH = (8.4, 17.0)  # of its largest font
LONGEST_LABEL = 18


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = share * (high - low) or 1.0
    return low - margin, high + margin


def _intervals(verdicts: Sequence[Json], start: float, end: float) -> Axis | None:
    """One axis in percent points for the intervals of all the verdicts, zero inside; None where none has one."""
    known = [v for v in verdicts if None not in (v["difference"], v["low"], v["high"])]
    if not known:
        return None
    low, high = _padded([0.0, *(100 * v[key] for v in known for key in ("difference", "low", "high"))], 0.05)
    room = 0.2 * (high - low)  # for the words on either side of zero
    return Axis(min(low, -room), max(high, room), start, end)


def _scatter(rows: Sequence[Json], styles: Mapping[str, str]) -> dict[str, Any] | None:
    """PSNR against mAP; a line for arms that have no PSNR. None where there is nothing to draw."""
    known = [row for row in rows if row["map50_95"] is not None]
    with_psnr = [row for row in known if row["psnr_y"] is not None]
    if not with_psnr:
        return None
    x = Axis(*_padded([row["psnr_y"] for row in with_psnr], 0.18), PLOT.left, PLOT.right)
    y = Axis(*_padded([100 * row["map50_95"] for row in known], 0.12), PLOT.bottom, PLOT.top)
    places = {id(row): (x.at(row["psnr_y"]), y.at(100 * row["map50_95"])) for row in with_psnr}
    taken = [Rectangle(px - 8, py - 8, px + 8, py + 8) for px, py in places.values()]
    heights = [y.at(100 * row["map50_95"]) for row in known if row["psnr_y"] is None]
    lines = [Rectangle(PLOT.left, height - 1, PLOT.right, height + 1) for height in heights]
    marks = []
    for row in sorted(known, key=lambda row: row["psnr_y"] is None):
        label = _short(row["arm"])
        w, h = LETTER_WH[0] * len(label), LETTER_WH[1]
        px, py = places.get(id(row), (None, y.at(100 * row["map50_95"])))
        if px is None:
            lefts = (PLOT.right - w, PLOT.left + 4, *(PLOT.middle + shift - w / 2 for shift in (0, -90, 90)))
            corners = [(left, top) for left in lefts for top in (py - h - 2, py + 2)]
        else:
            corners = [(left, top) for far in (0, 14, 28, 42, 56) for left, top in _around(px, py, w, h, far)]
        place = _free(corners, (w, h), taken, lines)
        taken.append(place)
        mark = {"arm": row["arm"], "label": label, "style": styles[row["arm"]], "x": px, "y": py, "row": row}
        anchor, text_x = place.anchor(PLOT.middle if px is None else px, towards=px is not None)
        mark |= {"anchor": anchor, "text_x": text_x, "text_y": round(place.bottom - 4, 1), "leader": None}
        if px is not None:
            near = min(max(px, place.left), place.right), min(max(py, place.top), place.bottom)
            mark["leader"] = near if math.dist(near, (px, py)) > 12 else None
        marks.append(mark)
    return {"x": x, "y": y, "marks": marks}


def _around(x: float, y: float, w: float, h: float, far: float) -> list[tuple[float, float]]:
    """Corners of places for a label around a point: beside it, above and below, and between those."""
    side, slant = 10 + far, 6 + 0.7 * far
    straight = [(x + side, y - h / 2), (x - side - w, y - h / 2), (x - w / 2, y - side - h), (x - w / 2, y + side)]
    return straight + [(x + dx, y + dy) for dy in (-h - slant - 2, slant + 2) for dx in (slant, -slant - w)]


def _free(
    corners: Iterable[tuple[float, float]], size_wh: tuple[float, float], taken: list[Rectangle], lines: list[Rectangle]
) -> Rectangle:
    """The first place that covers nothing, else that which covers least; leaving the plot is worse than a line."""

    def cost(place: Rectangle) -> float:
        outside = size_wh[0] * size_wh[1] - place.shared(PLOT)
        return round(sum(map(place.shared, taken)) + 2 * outside + 0.5 * sum(map(place.shared, lines)), 3)

    places = [Rectangle(left, top, left + size_wh[0], top + size_wh[1]) for left, top in corners]
    return min(places, key=cost)


def _curves(rows: Sequence[Json], styles: Mapping[str, str]) -> dict[str, Any]:
    """Precision over recall: of every IoU the arms and their paths."""
    x, y = Axis(0, 100, PLOT.left, PLOT.right), Axis(0, 100, PLOT.bottom, PLOT.top)
    by_iou: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for iou, precisions in (row["precision_recall"] or {}).items():
            known = [(i, value) for i, value in enumerate(precisions or []) if value is not None]
            if known:
                path = " ".join(f"{x.at(100 * i / (len(precisions) - 1))},{y.at(100 * value)}" for i, value in known)
                curve = {"arm": row["arm"], "style": styles[row["arm"]], "path": path, "ap": points(_mean(known))}
                by_iou.setdefault(iou, []).append(curve)
    return {"x": x, "y": y, "by_iou": by_iou}


def _mean(curve: Sequence[tuple[int, float]]) -> float:
    return sum(value for _, value in curve) / len(curve)


@dataclass(frozen=True)
class Bar:
    """A bar with its name before it and its numbers behind."""

    name: str
    style: str
    percent: float
    value: str
    count: str = ""


@dataclass(frozen=True)
class Panel:
    """Bars of one kind."""

    title: str
    note: str
    bars: Sequence[Bar]


def _percents(values: Sequence[float | None]) -> list[float]:
    """How long each bar is, the longest filling its track."""
    longest = max((value for value in values if value is not None), default=0)
    return [round(100 * max(value or 0, 0) / longest, 2) if longest > 0 else 0.0 for value in values]


def _size_panels(rows: Sequence[Json], styles: Mapping[str, str], boxes: Json) -> list[Panel]:
    panels = []
    for name in SIZE_NAMES:
        values = [row[f"ap_{name}"] for row in rows]
        bars = [
            Bar(row["arm"], styles[row["arm"]], percent, points(value))
            for row, value, percent in zip(rows, values, _percents(values), strict=True)
        ]
        count = boxes.get(name)
        note = _size_explanation(name) + ("" if count is None else f"; {number(count)} objects")
        panels.append(Panel(name.capitalize(), note, bars))
    return panels


ERRORS = {
    "classification": ("Classification", "Right place, wrong class."),
    "localisation": ("Localisation", "Right class, but a bad fit (IoU 0.1 to 0.5)."),
    "both": ("Both", "Wrong class, and a bad fit."),
    "duplicate": ("Duplicate", "One more box on an object already found."),
    "background": ("Background", "A box where there is no object."),
    "missed": ("Missed", "An object that no box points at."),
}
TOTALS = {
    "false_positive": ("All false positives", "Every wrong box, whatever its kind."),
    "false_negative": ("All false negatives", "Every object not found, whatever the reason."),
}


def _error_panels(rows: Sequence[Json], styles: Mapping[str, str], kinds: Mapping[str, tuple[str, str]]) -> list[Panel]:
    found = {(kind, id(row)): (row["errors"] or {}).get(kind) or {} for kind in kinds for row in rows}
    percents = iter(_percents([error.get("dap") for error in found.values()]))
    panels = []
    for kind, (title, note) in kinds.items():
        bars = []
        for row in rows:
            error = found[kind, id(row)]
            shown = points(error.get("dap")), number(error.get("count"))
            bars.append(Bar(row["arm"], styles[row["arm"]], next(percents), *shown))
        panels.append(Panel(title, note, bars))
    return panels


CHANGES = {
    "gained": ("Objects gained", "good"),
    "lost": ("Objects lost", "bad"),
    "added": ("Wrong boxes added", "bad"),
    "removed": ("Wrong boxes removed", "good"),
}


def _change_panels(rows: Sequence[Json]) -> list[Panel]:
    changed = [row for row in rows if row["changes"]]
    percents = iter(_percents([row["changes"][kind] for row in changed for kind in CHANGES]))
    panels = []
    for row in changed:
        changes = row["changes"]
        note = f"against {changes['control']}; confidence {text(changes['confidence'])}, IoU {text(changes['iou'])}"
        bars = [Bar(name, style, next(percents), number(changes[kind])) for kind, (name, style) in CHANGES.items()]
        panels.append(Panel(row["arm"], note, bars))
    return panels


def _detector(
    name: str,
    rows: Sequence[Json],
    verdicts: Sequence[Json],
    columns: Sequence[Column],
    styles: Mapping[str, str],
    data: Json,
) -> dict[str, Any]:
    """All that the page shows of one detector."""
    of_kind = {kind: [v for v in verdicts if v["kind"] == kind] for kind in ("primary", "planned", "exploratory")}
    # The primary verdict is about one detector; any other has its first planned comparison in its place.
    planned = of_kind["primary"] + of_kind["planned"]
    headline, others = planned[:1], {"planned": planned[1:], "exploratory": of_kind["exploratory"]}
    return {
        "name": name,
        "rows": list(zip(rows, _table(rows, columns), strict=True)),
        "styles": styles,
        "headline": headline[0] if headline else None,
        "headline_axis": _intervals(headline, 8, 432),
        "verdicts": others,
        "axes": {kind: _intervals(own, 8, 172) for kind, own in others.items()},
        "scatter": _scatter(rows, styles),
        "curves": _curves(rows, styles),
        "sizes": _size_panels(rows, styles, data.get("boxes_by_size") or {}),
        "errors": _error_panels(rows, styles, ERRORS),
        "totals": _error_panels(rows, styles, TOTALS),
        "changes": _change_panels(rows),
    }


def _arm_styles(rows: Sequence[Json], verdicts: Sequence[Json]) -> dict[str, str]:
    """A class of the style sheet for every arm: its colour, and dashes where colours repeat."""
    judged = [verdict["arm"] for verdict in verdicts if verdict["kind"] == "primary"]
    arms = list(dict.fromkeys([*judged, *(row["arm"] for row in rows)]))  # the arm in question has the first colour
    styles = {LOW: "arm-low", CEILING: "arm-ceiling"}
    for i, arm in enumerate(arm for arm in arms if arm not in styles):
        styles[arm] = f"arm-{i % COLOURS}" + (f" dash-{i // COLOURS % 3}" if i >= COLOURS else "")
    return styles


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


# ---------------------------------------------------------------- the gallery

GLYPHS = {"right": "✓ ", "wrong": "✗ ", "missed": "missed "}


def _boxes(image: GalleryImage) -> tuple[JudgedBox, ...]:
    return (*image.changes.before, *image.changes.after)


def _changed(image: GalleryImage) -> int:
    return sum(getattr(image.changes, kind) for kind in CHANGES)


def _class_name(image: GalleryImage, box: JudgedBox) -> str:
    return image.class_names.get(box.class_id, f"class {box.class_id}")


def _card(image: GalleryImage) -> dict[str, Any]:
    """A picture for the template.

    `has` lists what the filters ask for, as change/class: `lost/2`, `lost/any`, `all/2`, `all/any`.
    """
    has = {"all/any"}
    for box in _boxes(image):
        for kind in ("all", box.change) if box.change else ("all",):
            has |= {f"{kind}/any", f"{kind}/{box.class_id}"}
    sides = (
        ("before", image.before_arm, image.before_jpeg, image.changes.before),
        ("after", image.after_arm, image.after_jpeg, image.changes.after),
    )
    return {
        "image": image,
        "has": sorted(has),
        "counts": [(kind, getattr(image.changes, kind)) for kind in CHANGES],
        "sides": [
            {
                "name": name,
                "arm": arm,
                "src": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"),
                "boxes": [_drawn(image, box) for box in boxes],
                "said": ", ".join(f"{status} {sum(box.status == status for box in boxes)}" for status in GLYPHS),
            }
            for name, arm, jpeg, boxes in sides
        ],
    }


def _drawn(image: GalleryImage, box: JudgedBox) -> dict[str, Any]:
    """A box in units of the frame, and its label: at the side of the box that has more room."""
    (x1, y1, x2, y2), (width, height) = box.xyxy, image.size_wh
    said = GLYPHS[box.status] + _class_name(image, box)
    said += "" if box.confidence is None else f" {box.confidence:.2f}"
    on_left = x1 + x2 < width
    across = 100 * (x1 if on_left else width - x2) / width
    return {
        "box": box,
        "x": round(x1, 2),
        "y": round(y1, 2),
        "w": round(x2 - x1, 2),
        "h": round(y2 - y1, 2),
        "label": said,
        "edge": "left" if on_left else "right",
        "across": round(min(max(across, 0), 100), 2),
        "down": round(min(max(100 * y1 / height, 0), 100), 2),
        "inside": y1 < 0.08 * height,
    }
