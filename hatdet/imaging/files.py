"""Pixels from disk and to disk. RGB inside, whatever the library beside it speaks."""

from __future__ import annotations

import logging
import struct
import warnings
from pathlib import Path
from typing import TypeAlias, cast

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from hatdet.core.atomic import write_bytes
from hatdet.core.device import is_out_of_memory
from hatdet.core.errors import InputError
from hatdet.core.types import Image
from hatdet.imaging.carried import Carried
from hatdet.imaging.decoding import Samples, bits_of, decode, decode_tiff, opened_picture
from hatdet.imaging.encoding import Format, encode, samples_of
from hatdet.imaging.tiff import TIFF_MAGIC, Tiff, open_tiff

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Pixels",
    "check_size",
    "eight_bits",
    "image_of",
    "read_carried",
    "read_image",
    "say_what_is_left_out",
    "to_array",
    "write_array",
    "write_carried",
    "write_image",
]

log = logging.getLogger(__name__)

Pixels: TypeAlias = NDArray[np.uint8 | np.uint16]

IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".j2k", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
READABLE = "JPEG, PNG, WebP, TIFF, BMP, JPEG 2000, AVIF"
STRIP = 2**20  # pixels that are converted at once
MAX_PIXELS = 178_956_970  # from where Pillow takes an image for a decompression bomb


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image upright (EXIF), as RGB in [0, 1]; 16-bit files keep their 16 bits. Grey becomes RGB, alpha goes.

    Args:
        path: of the file.
        max_pixels: a larger image is refused before it is decoded: a small file can say that it holds any number.

    Raises:
        InputError: there is no such file, it is no image, it is too large, or it is damaged.
    """
    return read_carried(path, max_pixels)[0]


def read_carried(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[Image, Carried]:
    """`read_image`, and what the file holds besides: grey, alpha, EXIF, a colour profile, a place on the map."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise InputError(f"{path} is not an image: the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
        samples = _from_tiff(path, data, max_pixels) or _from_picture(path, data, max_pixels)
    return image_of(samples.rgb), samples.carried


def _from_tiff(path: Path, data: bytes, max_pixels: int) -> Samples | None:
    """None for what is no TIFF, or one that Pillow has to read."""
    if not data.startswith(TIFF_MAGIC):
        return None
    try:
        opened = open_tiff(data)
    except Exception:  # tifffile raises anything on damaged headers, and Pillow gets by with more of them
        return None
    if opened is None:
        return None
    with opened as tiff:
        check_size(path, tiff.width, tiff.height, max_pixels)
        say_what_is_left_out(path, tiff)
        try:
            return decode_tiff(tiff, data)
        except Exception as error:  # so do decoders
            raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def _from_picture(path: Path, data: bytes, max_pixels: int) -> Samples:
    try:
        with opened_picture(data) as opened:
            check_size(path, *opened.size, max_pixels)
            bits = bits_of(opened, data)
            if bits > 16:
                raise InputError(f"{path} has {bits}-bit samples: expected 8 or 16 bits")
            return decode(opened, data, bits)
    # ImportError: once ultralytics is loaded, Pillow's open looks for a HEIF plug-in before it gives up.
    except (PIL.UnidentifiedImageError, ImportError) as error:
        raise InputError(f"{path} is not an image that can be read ({READABLE})") from error
    except cv2.error as error:  # it has a limit too: 2^30 pixels
        raise InputError(f"{path} is damaged, or a 16-bit image too large for OpenCV: {error.err}") from error
    # Decoders raise all of these on damaged files; AVIF's a RuntimeError, which others raise for too little memory.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, struct.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path} is damaged: {error}") from error


def check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raise an InputError for an image that is larger than wanted, or that is none."""
    if not width or not height:
        raise InputError(f"{path} is damaged: it says that it has {width}x{height} pixels")
    if width * height > max_pixels:
        raise InputError(f"{path} has {width}x{height} pixels: at most {max_pixels:,} are read (--max-pixels)")


def say_what_is_left_out(path: Path, tiff: Tiff) -> None:
    """Warn of channels that have no place in an image."""
    if tiff.left_out:
        kept = "grey" if tiff.grey else "red, green and blue"
        log.warning("%s: %d channels beyond %s are left out", path, tiff.left_out, kept)


def image_of(rgb: Pixels) -> Image:
    """An image of `(h, w, 3)` RGB."""
    depth = 16 if rgb.dtype == np.uint16 else 8
    # By NumPy: it is read beside a network, whose threads would have to share their processors with PyTorch's here.
    values = np.empty((3, *rgb.shape[:2]), np.float32)
    for channel in range(3):
        np.divide(rgb[..., channel], np.float32(2**depth - 1), out=values[channel])
    return Image(torch.from_numpy(values), bit_depth=depth)


def to_array(image: Image) -> Pixels:
    """`(h, w, 3)` RGB, uint8 or uint16 by the image's bit depth, on the host."""
    depth, kind = (torch.uint16, np.uint16) if image.bit_depth == 16 else (torch.uint8, np.uint8)
    array: Pixels = np.empty((image.height, image.width, 3), kind)
    # Strip by strip: a picture may be most of the memory, and its bytes are a quarter of what it is in float32. They
    # are made where it lies, so that no more than they comes from another device.
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.pixels[:, top : top + rows].mul(image.levels).round_().to(depth).cpu().numpy()
        cv2.merge(list(strip), array[top : top + rows])
    return array


def eight_bits(array: Pixels) -> NDArray[np.uint8]:
    """The same picture in 8 bits."""
    return (array >> 8).astype(np.uint8) if array.dtype == np.uint16 else cast("NDArray[np.uint8]", array)


def write_array(array: Pixels, path: Path, *, drawn: bool = False) -> None:
    """Write `(h, w, 3)` RGB as PNG; the file is there whole or not at all.

    Args:
        array: the picture.
        path: of the file.
        drawn: whether many of its rows are like those above them, which is then made use of: the file is smaller, and
            sooner there.

    Raises:
        OptionsError: the place cannot be written.
    """
    settings = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP, cv2.IMWRITE_PNG_COMPRESSION, 1] if drawn else []
    done, encoded = cv2.imencode(".png", cv2.cvtColor(array, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise ValueError(f"an image of shape {array.shape} and type {array.dtype} cannot be encoded as PNG")
    write_bytes(path, encoded.data)


def write_image(image: Image, path: Path) -> None:
    """Write an image as PNG, 8 or 16 bits; the file is there whole or not at all.

    Raises:
        OptionsError: the place cannot be written.
    """
    write_array(to_array(image), path)


def write_carried(
    rgb: Pixels, carried: Carried, path: Path, form: Format, quality: int | None = None, of: object = None
) -> None:
    """Write `(h, w, 3)` RGB with what it carries; the file is there whole or not at all.

    Args:
        rgb: the picture.
        carried: what goes with it: as `read_carried` gives it, `enlarged` for a larger picture.
        path: of the file.
        form: its format. What that cannot keep is said in a warning.
        quality: 1 to 100, for a format that has one; None for its default.
        of: what the warning names, if not `path`.

    Raises:
        OptionsError: the place cannot be written. InputError: the format does not take a picture like this.
    """
    samples, kept, lost = samples_of(rgb, carried, form)
    if lost:
        log.warning("%s: %s lost in a file of the kind %s", of or path, " and ".join(lost), form.name)
    try:
        encoded = encode(samples, kept, form, quality)
    except (ValueError, OSError, cv2.error) as error:
        raise InputError(f"{path} cannot be written as {form.name}: {' '.join(str(error).split())}") from error
    write_bytes(path, encoded)
