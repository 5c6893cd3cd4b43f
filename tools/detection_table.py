"""What networks and detectors are worth together, beside each other: the table of docs/detection-training.md.

    python tools/detection_table.py coco128.yaml --weights yolo11n.pt yolov8n.pt \\
        --networks hat-xs networks/*.safetensors --against pixel hat-xs -o table.json --plot table.svg

The numbers are `hatdet eval`'s: the same images, chain, and evaluator. Behind each detector, a row for bicubic
interpolation, for each network, and for the reference. A difference is of mAP50-95, between a network and one of those
that --against names, with its interval of 95 % over paired resamples of the images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hatdet.cli.evaluate_parts import Machine, load_arms, load_detectors, only_these
from hatdet.cli.session import Session
from hatdet.evaluation.arms import Arm
from hatdet.evaluation.average_precision import coco_summary
from hatdet.evaluation.bootstrap import draw_weights, resampled_map
from hatdet.evaluation.boxes import Found, Truth, overlaps
from hatdet.evaluation.joint import DetectorUnderTest, JointEvaluation
from hatdet.evaluation.low_resolution import LowResolution, read_pair
from hatdet.evaluation.matching import match_classes
from hatdet.evaluation.samples import read_detection_data
from hatdet.evaluation.store import Store
from hatdet.evaluation.verdict import Resampled, difference

CONFIDENCE, NMS_IOU, BOXES_KEPT = 0.001, 0.7, 300  # as `hatdet eval`
SHOWN, NOTHING_THERE = 0.25, 0.1  # what `hatdet detect` shows; TIDE's overlap below which a box is on no object
RESAMPLES, SEED = 2000, 0


def evaluate(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each detector and arm."""
    data = read_detection_data(given.data)
    samples = data.split(given.split)[: given.limit]
    how = LowResolution(given.scale)
    machine = Machine(given.device, "fp32", 256, 32, None)
    arms = ["bicubic", *map(str, given.networks), "hr"]
    with Session(False, False) as session, Store(given.cache) as store:
        detectors, classes = load_detectors(
            session, given.weights, data.names, machine, CONFIDENCE, NMS_IOU, BOXES_KEPT
        )
        loaded = load_arms(session, arms, given.scale, machine, store)
        evaluation = JointEvaluation(
            loaded, detectors, given.scale, store, given.imgsz, machine.largest_canvas, given.scale
        )
        for sample in session.over(samples, "evaluating"):
            pair = read_pair(sample, data.names, how)
            truth = only_these(pair.truth(given.scale), classes)
            evaluation.add(sample.relative.as_posix(), pair.low, pair.reference, truth, session.part_done)
        weights = draw_weights(len(samples), RESAMPLES, SEED)
        rows = []
        for detector in detectors:
            found = {short(arm.name): numbers(evaluation, detector, arm, classes, weights) for arm in loaded}
            bicubic, hr = found["bicubic"]["map"].estimate, found["hr"]["map"].estimate
            for name, row in found.items():
                against = {}
                for control in given.against:
                    if control in found and control != name:
                        for metric in ("map", "small"):
                            one = difference(row[metric], found[control][metric])
                            against[f"{metric} - {control}"] = one and [one.value, one.low, one.high]
                rows.append(
                    {
                        "detector": detector.name,
                        "arm": name,
                        "psnr_y": row["psnr_y"],
                        "map50_95": row["map"].estimate,
                        "ap_small": row["small"].estimate,
                        "gap_closed": (row["map"].estimate - bicubic) / (hr - bicubic) if hr > bicubic else None,
                        "boxes_on_nothing": row["nothing"],
                        "against": against,
                    }
                )
    return rows


