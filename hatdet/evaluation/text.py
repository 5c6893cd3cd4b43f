"""The report as lines for a terminal: table, errors, changes, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["report_lines"]

_COLUMNS = (
    ("mAP50-95", "map50_95", 100, 1),
    ("mAP50", "map50", 100, 1),
    ("mAP75", "map75", 100, 1),
    ("AR100", "ar100", 100, 1),
    ("tiny", "ap_tiny", 100, 1),
    ("small", "ap_small", 100, 1),
    ("medium", "ap_medium", 100, 1),
    ("large", "ap_large", 100, 1),
    ("PSNR-Y", "psnr_y", 1, 2),
    ("SSIM-Y", "ssim_y", 1, 4),
    ("LPIPS", "lpips", 1, 4),
    ("gap", "gap_closed", 100, 0),
    ("share", "upscaled_share", 100, 0),
    ("ms", "ms_per_image", 1, 0),
)
# Values of columns that are left out where no row has another.
_SAYS_NOTHING: Mapping[str, tuple[float | None, ...]] = {"lpips": (None,), "upscaled_share": (None, 1)}
_ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Table, error breakdown, what upscaling changed, verdicts, protocol. mAP and gap in percent."""
    rows = report["rows"]
    lines = _table(rows)
    lines += [
        "",
        "Errors by TIDE's definitions: AP50 that mending them would give, and how many there are",
        *_errors(rows),
    ]
    changes = [row for row in rows if row["changes"]]
    if changes:
        lines += ["", *(_changed(row) for row in changes)]
    lines += ["", *_front(rows), "", *_verdicts(report["verdicts"])]
    return [*lines, "", *_protocol(report)]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = [
        column for column in _COLUMNS if any(row[column[1]] not in _SAYS_NOTHING.get(column[1], ()) for row in rows)
    ]
    width = _name_width(rows)
    lines = [f"{'':{width}}" + "".join(f"{title:>9}" for title, *_ in columns)]
    for row in rows:
        cells = "".join(f"{_number(row[key], factor, digits):>9}" for _, key, factor, digits in columns)
        lines.append(f"{_name(row, rows):{width}}{cells}")
    return lines


def _front(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each detector the arms of which no other is as good for less time, the cheapest first."""
    lines = []
    for detector in dict.fromkeys(row["detector"] for row in rows):
        front = [row for row in rows if row["detector"] == detector and row["pareto"] and row["map50_95"] is not None]
        said = [
            f"{row['arm']} {_number(row['map50_95'], 100, 1)} in {row['ms_per_image']:,.0f} ms"
            for row in sorted(front, key=lambda row: row["ms_per_image"])
        ]
        lines.append(f"no other arm is as good for less ({detector}): {'; '.join(said)}")
    return lines


def _errors(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    width = _name_width(rows)
    titles = ("class", "location", "both", "duplicate", "background", "missed")
    lines = [f"{'':{width}}" + "".join(f"{title:>14}" for title in titles)]
    for row in rows:
        errors = [row["errors"][name] for name in _ERRORS]
        cells = [f"{_number(error['dap'], 100, 1)} ({error['count']:,})" for error in errors]
        lines.append(f"{_name(row, rows):{width}}" + "".join(f"{cell:>14}" for cell in cells))
    return lines


def _changed(row: Mapping[str, Any]) -> str:
    changes = row["changes"]
    return (
        f"{row['arm']} against {changes['control']}, boxes of confidence {changes['confidence']} and more"
        f" ({row['detector']}): objects found {changes['gained']} more, {changes['lost']} lost; "
        f"wrong boxes {changes['added']} added, {changes['removed']} gone"
    )


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [verdict for verdict in verdicts if verdict["kind"] == "primary"]
    shown += [verdict for verdict in verdicts if verdict["metric"] == "map50_95_common"][:1]
    shown += [verdict for verdict in verdicts if verdict["kind"] == "planned"]
    if not any(verdict["kind"] == "primary" for verdict in shown):
        shown = [verdict for verdict in verdicts if verdict["metric"] == "map50_95"]
    several = len({verdict["detector"] for verdict in verdicts}) > 1
    lines = []
    for verdict in shown:
        title = {"primary": "Verdict", "planned": "planned", "exploratory": "exploratory"}[verdict["kind"]]
        detector = f" ({verdict['detector']})" if several else ""
        lines.append(f"{title}: {verdict['words']}{detector}")
    return lines or ["No verdict: there is nothing to compare. Add bicubic, lr@imgsz and an upscaler to --arms"]


def _protocol(report: Mapping[str, Any]) -> list[str]:
    settings, data = report["settings"], report["data"]
    kept = (
        f"confidence {settings['confidence']}, NMS {settings['nms_iou']}, {settings['boxes_evaluated']} boxes a class"
    )
    median = data["median_images_per_class"]
    lines = [
        f"{data['images']} images ({data['images_without_objects']} without objects), {data['boxes']} boxes, "
        f"{data['classes_with_boxes']} of {data['classes']} classes"
        + (f" (median {median:g} images a class)" if median is not None else ""),
        f"COCO's protocol, {kept}; sizes by box area in the {settings['size_frame']} frame; tiny is a part of small",
        f"intervals: 95 %, {settings['resamples']} resamples of {'groups' if settings['groups'] else 'images'}, "
        f"seed {settings['seed']}",
    ]
    return [*lines, "; ".join([*settings["fidelity"], settings["low_resolution"]])]


def _name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    several = len({other["detector"] for other in rows}) > 1
    return f"{row['detector']} {row['arm']}" if several else str(row["arm"])


def _name_width(rows: Sequence[Mapping[str, Any]]) -> int:
    return max(len(_name(row, rows)) for row in rows) + 1


def _number(value: float | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"
