"""Images with labelled boxes, as training upscalers for a detector reads them, and photos without labels beside them.

Speaks BasicSR's dialect: `lq`, `gt`, options as a dict. Boxes are the evaluation's: the same data files, the same
labels, the same low-resolution images.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hatdet.core.errors import OptionsError
from hatdet.core.types import Image
from hatdet.evaluation.boxes import Truth
from hatdet.evaluation.labels import read_labels
from hatdet.evaluation.low_resolution import LowResolution, read_pair
from hatdet.evaluation.samples import Sample, read_detection_data
from hatdet.imaging.degradations import Degradation, degraded
from hatdet.imaging.files import Pixels, read_image, to_array
from hatdet.imaging.resize import reduced
from hatdet.imaging.sources import find_sources

__all__ = ["MOST_BOXES", "DetectionPairedDataset", "cropped_boxes"]

# Rows of an item's `boxes`: an item must have the shape of every other.
MOST_BOXES = 300
GREY = 114  # around an image that is smaller than the crop: a detector's letterbox


class DetectionPairedDataset(Dataset[dict[str, Any]]):
    """Pairs from high-resolution images with boxes; the low resolution is made as they are read.

    In training (`phase: train`) squares of `gt_size`: of a labelled image one with the centre of an object that is
    drawn, of `labelled_share` of the items; else of a photo of `unlabelled`. Boxes are clipped to the square, and
    dropped where less than `min_visible` of them is in it. Flips: left to right, of unlabelled photos in all eight
    ways. An image smaller than the square has grey on its right and at its bottom.

    Otherwise whole images, cropped to a multiple of the scale: those that `hatdet eval` takes.

    Draws come from Python's `random`. `opt` is read and never changed.

    Args:
        opt: `scale` and `phase`; `data`, an Ultralytics data file or COCO's JSON (with `images`, its folder), and its
            `split` (by default `train` in training, else `val`), of which the first `limit` images or, with
            `skip`, those after so many; in training `gt_size`, `use_hflip`, `use_rot` (of photos without labels),
            `unlabelled` (folders), `labelled_share` (0.5), `min_visible` (0.3), `resize_range` (the image is reduced
            by a factor drawn from it, at most 1, before it is cut); `degradation`, a file as `hatdet eval --degrade`
            reads it, and `degradation_share` of the items that it is for.

    An item is a dict of `gt` and `lq`, tensors `(3, h, w)`, RGB, float32, in [0, 1]; `gt_path` and `lq_path`, both of
    the high-resolution image; in training `boxes`, `(300, 5)` float32: the data's class id and xyxy in pixels of `gt`,
    -1 in rows without a box and, for photos without labels, -2 in the first one.

    Raises:
        OptionsError: an option is missing or cannot be, a folder without images.
        InputError: when read: an image that is missing, damaged, or smaller than the scale.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        self.name = str(opt.get("name", type(self).__name__))
        self.train = self._needed("phase") == "train"
        self.scale = int(self._needed("scale"))
        self.gt_size = int(self._needed("gt_size")) if self.train else 0
        if self.gt_size % self.scale:
            raise OptionsError(
                f"dataset {self.name}: gt_size must be a multiple of scale {self.scale}, got {self.gt_size}"
            )
        images = opt.get("images")
        found = read_detection_data(Path(self._needed("data")), Path(images) if images else None)
        self.names = found.names
        samples = found.split(str(opt.get("split") or ("train" if self.train else "val")))
        skip, limit = int(opt.get("skip") or 0), opt.get("limit")
        self.samples = samples[skip:][: int(limit) if limit else None]
        if not self.samples:
            raise OptionsError(
                f"dataset {self.name}: {self._needed('data')} has {len(samples)} images, all are left out"
            )
        folders = [Path(folder) for folder in opt.get("unlabelled") or ()] if self.train else []
        self.photos = [source.path for source in find_sources(folders)] if folders else []
        self.degradation = Degradation.read(Path(opt["degradation"])) if opt.get("degradation") else None
        self.degradation_share = float(opt.get("degradation_share", 1.0))
        self.labelled_share = float(opt.get("labelled_share", 0.5)) if self.photos else 1.0
        self.how = LowResolution(self.scale, self.degradation)

    def __len__(self) -> int:
        return len(self.samples) + (len(self.photos) if self.train else 0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not self.train:
            pair = read_pair(self.samples[index], self.names, self.how)
            assert pair.reference is not None  # it is made from it
            path = str(self.samples[index].image)
            return {"gt": pair.reference.pixels, "lq": pair.low.pixels, "gt_path": path, "lq_path": path}
        if random.random() < self.labelled_share:  # noqa: S311 (not for secrets)
            sample = self.samples[random.randrange(len(self.samples))]  # noqa: S311
            return self._labelled(sample)
        return self._photo(self.photos[random.randrange(len(self.photos))])  # noqa: S311

    def truth(self, index: int) -> Truth:
        """The objects of an image, in pixels of the reference."""
        return read_pair(self.samples[index], self.names, self.how).truth(self.scale)

    def _labelled(self, sample: Sample) -> dict[str, Any]:
        image = read_image(sample.image)
        whole = (image.width, image.height)
        truth = read_labels(sample, self.names, whole, whole).truth
        pixels, factor = self._resized(to_array(image))
        xyxy = truth.xyxy[~truth.crowd] * factor
        classes = truth.class_id[~truth.crowd]
        h, w = pixels.shape[:2]
        centre = None
        if len(xyxy):
            box = xyxy[random.randrange(len(xyxy))]  # noqa: S311
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        left, top = (self._start(side, None if centre is None else centre[axis]) for axis, side in ((0, w), (1, h)))
        xyxy, kept = cropped_boxes(xyxy, (left, top), self.gt_size, float(self.opt.get("min_visible", 0.3)))
        rows = np.concatenate([classes[kept, None].astype(np.float64), xyxy], 1)
        crop = self._cut(pixels, left, top)
        if self.opt.get("use_hflip") and random.random() < 0.5:  # noqa: S311
            crop = np.ascontiguousarray(crop[:, ::-1])
            rows[:, [1, 3]] = self.gt_size - rows[:, [3, 1]]
        return self._item(crop, str(sample.image), rows)

    def _photo(self, path: Path) -> dict[str, Any]:
        pixels, _ = self._resized(to_array(read_image(path)))
        left, top = (self._start(side, None) for side in pixels.shape[1::-1])
        crop = self._cut(pixels, left, top)
        if self.opt.get("use_hflip") and random.random() < 0.5:  # noqa: S311
            crop = crop[:, ::-1]
        if self.opt.get("use_rot"):
            crop = np.rot90(crop, random.randrange(4))  # noqa: S311
        return self._item(np.ascontiguousarray(crop), str(path), None)

    def _resized(self, pixels: Pixels) -> tuple[Pixels, NDArray[np.float64]]:
        """The picture reduced by a factor of `resize_range`, and the factors of x, y, x and y that came of it.

        It is not reduced below the crop.
        """
        low, high = self.opt.get("resize_range") or (1.0, 1.0)
        factor = random.uniform(float(low), min(float(high), 1.0))  # noqa: S311
        h, w = pixels.shape[:2]
        factor = max(factor, min(1.0, self.gt_size / min(h, w)))
        size = max(self.scale, round(w * factor)), max(self.scale, round(h * factor))
        if size != (w, h):
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return pixels, np.array([size[0] / w, size[1] / h] * 2)

    def _start(self, side: int, centre: float | None) -> int:
        """Where the crop begins along a side of the picture, so that the centre is in it if there is one."""
        last = max(side - self.gt_size, 0)
        low, high = 0, last
        if centre is not None:
            low, high = max(0, int(centre) - self.gt_size + 1), min(last, int(centre))
        return random.randint(min(low, high), high)  # noqa: S311

    def _cut(self, pixels: Pixels, left: int, top: int) -> Pixels:
        crop = pixels[top : top + self.gt_size, left : left + self.gt_size]
        bottom, right = (self.gt_size - side for side in crop.shape[:2])
        if bottom or right:
            grey = GREY * 257 if crop.dtype == np.uint16 else GREY
            crop = np.pad(crop, ((0, bottom), (0, right), (0, 0)), constant_values=grey)
        return crop

    def _item(self, crop: Pixels, path: str, rows: NDArray[np.float64] | None) -> dict[str, Any]:
        depth = 16 if crop.dtype == np.uint16 else 8
        values = crop.astype(np.float32).transpose(2, 0, 1) / np.float32(2**depth - 1)
        image = Image(torch.from_numpy(np.ascontiguousarray(values)), bit_depth=depth)
        if self.degradation is not None and random.random() < self.degradation_share:  # noqa: S311
            # What is random in it follows from a name: a new one every time.
            low = degraded(image, self.scale, self.degradation, f"{path} {random.getrandbits(64)}")
        else:
            low = reduced(image, self.scale)
        return {"gt": image.pixels, "lq": low.pixels, "gt_path": path, "lq_path": path, "boxes": _padded(rows)}

    def _needed(self, key: str) -> Any:
        if self.opt.get(key) is None:
            raise OptionsError(f"dataset {self.name} of type {type(self).__name__} needs the option {key}")
        return self.opt[key]


def cropped_boxes(
    xyxy: NDArray[np.float64], left_top: tuple[int, int], size: int, min_visible: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes of a picture in one of its squares, clipped to it, and which of them were kept.

    Args:
        xyxy: `(n, 4)`, pixels of the picture.
        left_top: where the square begins.
        size: its side.
        min_visible: least share of a box's area that must be in it.

    Returns:
        `(m, 4)` in pixels of the square, and `(n,)`.
    """
    moved = xyxy - np.array([*left_top, *left_top], np.float64)
    clipped = moved.clip(0, size)
    sides, whole = clipped[:, 2:] - clipped[:, :2], moved[:, 2:] - moved[:, :2]
    inside, area = sides.prod(1), whole.prod(1)
    kept = (sides > 0).all(1) & (inside >= min_visible * area)
    return clipped[kept], kept


def _padded(rows: NDArray[np.float64] | None) -> Tensor:
    """So many rows as every item has; None are the boxes of a photo without labels."""
    out = torch.full((MOST_BOXES, 5), -1.0)
    if rows is None:
        out[0] = -2.0
    else:
        out[: len(rows)] = torch.from_numpy(rows[:MOST_BOXES]).float()
    return out
