"""The curve of a training that is measured by fidelity and by detection: PSNR against mAP, validation by validation."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

from hatdet.core.atomic import write_bytes

__all__ = ["draw_curve", "validations"]


def validations(folder: Path, dataset: str) -> list[dict[str, Any]]:
    """What a run's `validation.jsonl` says of a data set, by iteration; of one that was measured twice the last."""
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    found = {row["iter"]: row for row in rows if row["dataset"] == dataset}
    return [found[iteration] for iteration in sorted(found)]


def draw_curve(folder: Path, dataset: str) -> None:
    """Write `curve_<data set>.svg` of a run: each validation a point, PSNR-Y to the right, mAP50-95 upwards.

    Nothing is written of a data set without boxes.
    """
    rows = [row for row in validations(folder, dataset) if "map50_95" in row and "psnr_y" in row]
    rows = [row for row in rows if math.isfinite(row["map50_95"]) and math.isfinite(row["psnr_y"])]
    if not rows:
        return
    from matplotlib.figure import Figure  # it comes with ultralytics

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([row["psnr_y"] for row in rows], [100 * row["map50_95"] for row in rows], "o-", markersize=4)
    for row in (rows[0], rows[-1]):
        axes.annotate(
            str(row["iter"]), (row["psnr_y"], 100 * row["map50_95"]), xytext=(5, 5), textcoords="offset points"
        )
    axes.set_xlabel("PSNR-Y (dB)")
    axes.set_ylabel("mAP50-95")
    axes.set_title(f"{folder.name}: {dataset}, by iteration")
    for control in ("bicubic", "hr"):
        value = rows[0].get(f"map50_95@{control}")
        if value is not None and math.isfinite(value):
            axes.axhline(100 * value, linestyle="--", linewidth=1, color="grey")
            axes.annotate(control, (1, 100 * value), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    write_bytes(folder / f"curve_{dataset}.svg", buffer.getvalue())
