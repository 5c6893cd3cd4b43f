"""Detection against time: everything upscaled, only regions, slices, and SAHI, on the same images in one run.

    python tools/make_scenes.py SCENES
    python tools/pareto.py SCENES/scenes.yaml --weights yolo11n.pt --json pareto.json
    python tools/pareto.py kit_ais.yaml --weights kit.pt --slice 96x96 --arms sliced:none sahi hat-xs sliced:hat-xs

Every image is reduced and goes through all arms, one after the other, so that a busy moment of the machine hits all of
them; times are of upscaling, detecting and merging, nothing is cached, and the first image is done once before. Arms
are those of `hatdet eval`, and `sahi`: its `get_sliced_prediction` as it is called, with the same weights, slices and
overlap, its own look at the whole image and its own merging (at so low a confidence that is NMS by IoU).

mAP is COCO's, in percent, of the labelled classes; differences are to `--against`, with intervals of 95 % over paired
resamples of the images. `front`: no other arm is as good for less time. Behind `seconds` is what share of the time of
`--against` that is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hatdet.cli.detect_regions import in_regions
from hatdet.cli.detect_slices import Slicing, sliced
from hatdet.core.errors import HatdetError
from hatdet.core.pareto import pareto_front
from hatdet.core.types import Detections, Image
from hatdet.detection.chain import run_chain
from hatdet.detection.yolo import PLAIN_IMGSZ, YoloDetector, load_detector
from hatdet.evaluation.arms import ArmName, arm_kind, check_arms
from hatdet.evaluation.average_precision import coco_summary
from hatdet.evaluation.bootstrap import draw_weights, resampled_map
from hatdet.evaluation.boxes import Found, Truth
from hatdet.evaluation.labels import map_classes
from hatdet.evaluation.low_resolution import LowResolution, read_pair
from hatdet.evaluation.matching import match_classes
from hatdet.evaluation.samples import read_detection_data
from hatdet.evaluation.verdict import Resampled, difference
from hatdet.imaging.files import to_array
from hatdet.sr.upscalers import load_upscaler

CONFIDENCE, NMS_IOU, BOXES_KEPT = 0.001, 0.7, 300  # as `hatdet eval`
RESAMPLES, SEED = 2000, 0
SAHI = "sahi"
ARMS = (
    "lr@640",
    "sliced:none",
    SAHI,
    "bicubic",
    "regions:hat-xs@0.1",
    "regions:hat-xs@0.2",
    "regions:hat-xs@0.3",
    "regions:hat-xs",
    "hat-xs",
    "hr",
)

# What is found in a low-resolution image and its reference, in the image's pixels; and the share that was upscaled.
Way = Callable[[Image, Image], tuple[Detections, float | None]]


@dataclass
class Measured:
    """What one arm did so far: an entry an image."""

    founds: list[Found]
    seconds: list[float]
    shares: list[float]


def ways(names: Sequence[str], detector: YoloDetector, weights: str, scale: int, slicing: Slicing) -> dict[str, Way]:
    """What each arm does."""
    upscalers: dict[str, Any] = {}

    def upscaler(name: str) -> Any:
        if name not in upscalers:
            upscalers[name] = load_upscaler(name, scale)
        return upscalers[name]

    def way(name: str) -> Way:
        if name == SAHI:
            return by_sahi(weights, slicing, detector)
        said, kind = ArmName.of(name), arm_kind(name)
        if kind == "reference":
            return lambda low, high: (sliced(detector, replace(slicing, size=None), scale)(high), None)
        if kind in ("own size", "letterbox"):
            fixed = name.removeprefix("lr@")

            def as_it_is(low: Image, high: Image) -> tuple[Detections, float | None]:
                longest = max(low.width, low.height)
                canvas = int(fixed) if fixed.isdigit() else longest * (scale if kind == "letterbox" else 1)
                return replace(detector, imgsz=max(canvas, 32))(low), None

            return as_it_is
        enlarge = None if said.upscaler is None else upscaler(said.upscaler)
        if said.regions:
            looks = YoloDetector(detector.model, detector.name)  # at the thresholds of `hatdet detect`
            enlarge = in_regions(enlarge, looks, said.max_share)
        cut = replace(slicing, size=(slicing.size or "auto") if said.sliced else None)
        looking = sliced(detector, cut, 1 if enlarge is None else scale)

        def chain(low: Image, high: Image) -> tuple[Detections, float | None]:
            done = run_chain(low, enlarge, looking)
            return done.detections, done.share

        return chain

    return {name: way(name) for name in names}


def by_sahi(weights: str, slicing: Slicing, detector: YoloDetector) -> Way:
    """SAHI's own model of the same weights, and its own slicing."""
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        model_type="ultralytics",
        model_path=weights,
        confidence_threshold=CONFIDENCE,
        device=str(detector.device),
        image_size=PLAIN_IMGSZ,  # and not what the weights were trained at: as hatdet's own slices
    )
    size = slicing.size_wh

    def slices(low: Image, high: Image) -> tuple[Detections, float | None]:
        found = get_sliced_prediction(
            to_array(low),
            model,
            slice_width=None if size is None else size[0],
            slice_height=None if size is None else size[1],
            overlap_width_ratio=slicing.overlap,
            overlap_height_ratio=slicing.overlap,
            verbose=0,
        ).object_prediction_list
        boxes = np.array([one.bbox.to_xyxy() for one in found], np.float32).reshape(-1, 4)
        sure = np.array([one.score.value for one in found], np.float32)
        classes = np.array([one.category.id for one in found], np.int64)
        return Detections(boxes, sure, classes, detector.class_names), None

    return slices


