"""Data sets that HAT's option files name and BasicSR does not have.

Speaks BasicSR's dialect: `lq`, `gt`, options as a dict, arrays `(h, w, 3)` in BGR until they become tensors.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.data.transforms import augment
from basicsr.utils import FileClient, bgr2ycbcr, img2tensor
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision.transforms.functional import normalize

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Image
from hatdet.imaging.lmdb_files import lmdb_keys
from hatdet.imaging.resize import reduced
from hatdet.imaging.sources import find_sources

__all__ = ["ImageNetPairedDataset", "listed_names", "reduced_part"]

Pixels = NDArray[np.uint8 | np.uint16]

# The cubic reaches less than two low-resolution pixels beyond the one that it computes.
MARGIN = 2


class ImageNetPairedDataset(Dataset[dict[str, Any]]):
    """Pairs from high-resolution images alone: the low resolution is made as they are read.

    It is MATLAB's bicubic reduction of the mod-cropped image, rounded to the image's bit depth: the numbers of
    `hatdet prepare`, so that this data set and BasicSR's `PairedImageDataset` on prepared files give the same tensors
    from the same random state. 16-bit images keep their 16 bits here.

    In training (`phase: train`) a random square of `gt_size`, flipped and rotated by BasicSR's `augment`. An image
    with a side shorter than `gt_size` has that side stretched to it (bilinear), as in HAT's training on ImageNet.
    Otherwise the whole image, cropped on the right and the bottom to a multiple of the scale.

    Draws come from Python's `random`. `opt` is read and never changed.

    Args:
        opt: `scale` and `phase`; `dataroot_gt`, a folder, searched recursively, or an LMDB; `io_backend` (`disk` or
            `lmdb`); `meta_info_file` (optional; on disk only the images that it lists are read, the folder is not
            searched); `gt_size`, `use_hflip` and `use_rot` in training; optional `color: y`, `mean`, `std`.

    An item is a dict of `gt` and `lq`, tensors `(3, h, w)` (`(1, h, w)` with `color: y`), RGB, float32, in [0, 1]
    before `mean` and `std`; `gt_path` and `lq_path`, both the path or the key of the high-resolution image.

    Raises:
        OptionsError: an option is missing or cannot be, a folder without images.
        InputError: when read: an image that is missing, damaged, or smaller than the scale.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        self.name = opt.get("name", "ImageNetPairedDataset")
        self.backend = dict(self._needed("io_backend"))
        self.kind = self.backend.pop("type", "disk")
        self.train = self._needed("phase") == "train"
        self.scale = int(self._needed("scale"))
        if self.scale < 2:
            raise OptionsError(f"dataset {self.name}: scale must be at least 2, got {self.scale}")
        self.gt_size = int(self._needed("gt_size")) if self.train else 0
        if self.gt_size % self.scale or (self.train and self.gt_size < self.scale):
            raise OptionsError(
                f"dataset {self.name}: gt_size must be a multiple of scale {self.scale}, got {self.gt_size}"
            )
        self.flips = (bool(self._needed("use_hflip")), bool(self._needed("use_rot"))) if self.train else (False, False)
        self.mean, self.std = opt.get("mean"), opt.get("std")
        self.paths = self._paths(Path(self._needed("dataroot_gt")))
        self.client: Any = None  # opened by the process that reads

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        image = self._read(path)
        height, width = (side // self.scale * self.scale for side in image.shape[:2])
        if not height or not width:
            raise InputError(f"{path} ({image.shape[1]}x{image.shape[0]}) is too small for scale {self.scale}")
        image = image[:height, :width]
        top, left = 0, 0
        if self.train:
            if min(height, width) < self.gt_size:
                height, width = max(height, self.gt_size), max(width, self.gt_size)
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            # The order of BasicSR's `paired_random_crop`.
            top = random.randint(0, (height - self.gt_size) // self.scale)  # noqa: S311 (not for secrets)
            left = random.randint(0, (width - self.gt_size) // self.scale)  # noqa: S311
            height = width = self.gt_size
        low = reduced_part(image, top, left, (height // self.scale, width // self.scale), self.scale)
        high = image[top * self.scale :, left * self.scale :][:height, :width]
        gt, lq = high.astype(np.float32) / np.float32(np.iinfo(image.dtype).max), low
        if self.train:
            gt, lq = augment([gt, lq], *self.flips)
        if self.opt.get("color") == "y":
            gt, lq = (bgr2ycbcr(picture, y_only=True)[..., None] for picture in (gt, lq))
        tensors = img2tensor([gt, lq], bgr2rgb=True, float32=True)
        if self.mean is not None or self.std is not None:
            for tensor in tensors:
                normalize(tensor, self.mean, self.std, inplace=True)
        return {"gt": tensors[0], "lq": tensors[1], "gt_path": path, "lq_path": path}

    def _needed(self, key: str) -> Any:
        if self.opt.get(key) is None:
            raise OptionsError(f"dataset {self.name} of type ImageNetPairedDataset needs the option {key}")
        return self.opt[key]

    def _paths(self, folder: Path) -> list[str]:
        if self.kind == "lmdb":
            try:
                return lmdb_keys(folder)
            except InputError as error:
                raise OptionsError(f"dataset {self.name}: {error}") from error
        listed = self.opt.get("meta_info_file")
        if listed is not None:
            return [str(folder / name) for name in listed_names(Path(listed))]
        return [str(source.path) for source in find_sources([folder])]

    def _read(self, path: str) -> Pixels:
        """`(h, w, 3)`, BGR, uint8 or uint16."""
        if self.client is None:
            keys = {"db_paths": [self.opt["dataroot_gt"]], "client_keys": ["gt"]} if self.kind == "lmdb" else {}
            self.client = FileClient(self.kind, **self.backend, **keys)
        try:
            data = self.client.get(path, "gt")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        if data is None:
            raise InputError(f"{path} is not in {self.opt['dataroot_gt']}")
        image: Pixels | None = None
        if data:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if image is None or image.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{path} is not an image of 8 or 16 bits, or it is damaged")
        return image


def listed_names(meta_info_file: Path) -> list[str]:
    """The names in a `meta_info` file, whose lines are `name` or `name (h,w,c)`; names may hold spaces.

    Raises:
        OptionsError: the file cannot be read.
    """
    try:
        lines = meta_info_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionsError(f"{meta_info_file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return [re.sub(r" +\(\d+, ?\d+, ?\d+\).*$", "", line.strip()) for line in lines if line.strip()]


def reduced_part(image: Pixels, top: int, left: int, size_hw: tuple[int, int], scale: int) -> NDArray[np.float32]:
    """A part of the bicubic reduction of an image, computed from the pixels it depends on alone.

    Bit for bit what the same part of the whole reduction is, at the borders too.

    Args:
        image: `(h, w, 3)`, uint8 or uint16, sides multiples of `scale`.
        top, left, size_hw: the part, in low-resolution pixels.
        scale: the factor of the reduction.

    Returns:
        `(*size_hw, 3)`, in [0, 1], rounded to the bit depth; channels in the order of `image`.

    Raises:
        ValueError: a part that is not inside the reduction, an image whose sides the scale does not divide.
    """
    height, width = image.shape[0] // scale, image.shape[1] // scale
    if image.shape[:2] != (height * scale, width * scale):
        raise ValueError(f"sides must be multiples of {scale}, got {image.shape[1]}x{image.shape[0]}")
    bottom, right = top + size_hw[0], left + size_hw[1]
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise ValueError(f"rows {top} to {bottom}, columns {left} to {right} are not inside {width}x{height}")
    y1, x1 = max(top - MARGIN, 0), max(left - MARGIN, 0)
    y2, x2 = min(bottom + MARGIN, height), min(right + MARGIN, width)
    around = torch.from_numpy(image[y1 * scale : y2 * scale, x1 * scale : x2 * scale].astype(np.float32))
    depth = 16 if image.dtype == np.uint16 else 8
    # Channels are reduced one by one: that they are BGR here is nobody's business there.
    low = reduced(Image(around.permute(2, 0, 1).div_(2**depth - 1), bit_depth=depth), scale)
    part = low.pixels[:, top - y1 : bottom - y1, left - x1 : right - x1]
    return np.ascontiguousarray(part.permute(1, 2, 0).numpy())
