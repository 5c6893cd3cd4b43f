"""Which cheap look at a small image says best where objects are, so that only those parts are upscaled?

    python tools/make_scenes.py OUT
    python tools/region_scorers.py OUT/scenes.yaml --weights yolo11n.pt --limit 10

Every picture is reduced, and each scorer gives every cell of it (32x32 pixels) a number:
- `detector @ 1280`: the confidence of the surest box that touches the cell, after bicubic enlargement to that long
  side; boxes longer than 3 cells are left out, since what is so large is seen without upscaling;
- `edges`: the mean step of brightness from a pixel to its neighbours; `peaks`: the largest one;
- `odd edges`: the edges over the median of the 7x7 cells around;
- `detector @ 1280, then odd edges`: the cells of the detector first, most confident first, then the others.
Marked are the cells from a confidence on, or the first ones until, grown by one cell to all sides, they hold a share of
the pixels. An object counts as marked when its middle is in the grown cells. The last column counts only the objects
that the detector finds at the size of the original (confidence 0.25, IoU 0.5, the right class): upscaling can bring
back no others. Times are of the processor, for one image.

The table is Markdown. The line above it says what of the objects is found at the original's size, and how many boxes
lie where nothing is labelled: of scenes that are to measure something the one is large and the other small.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hatdet.core.errors import HatdetError
from hatdet.core.types import Detections, Image
from hatdet.detection.yolo import YoloDetector, load_detector
from hatdet.evaluation.boxes import SIZES, Truth, areas, overlaps
from hatdet.evaluation.labels import map_classes, read_labels
from hatdet.evaluation.samples import read_detection_data
from hatdet.imaging.files import read_image, to_array
from hatdet.imaging.resize import reduced, to_scale

CELL = 32  # pixels of the reduced image
LONGEST = 3 * CELL  # of boxes that mark cells
CONFIDENCES = (0.1, 0.05, 0.02)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4)
SURE, SAME = 0.25, 0.5  # confidence and IoU from which on an object is found

Cells = NDArray[np.float64]  # a number for each cell, `(rows, columns)`


@dataclass(frozen=True)
class Marking:
    """Which cells of a scorer's are marked: from a confidence on, or the best ones up to a share of the pixels."""

    scorer: str
    least: float | None = None
    share: float | None = None

    def cells(self, scores: Cells, size_wh: tuple[int, int]) -> NDArray[np.bool_]:
        """The marked cells, grown. Shape: that of the scores."""
        if self.least is not None:
            return grown(scores >= self.least)
        chosen = np.zeros(scores.shape, np.bool_)
        for index in np.argsort(-scores, axis=None, kind="stable"):
            more = chosen.copy()
            more.flat[index] = True
            if share_of(grown(more), size_wh) > (self.share or 0):
                break
            chosen = more
        return grown(chosen)

    @property
    def words(self) -> str:
        return f"confidence {self.least:g}" if self.least is not None else f"up to {100 * (self.share or 0):g} %"