def measured(given: argparse.Namespace, say: Callable[[str], None]) -> tuple[dict[str, Measured], list[Truth], Any]:
    """Every image through every arm; the labels; the names of the classes that are evaluated."""
    data = read_detection_data(given.data)
    samples = data.split(given.split)[: given.limit]
    detector = load_detector(
        given.weights, confidence=CONFIDENCE, iou=NMS_IOU, max_detections=BOXES_KEPT, tasks=("detect",)
    )
    to_data = map_classes(data.names, detector.class_names).to_data
    classes = {class_id: name for class_id, name in data.names.items() if class_id in to_data.values()}
    does = ways(given.arms, detector, str(given.weights), given.scale, Slicing(given.slice, given.overlap, "nms"))
    how = LowResolution(given.scale)
    results = {name: Measured([], [], []) for name in does}
    truths = []
    for number, sample in enumerate(samples):
        pair = read_pair(sample, data.names, how)
        assert pair.reference is not None
        truth = pair.truth(given.scale)
        kept = np.isin(truth.class_id, list(classes))
        truths.append(Truth(truth.xyxy[kept], truth.class_id[kept], truth.crowd[kept]))
        for name, way in does.items():
            if number == 0:
                way(pair.low, pair.reference)
            began = time.perf_counter()
            found, share = way(pair.low, pair.reference)
            results[name].seconds.append(time.perf_counter() - began)
            results[name].shares += [] if share is None else [share]
            results[name].founds.append(in_frame(found, to_data, given.scale))
        say(f"{number + 1} of {len(samples)}")
    return results, truths, classes


def in_frame(found: Detections, to_data: Any, scale: int) -> Found:
    """Boxes of the classes of the data, in the pixels of the reference, the most confident first."""
    kept = np.isin(found.class_id, list(to_data))
    found = found.taken(kept)
    found = found.taken(np.argsort(-found.confidence, kind="stable"))
    classes = np.array([to_data[int(class_id)] for class_id in found.class_id], np.int64)
    return Found(found.xyxy.astype(np.float64) * scale, found.confidence.astype(np.float64), classes)


def rows_of(results: dict[str, Measured], truths: Sequence[Truth], classes: Any, against: str) -> list[dict[str, Any]]:
    """A row for each arm."""
    weights = draw_weights(len(truths), RESAMPLES, SEED)
    rows = []
    draws: dict[str, dict[str, Resampled]] = {}
    for name, one in results.items():
        summary = coco_summary(truths, one.founds, classes)
        estimates = {"all": summary.map50_95, "small": summary.by_size["small"]}
        draws[name] = {
            size: Resampled(
                float("nan") if value is None else value,
                resampled_map(match_classes(truths, one.founds, list(classes), size), weights).map50_95,
            )
            for size, value in estimates.items()
        }
        rows.append(
            {
                "arm": name,
                "map50_95": summary.map50_95 or 0.0,
                "ap_small": estimates["small"],
                "seconds": statistics.fmean(one.seconds),
                "share": statistics.fmean(one.shares) if one.shares else None,
            }
        )
    control = next((row for row in rows if row["arm"] == against), rows[-1])
    for row in rows:
        row["of_time"] = row["seconds"] / control["seconds"]
        for size in ("all", "small"):
            found = difference(draws[row["arm"]][size], draws[control["arm"]][size])
            same = row is control or found is None
            row[f"difference_{size}"] = None if same else [found.value, found.low, found.high]
    rivals = [row for row in rows if row["arm"] != "hr"]
    front = pareto_front([(row["seconds"], -row["map50_95"]) for row in rivals])
    for row in rows:
        row["front"] = any(rivals[index] is row for index in front)
    return rows


def printed(rows: Sequence[dict[str, Any]], against: str) -> str:
    """The table in Markdown, by time."""
    lines = [
        f"| arm | pixels upscaled | seconds | of `{against}` | mAP50-95 | AP small | mAP50-95 against `{against}` | "
        f"AP small against it | front |",
        "|---|--:|--:|--:|--:|--:|--:|--:|:-:|",
    ]
    for row in sorted(rows, key=lambda row: (row["arm"] == "hr", row["seconds"])):
        cells = [
            f"`{row['arm']}`",
            "" if row["share"] is None else f"{100 * row['share']:.0f} %",
            f"{row['seconds']:.2f}",
            f"{100 * row['of_time']:.0f} %",
            f"{100 * row['map50_95']:.1f}",
            "" if row["ap_small"] is None else f"{100 * row['ap_small']:.1f}",
            *(
                "" if one is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in one))
                for one in (row["difference_all"], row["difference_small"])
            ),
            "*" if row["front"] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an Ultralytics data file or COCO's JSON")
    parser.add_argument("--weights", help="of the detector; for sahi a .pt file (default: the embedded one)")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--slice", help="WxH in pixels of the low-resolution image (default: auto, and SAHI's own)")
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--against", default="hat-xs")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, help="write the rows")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        check_arms([name for name in given.arms if name != SAHI], reference=True)
        results, truths, classes = measured(given, lambda line: print(line, file=sys.stderr, flush=True))
    except HatdetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = rows_of(results, truths, classes, given.against)
    boxes = sum(len(truth) for truth in truths)
    print(f"{len(truths)} images, {boxes} objects, x{given.scale}, {torch.get_num_threads()} threads\n")
    print(printed(rows, given.against))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
