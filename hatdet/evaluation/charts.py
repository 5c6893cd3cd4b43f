"""The charts of an evaluation's page, as places and numbers for its templates to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hatdet.evaluation.boxes import SIZE_NAMES
from hatdet.evaluation.wording import fixed, number, points, size_explanation, text

__all__ = [
    "CHANGES",
    "ERRORS",
    "LONGEST_LABEL",
    "TOTALS",
    "change_panels",
    "costs",
    "curves",
    "error_panels",
    "intervals",
    "scatter",
    "short_name",
    "size_panels",
]

Json = Mapping[str, Any]


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
class LogAxis(Axis):
    """A range of powers of ten: `low`, `high` and what `at` takes are logarithms."""

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """1, 2, 5, 10 ... where there are few of them, else 1, 10, 100 ..."""
        first, last = math.floor(self.low), math.ceil(self.high)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            values = [m * 10.0**power for power in range(first, last + 1) for m in steps]
            shown = [value for value in values if self.low <= math.log10(value) <= self.high]
            if len(shown) <= 6:
                break
        return [(self.at(math.log10(value)), f"{value:,.3g}" if value < 1 else f"{value:,.0f}") for value in shown]


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


def intervals(verdicts: Sequence[Json], start: float, end: float) -> Axis | None:
    """One axis in percent points for the intervals of all the verdicts, zero inside; None where none has one."""
    known = [v for v in verdicts if None not in (v["difference"], v["low"], v["high"])]
    if not known:
        return None
    low, high = _padded([0.0, *(100 * v[key] for v in known for key in ("difference", "low", "high"))], 0.05)
    room = 0.2 * (high - low)  # for the words on either side of zero
    return Axis(min(low, -room), max(high, room), start, end)


def scatter(rows: Sequence[Json], styles: Mapping[str, str]) -> dict[str, Any] | None:
    """PSNR against mAP; a line for arms that have no PSNR. None where there is nothing to draw."""
    known = {row["psnr_y"] for row in rows if row["map50_95"] is not None and row["psnr_y"] is not None}
    if not known:
        return None
    return _points_and_lines(rows, styles, "psnr_y", Axis(*_padded(sorted(known), 0.18), PLOT.left, PLOT.right))


def costs(rows: Sequence[Json], styles: Mapping[str, str]) -> dict[str, Any] | None:
    """Time against mAP, and the arms of which no other is as good for less; a line for the reference."""
    shown = [{**row, "log_ms": _log_ms(row)} for row in rows]
    known = {row["log_ms"] for row in shown if row["map50_95"] is not None and row["log_ms"] is not None}
    if not known:
        return None
    chart = _points_and_lines(shown, styles, "log_ms", LogAxis(*_padded(sorted(known), 0.18), PLOT.left, PLOT.right))
    front = sorted((mark["x"], mark["y"]) for mark in chart["marks"] if mark["row"]["pareto"])
    return {**chart, "front": " ".join(f"{x},{y}" for x, y in front)}


def _log_ms(row: Json) -> float | None:
    """Of an arm that costs something: the reference is nobody's choice."""
    return math.log10(max(row["ms_per_image"], 0.01)) if row["pareto"] is not None else None


def _points_and_lines(rows: Sequence[Json], styles: Mapping[str, str], key: str, x: Axis) -> dict[str, Any]:
    """`key` against mAP; a line for arms that do not have it."""
    known = [row for row in rows if row["map50_95"] is not None]
    with_x = [row for row in known if row[key] is not None]
    y = Axis(*_padded([100 * row["map50_95"] for row in known], 0.12), PLOT.bottom, PLOT.top)
    places = {id(row): (x.at(row[key]), y.at(100 * row["map50_95"])) for row in with_x}
    taken = [Rectangle(px - 8, py - 8, px + 8, py + 8) for px, py in places.values()]
    heights = [y.at(100 * row["map50_95"]) for row in known if row[key] is None]
    lines = [Rectangle(PLOT.left, height - 1, PLOT.right, height + 1) for height in heights]
    marks = []
    for row in sorted(known, key=lambda row: row[key] is None):
        label = short_name(row["arm"])
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
    return {"x": x, "y": y, "marks": marks, "front": None}


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


def curves(rows: Sequence[Json], styles: Mapping[str, str]) -> dict[str, Any]:
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


def size_panels(rows: Sequence[Json], styles: Mapping[str, str], boxes: Json) -> list[Panel]:
    panels = []
    for name in SIZE_NAMES:
        values = [row[f"ap_{name}"] for row in rows]
        bars = [
            Bar(row["arm"], styles[row["arm"]], percent, points(value))
            for row, value, percent in zip(rows, values, _percents(values), strict=True)
        ]
        count = boxes.get(name)
        note = size_explanation(name) + ("" if count is None else f"; {number(count)} objects")
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


def error_panels(rows: Sequence[Json], styles: Mapping[str, str], kinds: Mapping[str, tuple[str, str]]) -> list[Panel]:
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


def change_panels(rows: Sequence[Json]) -> list[Panel]:
    changed = [row for row in rows if row["changes"]]
    percents = iter(_percents([row["changes"][kind] for row in changed for kind in CHANGES]))
    panels = []
    for row in changed:
        changes = row["changes"]
        note = f"against {changes['control']}; confidence {text(changes['confidence'])}, IoU {text(changes['iou'])}"
        bars = [Bar(name, style, next(percents), number(changes[kind])) for kind, (name, style) in CHANGES.items()]
        panels.append(Panel(row["arm"], note, bars))
    return panels


def short_name(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"