def grown(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells and all their neighbours."""
    return cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)


def share_of(cells: NDArray[np.bool_], size_wh: tuple[int, int]) -> float:
    """The share of the pixels that is in these cells; the last row and column may hold fewer."""
    columns, rows = (np.minimum(CELL, side - CELL * np.arange(-(-side // CELL))) for side in size_wh)
    return float((cells * rows[:, None] * columns).sum() / (size_wh[0] * size_wh[1]))


def marked(xyxy: NDArray[np.float64], cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the middle of each box `(n, 4)` is in one of the cells."""
    x, y = ((xyxy[:, axis] + xyxy[:, axis + 2]) / 2 // CELL for axis in (0, 1))
    rows, columns = cells.shape
    return cells[np.clip(y.astype(int), 0, rows - 1), np.clip(x.astype(int), 0, columns - 1)]


def of_boxes(found: Detections, size_wh: tuple[int, int]) -> Cells:
    """The confidence of the surest box that touches a cell; 0 without one."""
    scores = np.zeros([-(-side // CELL) for side in size_wh[::-1]])
    for (x1, y1, x2, y2), confidence in zip(found.xyxy.tolist(), found.confidence.tolist(), strict=True):
        if max(x2 - x1, y2 - y1) <= LONGEST:
            touched = scores[int(y1 // CELL) : int(-(-y2 // CELL)), int(x1 // CELL) : int(-(-x2 // CELL))]
            np.maximum(touched, confidence, out=touched)
    return scores


def edges(image: Image) -> Cells:
    """The mean step of brightness from a pixel to the next ones, in a cell."""
    steps = _steps(image)
    counts = _by_cell(np.ones_like(steps), np.add)
    return _by_cell(steps, np.add) / counts


def peaks(image: Image) -> Cells:
    """The largest step of brightness in a cell."""
    return _by_cell(_steps(image), np.maximum)


def odd_edges(image: Image) -> Cells:
    """The edges over the median of the cells around: what stands out of what is alike all over."""
    values = edges(image)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(values, 3, mode="symmetric"), (7, 7))
    return values / (np.median(around, axis=(2, 3)) + 0.5)


def detector_first(boxes: Cells, others: Cells) -> Cells:
    """Cells with a box by its confidence, and after them the others in their order."""
    return np.where(boxes > 0, 1 + boxes, others / (others.max() + 1e-9))


def _steps(image: Image) -> NDArray[np.float64]:
    grey = to_array(image) @ np.array([0.299, 0.587, 0.114])
    rows, columns = np.gradient(grey)
    return np.asarray(np.abs(rows) + np.abs(columns))


def _by_cell(values: NDArray[np.float64], gather: np.ufunc) -> Cells:
    for axis in (0, 1):
        values = gather.reduceat(values, np.arange(0, values.shape[axis], CELL), axis=axis)
    return values


def look(detector: YoloDetector, image: Image, side: int) -> Detections:
    """The boxes, in pixels of the image, of the detector after bicubic enlargement to that long side."""
    longest = max(image.width, image.height)
    shown = image if side == longest else to_scale(image, side / longest)
    return replace(detector, imgsz=side)(shown)


def found_at_full_size(found: Detections, truth: Truth, to_data: Mapping[int, int]) -> tuple[NDArray[np.bool_], int]:
    """Which objects a detection of their class lies on, and how many detections touch no object at all."""
    sure = found.confidence >= SURE
    xyxy = found.xyxy[sure].astype(np.float64)
    classes = np.array([to_data.get(int(one), -1) for one in found.class_id[sure]], np.int64)
    same = overlaps(xyxy, truth.xyxy, np.zeros(len(truth), np.bool_))
    right = (same >= SAME) & (classes[:, None] == truth.class_id)
    return right.any(0), int((same <= 0).all(1).sum())


def scorers(detector: YoloDetector, sides: Sequence[int]) -> dict[str, Callable[[Image], Cells]]:
    """By name: what gives every cell of an image a number."""

    def boxes(side: int) -> Callable[[Image], Cells]:
        return lambda image: of_boxes(look(detector, image, side), (image.width, image.height))

    def both(side: int) -> Callable[[Image], Cells]:
        return lambda image: detector_first(boxes(side)(image), odd_edges(image))

    with_boxes = {f"detector @ {side}": boxes(side) for side in sides}
    mixed = {f"detector @ {side}, then odd edges": both(side) for side in sides}
    return with_boxes | {"edges": edges, "peaks": peaks, "odd edges": odd_edges} | mixed


def markings(names: Sequence[str]) -> list[Marking]:
    """The rows of the table."""
    rows = []
    for name in names:
        if name.startswith("detector") and "then" not in name:
            rows += [Marking(name, least=confidence) for confidence in CONFIDENCES]
        else:
            rows += [Marking(name, share=share) for share in SHARES]
    return rows


def measure(data: Path, detector: YoloDetector, limit: int | None, scale: int, sides: Sequence[int]) -> str:
    """The line and the table."""
    read = read_detection_data(data)
    to_data = map_classes(read.names, detector.class_names).to_data
    looked = scorers(replace(detector, confidence=min(CONFIDENCES)), sides)
    rows = markings(list(looked))
    hits: dict[Marking, list[NDArray[np.bool_]]] = {row: [] for row in rows}
    shares: dict[Marking, list[float]] = {row: [] for row in rows}
    seconds = dict.fromkeys(looked, 0.0)
    small, found, stray, images = [], [], 0, 0
    for sample in read.split("val")[:limit]:
        image = read_image(sample.image)
        low = reduced(image, scale)
        size_wh = (low.width, low.height)
        cropped = (low.width * scale, low.height * scale)
        truth = read_labels(sample, read.names, (image.width, image.height), cropped).truth
        there, elsewhere = found_at_full_size(look(detector, image, max(image.width, image.height)), truth, to_data)
        found.append(there)
        small.append(areas(truth.xyxy) < SIZES["small"][1])
        stray, images = stray + elsewhere, images + 1
        for name, scorer in looked.items():
            start = time.process_time()
            scores = scorer(low)
            seconds[name] += time.process_time() - start
            for row in (row for row in rows if row.scorer == name):
                cells = row.cells(scores, size_wh)
                hits[row].append(marked(truth.xyxy / scale, cells))
                shares[row].append(share_of(cells, size_wh))
    of = {
        "all": np.ones(sum(map(len, small)), np.bool_),
        "small": np.concatenate(small),
        "found": np.concatenate(found),
    }
    lines = [
        f"{images} images, {len(of['all'])} objects; at full size {detector.name} finds {_percent(of['found'])} % of"
        f" them, {_percent(of['found'][of['small']])} % of the small; {stray / images:.1f} boxes an image lie on none",
        "",
        "| scorer | marked | pixels, % | objects, % | small ones, % | those found at full size, % | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        hit = np.concatenate(hits[row])
        recalls = " | ".join(_percent(hit[chosen]) for chosen in of.values())
        share, ms = 100 * np.mean(shares[row]), 1000 * seconds[row.scorer] / images
        lines.append(f"| {row.scorer} | {row.words} | {share:.1f} | {recalls} | {ms:.0f} |")
    return "\n".join(lines)


def _percent(hit: NDArray[np.bool_]) -> str:
    return f"{100 * hit.mean():.1f}" if len(hit) else "n/a"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="Ultralytics data file; its split val is looked at")
    parser.add_argument("--weights", help="of the detector (the embedded one)")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--scale", type=int, default=4, help="of the reduction (4)")
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[640, 1280], help="long sides of what the detector sees (640 1280)"
    )
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    if given.scale < 2 or (given.limit is not None and given.limit < 1) or min(given.sides) < CELL:
        parser.error(f"expected --scale from 2, --limit from 1, --sides from {CELL}")
    try:
        detector = load_detector(given.weights, confidence=SURE, device=given.device)
        print(measure(given.data, detector, given.limit, given.scale, given.sides))
    except HatdetError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
