"""Where the low-resolution image of a sample comes from, and what is known of its objects.

From the high-resolution image (cropped to a multiple of the scale) by MATLAB's bicubic reduction or by a degradation;
from a folder beside it, for pairs that were photographed; or the sample is itself of low resolution, and there is no
reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hatdet.core.errors import InputError, OptionsError
from hatdet.core.types import Image
from hatdet.evaluation.boxes import Truth
from hatdet.evaluation.labels import Labels, read_labels
from hatdet.evaluation.samples import LOCAL_FILES, Files, Sample
from hatdet.imaging.degradations import Degradation, degraded, describe
from hatdet.imaging.files import read_image
from hatdet.imaging.resize import reduced

__all__ = ["LowResolution", "Pair", "find_low_images", "read_pair"]


@dataclass(frozen=True)
class LowResolution:
    """How low-resolution images come about.

    Attributes:
        scale: of the reduction, and of every upscaler after it.
        degradation: None for the plain reduction.
        folder: low-resolution images by the path of their sample without its suffix; None to make them.
        reference: whether the samples are of high resolution. Without it they are themselves the low-resolution images.
    """

    scale: int
    degradation: Degradation | None = None
    folder: Mapping[Path, Path] | None = None
    reference: bool = True

    def __str__(self) -> str:
        if not self.reference:
            return "the images as they are, no reference"
        if self.folder is not None:
            return "a folder of pairs"
        if self.degradation is not None:
            return f"{describe(self.degradation)}, reduced by {self.scale}"
        return f"MATLAB bicubic reduction by {self.scale} of the image cropped to a multiple of it"


@dataclass(frozen=True, eq=False)
class Pair:
    """One sample, read.

    Attributes:
        low: the low-resolution image, `scale` 1.
        reference: the same view in `scale` times as many pixels along each side; None if there is none.
        labels: the objects, in pixels of the sample (cropped as the reference is), and what is wrong with its labels.
    """

    low: Image
    reference: Image | None
    labels: Labels

    def truth(self, frame_scale: float) -> Truth:
        """The objects in a frame of so many pixels per pixel of the low-resolution image."""
        ratio = frame_scale / (1 if self.reference is None else self.reference.scale)
        truth = self.labels.truth
        return Truth(truth.xyxy * ratio, truth.class_id, truth.crowd)


def find_low_images(folder: Path, files: Files = LOCAL_FILES) -> dict[Path, Path]:
    """The images of a folder by their path below it, without the suffix.

    Raises:
        OptionsError: no such folder, no images in it, two of one name.
    """
    if not files.is_folder(folder):
        raise OptionsError(f"{folder} is no folder: expected low-resolution images of the same names as the data's")
    found: dict[Path, Path] = {}
    for source in files.images(folder):
        name = source.relative.with_suffix("")
        if name in found:
            raise OptionsError(f"{found[name]} and {source.path} are both the low-resolution image of {name}")
        found[name] = source.path
    return found


def read_pair(sample: Sample, names: Mapping[int, str], how: LowResolution) -> Pair:
    """Read a sample and its labels, and make (or read) its low-resolution image.

    Raises:
        InputError: an image that is missing, damaged, too small for the scale, or no pair of the other.
    """
    image = read_image(sample.image)
    whole = (image.width, image.height)
    if not how.reference:
        return Pair(image, None, read_labels(sample, names, whole, whole))
    low = None
    w, h = (side // how.scale * how.scale for side in whole)
    if how.folder is not None:
        path = how.folder.get(sample.relative.with_suffix(""))
        if path is None:
            raise InputError(f"{sample.image} has no low-resolution image of its name")
        low = read_image(path)
        w, h = low.width * how.scale, low.height * how.scale
        if not (0 <= whole[0] - w < how.scale and 0 <= whole[1] - h < how.scale):
            raise InputError(
                f"{path} ({low.width}x{low.height}) does not fit {sample.image} ({whole[0]}x{whole[1]}) "
                f"at scale {how.scale}"
            )
        if low.bit_depth != image.bit_depth:
            raise InputError(f"{path} has {low.bit_depth} bits and {sample.image} has {image.bit_depth}")
    elif not w or not h:
        raise InputError(f"{sample.image} ({whole[0]}x{whole[1]}) is too small for scale {how.scale}")
    cropped = Image(image.pixels[:, :h, :w].contiguous(), bit_depth=image.bit_depth)
    if low is None and how.degradation is None:
        low = reduced(cropped, how.scale)
    elif low is None:
        assert how.degradation is not None
        low = degraded(cropped, how.scale, how.degradation, sample.relative.as_posix())
    reference = Image(cropped.pixels, how.scale, cropped.bit_depth)
    return Pair(low, reference, read_labels(sample, names, whole, (w, h)))
