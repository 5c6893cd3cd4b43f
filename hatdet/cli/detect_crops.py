"""What `hatdet detect --save-crop` cuts out of an image: each object, into the folder of its class."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hatdet.core.types import Detections
    from hatdet.imaging.files import Pixels
    from hatdet.imaging.windows import Windows

__all__ = ["crop_places", "write_crops", "write_crops_of_windows"]

LONGEST_FOLDER = 60  # of the characters that a file system counts in bytes


def crop_places(detections: Detections, folder: Path, name: Path) -> list[Path]:
    """Where the crop of each object goes: `<folder>/<class>/<name>_<number>.png`, numbered from 1 in each class.

    Every name has a number, so that no crop of `a.png` is one of `a_1.png`.

    Args:
        detections: of one image.
        folder: of all crops.
        name: of the image's results, below the folder of the results and without a suffix.
    """
    counts: dict[str, int] = {}
    places = []
    for detection in detections:
        of_class = _folder_name(detection.class_name)
        key = of_class.casefold()  # file systems may take Car and car for the same
        counts[key] = counts.get(key, 0) + 1
        places.append(folder / of_class / name.with_name(f"{name.name}_{counts[key]}.png"))
    return places


def write_crops(picture: Pixels, detections: Detections, places: Sequence[Path]) -> None:
    """Write the part of the picture under each box, every pixel of which a part is in the box.

    Raises:
        OptionsError: the place cannot be written.
    """
    from hatdet.imaging.files import write_array

    parts = _parts(detections, picture.shape[0], picture.shape[1])
    for (top, bottom, left, right), place in zip(parts, places, strict=True):
        write_array(picture[top:bottom, left:right], place)


def write_crops_of_windows(image: Windows, detections: Detections, places: Sequence[Path]) -> None:
    """The same of an image that is not in memory: of each part as much is read as is written.

    Raises:
        OptionsError: the place cannot be written. InputError: the image is damaged.
    """
    from hatdet.imaging.files import to_array, write_array

    for part, place in zip(_parts(detections, image.height, image.width), places, strict=True):
        write_array(to_array(image.image(*part)), place)


def _parts(detections: Detections, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Top, bottom, left, right of what is cut out for each object: at least a pixel."""
    for detection in detections:
        x1, y1, x2, y2 = detection.xyxy
        left, top = min(math.floor(x1), width - 1), min(math.floor(y1), height - 1)
        yield top, max(math.ceil(y2), top + 1), left, max(math.ceil(x2), left + 1)


def _folder_name(class_name: str) -> str:
    """A class's name as that of a folder, wherever it comes from: it never leads out of the folder of crops."""
    return re.sub(r"[^\w .-]", "_", class_name)[:LONGEST_FOLDER].strip(" .") or "_"
