"""The page that shows an evaluation to people: one HTML file that needs no network, no server and no library.

Numbers, tables and charts are made here and are in the page as text and SVG, so it reads and prints without JavaScript;
that only switches, filters and moves the slider. Everything that came from outside (names, paths, commands) is escaped
by the templates, `report.html.j2` with `report.css` and `report.js` beside it.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hatdet.evaluation.boxes import SIZE_NAMES
from hatdet.evaluation.changes import ImageChanges, JudgedBox
from hatdet.evaluation.charts import (
    CHANGES,
    ERRORS,
    TOTALS,
    change_panels,
    costs,
    curves,
    error_panels,
    intervals,
    scatter,
    size_panels,
)
from hatdet.evaluation.verdict import METRIC_WORDS
from hatdet.evaluation.wording import (
    NOT_AVAILABLE,
    fixed,
    number,
    p_value,
    points,
    signed,
    size_explanation,
    text,
)

__all__ = ["GalleryImage", "html_report"]

Json = Mapping[str, Any]
LOW, CEILING = "lr", "hr"
COLOURS = 5  # besides those of lr and hr; further arms repeat them with dashes


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
    columns = [column for column in COLUMNS if any(row[column.key] not in column.optional for row in rows)]
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
        sizes=[(name, size_explanation(name)) for name in SIZE_NAMES],
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
        neutral: no value is better than another.
        optional: values that say nothing: the column is left out where no row has another.
    """

    group: str
    label: str
    key: str
    shown: Callable[[float | None], str]
    explanation: str = ""
    low_is_good: bool = False
    neutral: bool = False
    optional: tuple[float | None, ...] = ()


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
    Column("Fidelity", "PSNR-RGB", "psnr_rgb", _decimals(2), optional=(None,)),
    Column("Fidelity", "SSIM-RGB", "ssim_rgb", _decimals(4), optional=(None,)),
    Column("Fidelity", "LPIPS", "lpips", _decimals(4), low_is_good=True, optional=(None,)),
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
        "upscaled",
        "upscaled_share",
        lambda share: NOT_AVAILABLE if share is None else f"{fixed(100 * share, 0)} %",
        "Share of the pixels that went through the upscaler; the others are bicubic.",
        neutral=True,
        optional=(None, 1),
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
        if len(values) > 1 and not column.neutral:
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


# ---------------------------------------------------------------- one detector


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
        "headline_axis": intervals(headline, 8, 432),
        "verdicts": others,
        "axes": {kind: intervals(own, 8, 172) for kind, own in others.items()},
        "scatter": scatter(rows, styles),
        "costs": costs(rows, styles),
        "curves": curves(rows, styles),
        "sizes": size_panels(rows, styles, data.get("boxes_by_size") or {}),
        "errors": error_panels(rows, styles, ERRORS),
        "totals": error_panels(rows, styles, TOTALS),
        "changes": change_panels(rows),
    }


def _arm_styles(rows: Sequence[Json], verdicts: Sequence[Json]) -> dict[str, str]:
    """A class of the style sheet for every arm: its colour, and dashes where colours repeat."""
    judged = [verdict["arm"] for verdict in verdicts if verdict["kind"] == "primary"]
    arms = list(dict.fromkeys([*judged, *(row["arm"] for row in rows)]))  # the arm in question has the first colour
    styles = {LOW: "arm-low", CEILING: "arm-ceiling"}
    for i, arm in enumerate(arm for arm in arms if arm not in styles):
        styles[arm] = f"arm-{i % COLOURS}" + (f" dash-{i // COLOURS % 3}" if i >= COLOURS else "")
    return styles


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