def numbers(
    evaluation: JointEvaluation, detector: DetectorUnderTest, arm: Arm, classes: Mapping[int, str], weights: Any
) -> dict[str, Any]:
    truths = [image.truth for image in evaluation.images]
    founds = evaluation.founds(detector, arm)
    summary = coco_summary(truths, founds, classes)
    fidelity = [image.fidelity[arm.name]["psnr_y"] for image in evaluation.images if arm.name in image.fidelity]
    drawn = {
        size: resampled_map(match_classes(truths, founds, list(classes), size), weights) for size in ("all", "small")
    }
    small = summary.by_size["small"]
    return {
        "map": Resampled(summary.map50_95 or 0.0, drawn["all"].map50_95),
        "small": Resampled(float("nan") if small is None else small, drawn["small"].map50_95),
        "psnr_y": float(np.mean(fidelity)) if fidelity else None,
        "nothing": sum(boxes_on_nothing(truth, found) for truth, found in zip(truths, founds, strict=True)),
    }


def boxes_on_nothing(truth: Truth, found: Found) -> int:
    """Boxes that would be shown and lie on no object of any class."""
    shown = found.xyxy[found.confidence >= SHOWN]
    if not len(truth):
        return len(shown)
    return int((overlaps(shown, truth.xyxy, truth.crowd).max(1, initial=0) < NOTHING_THERE).sum())


def short(name: str) -> str:
    """Of a weights file its name."""
    return Path(name).stem if Path(name).suffix in (".safetensors", ".pth") else name


def printed(rows: Sequence[Mapping[str, Any]], against: Sequence[str]) -> str:
    """The table in Markdown."""
    lines = []
    for detector in dict.fromkeys(row["detector"] for row in rows):
        heads = ["PSNR-Y", "mAP50-95", "AP small", "gap closed", "boxes on nothing"]
        heads += [f"{metric} against {control}" for control in against for metric in ("mAP50-95", "AP small")]
        lines += [f"{detector}:", "", "| arm | " + " | ".join(heads) + " |", "|---" + "|--:" * len(heads) + "|"]
        for row in rows:
            if row["detector"] != detector:
                continue
            psnr = "" if row["psnr_y"] is None else f"{row['psnr_y']:.2f}"
            gap = "" if row["gap_closed"] is None else f"{100 * row['gap_closed']:.0f} %"
            cells = [
                psnr,
                f"{100 * row['map50_95']:.1f}",
                f"{100 * row['ap_small']:.1f}",
                gap,
                str(row["boxes_on_nothing"]),
            ]
            for control in against:
                for metric in ("map", "small"):
                    one = row["against"].get(f"{metric} - {control}")
                    cells.append(
                        "" if not one else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in one))
                    )
            lines.append(f"| {row['arm']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """PSNR-Y against mAP50-95, a panel for each detector."""
    from matplotlib.figure import Figure

    detectors = list(dict.fromkeys(row["detector"] for row in rows))
    figure = Figure(figsize=(6 * len(detectors), 4.5), layout="constrained")
    for axes, detector in zip(np.atleast_1d(figure.subplots(1, len(detectors))), detectors, strict=True):
        for row in rows:
            if row["detector"] != detector:
                continue
            if row["psnr_y"] is None:
                axes.axhline(100 * row["map50_95"], linestyle="--", color="grey", linewidth=1)
                axes.annotate(row["arm"], (0, 100 * row["map50_95"]), xycoords=("axes fraction", "data"), va="bottom")
                continue
            axes.plot(row["psnr_y"], 100 * row["map50_95"], "o")
            at = (row["psnr_y"], 100 * row["map50_95"])
            axes.annotate(row["arm"], at, xytext=(4, 4), textcoords="offset points")
        axes.set(title=detector, xlabel="PSNR-Y (dB)", ylabel="mAP50-95")
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--weights", nargs="+", required=True, help="detectors, by name or file")
    parser.add_argument("--networks", nargs="+", required=True, help="upscalers, by name or file")
    parser.add_argument("--against", nargs="*", default=[], help="networks that others are compared with")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cache", type=Path, default=Path("results/eval/cache"))
    parser.add_argument("-o", "--output", type=Path, help="all numbers, as JSON")
    parser.add_argument("--plot", type=Path, help="PSNR against mAP: .svg or .png")
    given = parser.parse_args()
    rows = evaluate(given)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=1) + "\n")
    if given.plot:
        plot(rows, given.plot)
    print(printed(rows, given.against))
    return 0


if __name__ == "__main__":
    sys.exit(main())
