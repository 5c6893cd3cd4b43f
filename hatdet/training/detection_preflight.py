"""Whether images with boxes can be trained on, and pictures of what training will see of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Detections, Image
from hatdet.evaluation.labels import read_labels
from hatdet.evaluation.samples import Sample
from hatdet.imaging.drawing import with_boxes
from hatdet.imaging.files import read_image, to_array
from hatdet.training.detection_datasets import DetectionPairedDataset
from hatdet.training.draws import Draws, SeededDataset

__all__ = ["drawn_batch", "labelled_problems"]

GAP = 6
COLUMNS = 4
# Of what `read_labels` tells: an image without objects is nothing wrong.
USUAL = ("missing",)


def labelled_problems(
    section: Mapping[str, Any], over: Callable[[Sequence[Any]], Iterable[Any]] | None, workers: int | None
) -> tuple[int, list[tuple[str, str]]]:
    """How many images a `DetectionPairedDataset` has, and what is wrong with which file.

    Every image is decoded and every label read, photos without labels too.

    Raises:
        OptionsError: an option that is missing or cannot be.
    """
    dataset = DetectionPairedDataset(section)

    def wrong_with(item: Sample | Path) -> list[tuple[str, str]]:
        path = item.image if isinstance(item, Sample) else item
        try:
            image = read_image(path)
        except InputError as error:
            return [(str(path), str(error).removeprefix(f"{path} "))]
        whole = (image.width, image.height)
        if min(whole) < dataset.scale:
            return [(str(path), f"({image.width}x{image.height}) is too small for scale {dataset.scale}")]
        if not isinstance(item, Sample):
            return []
        problems = read_labels(item, dataset.names, whole, whole).problems
        place = str(item.label)
        told = [problem.text.removeprefix(place).lstrip(": ") for problem in problems if problem.kind not in USUAL]
        return [(place, text if text[:1].isalpha() else f"line {text}") for text in told]

    items: list[Sample | Path] = [*dataset.samples, *dataset.photos]
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(wrong_with, over(items) if over else items))
    return len(items), [problem for problems in found for problem in problems]


def drawn_batch(options: Mapping[str, Any], count: int | None = None) -> NDArray[np.uint8]:
    """The first items that a training will read, beside their low-resolution images, with their boxes: `(h, w, 3)` RGB.

    Args:
        options: as `read_options` gives them.
        count: how many items; by default a batch.

    Raises:
        OptionsError: the training data have no boxes.
        InputError: an image that cannot be read.
    """
    section = options["datasets"]["train"]
    if section["type"] != "DetectionPairedDataset":
        raise OptionsError(f"--draw draws boxes, which datasets:train of type {section['type']} has not")
    dataset = DetectionPairedDataset(section)
    items = SeededDataset(dataset)
    draws = iter(Draws(len(dataset), int(options["manual_seed"])))
    panels = []
    for _ in range(count or int(section["batch_size_per_gpu"])):
        item = items[next(draws)]
        rows = item["boxes"][item["boxes"][:, 0] >= 0].numpy()
        names = {class_id: dataset.names[class_id] for class_id in {int(row[0]) for row in rows}}
        ones = np.ones(len(rows), np.float32)
        boxes = Detections(rows[:, 1:], ones, rows[:, 0].astype(np.int64), names)
        marked = float(item["boxes"][0, 0]) == -2
        caption = Path(item["gt_path"]).name + (" (no labels)" if marked else "")
        large = with_boxes(to_array(Image(item["gt"])), boxes, caption=caption)
        small = to_array(Image(item["lq"]))
        beside = np.zeros((large.shape[0], small.shape[1] + GAP, 3), np.uint8)
        beside[-small.shape[0] :, GAP:] = small
        panels.append(np.concatenate([large, beside], 1))
    columns = min(COLUMNS, len(panels))
    blank = np.zeros_like(panels[0])
    panels += [blank] * (-len(panels) % columns)
    lines = [np.concatenate(panels[first : first + columns], 1) for first in range(0, len(panels), columns)]
    return np.concatenate(lines, 0)
